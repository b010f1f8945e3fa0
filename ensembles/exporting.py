"""Sources to members, each with what was found of it: parity, accuracy, size, speed, and its cheaper copies."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from ensembles import accuracy, assembly, estimates, existing, measuring, shares, variants
from ensembles.assembly import Finished, Place
from ensembles.dataset import DatasetError
from ensembles.estimates import Estimate
from ensembles.existing import PARITY_ROWS, Member
from ensembles.member_spec import Calibration
from ensembles.parity import TOLERANCE, quiet
from ensembles.preprocessing import ExportError
from ensembles.repository import RepositoryError
from ensembles.shares import Labelled, Shares
from ensembles.sources import Pixels, Source, read

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Copy:
    """What a cheaper copy lost and won. `lost`: accuracy, as a fraction, on the rows that judged. `speed`: 2 is twice as fast."""

    kind: str
    lost: Estimate
    speed: float


@dataclass(frozen=True, slots=True)
class Report:
    """A finished member and what was found of it. `worst_difference` is of probabilities, from its source or original."""

    source: str
    member: Finished
    worst_difference: float
    accuracy: Estimate | None
    seconds_per_1000: float
    copy: Copy | None = None

    def as_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "name": self.member.name,
            "source": self.source,
            "emits": self.member.emits,
            "weight": self.member.weight,
            "bytes": len(self.member.model),
            "worst_difference": self.worst_difference,
            "accuracy": self.accuracy.as_json() if self.accuracy else None,
            "seconds_per_1000": self.seconds_per_1000,
        }
        if self.copy:
            found |= {"variant": self.copy.kind, "accuracy_lost": self.copy.lost.as_json(), "speed": self.copy.speed}
        return found


FAULTS = (ExportError, RepositoryError, DatasetError)
"""What `carry_out` raises besides OSError: one line each."""


@dataclass(frozen=True, slots=True)
class Order:
    """An export as it was asked for. `data` and `samples` are labelled rows, `kinds` the cheaper copies: "int8", "fp16".

    `rows`: so many measure accuracy, at most. `seed` draws which rows of the data do what.
    """

    sources: tuple[str, ...]
    to: Path
    data: Path | None = None
    samples: Path | None = None
    name: str | None = None
    labels: tuple[str, ...] | None = None
    image: Pixels | None = None
    kinds: tuple[str, ...] = ()
    tolerance: float = TOLERANCE
    rows: int = 10_000
    replace: bool = False
    seed: int = 0


def carry_out(order: Order, progress: Callable[[int, int], None] = lambda done, sources: None) -> tuple[Report, ...]:
    """Make the members and write the repository, all or nothing. `progress` is told how many sources are done.

    Raises one of `FAULTS`, or OSError."""
    sources = [source for text in order.sources for source in read(text, order.image)]
    there = assembly.place(order.to, sources, order.name, order.labels)
    names = [name for source in sources for name in (source.name, *(f"{source.name}-{k}" for k in order.kinds))]
    assembly.check_names(there, names, replace=order.replace)
    parts = _parts(order, there)
    found: list[Report] = []
    for number, source in enumerate(sources):
        progress(number, len(sources))
        found += reports(source, there, parts, order)
    assembly.write(there, [each.member for each in found], parts.samples, replace=order.replace)
    return tuple(found)


def _parts(order: Order, there: Place) -> Shares:
    """The rows: those that stand in the repository stay its samples."""
    samples = Labelled(*there.there.samples()) if there.there else None
    if order.samples is not None:
        if samples is not None:
            raise ExportError(f"{order.to}: found samples there, expected no --samples for a repository that has some")
        samples = shares.read(order.samples, there.given, there.labels, order.seed)
    if order.data is not None:
        return shares.split(order.data, there.given, there.labels, samples, order.rows, order.seed)
    if samples is None:
        raise ExportError(f"{order.to}: found no rows, expected --data or --samples: a new repository has samples.npz")
    return Shares(samples)


def reports(source: Source, there: Place, parts: Shares, order: Order) -> Iterator[Report]:
    """The member that `source` makes and its copies. Raises ExportError."""
    try:
        member = source.make(there.given, parts.real[:PARITY_ROWS], order.tolerance)
        models = [member.model, *(_copy(kind, member, parts) for kind in order.kinds)]
    except ExportError as error:
        said = str(error)
        raise ExportError(said if said.startswith(source.text) else f"{source.text}: {said}") from None
    with quiet(source.text):
        seconds = measuring.seconds_per_row(models, parts.real)
        rights = [_right(model, parts.judging) for model in models]
    yield _report(source, source.name, member, rights[0], seconds[0], source.calibration)
    for kind, model, right, taken in zip(order.kinds, models[1:], rights[1:], seconds[1:], strict=True):
        copied = Member(model, member.emits, _difference(member, model, parts))
        copy = Copy(kind, accuracy.paired_gain(rights[0], right), seconds[0] / taken)
        yield _report(source, f"{source.name}-{kind}", copied, right, taken, None, copy)


def _copy(kind: str, member: Member, parts: Shares) -> bytes:
    if parts.choosing is None or parts.judging is None:
        raise ExportError(f"--variant {kind}: found no --data, expected labelled rows that tell what it loses")
    copy = variants.make(kind, member.model, parts.choosing.x, parts.choosing.y)
    emits = existing.detect(measuring.scores(copy, parts.choosing.x))
    if emits != member.emits:
        raise ExportError(f"{kind}: found a copy that gives {emits}, expected {member.emits}")
    return copy


def _report(
    source: Source,
    name: str,
    member: Member,
    right: Mask,
    seconds: float,
    told: Calibration | None,
    copy: Copy | None = None,
) -> Report:
    measured = estimates.proportion(right) if len(right) else None
    calibration = Calibration(accuracy=measured.value, n=measured.n) if measured else told
    finished = Finished(name, member.model, member.emits, calibration, source.weight)
    return Report(source.text, finished, member.worst_difference, measured, 1000 * seconds, copy)


def _right(model: bytes, judging: Labelled | None) -> Mask:
    """Of no rows where there are none to judge by."""
    if judging is None:
        return np.zeros(0, np.bool_)
    return accuracy.right(measuring.scores(model, judging.x).argmax(axis=1), judging.y)


def _difference(member: Member, copy: bytes, parts: Shares) -> float:
    rows = parts.real[:PARITY_ROWS]
    found, expected = measuring.scores(copy, rows), measuring.scores(member.model, rows)
    if member.emits == "logits":
        found, expected = softmax(found, axis=1), softmax(expected, axis=1)
    return float(np.abs(found - expected).max())
