"""Schedules: the same seed, the same bytes; arrivals that are what they say; fair to all policies; shards that add up."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from loadtest import stages
from loadtest.schedule import Arrivals, Schedule, ScheduleError, planned, recorded, row_order, steady
from loadtest.stages import Stage, StagesError

GENERATED = [Arrivals.CONSTANT, Arrivals.POISSON, Arrivals.GAMMA]


@pytest.mark.parametrize("kind", GENERATED)
def test_the_same_seed_gives_the_same_bytes(kind: Arrivals) -> None:
    one, other, third = (planned(kind, steady(200, 20), seed, arms=3) for seed in (7, 7, 8))

    assert one.nanoseconds.tobytes() == other.nanoseconds.tobytes()
    assert one.arm.tobytes() == other.arm.tobytes()
    assert one.sha256 == other.sha256 != third.sha256


def test_the_schedule_of_a_seed_is_what_it_was_in_every_release() -> None:
    """Shards on unlike machines, and runs years apart, must send the same."""
    assert planned(Arrivals.POISSON, steady(100, 10), 1, arms=2).sha256.startswith("ae4b0fd7c3eb")


@pytest.mark.parametrize("seed", range(5))
def test_poisson_gaps_are_exponential(seed: int) -> None:
    gaps = np.diff(planned(Arrivals.POISSON, steady(500, 40), seed).instants)

    assert stats.kstest(gaps, "expon", args=(0, 1 / 500)).pvalue > 0.01


@pytest.mark.parametrize("seed", range(5))
def test_poisson_counts_are_poisson(seed: int) -> None:
    """The number in each of 400 windows of 0.1 s, by the index of dispersion."""
    counts = np.histogram(planned(Arrivals.POISSON, steady(500, 40), seed).instants, bins=400, range=(0, 40))[0]
    dispersion = float(np.square(counts - counts.mean()).sum() / counts.mean())

    assert 0.005 < stats.chi2.sf(dispersion, 399) < 0.995


@pytest.mark.parametrize("burstiness", [0.5, 2.0, 4.0])
def test_gamma_gaps_are_gamma_and_as_bursty_as_asked(burstiness: float) -> None:
    gaps = np.diff(planned(Arrivals.GAMMA, steady(500, 60), 3, burstiness=burstiness).instants)
    law = stats.gamma(burstiness**-2, scale=burstiness**2 / 500)
    shares = np.linspace(0, 1, 21)
    shares = shares[(shares == 0) | (law.ppf(shares) > 1e-7)]  # instants are whole ns, so shorter gaps have no shape
    counts = np.histogram(gaps, law.ppf(shares))[0]

    assert gaps.std() / gaps.mean() == pytest.approx(burstiness, rel=0.1)
    assert stats.chisquare(counts, np.diff(shares) * len(gaps)).pvalue > 0.01


def test_constant_arrivals_are_evenly_apart() -> None:
    assert planned(Arrivals.CONSTANT, steady(100, 10), 0).instants.tolist() == pytest.approx(np.arange(1000) / 100)


def test_a_ramp_raises_the_rate_evenly_whatever_the_arrivals() -> None:
    course = stages.parse("0-1000:10s,1000:5s")
    for kind in GENERATED:
        instants = planned(kind, course, 2).instants
        assert np.sum(instants < 5) == pytest.approx(1250, rel=0.15)
        assert np.sum(instants < 10) == pytest.approx(5000, rel=0.1)
        assert len(instants) == pytest.approx(10_000, rel=0.1)


def test_poisson_arrivals_on_a_ramp_are_poisson_after_a_change_of_time() -> None:
    instants = planned(Arrivals.POISSON, (Stage(0, 400, 20.0),), 4).instants
    summed_rate = 10 * np.square(instants)

    assert stats.kstest(np.diff(summed_rate), "expon").pvalue > 0.01


@given(st.lists(st.tuples(st.floats(0, 50), st.floats(0.5, 50), st.floats(0.1, 20)), min_size=1, max_size=4))
def test_instants_invert_the_summed_rate(parts: list[tuple[float, float, float]]) -> None:
    course = [Stage(*part) for part in parts]
    seconds, expected = stages.total(course)
    instants = stages.instants(course, np.linspace(0, expected, 50))

    assert np.all(np.diff(instants) >= -1e-9)
    assert instants[0] >= 0 and instants[-1] == pytest.approx(seconds, rel=1e-6)


@given(st.integers(1, 5), st.integers(0, 99))
@settings(max_examples=25)
def test_every_policy_gets_its_share_at_every_moment(arms: int, seed: int) -> None:
    schedule = planned(Arrivals.POISSON, steady(100, 5), seed, arms)
    for until in range(arms, len(schedule), arms):
        counts = np.bincount(schedule.arm[:until], minlength=arms)
        assert counts.max() - counts.min() <= 1


def test_all_policies_walk_the_rows_in_the_same_order() -> None:
    schedule = planned(Arrivals.POISSON, steady(100, 10), 5, arms=3)
    order = row_order(40, seed=5)
    rows = schedule.rows(2, order)
    walks = [rows[schedule.arm == arm].ravel()[:500].tolist() for arm in range(3)]

    assert walks[0] == walks[1] == walks[2]
    assert sorted(walks[0][:40]) == list(range(40))


@given(st.integers(1, 6))
def test_the_parts_of_a_schedule_are_the_whole(of: int) -> None:
    whole = planned(Arrivals.POISSON, steady(50, 5), 9, arms=2)
    parts = [whole.part(shard, of) for shard in range(1, of + 1)]
    together = np.concatenate([part.nanoseconds for part in parts])
    order = np.argsort(together, kind="stable")

    assert together[order].tolist() == whole.nanoseconds.tolist()
    assert sum(map(len, parts)) == len(whole)


def test_a_trace_is_sent_as_recorded() -> None:
    schedule = recorded("# seconds, size\n10.0, 5\n10.5, 7\n\n12.25, 1\n", seed=0)

    assert schedule.instants.tolist() == [0.0, 0.5, 2.25]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("1\nsoon\n", "the trace, line 2: found 'soon', expected an instant in seconds"),
        ("2\n1\n", "the trace, line 2: found 1 after 2, expected instants in order"),
        ("nan\n", "the trace, line 1: found 'nan', expected an instant in seconds"),
        ("# nothing\n", "the trace: found no instants, expected one a line, in seconds"),
    ],
)
def test_a_trace_that_cannot_be_read_says_where(text: str, told: str) -> None:
    with pytest.raises(ScheduleError) as fault:
        recorded(text, seed=0)

    assert str(fault.value) == told


@pytest.mark.parametrize(
    "make",
    [
        lambda: steady(0, 10),
        lambda: steady(float("nan"), 10),
        lambda: steady(10, -1),
        lambda: steady(10, float("inf")),
        lambda: planned(Arrivals.POISSON, steady(1e9, 1e3), 0),
        lambda: planned(Arrivals.POISSON, steady(1e-9, 1), 0),
        lambda: planned(Arrivals.GAMMA, steady(10, 10), 0, burstiness=0),
        lambda: planned(Arrivals.TRACE, steady(10, 10), 0),
        lambda: planned(Arrivals.CONSTANT, steady(10, 10), 0).part(3, 2),
        lambda: planned(Arrivals.CONSTANT, steady(10, 10), 0).part(0, 2),
    ],
)
def test_schedules_that_cannot_be_are_refused(make) -> None:
    with pytest.raises(ScheduleError, match="found .* expected"):
        make()


@pytest.mark.parametrize(
    ("text", "seconds"), [("30", 30), ("30s", 30), ("1.5m", 90), ("500ms", 0.5), ("1h", 3600), (" 2s ", 2)]
)
def test_durations_are_read_with_their_unit(text: str, seconds: float) -> None:
    assert stages.duration(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "10 parsecs", "-1s", "nan", "1e9s"])
def test_what_is_no_duration_is_told(text: str) -> None:
    with pytest.raises(StagesError, match="expected a duration like"):
        stages.duration(text)


@pytest.mark.parametrize(
    "text", ["", "10", "10:", ":5s", "a-b:5s", "10-20-30:5s", "10:5s,", "-1:5s", "10:0s", "inf:5s"]
)
def test_what_are_no_stages_is_told_with_its_place(text: str) -> None:
    with pytest.raises(StagesError, match="found .* expected"):
        stages.parse(text)


def test_a_schedule_has_a_length() -> None:
    assert len(Schedule(*(np.arange(3),) * 3)) == 3
