"""Members into a model repository, a new one or one that stands there. All is checked before anything is written."""

import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ensembles import repository
from ensembles.member_spec import NAME, Calibration
from ensembles.preprocessing import ExportError
from ensembles.repository import MANIFEST, SAMPLES, Repository
from ensembles.shares import Labelled
from ensembles.sources import Source, plain
from ensembles.spec import InputSpec


@dataclass(frozen=True, slots=True)
class Place:
    """The ensemble that members are to join: its classes, its input, and the repository that is there already, if one is."""

    directory: Path
    name: str
    labels: tuple[str, ...]
    given: InputSpec
    there: Repository | None


@dataclass(frozen=True, slots=True)
class Finished:
    """A member that may be written. `weight`: of its vote, if it is new."""

    name: str
    model: bytes
    emits: str
    calibration: Calibration | None
    weight: float = 1.0


def place(
    directory: Path, sources: Sequence[Source], name: str | None = None, labels: tuple[str, ...] | None = None
) -> Place:
    """Where the members of `sources` go. `name` and `labels` are a new repository's, where they are not to be guessed.

    A new one takes them from the directory and from the first source that knows. Raises ExportError when classes or inputs
    differ, and RepositoryError.
    """
    there = _there(directory)
    known = there.spec.labels if there else labels or next((s.labels for s in sources if s.labels), None)
    if known is None:
        raise ExportError("labels: found none, expected --labels, for an ONNX file does not tell its classes")
    if there and labels:
        _compare_labels("labels", labels, known)
    given = there.spec.input if there else _input(sources)
    for source in sources:
        _check(source, given, known)
    title = there.spec.name if there else name or plain(directory.resolve().name)
    if name and name != title:
        raise ExportError(f"name: found {name}, expected {title}, which stands in {directory / MANIFEST}")
    return Place(directory, title, known, given, there)


def write(there: Place, members: Sequence[Finished], samples: Labelled, *, replace: bool = False) -> Repository:
    """Put the members into the repository. Raises ExportError or RepositoryError, and then leaves everything as it was."""
    manifest = _manifest(there, members, replace=replace)
    models = {member.name: member.model for member in members}
    if there.there is not None:
        models = {each.name: there.there.model(each) for each in there.there.spec.classifiers} | models
    with tempfile.TemporaryDirectory() as scratch:
        others = _set_aside(there, Path(scratch))
        written = repository.write(there.directory, manifest, models, (samples.x, samples.y))
        for other in others:
            _copy(other, there.directory / other.name)
    return written


def check_names(there: Place, names: Sequence[str], *, replace: bool) -> None:
    """Raises ExportError when two members would have one name, or one has none that a manifest can have."""
    known = {member.name for member in there.there.spec.members} if there.there and not replace else set()
    for number, name in enumerate(names):
        if not re.fullmatch(NAME, name):
            raise ExportError(
                f"members: found the name {name!r}, expected lower-case letters, digits, '.', '_' and '-'"
            )
        if name in known:
            raise ExportError(f"{there.directory}: found a member {name} there, expected another name or --replace")
        if name in names[:number]:
            raise ExportError(f"members: found {name} twice, expected distinct names: NAME=SOURCE gives one")


def _there(directory: Path) -> Repository | None:
    if (directory / MANIFEST).exists():
        found = repository.read(directory)
        repository.verify(found)
        return found
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ExportError(f"{directory}: found something without {MANIFEST}, expected a model repository or nothing")
    return None


def _input(sources: Sequence[Source]) -> InputSpec:
    """A pretrained net takes any picture; the others know what they take."""
    return next((source.given for source in sources if not source.adapts), sources[0].given)


def _check(source: Source, given: InputSpec, labels: tuple[str, ...]) -> None:
    if source.classes != len(labels):
        raise ExportError(f"{source.text}: found {source.classes} classes, expected {len(labels)}")
    if source.labels:
        _compare_labels(f"{source.text}: labels", source.labels, labels)
    found, expected = (f"{each.datatype} {list(each.shape)}" for each in (source.given, given))
    if found != expected and not source.adapts:
        raise ExportError(f"{source.text}: input: found {found}, expected {expected}")
    if not source.adapts and source.given.image and given.image and source.given.image != given.image:
        raise ExportError(f"{source.text}: input.image: found {source.given.image}, expected {given.image}")


def _compare_labels(what: str, found: tuple[str, ...], expected: tuple[str, ...]) -> None:
    if len(found) != len(expected):
        raise ExportError(f"{what}: found {len(found)}, expected {len(expected)}")
    for number, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        if ours != theirs:
            raise ExportError(f"{what}: found {ours!r} as class {number}, expected {theirs!r}")


def _manifest(there: Place, members: Sequence[Finished], *, replace: bool) -> dict[str, Any]:
    check_names(there, [member.name for member in members], replace=replace)
    new = {member.name: _entry(member) for member in members}
    if there.there is None:
        return _fresh(there, list(new.values()))
    content: dict[str, Any] = yaml.safe_load((there.directory / MANIFEST).read_text())
    old = [_renewed(entry, new.pop(entry["name"], None)) for entry in content["members"]]
    return {**content, "members": [*old, *new.values()]}


def _renewed(entry: dict[str, Any], new: dict[str, Any] | None) -> dict[str, Any]:
    """What a new model changes of a member that is there. Its weight and where it runs stay as the user has them."""
    if new is None:
        return entry
    kept = {key: value for key, value in entry.items() if key not in {"sha256", "emits", "calibration"}}
    return kept | {key: new[key] for key in ("emits", "calibration") if key in new}


def _fresh(there: Place, members: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "name": there.name,
        "version": 1,
        "labels": list(there.labels),
        "input": there.given.model_dump(mode="json", exclude_none=True),
        "members": members,
        "vote": {
            "rule": "probability_average",
            "tie_break": "probability",
            "temperature": 1.0,
            "quorum": len(members) // 2 + 1,
        },
        "policies": {"default": "full"},
        "limits": {"max_batch_size": 64, "max_queue_size": 1024, "timeout_ms": 1000},
    }


def _entry(member: Finished) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": member.name, "model": f"{member.name}/1/model.onnx"}
    weight = int(member.weight) if member.weight.is_integer() else member.weight
    entry |= {"emits": member.emits, "weight": weight}
    if member.calibration is not None:
        entry["calibration"] = {"accuracy": round(member.calibration.accuracy, 4), "n": member.calibration.n}
    return entry | {"run_on": {"backend": "onnxruntime", "device": "auto", "threads": 1}}


def _set_aside(there: Place, scratch: Path) -> list[Path]:
    """Copies of what lies in the directory and is no part of the repository: notes, reports."""
    if there.there is None:
        return []
    own = {MANIFEST, SAMPLES, *(each.name for each in there.there.spec.classifiers)}
    own |= {Path(each.model).parts[0] for each in there.there.spec.classifiers}
    others = [entry for entry in there.directory.iterdir() if entry.name not in own]
    for other in others:
        _copy(other, scratch / other.name)
    return [scratch / other.name for other in others]


def _copy(source: Path, target: Path) -> None:
    if source.is_dir() and not source.is_symlink():
        shutil.copytree(source, target, symlinks=True)
    else:
        shutil.copy2(source, target, follow_symlinks=False)
