"""A model repository on disk: read it, verify it, write it. One directory is one ensemble and a Triton model repository.

Whatever the directory holds may be hostile: sizes are checked before bytes are read, no path leaves the directory, a model
is used only as the very bytes whose sha256 the manifest names, and nothing is ever unpickled.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from ensembles import atomic
from ensembles import samples as labelled
from ensembles.member_spec import MemberSpec
from ensembles.spec import EnsembleSpec, SpecError, from_mapping, parse
from ensembles.trials import ShadowSpec
from ensembles.wording import one_line

MANIFEST = "ensemble.yaml"
SAMPLES = "samples.npz"
MAX_MANIFEST_BYTES = 1 << 20
MAX_MODEL_BYTES = (1 << 31) - 1  # a protobuf message, which an ONNX file is, cannot be larger


class RepositoryError(ValueError):
    """The repository cannot be used. One line: the file, what was found and what was expected."""


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository whose manifest was read. `digest` is the sha256 of the manifest's bytes, which name all others."""

    path: Path
    spec: EnsembleSpec
    digest: str

    def model(self, member: MemberSpec) -> bytes:
        """The member's ONNX bytes, proven to be those that the manifest names. Raises RepositoryError."""
        file = _contained(self.path, member.model)
        content = _read(file, MAX_MODEL_BYTES)
        found = hashlib.sha256(content).hexdigest()
        if found != member.sha256:
            raise RepositoryError(
                f"{self.path / member.model}: {_key(member)}.sha256: found {found}, expected {member.sha256}"
            )
        return content

    def samples(self) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """x [n, *shape] of the input's dtype and y int64 [n]. Raises RepositoryError."""
        file = _contained(self.path, SAMPLES)
        try:
            return labelled.read_npz(file, self.spec.input.dtype, self.spec.input.shape, len(self.spec.labels))
        except labelled.SamplesError as error:
            raise RepositoryError(f"{self.path / SAMPLES}: {error}") from None


def _key(member: MemberSpec) -> str:
    """Where it stands in the manifest."""
    return f"{'shadows' if isinstance(member, ShadowSpec) else 'members'}.{member.name}"


def read(path: Path) -> Repository:
    """Read the manifest of the repository at `path`. Raises RepositoryError."""
    try:
        is_directory, is_there = path.is_dir(), path.exists()
    except OSError as error:
        raise RepositoryError(
            f"{one_line(path)}: found {error.strerror}, expected a model repository directory"
        ) from None
    if not is_directory:
        raise RepositoryError(
            f"{path}: found {'a file' if is_there else 'nothing'}, expected a model repository directory"
        )
    content = _read(_contained(path, MANIFEST), MAX_MANIFEST_BYTES)
    try:
        spec = parse(content.decode())
    except UnicodeDecodeError:
        raise RepositoryError(f"{path / MANIFEST}: expected UTF-8 text") from None
    except SpecError as error:
        raise RepositoryError(f"{path / MANIFEST}: {error}") from None
    return Repository(path, spec, hashlib.sha256(content).hexdigest())


def verify(repository: Repository) -> None:
    """Check every file: hashes, containment, graphs against the manifest, samples. Raises RepositoryError at the first fault."""
    from ensembles import graphs  # the onnx package takes 26 MB that a server need not carry

    spec = repository.spec
    for member in spec.classifiers:
        content = repository.model(member)
        try:
            graphs.check(content, spec.input.datatype, spec.input.shape, len(spec.labels))
        except graphs.GraphError as error:
            raise RepositoryError(f"{repository.path / member.model}: {error}") from None
    repository.samples()


def _check_path(root: Path, name: str) -> None:
    """Raises RepositoryError unless `name` is a path inside the repository by its words alone."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not name.isprintable():
        raise RepositoryError(f"{root / MANIFEST}: found the path {name!r}, expected one inside the repository")


def _contained(root: Path, name: str) -> Path:
    """The real file behind `name`. Raises RepositoryError when it leaves `root` or is no regular file."""
    _check_path(root, name)
    try:
        file = (root / name).resolve()
        exists = file.exists()
    except (OSError, RuntimeError) as error:
        found = getattr(error, "strerror", None) or "a loop of links"
        raise RepositoryError(f"{root / name[:300]}: found {found}, expected a file") from None
    if not file.is_relative_to(root.resolve()):
        raise RepositoryError(f"{root / name}: found a link that leaves the repository, expected a file inside it")
    if not file.is_file():
        raise RepositoryError(f"{root / name}: found {'no regular file' if exists else 'nothing'}, expected a file")
    return file


def _read(file: Path, limit: int) -> bytes:
    try:
        with file.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            if size > limit:
                raise RepositoryError(f"{file}: found {size} bytes, expected at most {limit}")
            return stream.read(limit)
    except OSError as error:
        raise RepositoryError(f"{file}: found {error.strerror}, expected a readable file") from None


def write(
    directory: Path,
    manifest: Mapping[str, Any],
    models: Mapping[str, bytes],
    samples: tuple[NDArray[Any], NDArray[np.int64]],
) -> Repository:
    """Write a repository; what stood at `directory` is replaced only once everything new is written and verified.

    `manifest`: the content of `ensemble.yaml` without the sha256 of members and shadows. `models`: their ONNX bytes by name.
    `samples`: x [n, *shape] and y int64 [n]. Raises RepositoryError, and then leaves `directory` as it was.
    """
    sealed = _sealed(manifest, models)
    try:
        spec = from_mapping(sealed)
    except SpecError as error:
        raise RepositoryError(f"{directory / MANIFEST}: {error}") from None
    for member in spec.classifiers:
        _check_path(directory, member.model)
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}.") as scratch:
        fresh = Path(scratch) / "new"
        try:
            _write_files(fresh, sealed, spec, models, samples)
            verify(read(fresh))
        except (ValueError, OSError) as error:
            raise RepositoryError(str(error).replace(str(fresh), str(directory))) from None
        _replace(directory, fresh, Path(scratch) / "old")
    return read(directory)


def _sealed(manifest: Mapping[str, Any], models: Mapping[str, bytes]) -> dict[str, Any]:
    """The manifest with the sha256 of each member and shadow, beside its model's path."""
    given = {section: manifest[section] for section in ("members", "shadows") if section in manifest}
    sealed = {
        section: [_with_digest(each, models[each["name"]]) for each in entries] for section, entries in given.items()
    }
    return {**manifest, **sealed}


def _with_digest(member: Mapping[str, Any], model: bytes) -> dict[str, Any]:
    path, digest = f"{member['name']}/1/model.onnx", hashlib.sha256(model).hexdigest()
    return {"name": member["name"], "model": path, "sha256": digest, **member}


def _write_files(
    fresh: Path,
    sealed: Mapping[str, Any],
    spec: EnsembleSpec,
    models: Mapping[str, bytes],
    samples: tuple[NDArray[Any], NDArray[np.int64]],
) -> None:
    from ensembles import graphs

    for member in spec.classifiers:
        file = fresh / member.model
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(models[member.name])
        config = graphs.triton_config(member.name, models[member.name], spec.limits.max_batch_size)
        (fresh / member.name).mkdir(exist_ok=True)
        (fresh / member.name / "config.pbtxt").write_text(config)
    labelled.write_npz(fresh / SAMPLES, *samples)
    (fresh / MANIFEST).write_text(_yaml(sealed))


def _replace(directory: Path, fresh: Path, old: Path) -> None:
    if directory.exists():
        directory.rename(old)
    try:
        fresh.rename(directory)
    except BaseException:
        if old.exists():
            shutil.move(old, directory)
        raise


def rewrite(repository: Repository, changes: Mapping[str, Mapping[str, Any]]) -> Repository:
    """Change keys of the manifest's sections, `{"vote": {"temperature": 1.2}}`; a value of None takes the key away.

    Whatever else stands in the manifest stays, comments outside the changed sections too. The manifest is replaced in one step.
    Raises RepositoryError, and then leaves it as it was: the result would be no manifest, or it is another one by now.
    """
    file = _contained(repository.path, MANIFEST)
    content = _read(file, MAX_MANIFEST_BYTES)
    if hashlib.sha256(content).hexdigest() != repository.digest:
        raise RepositoryError(f"{repository.path / MANIFEST}: was changed meanwhile, expected what was read")
    text = content.decode()
    for section, values in changes.items():
        merged = {**(yaml.safe_load(text).get(section) or {}), **values}
        text = _with_section(text, section, {key: value for key, value in merged.items() if value is not None})
    try:
        parse(text)
        atomic.write(file, text.encode())
    except SpecError as error:
        raise RepositoryError(f"{repository.path / MANIFEST}: {error}") from None
    except OSError as error:
        raise RepositoryError(
            f"{repository.path / MANIFEST}: found {error.strerror or error}, expected a place to write to"
        ) from None
    return read(repository.path)


def _with_section(text: str, section: str, values: Mapping[str, Any]) -> str:
    """The manifest's text with one of its sections written anew, at the end if it is new."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    fresh = _yaml({section: values})
    if not isinstance(root, yaml.MappingNode) or root.flow_style:
        return _yaml({**yaml.safe_load(text), section: values})
    place = [(key, value) for key, value in root.value if key.value == section]
    if not place:
        return text.rstrip("\n") + "\n" + fresh
    key, value = place[0]
    rest = text[_end(value) :]
    return text[: key.start_mark.index] + fresh + rest.removeprefix("\r").removeprefix("\n")


def _end(node: yaml.Node) -> int:
    """Where the node's last value ends. A mapping in block style ends only where the next key begins, after all comments."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(last[1] if isinstance(node, yaml.MappingNode) else last)
    return int(node.end_mark.index)


class _ManifestDumper(yaml.SafeDumper):
    """Block style for what has structure, one line for what is a plain list or a small mapping of plain values."""


def _flat(value: object) -> bool:
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return bool(values) and all(not isinstance(v, (dict, list)) or (isinstance(v, list) and _flat(v)) for v in values)


def _yaml(manifest: Mapping[str, Any]) -> str:
    dumper = _ManifestDumper
    dumper.add_representer(dict, _represent_mapping)
    dumper.add_representer(list, _represent_list)
    plain = json.loads(json.dumps(manifest))
    return yaml.dump(plain, Dumper=dumper, sort_keys=False, width=120)


def _represent_mapping(dumper: yaml.SafeDumper, value: dict[str, Any]) -> yaml.Node:
    inline = _flat(value) and "name" not in value
    return dumper.represent_mapping("tag:yaml.org,2002:map", value.items(), flow_style=inline)


def _represent_list(dumper: yaml.SafeDumper, value: list[Any]) -> yaml.Node:
    return dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=_flat(value))
