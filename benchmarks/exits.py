"""Does an exact exit ever change a label? python -m benchmarks.exits REPOSITORY DATA (such as a CIFAR-10 study and its test rows).

Some of the members at a time, asked in an order by chance, with or without weights, under every rule that adds up and every tie
rule: rows leave as a server lets them, and are compared with the vote of all. Exit code 1: a label differed.
"""

import sys
from pathlib import Path

import numpy as np

from ensembles import repository
from ensembles.recording import default_cache, record
from ensembles.stopping import ADDITIVE
from ensembles.tally import Tally
from ensembles.votes import Ballot, TieBreak, vote

POOLS = 40
WEIGHTS = (0.5, 1.0, 1.0, 2.0)


def main(path: str, data: str) -> int:
    recording = record(repository.read(Path(path)), Path(data), default_cache())
    table = np.stack(recording.scores, axis=1)
    rng = np.random.default_rng(0)
    answers = early = wrong = 0
    for pool in range(POOLS):
        members = rng.permutation(table.shape[1])[: rng.integers(3, table.shape[1] + 1)]
        scores = table[:, members]
        weights = rng.choice(WEIGHTS, len(members)) if pool % 2 else np.ones(len(members))
        for rule in ADDITIVE:
            for tie_break in TieBreak:
                ballot = Ballot(rule, weights, np.arange(len(members)), tie_break)
                left, labels = leaving(scores, ballot, rng.permutation(len(members)).tolist())
                answers, early = answers + len(scores), early + left
                wrong += int(np.count_nonzero(labels != vote(scores, ballot).label_index))
    print(
        f"{answers:,} answers, {early:,} of them before all members had voted: {wrong:,} labels unlike the full vote's"
    )
    return int(wrong > 0)


def leaving(scores: np.ndarray, ballot: Ballot, order: list[int]) -> tuple[int, np.ndarray]:
    """How many rows leave early when the members are asked in this order, and all labels."""
    tally, left = Tally(ballot, len(scores), scores.shape[2]), 0
    for asked, member in enumerate(order, 1):
        tally.enter(member, scores[tally.open, member])
        if asked < len(order):
            left += int(tally.leave().sum())
        if not tally.open_rows:
            break
    return left, tally.answer()[0].label_index


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
