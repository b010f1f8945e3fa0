"""How long requests will wait, and how policies step down and up with it: tables of times, no clock."""

import numpy as np
import pytest

from serving.pressure import FIRST_HOLD, LONGEST_HOLD, STEP_SECONDS, Brownout, Ladder, Pace

# -------------------------------------------------------------------------------------------------------------------- wait


def test_before_anything_was_seen_nobody_waits() -> None:
    assert Pace().seconds_per_row == 0


def test_what_is_taken_while_others_wait_tells_how_long_a_row_takes() -> None:
    pace = Pace()
    for step in range(50):
        pace.took(step * 0.032, rows=16, left=100)

    assert pace.seconds_per_row == pytest.approx(0.002)


def test_pauses_in_which_nobody_waited_do_not_count() -> None:
    pace = Pace()
    for step in range(10):
        pace.took(step * 0.032, rows=16, left=100)
    pace.took(10 * 0.032, rows=16, left=0)
    pace.took(3600.0, rows=16, left=16)
    pace.took(3600.032, rows=16, left=16)

    assert pace.seconds_per_row == pytest.approx(0.002)


def stream(pace: Pace, batches: int, start: float, rows: int = 16, seconds_per_row: float = 0.001) -> float:
    """Batches one after the other while others wait; the instant of the last."""
    for number in range(batches):
        pace.took(start + number * rows * seconds_per_row, rows, left=100)
    return start + (batches - 1) * rows * seconds_per_row


def test_a_moment_at_the_start_in_which_the_machine_stands_still_is_not_taken_for_the_time_of_a_row() -> None:
    pace = Pace()
    pace.took(0.0, rows=1, left=2)
    pace.took(0.001, rows=2, left=16)
    pace.took(0.1, rows=16, left=16)
    assert pace.seconds_per_row == 0, "one look is none"

    stream(pace, 4, start=0.1)
    assert 0.001 < pace.seconds_per_row < 0.005
    stream(pace, 40, start=0.2)
    assert pace.seconds_per_row == pytest.approx(0.001, rel=0.1)


def test_a_moment_in_the_middle_counts_for_its_length_alone() -> None:
    pace = Pace()
    still = stream(pace, 20, start=0.0)
    stream(pace, 3, start=still + 0.1)

    assert pace.seconds_per_row < 0.003


def test_a_slower_machine_is_noticed_within_a_few_dozen_batches() -> None:
    pace, now = Pace(), 0.0
    for seconds in [0.01] * 50 + [0.1] * 40:
        now += seconds
        pace.took(now, rows=10, left=10)

    assert pace.seconds_per_row == pytest.approx(0.01, rel=0.02)


# --------------------------------------------------------------------------------------------------------------- brown-out


def levels(brownout: Brownout, waits: list[float], step: float = 0.1, start: float = 0.0) -> list[int]:
    return [brownout.observe(wait, start + number * step) for number, wait in enumerate(waits)]


def test_while_waits_are_short_everybody_gets_what_he_asks_for() -> None:
    assert levels(Brownout(4, limit=0.25), [0.0, 0.1, 0.24, 0.25] * 10) == [0] * 40


def test_long_waits_step_down_one_by_one_to_the_last() -> None:
    assert levels(Brownout(4, limit=0.25), [0.3] * 6) == [1, 2, 3, 3, 3, 3]


def test_a_step_has_to_show_before_the_next() -> None:
    brownout = Brownout(4, limit=0.25)

    assert [brownout.observe(0.3, now) for now in (0.0, 0.01, 0.09, STEP_SECONDS, 0.15, 0.2)] == [1, 1, 1, 2, 2, 3]


def test_it_steps_up_only_after_a_time_of_calm_and_one_by_one() -> None:
    brownout = Brownout(3, limit=0.25)
    levels(brownout, [0.3, 0.3])

    assert brownout.observe(0.2, 5.0) == 2, "neither too long nor calm"
    assert [brownout.observe(0.0, 10 + seconds) for seconds in (0, 0.5, 0.99, 1.0, 1.5, 2.0, 9.0)] == [
        2,
        2,
        2,
        1,
        1,
        0,
        0,
    ]


def test_calm_that_is_interrupted_begins_anew() -> None:
    brownout = Brownout(2, limit=0.25)
    brownout.observe(0.3, 0.0)

    assert [brownout.observe(*seen) for seen in ((0.0, 1.0), (0.1, 1.9), (0.0, 2.0), (0.0, 2.9), (0.0, 3.0))] == [
        1,
        1,
        1,
        1,
        0,
    ]


def test_calm_that_was_only_the_doing_of_the_step_makes_the_next_one_last_longer() -> None:
    """A load between what two policies carry: the level flaps ever more slowly instead of once a second."""
    brownout, now, ups = Brownout(2, limit=0.25), 0.0, []
    level = 0
    while now < 300:
        now += 0.05
        before, level = level, brownout.observe(0.0 if level else 0.3, now)
        if level < before:
            ups.append(now)
    gaps = np.diff(ups)

    assert gaps[0] == pytest.approx(2 * FIRST_HOLD, rel=0.2)
    assert gaps.max() == pytest.approx(LONGEST_HOLD, rel=0.1)
    assert np.all(np.diff(gaps) > -0.2)


# ------------------------------------------------------------------------------------------------------------------ ladder


def test_requests_step_down_from_where_they_ask_and_no_further_than_they_must() -> None:
    ladder = Ladder(("full", "early_exit", "member:a"), limit=0.25)
    assert ladder.step("full", 0.0, 0.0) == ("full", 0)
    assert ladder.step("full", 0.3, 1.0) == ("early_exit", 1)
    assert ladder.step("early_exit", 0.1, 1.01) == ("early_exit", 0)
    assert ladder.step("full", 0.3, 2.0) == ("member:a", 2)
    assert ladder.step("early_exit", 0.3, 2.01) == ("member:a", 1)
    assert ladder.step("member:a", 0.3, 2.02) == ("member:a", 0)
    assert ladder.observe(0.3, 2.03) == 2


def test_what_is_not_on_the_ladder_stays_as_it_is() -> None:
    ladder = Ladder(("full", "member:a"), limit=0.25)

    assert ladder.step("cascade", 9.0, 0.0) == ("cascade", 0)
    assert ladder.step("full", 9.0, 0.01) == ("member:a", 1)
