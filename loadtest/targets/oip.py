"""What the Open Inference Protocol says of models, over gRPC as over HTTP: which input to fill, and which output is the answer."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loadtest.targets.answers import Description, TargetError
from loadtest.targets.datatypes import DTYPES

LABEL_INDEX = "label_index"
"""The output of our own servers that names the class."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A line of a model's metadata. `shape`: -1 where any size will do; with the batch dimension, where there is one."""

    name: str
    datatype: str
    shape: tuple[int, ...]


def described(
    place: str, name: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor], output: str = "", version: str = ""
) -> Description:
    """`output`: the one to read, where the user names it. Raises TargetError for a model that takes no rows, or names no class."""
    if len(inputs) != 1:
        found = ", ".join(each.name for each in inputs) or "none"
        raise TargetError(f"{place}: found the inputs {found} of {name}, expected one")
    (only,) = inputs
    batched = bool(only.shape) and only.shape[0] == -1
    return Description(
        name=name,
        input_name=only.name,
        datatype=only.datatype,
        shape=only.shape[1:] if batched else only.shape,
        output=_answer(place, name, outputs, output),
        batched=batched,
        version=version,
    )


def _answer(place: str, name: str, outputs: Sequence[Tensor], wanted: str) -> str:
    """The output that was named, or ours, or the only one that has numbers."""
    numeric = [each.name for each in outputs if each.datatype in DTYPES]
    names = [each.name for each in outputs]
    if wanted and wanted not in names:
        raise TargetError(f"{place}: found the outputs {', '.join(names) or 'none'} of {name}, expected {wanted}")
    chosen = wanted or (LABEL_INDEX if LABEL_INDEX in names else numeric[0] if len(numeric) == 1 else "")
    if chosen not in numeric:
        raise TargetError(
            f"{place}: found the outputs {', '.join(names) or 'none'} of {name}, expected {LABEL_INDEX} or --output to name one of numbers"
        )
    return chosen


def classes(values: NDArray[np.generic], rows: int) -> list[int]:
    """Class indices [rows] of an output: as they are where there is one number a row, else the place of the largest. Raises ValueError."""
    table = values.reshape(rows, -1)
    if table.shape[1] == 1:
        return [int(value) for value in table[:, 0].tolist()]
    return [int(place) for place in table.argmax(axis=1).tolist()]
