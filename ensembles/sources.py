"""What `ensembles export` can make members of: experiment folders, what a search selected, ONNX files, pretrained nets.

Nothing is ever unpickled.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ensembles import existing, pretrained
from ensembles.existing import Member
from ensembles.member_spec import NAME, Calibration
from ensembles.preprocessing import ExportError, Rows
from ensembles.repository import MAX_MANIFEST_BYTES, MAX_MODEL_BYTES
from ensembles.spec import ImageSpec, InputSpec, first_fault

MODEL = "model.onnx"
ABOUT = "member.json"
SELECTION = "selection.json"
PICKLED = {".pkl", ".pickle", ".joblib", ".pt", ".pth", ".skops"}


@dataclass(frozen=True, slots=True)
class Pixels:
    """How pictures become the tensor of an ONNX file, which does not say: "L" or "RGB", and what black and white become."""

    mode: Literal["L", "RGB"]
    range: tuple[float, float] = (0.0, 255.0)

    def filling(self, shape: tuple[int, ...]) -> ImageSpec:
        """The same for rows of `shape`: height and width, and channels first or last. Raises ExportError."""
        if len(shape) not in {2, 3}:
            raise ExportError(f"--image: found rows of {list(shape)}, expected pictures")
        last = len(shape) == 2 or shape[2] in {1, 3}
        height, width = shape[:2] if last else shape[1:]
        try:
            return ImageSpec(mode=self.mode, width=width, height=height, range=self.range)
        except ValidationError as error:
            raise ExportError(f"--image: {first_fault(error)}") from None


@dataclass(frozen=True, slots=True)
class Source:
    """A member to be. `given` is what one row is as far as the source knows, `labels` its classes where it knows them.

    `adapts`: it sees any picture, and `given` is only what it would like best. `weight`: of its vote.
    `make` takes what the ensemble is served, real rows [n, *shape] and the tolerated difference. It raises ExportError.
    """

    text: str
    name: str
    given: InputSpec
    classes: int
    labels: tuple[str, ...]
    calibration: Calibration | None
    make: Callable[[InputSpec, Rows, float], Member]
    adapts: bool = False
    weight: float = 1.0


class About(BaseModel):
    """The part of an experiment's `member.json` that an ensemble needs; what else stands there is left alone."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    input: InputSpec
    labels: tuple[str, ...]
    emits: str = "probabilities"
    calibration: Calibration | None = None


class Chosen(BaseModel):
    """A member as it stands in a search's `selection.json`: its name is that of its folder, and without a vote its weight is 0."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: Annotated[str, Field(pattern=NAME)]
    weight: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]


class Selection(BaseModel):
    """The part of `selection.json` that an ensemble needs."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    members: tuple[Chosen, ...]


def read(text: str, image: Pixels | None = None) -> tuple[Source, ...]:
    """The sources that `[NAME=]SOURCE` names, several where a search selected them; `image` tells how ONNX files see pictures.

    Raises ExportError, one line that begins with the source.
    """
    name, _, rest = text.partition("=") if _named(text) else ("", "", text)
    try:
        return _selected(Path(rest), name) if (Path(rest) / SELECTION).is_file() else (_read(rest, name, image),)
    except ExportError as error:
        said = str(error)
        raise ExportError(said if said.startswith(rest.partition(":")[0]) else f"{rest}: {said}") from None
    except OSError as error:
        raise ExportError(f"{error.filename or rest}: found {error.strerror}, expected a readable file") from None


def _named(text: str) -> bool:
    """Whether a name stands before the source; an equals sign may also belong to a path or to a pretrained net's options."""
    name, equals, _ = text.partition("=")
    return bool(equals) and re.fullmatch(NAME, name) is not None and not Path(text).exists()


def _read(text: str, name: str, image: Pixels | None) -> Source:
    path = Path(text)
    if text.partition(":")[0] in pretrained.LIBRARIES:
        return _pretrained(text, name)
    if path.is_dir():
        return _experiment(path, name)
    if path.suffix in PICKLED:
        raise ExportError(
            "found a file that only unpickling reads, which runs what stands in it, expected an .onnx file: "
            "ensembles.export.from_sklearn and from_torch make one in Python"
        )
    if not path.is_file():
        raise ExportError(
            "found nothing, expected an experiment folder, a search's pool, an .onnx file, timm:NAME or torchvision:NAME"
        )
    return _file(path, name, image)


def _selected(pool: Path, name: str) -> tuple[Source, ...]:
    """The members that a search gave a vote, with the weights that it gave them."""
    file = pool / SELECTION
    if name:
        raise ExportError(f"found the pool of a search, expected no name before it: found {name}=")
    try:
        found = Selection.model_validate_json(_content(file, MAX_MANIFEST_BYTES))
    except ValidationError as error:
        raise ExportError(f"{file}: {first_fault(error)}") from None
    voting = [chosen for chosen in found.members if chosen.weight]
    if not voting:
        raise ExportError(f"{file}: found no member with a weight above 0, expected at least 1")
    return tuple(replace(_experiment(pool / each.name, each.name), weight=each.weight) for each in voting)


def _pretrained(text: str, name: str) -> Source:
    wanted = pretrained.parse(text)
    net = pretrained.load(wanted)

    def make(given: InputSpec, rows: Rows, tolerance: float) -> Member:
        model, worst = net.export(given, rows, tolerance)
        return Member(model, "probabilities", worst)

    return Source(text, name or plain(wanted.name), net.picture, net.classes, net.labels, None, make, adapts=True)


def _file(path: Path, name: str, image: Pixels | None) -> Source:
    content = _content(path, MAX_MODEL_BYTES)
    signature, classes = existing.signature(content)
    given = _input(path, {**signature._asdict(), "image": image and image.filling(signature.shape)})

    def make(given: InputSpec, rows: Rows, tolerance: float) -> Member:
        return existing.adopt(content, rows, tolerance)

    return Source(str(path), name or plain(path.stem), given, classes, (), None, make)


def _experiment(path: Path, name: str) -> Source:
    file = path / ABOUT
    if not file.is_file():
        raise ExportError(f"found no {ABOUT}, expected an experiment folder whose training is finished")
    try:
        about = About.model_validate_json(_content(file, MAX_MANIFEST_BYTES))
    except ValidationError as error:
        raise ExportError(f"{file}: {first_fault(error)}") from None
    source = _file(path / MODEL, name or about.name, None)
    if source.classes != len(about.labels):
        raise ExportError(f"{file}: labels: found {len(about.labels)}, expected {source.classes} as in {MODEL}")

    def make(given: InputSpec, rows: Rows, tolerance: float) -> Member:
        member = source.make(given, rows, tolerance)
        if member.emits != about.emits:
            raise ExportError(f"{file}: emits: found {about.emits}, expected {member.emits}, which {MODEL} gives")
        return member

    return Source(str(path), source.name, about.input, source.classes, about.labels, about.calibration, make)


def _content(path: Path, limit: int) -> bytes:
    with path.open("rb") as stream:
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise ExportError(f"{path}: found more than {limit} bytes, expected at most so many")
    return content


def _input(path: Path, fields: dict[str, Any]) -> InputSpec:
    try:
        return InputSpec.model_validate(fields)
    except ValidationError as error:
        raise ExportError(f"{path}: input: {first_fault(error)}") from None


def plain(name: str) -> str:
    """A name that a manifest can have, as near to this one as may be."""
    kept = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "._-") else "-" for letter in name)
    return kept.lower().lstrip("._-")[:63] or "member"
