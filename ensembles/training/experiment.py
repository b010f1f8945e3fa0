"""The experiment folder of one member: what was asked for, what happened, where it stood, what came out.

`config.yaml` says all that the model depends on, and comes first; `member.json` says what came out, and comes last: with it
the member is finished. Every file is there whole or not at all.
"""

import csv
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from ensembles import atomic
from ensembles.frozen import Frozen
from ensembles.member_spec import Name
from ensembles.training.recipes import CalibrationRows, MemberRecipe, RecipeError, mapping
from ensembles.wording import one_line

CONFIG, METRICS, CHECKPOINT = "config.yaml", "metrics.csv", "checkpoint.safetensors"
CURVES, MODEL, MEMBER = "curves.png", "model.onnx", "member.json"
SCORES = "calibration.npy"


class ExperimentError(ValueError):
    """The folder is not what was expected. One line: the file, what was found and what was expected."""


class HopelessError(ExperimentError):
    """This member cannot be trained, however often one tries; others may be."""


class Data(Frozen):
    """The rows: their source's name, sha256 and number, and how many pixels a side they were decoded to."""

    name: str
    sha256: str
    rows: int
    image_size: int


class Config(Frozen):
    """All that a trained model depends on."""

    recipe: Name
    data: Data
    labels: tuple[str, ...]
    calibration: CalibrationRows
    member: MemberRecipe


@dataclass(frozen=True, slots=True)
class Epoch:
    """One row of `metrics.csv`. Losses in nats a row; training figures on augmented images, while the epoch ran."""

    epoch: int
    training_loss: float
    training_accuracy: float
    calibration_loss: float
    calibration_accuracy: float
    learning_rate: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Experiment:
    """The folder of one member."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def finished(self) -> bool:
        return (self.path / MEMBER).exists()

    def begin(self, config: Config) -> None:
        """Make the folder, unless it is there. Raises OSError."""
        self.path.mkdir(parents=True, exist_ok=True)
        if (self.path / CONFIG).exists():
            return
        self.write(CONFIG, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True).encode())

    def config(self) -> Config:
        """What the folder was made for. Raises ExperimentError."""
        file = self.path / CONFIG
        try:
            content = mapping(file.read_bytes())
            return Config.model_validate(content | {"labels": tuple(content.get("labels", ()))})
        except OSError as error:
            found = (error.strerror or "nothing").lower()
            raise ExperimentError(f"{file}: found {found}, expected the configuration of a run") from None
        except (RecipeError, ValidationError, TypeError) as error:
            first = str(error).splitlines()[0]
            raise ExperimentError(f"{file}: expected the configuration of a run, found {first}") from None

    def refuse_another(self, config: Config) -> None:
        """Raises ExperimentError unless the folder was made for the same configuration, or its making was cut short."""
        if not (self.path / CONFIG).exists():
            return
        refuse_changed(self.path, self.config(), config)

    def write(self, file: str, content: bytes) -> None:
        """Write one of the folder's files at once. Raises OSError."""
        atomic.write(self.path / file, content)

    def metrics(self) -> tuple[Epoch, ...]:
        """The epochs so far. Raises ExperimentError."""
        file = self.path / METRICS
        if not file.exists():
            return ()
        return read_metrics(file)

    def write_metrics(self, epochs: Iterable[Epoch]) -> None:
        """Raises OSError."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([field.name for field in fields(Epoch)])
        writer.writerows(astuple(epoch) for epoch in epochs)
        self.write(METRICS, text.getvalue().encode())

    def write_scores(self, scores: NDArray[np.float32]) -> None:
        """What the model says of the calibration rows [n, classes]. Raises OSError."""
        stream = io.BytesIO()
        np.save(stream, scores, allow_pickle=False)
        self.write(SCORES, stream.getvalue())

    def scores(self) -> NDArray[np.float32]:
        """The same, memory-mapped. Raises ExperimentError."""
        file = self.path / SCORES
        try:
            found: NDArray[np.float32] = np.load(file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            first = one_line(error)
            raise ExperimentError(
                f"{file}: expected what the model says of the calibration rows, found {first}"
            ) from None
        return found

    def finish(self, document: "Member") -> None:
        """Raises OSError."""
        self.write(MEMBER, json.dumps(asdict(document), indent=2).encode() + b"\n")

    def member(self) -> "Member":
        """What came out. Raises ExperimentError."""
        file = self.path / MEMBER
        try:
            return Member(**json.loads(file.read_bytes()))
        except (OSError, ValueError, TypeError) as error:
            found = one_line(error)
            raise ExperimentError(f"{file}: expected what a finished run wrote, found {found}") from None


@dataclass(frozen=True, slots=True)
class Member:
    """`member.json`: what a trained model is, for whoever puts it into a repository."""

    name: str
    input: Mapping[str, Any]
    labels: tuple[str, ...]
    emits: str
    calibration: Mapping[str, Any]
    parameters: int
    seconds_trained: float


def read_metrics(file: Path) -> tuple[Epoch, ...]:
    """The rows of a `metrics.csv`. Raises ExperimentError."""
    expected = [field.name for field in fields(Epoch)]
    try:
        header, *rows = list(csv.reader(file.read_text().splitlines()))
        if header != expected:
            raise ValueError(f"the columns {', '.join(header)}")
        return tuple(Epoch(int(row[0]), *map(float, row[1:])) for row in rows)
    except (OSError, ValueError, TypeError, IndexError) as error:
        found = getattr(error, "strerror", None) or error
        raise ExperimentError(f"{file}: found {found}, expected the columns {', '.join(expected)}") from None


def refuse_changed(folder: Path, before: BaseModel, now: BaseModel) -> None:
    """Raises ExperimentError, which names the first key that changed."""
    expected, found = (_flat(each.model_dump(mode="json")) for each in (before, now))
    for key, value in expected.items():
        if found[key] != value:
            raise ExperimentError(
                f"{folder}: {key}: found {found[key]!r}, expected {value!r} as when the run began (or a new folder)"
            )


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
