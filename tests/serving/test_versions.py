"""What the change from one version to the next means for requests under way, for memory and for the end."""

import asyncio
import time
from pathlib import Path

import numpy as np
import pytest

from ensembles.members import SHORT_SECONDS
from ensembles.members.scripted import ScriptedMember, Step, always
from serving.aggregator import Request
from serving.app import Server
from serving.errors import InvalidRequest, NotReady, Unknown
from serving.settings import Settings
from serving.versions import Change

ROW = np.float32([[1, 0, 0, 0]])
REPLAYED = 6
"""Runs in which a member sees the eight samples before any traffic."""


class Gated(ScriptedMember):
    """Passes the replay at once; every run after it waits for `gate`."""

    def __init__(self, name: str) -> None:
        super().__init__(name, [Step(always(0, 2))], predicted=10.0)
        self.gate = asyncio.Event()
        self.closed = False

    def brief(self, rows: int, at_most: float = SHORT_SECONDS) -> bool:
        return False

    async def run(self, rows, occupation, at_most: float = SHORT_SECONDS):
        assert not self.closed
        if len(self.ran) >= REPLAYED:
            await self.gate.wait()
        return await super().run(rows, occupation)

    def close(self) -> None:
        self.closed = True


class House:
    """A server of one ensemble in this process. `made`: every member that was loaded, in that order."""

    def __init__(self, path: Path, *others: Path) -> None:
        self.path = path
        self.made: list[Gated] = []
        self.broken = ""
        self.server = Server(Settings(repositories=(path, *others)), self.load_member)

    def load_member(self, spec, content):
        if self.broken:
            raise RuntimeError(self.broken)
        self.made.append(Gated(spec.name))
        return self.made[-1]

    def bring(self, version: int, old: str = "", new: str = "") -> None:
        """Put another version where the ensemble stands."""
        manifest = self.path / "ensemble.yaml"
        text = manifest.read_text().replace(old, new) if old else manifest.read_text()
        lines = [line for line in text.splitlines() if not line.startswith("version:")]
        manifest.write_text("\n".join([f"version: {version}", *lines]))

    async def load(self) -> Change:
        return await self.server.versions.load("two")

    def ask(self):
        """A request that is under way: the version that it found, and its entry."""
        request = Request(self.server.catalog.find("two"), ROW, time.perf_counter())
        return request, self.server.aggregator.submit(request)

    async def answer(self, asked):
        request, entry = asked
        await asyncio.wait_for(entry.future, 10)
        return self.server.aggregator.collect(request, entry)

    async def freed(self, *members: Gated) -> None:
        for _ in range(500):
            if all(member.closed for member in members):
                return
            await asyncio.sleep(0.01)
        raise AssertionError("still not freed")


@pytest.fixture
async def house(write_tiny):
    house = House(write_tiny("two", ["a"], limits={"timeout_ms": 30_000}))
    await house.server.load()
    return house


async def test_requests_under_way_are_answered_by_the_version_that_they_found(house):
    asked = [house.ask() for _ in range(3)]
    await asyncio.sleep(0.01)
    house.bring(2)
    assert await house.load() is Change.LOADED
    later = house.ask()
    await asyncio.sleep(0.05)
    old, new = house.made
    assert (old.closed, house.server.catalog.in_flight) == (False, 4), "a server that drains waits for them too"

    for member in (old, new):
        member.gate.set()
    assert [(await house.answer(each)).live.version for each in asked] == ["1"] * 3
    assert (await house.answer(later)).live.version == "2"
    del asked, later
    await house.freed(old)
    assert not new.closed and not house.server.catalog.leaving


async def test_a_version_is_kept_for_who_found_it_and_has_not_asked_yet(house):
    """So does a request whose picture is being decoded."""
    model = house.server.catalog.find("two")
    house.bring(2)
    await house.load()
    old, _ = house.made
    await asyncio.sleep(0.1)
    assert not old.closed

    old.gate.set()
    request = Request(model, ROW, time.perf_counter())
    answer = await house.answer((request, house.server.aggregator.submit(request)))
    assert answer.live.version == "1"
    del model, request, answer
    await house.freed(old)


async def test_it_is_not_kept_for_longer_than_any_request_to_it_may_take(write_tiny):
    house = House(write_tiny("two", ["a"], limits={"timeout_ms": 200}))
    await house.server.load()
    held = house.server.catalog.find("two").live
    house.bring(2)
    await house.load()

    await house.freed(house.made[0])
    assert held.version == "1"


async def test_memory_never_holds_more_than_two_versions(house):
    under_way = house.ask()
    await asyncio.sleep(0.01)
    house.bring(2)
    await house.load()
    house.bring(3)
    third = asyncio.ensure_future(house.load())
    await asyncio.sleep(0.1)
    assert len(house.made) == 2, "the first is still at work"

    house.made[0].gate.set()
    await house.answer(under_way)
    del under_way
    assert await third is Change.LOADED
    assert len(house.made) == 3


async def test_a_caller_who_leaves_does_not_stop_a_load(house):
    house.bring(2)
    call = asyncio.ensure_future(house.load())
    await asyncio.sleep(0)
    call.cancel()
    for _ in range(500):
        if house.server.catalog.find("two").live.version == "2":
            return
        await asyncio.sleep(0.01)
    raise AssertionError("not loaded")


async def test_what_is_unloaded_answers_those_who_had_asked(house):
    asked = house.ask()
    await asyncio.sleep(0.01)
    assert await house.server.versions.unload("two") is Change.UNLOADED
    with pytest.raises(Unknown, match="two is unloaded"):
        house.ask()

    house.made[0].gate.set()
    assert (await house.answer(asked)).labels == ["no"]
    del asked
    await house.freed(house.made[0])
    await house.server.versions.load_all()
    assert len(house.made) == 1, "a signal does not bring back what an operator has unloaded"
    assert await house.load() is Change.LOADED


async def test_a_server_that_drains_takes_no_new_version(house):
    house.bring(2)
    house.server.versions.close()
    with pytest.raises(NotReady, match="draining"):
        await house.load()
    assert len(house.made) == 1


async def test_a_version_that_is_being_loaded_when_the_server_drains_is_given_up(house):
    house.bring(2)
    loading = asyncio.ensure_future(house.load())
    while len(house.made) == 1:
        await asyncio.sleep(0.001)
    house.server.versions.close()

    with pytest.raises(NotReady, match="draining"):
        await loading
    old, new = house.made
    assert (old.closed, new.closed) == (False, True)
    assert house.server.catalog.find("two").live.version == "1"


async def test_a_version_with_a_name_that_another_ensemble_has_is_refused(write_tiny):
    house = House(write_tiny("two", ["a"]), write_tiny("two.b", ["c"]))
    await house.server.load()
    house.bring(2, "- name: a\n", "- name: b\n")

    with pytest.raises(InvalidRequest, match=r"found two models named 'two\.b', expected distinct names"):
        await house.load()
    assert house.server.catalog.find("two.a").live.version == "1"


async def test_what_breaks_while_it_is_loaded_changes_nothing_and_is_told_as_a_bug(house, caplog):
    house.bring(2)
    house.broken = "out of something"
    with pytest.raises(InvalidRequest, match="out of something"):
        await house.load()

    assert house.server.catalog.find("two").live.version == "1"
    assert "this is a bug" in caplog.text
