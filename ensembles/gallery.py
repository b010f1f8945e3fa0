"""The samples that no vote can save, with what each member said of them, and their pictures where rows are pictures."""

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensembles import pictures
from ensembles.recording import Recording
from ensembles.spec import InputSpec
from ensembles.votes import Ints


@dataclass(frozen=True, slots=True)
class Sample:
    """A row that no vote can save: its name in the data, label, each member's vote and probability, and its picture.

    `picture` is a `data:` URI, None where rows are no images or none was asked for.
    """

    name: str
    label: str
    votes: tuple[str, ...]
    probabilities: tuple[float, ...]
    picture: str | None


def gallery(recording: Recording, shown: Ints, with_pictures: bool = True) -> tuple[Sample, ...]:
    """The recording's rows `shown` [k], in that order, with their pictures or without. Raises DatasetError."""
    order = np.argsort(shown)
    places = recording.index[shown[order]]
    rows, names = recording.data.rows(places), recording.data.row_names(places)
    rank = np.argsort(order)
    return tuple(
        _sample(recording, int(row), names[place], rows[place] if with_pictures else None)
        for row, place in zip(shown, rank, strict=True)
    )


def _sample(recording: Recording, row: int, name: str, content: NDArray[Any] | None) -> Sample:
    labels = recording.repository.spec.labels
    said = [np.asarray(scores[row]) for scores in recording.scores]
    return Sample(
        name=name,
        label=labels[recording.y[row]],
        votes=tuple(labels[scores.argmax()] for scores in said),
        probabilities=tuple(round(float(scores.max()), 4) for scores in said),
        picture=_picture(content, recording.repository.spec.input),
    )


def _picture(content: NDArray[Any] | None, given: InputSpec) -> str | None:
    if content is None or given.image is None:
        return None
    return "data:image/png;base64," + base64.b64encode(pictures.png(content, given, given.image)).decode()
