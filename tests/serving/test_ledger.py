"""Who used the devices, and what it cost: whatever runs when, the bill adds up to the time that passed."""

import threading
from collections.abc import Iterator
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.ledger import Device, Ledger, Occupation, Price
from serving.settings import Settings


class Clock:
    """Says what it was set to."""

    def __init__(self, now: float = 100.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def play(script: str) -> tuple[Device, dict[str, Occupation]]:
    """Letters enter in lower case and leave in upper case, each dot is a second."""
    clock = Clock()
    device = Device("cpu", clock)
    runs: dict[str, Occupation] = {}
    for sign in script.replace(" ", ""):
        if sign == ".":
            clock.now += 1
        elif sign.islower():
            runs.setdefault(sign, device.occupation()).__enter__()
        else:
            runs[sign.lower()].__exit__(None, None, None)
    return device, runs


@pytest.mark.parametrize(
    ("script", "idle", "shares", "seconds"),
    [
        ("", 0, {}, {}),
        ("...", 3, {}, {}),
        (".a..A.", 2, {"a": 2}, {"a": 2}),
        ("a.A b.B", 0, {"a": 1, "b": 1}, {"a": 1, "b": 1}),
        ("a.A . b..B", 1, {"a": 1, "b": 2}, {"a": 1, "b": 2}),
        ("ab..AB", 0, {"a": 1, "b": 1}, {"a": 2, "b": 2}),
        ("a.b..A.B", 0, {"a": 2, "b": 2}, {"a": 3, "b": 3}),
        ("a.b.c...A..B.C", 0, {"a": 2.5, "b": 2.5, "c": 3}, {"a": 5, "b": 6, "c": 6}),
        ("a..b.B..A", 0, {"a": 4.5, "b": 0.5}, {"a": 5, "b": 1}),
        ("abcd....ABCD.", 1, {"a": 1, "b": 1, "c": 1, "d": 1}, {"a": 4, "b": 4, "c": 4, "d": 4}),
        ("aA.", 1, {"a": 0}, {"a": 0}),
        ("a.A..a...A a.A", 2, {"a": 5}, {"a": 5}),
        ("a.A b. a..A B a.A", 0, {"a": 3, "b": 2}, {"a": 4, "b": 3}),
    ],
)
def test_those_who_run_at_once_share_the_time_in_equal_parts(
    script: str, idle: float, shares: dict[str, float], seconds: dict[str, float]
) -> None:
    device, runs = play(script)

    assert device.idle_seconds == pytest.approx(idle)
    assert {name: run.device_seconds for name, run in runs.items()} == pytest.approx(shares)
    assert {name: run.seconds for name, run in runs.items()} == pytest.approx(seconds)


def test_asking_for_idle_time_changes_nothing() -> None:
    clock = Clock()
    device = Device("cpu", clock)
    readings = []
    with device.occupation() as run:
        for _ in range(4):
            clock.now += 0.25
            readings.append(device.idle_seconds)
    clock.now += 2

    assert readings == [0, 0, 0, 0]
    assert (run.device_seconds, run.seconds, device.idle_seconds) == (1.0, 1.0, 2.0)


def test_a_run_that_fails_leaves_the_device() -> None:
    clock = Clock()
    device = Device("cpu", clock)
    with pytest.raises(KeyError), device.occupation() as run:
        clock.now += 3
        raise KeyError
    clock.now += 1

    assert (run.device_seconds, device.idle_seconds, run.device) == (3.0, 1.0, "cpu")


def test_devices_are_opened_at_their_first_mention_and_have_books_of_their_own() -> None:
    clock = Clock()
    ledger = Ledger(3600.0, clock)
    cpu = ledger.device("cpu")
    clock.now += 10
    gpu = ledger.device("cuda:0")
    with gpu.occupation() as run:
        clock.now += 5

    assert ledger.device("cpu") is cpu and ledger.devices == (cpu, gpu)
    assert (cpu.idle_seconds, gpu.idle_seconds, run.device_seconds) == (15.0, 0.0, 5.0)


@pytest.mark.parametrize(
    ("price_per_hour", "seconds", "usd"), [(3600.0, 1.0, 1.0), (0.1, 3600.0, 0.1), (0.36, 10.0, 0.001), (1.0, 0.0, 0.0)]
)
def test_a_second_costs_its_part_of_the_hour(price_per_hour: float, seconds: float, usd: float) -> None:
    assert Ledger(price_per_hour).device("cpu").cost_usd(seconds) == pytest.approx(usd)


def test_each_device_has_its_price_and_the_others_the_price_for_all() -> None:
    given = {"cuda:0": {"usd_per_hour": 3.6, "as_of": "2026-11-24"}}
    ledger = Ledger.of(Settings(repositories=("a",), price_per_hour=0.36, prices=given))

    assert ledger.device("cuda:0").price == Price(3.6, as_of="2026-11-24")
    assert ledger.device("cpu").price == Price(0.36, as_of="")
    assert [ledger.device(name).cost_usd(1000.0) for name in ("cuda:0", "cpu")] == pytest.approx([1.0, 0.1])


steps = st.lists(st.tuples(st.integers(0, 4), st.floats(0, 1e4)), max_size=60)


@given(steps, st.floats(0, 1e6))
def test_what_is_attributed_and_what_is_idle_add_up_to_the_time_that_passed(
    steps: list[tuple[int, float]], start: float
) -> None:
    """Each step lets some time pass; then one of five runs begins, or ends if it was under way."""
    clock = Clock(start)
    ledger = Ledger(0.1, clock)
    device = ledger.device("cpu")
    under_way: dict[int, Occupation] = {}
    runs: list[Occupation] = []
    for slot, passed in steps:
        clock.now += passed
        if slot in under_way:
            under_way.pop(slot).__exit__(None, None, None)
        else:
            runs.append(device.occupation())
            under_way[slot] = runs[-1].__enter__()
    idle, elapsed = device.idle_seconds, clock.now - start

    attributed = sum(run.device_seconds for run in runs)
    assert attributed + idle == pytest.approx(elapsed, rel=1e-9, abs=1e-9)
    assert device.cost_usd(attributed) + device.cost_usd(idle) == pytest.approx(device.cost_usd(elapsed))
    finished = [run for run in runs if run not in under_way.values()]
    assert all(-1e-9 <= run.device_seconds <= run.seconds + 1e-6 for run in finished), (
        "nobody pays for more than his time"
    )


def test_the_law_holds_for_members_on_threads() -> None:
    """Each reading of the clock is a tick later than the last."""
    ticks = count()
    device = Device("cpu", lambda: float(next(ticks)))
    runs: list[Occupation] = []

    def work() -> None:
        for _ in range(200):
            with device.occupation() as run:
                pass
            runs.append(run)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    idle = device.idle_seconds

    assert len(runs) == 1600
    assert sum(run.device_seconds for run in runs) + idle == pytest.approx(next(ticks) - 1)


def test_runs_that_take_turns_on_one_thread_pay_what_they_took() -> None:
    def run(device: Device, clock: Clock) -> Iterator[Occupation]:
        with device.occupation() as occupation:
            yield occupation
            clock.now += 1

    clock = Clock()
    device = Device("cpu", clock)
    first, second = run(device, clock), run(device, clock)
    occupations = [next(first), next(second)]
    for each in (first, second):
        assert next(each, None) is None

    assert [each.device_seconds for each in occupations] == [0.5, 1.5]
