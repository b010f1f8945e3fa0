"""Every law holds for every rendering that it is about, and each of the changes that should break it does."""

import copy
import re

import pytest

from . import examples, lifetime, network, safety, scaling, wiring
from .laws import LAWS, Made, World

MODULES = (examples, lifetime, network, safety, scaling, wiring)


@pytest.fixture(scope="session")
def world(shown, recorded, asked_for) -> World:
    return World(shown, recorded, asked_for)


@pytest.fixture
def made(rendered):
    """`made(name)`: a rendering, to spoil."""
    return lambda name: Made(copy.deepcopy(rendered(name)))


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
def test_it_holds(made, world: World, law) -> None:
    for name in law.on:
        law.holds(made(name), world)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
def test_it_would_be_noticed(made, world: World, law) -> None:
    for number, change in enumerate(law.breaks):
        spoilt = made(law.on[0])
        change(spoilt)
        with pytest.raises(AssertionError):
            law.holds(spoilt, world)
            pytest.fail(f"change {number} breaks nothing", pytrace=False)


def test_every_law_is_on_something_and_can_be_broken() -> None:
    assert len({law.name for law in LAWS}) == len(LAWS) >= 100
    assert all(law.on and law.breaks for law in LAWS)
    assert {law.holds.__module__ for law in LAWS} == {module.__name__ for module in MODULES}


def test_the_adapter_reads_series_that_there_are(shown, recorded) -> None:
    series = [rule["seriesQuery"] for kind in ("custom", "external") for rule in scaling.adapter(kind)]
    asked = {re.search(r"[a-z]+:\w+:\w+|ensemble_\w+", each)[0] for each in series}

    assert len(asked) == 2
    assert asked <= shown | recorded
