"""How long planning takes on one core: `python -m benchmarks.planning`.

Twelve members, 10,000 rows, 10 classes: all 4,095 subsets under hard and soft votes, with every exact order and every certified
exit of two stages. Twenty members, hard votes: how often the majority of each of the 1,048,575 subsets is right.
"""

import resource
import time

import numpy as np
from numpy.typing import NDArray

from ensembles.majorities import right_by_subset
from ensembles.planning import Recorded, Wishes, plan
from ensembles.votes import Ballot, Ints, Rule

ROWS, CLASSES = 10_000, 10


def pool(members: int) -> tuple[NDArray[np.float32], Ints]:
    """Members that are right on 50 to 98% of rows and share what is hard, [n, M, K]; the rows' labels."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, CLASSES, ROWS)
    skill = 1.2 * (rng.uniform(1, 4, (1, members, 1)) - rng.normal(size=(ROWS, 1, 1)))
    scores = np.exp(rng.normal(size=(ROWS, members, CLASSES)) + skill * np.eye(CLASSES)[y][:, None, :])
    return (scores / scores.sum(axis=2, keepdims=True)).astype(np.float32), y


def all_candidates(members: int = 12) -> str:
    scores, y = pool(members)
    seconds = np.random.default_rng(1).uniform(1e-5, 4e-4, members)
    names = tuple(f"member-{member}" for member in range(members))
    ballot = Ballot(Rule.PROBABILITY_AVERAGE, np.ones(members), np.arange(members))
    made = plan(Recorded(names, tuple(np.moveaxis(scores, 1, 0)), y, seconds, ballot), Wishes())
    return f"{members} members, {ROWS:,} rows, {CLASSES} classes: {made.candidates:,} candidates, front of {len(made.front)}"


def all_majorities(members: int = 20) -> str:
    scores, y = pool(members)
    right = right_by_subset(scores, y, Ballot(Rule.MAJORITY, np.ones(members), np.arange(members)))
    return (
        f"{members} members, {ROWS:,} rows: {len(right) - 1:,} majorities, the best right on {right.max() / ROWS:.2%}"
    )


def main() -> None:
    for task in (all_candidates, all_majorities):
        start = time.perf_counter()
        done = task()
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{done}: {time.perf_counter() - start:.1f} s, at most {memory:.0f} MiB")


if __name__ == "__main__":
    main()
