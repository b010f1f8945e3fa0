"""Processes that train: asked for when there is room, and one hopeless member does not end the others."""

import pytest

from ensembles.training import fleet, recipes, runs
from ensembles.training.fleet import TrainingError

WILD = {"architecture": "linear", "weight_decay": 1.0, "learning_rate": 100.0, "schedule": "constant", "epochs": 9}


def test_the_next_member_is_asked_for_when_there_is_room_and_a_hopeless_one_ends_nothing(recipe, tmp_path):
    wanted = recipes.from_mapping(recipe(a=WILD))
    prepared = runs.prepare(wanted, tmp_path / "runs", resume=False, progress=lambda done, total: None)
    seen = []

    def asked():
        seen.append("asked")
        yield from prepared.experiments
        seen.append("asked again")

    fleet.train(
        asked(),
        prepared.images,
        1,
        "cpu",
        lambda news: None,
        lambda experiment, fault: seen.append((experiment.name, fault)),
    )

    _, (name, fault), _ = seen
    assert (seen[0], name, seen[2]) == ("asked", "a", "asked again")
    assert "runs/a: epoch 3: found a loss of nan, expected a finite one" in fault


def test_where_all_are_wanted_a_hopeless_member_is_a_fault(tmp_path):
    with pytest.raises(TrainingError, match="a: found a loss of nan"):
        fleet.refuse(None, "a: found a loss of nan")
    fleet.refuse(None, "")
