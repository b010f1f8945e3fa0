"""What became of an answer: its receipt comes back with the true labels, and the vote and each member are scored."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ensembles.wording import shown
from serving.catalog import Live, Model
from serving.errors import InvalidRequest, Unsupported
from serving.receipts import Receipt, Receipts, Subject
from serving.telemetry import Telemetry

UNKNOWN = ""
"""For a row whose true label is not known. No ensemble has such a label."""

LABELS_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Score:
    """Over the rows whose true label is known: how many, on how many the answer was right, and so for each member.

    `voted`, `members`: on how many of them each member voted, and was right, for those that voted on any. `cost_usd`: their share of
    the answer's cost.
    """

    rows: int
    right: int
    voted: dict[str, int]
    members: dict[str, int]
    cost_usd: float


def scored(receipt: Receipt, members: Sequence[str], truth: NDArray[np.int64]) -> Score:
    """`members` [M]: their names. `truth` [n]: the true class of each row, -1 where it is unknown. An abstention is not right."""
    known = truth >= 0
    rows = int(known.sum())
    votes, expected = receipt.votes[known], truth[known]
    voted = (votes >= 0).sum(axis=0).tolist()
    members_right = (votes == expected[:, None]).sum(axis=0).tolist()
    return Score(
        rows=rows,
        right=int((receipt.label_index[known] == expected).sum()),
        voted={member: times for member, times in zip(members, voted, strict=True) if times},
        members={member: right for member, times, right in zip(members, voted, members_right, strict=True) if times},
        cost_usd=receipt.cost_usd * rows / len(truth),
    )


class Feedback:
    """Takes receipts back. Without `receipts` the server gives none."""

    def __init__(self, receipts: Receipts | None, telemetry: Telemetry) -> None:
        self._receipts = receipts
        self._telemetry = telemetry

    def take(self, model: Model, text: str, labels: Sequence[str]) -> Score:
        """Score an answer of this model, and count it. Raises InvalidRequest, or Unsupported."""
        if self._receipts is None:
            raise Unsupported("receipts are off: receipt_seconds is 0")
        live = model.live
        receipt = self._receipts.read(text, subject(live), live.spec.limits.max_batch_size)
        truth = _truth(live, labels, len(receipt.label_index))
        self._receipts.use(receipt)
        score = scored(receipt, [member.name for member in live.spec.members], truth)
        self._telemetry.feedback(live.name, receipt.policy, score.rows, score.right, score.cost_usd)
        for member, voted in score.voted.items():
            self._telemetry.member_feedback(live.name, member, voted, score.members[member])
        return score


def subject(live: Live) -> Subject:
    """What its receipts are of."""
    return Subject(live.digest, len(live.spec.labels), len(live.spec.members))


def _truth(live: Live, labels: Sequence[str], rows: int) -> NDArray[np.int64]:
    """The class index of each label, -1 for `UNKNOWN`. Raises InvalidRequest."""
    if len(labels) != rows:
        raise InvalidRequest(f"labels: found {len(labels)}, expected {rows}, one for each row of the receipt")
    index = {label: number for number, label in enumerate(live.spec.labels)} | {UNKNOWN: -1}
    for row, label in enumerate(labels):
        if label not in index:
            raise InvalidRequest(
                f"labels: found {shown(label)} for row {row}, expected {_named(live.spec.labels)}, or '' where it is unknown"
            )
    return np.array([index[label] for label in labels], np.int64)


def _named(labels: Sequence[str]) -> str:
    """The labels, as far as a line holds them."""
    text = ", ".join(shown(label) for label in labels[:LABELS_SHOWN])
    return f"one of {text}" + (f" and {len(labels) - LABELS_SHOWN} more" if len(labels) > LABELS_SHOWN else "")
