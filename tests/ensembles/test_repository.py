"""A model repository on disk. Each corruption of the one that ships is refused with one line: file, found, expected."""

import hashlib
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper

from ensembles import repository
from ensembles.repository import MAX_MANIFEST_BYTES, Repository, RepositoryError

MODEL = "mlp/1/model.onnx"


@pytest.fixture
def directory(digits: Repository, tmp_path: Path) -> Path:
    """A copy of `exported_models/digits`, to be spoilt."""
    return shutil.copytree(digits.path, tmp_path / "digits")


def refusal(directory: Path) -> str:
    """The line with which the repository is refused, without the directory."""
    with pytest.raises(RepositoryError) as fault:
        repository.verify(repository.read(directory))
    line = str(fault.value)
    assert len(line.splitlines()) == 1, f"expected one line, found {line!r}"
    return line.removeprefix(f"{directory}/")


def edit(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest."""
    file = directory / "ensemble.yaml"
    content = yaml.safe_load(file.read_text())
    change(content)
    file.write_text(yaml.safe_dump(content, sort_keys=False))


def point(directory: Path, path: str) -> None:
    """Let the first member's model be the file at `path`."""
    edit(directory, lambda manifest: manifest["members"][0].update(model=path))


def put(directory: Path, content: bytes) -> None:
    """Replace the first member's model, with the manifest's blessing."""
    (directory / MODEL).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    edit(directory, lambda manifest: manifest["members"][0].update(sha256=digest))


# ------------------------------------------------------------------------------------------------------------ what is read


def test_what_ships_is_whole(digits: Repository) -> None:
    repository.verify(digits)

    assert digits.digest == hashlib.sha256((digits.path / "ensemble.yaml").read_bytes()).hexdigest()
    for member in digits.spec.members:
        assert hashlib.sha256(digits.model(member)).hexdigest() == member.sha256
    x, y = digits.samples()
    assert (x.dtype, x.shape[1:], y.dtype, len(x)) == (np.uint8, (8, 8), np.int64, len(y))


def test_the_digest_changes_with_any_byte_of_the_manifest(directory: Path, digits: Repository) -> None:
    with (directory / "ensemble.yaml").open("a") as manifest:
        manifest.write("# a comment\n")

    assert repository.read(directory).digest != digits.digest


def test_other_files_do_no_harm(directory: Path) -> None:
    (directory / "README.md").write_text("Ours.")
    (directory / "mlp" / "2").mkdir()

    repository.verify(repository.read(directory))


@pytest.mark.parametrize("path", ["mlp/real.onnx", "./mlp/real.onnx", "mlp//real.onnx", "a name with spaces.onnx"])
def test_a_model_may_lie_anywhere_inside(directory: Path, path: str) -> None:
    (directory / MODEL).rename(directory / path)
    point(directory, path)

    repository.verify(repository.read(directory))


def test_a_link_inside_is_fine(directory: Path) -> None:
    (directory / MODEL).rename(directory / "mlp" / "real.onnx")
    (directory / MODEL).symlink_to("../real.onnx")

    repository.verify(repository.read(directory))


def test_the_repository_itself_may_be_a_link(directory: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(directory)

    repository.verify(repository.read(link))


# ---------------------------------------------------------------------------------------------- the directory and its files


def test_a_missing_directory_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "nowhere") == f"{tmp_path}/nowhere: found nothing, expected a model repository directory"


def test_a_file_is_no_repository(directory: Path) -> None:
    file = directory / "ensemble.yaml"

    assert refusal(file) == f"{file}: found a file, expected a model repository directory"


@pytest.mark.parametrize("name", ["ensemble.yaml", MODEL, "samples.npz"])
@pytest.mark.parametrize(
    ("replacement", "found"),
    [
        (lambda file: None, "nothing"),
        (lambda file: file.mkdir(), "no regular file"),
        (lambda file: os.mkfifo(file), "no regular file"),
        (lambda file: file.symlink_to("nowhere"), "nothing"),
        (lambda file: file.symlink_to("."), "no regular file"),
        (lambda file: file.symlink_to("/dev/zero"), "a link that leaves the repository"),
        (lambda file: file.symlink_to("/etc/hostname"), "a link that leaves the repository"),
        (
            lambda file: file.symlink_to(os.path.relpath("/etc/hostname", file.parent)),
            "a link that leaves the repository",
        ),
        (lambda file: file.symlink_to("/proc/self/mem"), "a link that leaves the repository"),
        (lambda file: file.symlink_to(file.name), ""),
    ],
    ids=[
        "nothing",
        "directory",
        "fifo",
        "dangling",
        "to-directory",
        "to-device",
        "absolute",
        "relative",
        "proc",
        "loop",
    ],
)
def test_each_file_is_a_regular_one_inside(directory: Path, name: str, replacement: Any, found: str) -> None:
    file = directory / name
    file.unlink()
    replacement(file)

    line = refusal(directory)
    assert line.startswith(f"{name}: found {found}")
    assert ", expected a file" in line


@pytest.mark.parametrize("name", ["ensemble.yaml", MODEL, "samples.npz"])
def test_a_directory_on_the_way_does_not_lead_out(directory: Path, tmp_path: Path, name: str) -> None:
    inside = directory if "/" not in name else directory / "mlp"
    outside = shutil.move(inside, tmp_path / "outside")
    inside.symlink_to(outside)

    if "/" in name:
        assert "found a link that leaves the repository, expected a file inside it" in refusal(directory)
    else:
        repository.verify(repository.read(directory))


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (
            "../digits/" + MODEL,
            "ensemble.yaml: found the path '../digits/mlp/1/model.onnx', expected one inside the repository",
        ),
        (
            "mlp/../" + MODEL,
            "ensemble.yaml: found the path 'mlp/../mlp/1/model.onnx', expected one inside the repository",
        ),
        ("/etc/hostname", "ensemble.yaml: found the path '/etc/hostname', expected one inside the repository"),
        ("//etc/hostname", "ensemble.yaml: found the path '//etc/hostname', expected one inside the repository"),
        ("a\0b", r"ensemble.yaml: found the path 'a\x00b', expected one inside the repository"),
        ("mlp", "mlp: found no regular file, expected a file"),
        ("mlp/1/other.onnx", "mlp/1/other.onnx: found nothing, expected a file"),
        ("ensemble.yaml/model.onnx", "ensemble.yaml/model.onnx: found nothing, expected a file"),
        ("~/model.onnx", "~/model.onnx: found nothing, expected a file"),
    ],
    ids=repr,
)
def test_a_path_that_leads_to_no_model_inside_is_refused(directory: Path, path: str, line: str) -> None:
    point(directory, path)

    assert refusal(directory) == line


@pytest.mark.parametrize(
    "path", [".", "x" * 300, "mlp/\n1/model.onnx", "ü" * 200, "a/" * 500], ids=lambda path: repr(path)[:16]
)
def test_a_path_that_no_file_can_have_is_refused_in_one_line(directory: Path, path: str) -> None:
    point(directory, path)

    assert "found" in refusal(directory)


# ------------------------------------------------------------------------------------------------------------ the manifest


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", "ensemble.yaml: expected a mapping, found NoneType"),
        (b"\xff\xfe\x00", "ensemble.yaml: expected UTF-8 text"),
        ("name: größe\n".encode("latin-1"), "ensemble.yaml: expected UTF-8 text"),
        (b"name: [", "ensemble.yaml: expected YAML, found "),
        (b"nonsense: 1", "ensemble.yaml: "),
        (b"#" * (MAX_MANIFEST_BYTES + 1), f"ensemble.yaml: found {MAX_MANIFEST_BYTES + 1} bytes, expected at most"),
        (b"#" * MAX_MANIFEST_BYTES, "ensemble.yaml: expected a mapping, found NoneType"),
    ],
    ids=["empty", "binary", "latin-1", "no yaml", "another", "too large", "just not too large"],
)
def test_a_manifest_that_cannot_be_read_is_refused(directory: Path, content: bytes, line: str) -> None:
    (directory / "ensemble.yaml").write_bytes(content)

    assert refusal(directory).startswith(line)


def test_a_fault_of_the_manifest_names_the_file_and_the_key(directory: Path) -> None:
    edit(directory, lambda manifest: manifest["vote"].update(quorum=9))

    assert refusal(directory) == "ensemble.yaml: vote.quorum: found 9, expected at most 5, the number of members"


# -------------------------------------------------------------------------------------------------------------- the models


def test_a_model_with_one_other_bit_is_refused_with_both_hashes(directory: Path, digits: Repository) -> None:
    content = bytearray((directory / MODEL).read_bytes())
    content[len(content) // 2] ^= 1
    (directory / MODEL).write_bytes(content)

    found, expected = hashlib.sha256(content).hexdigest(), digits.spec.members[0].sha256
    assert refusal(directory) == f"{MODEL}: members.mlp.sha256: found {found}, expected {expected}"


def test_another_hash_in_the_manifest_is_refused(directory: Path, digits: Repository) -> None:
    edit(directory, lambda manifest: manifest["members"][4].update(sha256="0" * 64))

    found = digits.spec.members[4].sha256
    assert refusal(directory) == f"bayes/1/model.onnx: members.bayes.sha256: found {found}, expected {'0' * 64}"


@pytest.mark.parametrize("size", [0, 1, 10, 100, 1000, -1])
def test_a_truncated_model_with_the_right_hash_is_refused(directory: Path, size: int) -> None:
    put(directory, (directory / MODEL).read_bytes()[:size])

    assert refusal(directory).startswith(f"{MODEL}: expected ")


@pytest.mark.parametrize("content", [b"hello", bytes(100), b"\xff" * 100, b"PK\x03\x04", b"\x80\x04\x95"])
def test_other_bytes_with_the_right_hash_are_refused(directory: Path, content: bytes) -> None:
    put(directory, content)

    assert refusal(directory) == f"{MODEL}: expected an ONNX model, found other bytes"


Change = Callable[[onnx.ModelProto], object]


def spoil(directory: Path, change: Change) -> str:
    """The line with which a changed graph is refused."""
    model = onnx.load_model(directory / MODEL)
    change(model)
    put(directory, model.SerializeToString())
    line = refusal(directory)
    assert line.startswith(f"{MODEL}: ")
    return line.removeprefix(f"{MODEL}: ")


def given(model: onnx.ModelProto) -> Any:
    return model.graph.input[0].type.tensor_type


def produced(model: onnx.ModelProto) -> Any:
    return model.graph.output[0].type.tensor_type


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            lambda m: setattr(produced(m).shape.dim[1], "dim_value", 11),
            "output 'probabilities': found FP32 [batch, 11], expected FP32 [batch, 10]",
        ),
        (
            lambda m: setattr(produced(m).shape.dim[1], "dim_param", "classes"),
            "output 'probabilities': found FP32 [batch, batch], expected FP32 [batch, 10]",
        ),
        (
            lambda m: produced(m).shape.dim.add(dim_value=1),
            "output 'probabilities': found FP32 [batch, 10, 1], expected FP32 [batch, 10]",
        ),
        (
            lambda m: setattr(produced(m), "elem_type", TensorProto.DOUBLE),
            "output 'probabilities': found FP64 [batch, 10], expected FP32 [batch, 10]",
        ),
        (
            lambda m: setattr(produced(m), "elem_type", TensorProto.STRING),
            "output 'probabilities': found another type [batch, 10], expected FP32 [batch, 10]",
        ),
        (
            lambda m: setattr(given(m).shape.dim[2], "dim_value", 9),
            "input 'image': found UINT8 [batch, 8, 9], expected UINT8 [batch, 8, 8]",
        ),
        (
            lambda m: given(m).shape.dim.pop(),
            "input 'image': found UINT8 [batch, 8], expected UINT8 [batch, 8, 8]",
        ),
        (
            lambda m: setattr(given(m), "elem_type", TensorProto.FLOAT),
            "input 'image': found FP32 [batch, 8, 8], expected UINT8 [batch, 8, 8]",
        ),
        (
            lambda m: setattr(given(m).shape.dim[0], "dim_value", 4),
            "'image': found a batch dimension of 4, expected a dynamic one",
        ),
        (
            lambda m: setattr(produced(m).shape.dim[0], "dim_value", 1),
            "'probabilities': found a batch dimension of 1, expected a dynamic one",
        ),
        (
            lambda m: given(m).shape.ClearField("dim"),
            "'image': found no shape, expected one with a batch dimension",
        ),
        (
            lambda m: m.graph.output[0].CopyFrom(
                helper.make_tensor_sequence_value_info("probabilities", TensorProto.FLOAT, ["batch", 10])
            ),
            "'probabilities': found no shape, expected one with a batch dimension",
        ),
        (
            lambda m: m.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, ["batch"])),
            "found 2 inputs and 1 outputs, expected one of each",
        ),
        (
            lambda m: m.graph.output.append(helper.make_tensor_value_info("scaled", TensorProto.FLOAT, ["batch"])),
            "found 1 inputs and 2 outputs, expected one of each",
        ),
        (
            lambda m: setattr(m.graph.node[-1], "domain", "com.evil"),
            "found operator com.evil.Softmax, expected ai.onnx and ai.onnx.ml only",
        ),
        (
            lambda m: m.graph.node.append(branching(helper.make_node("Run", [], ["z"], domain="com.evil"))),
            "found operator com.evil.Run, expected ai.onnx and ai.onnx.ml only",
        ),
        (
            lambda m: outside(m.graph.initializer[0]),
            "found external data, expected all weights inside the file",
        ),
        (
            lambda m: m.graph.node.insert(0, helper.make_node("Constant", [], ["z"], value=outside(weights()))),
            "found external data, expected all weights inside the file",
        ),
        (
            lambda m: m.graph.node.append(branching(helper.make_node("Constant", [], ["z"], value=outside(weights())))),
            "found external data, expected all weights inside the file",
        ),
    ],
)
def test_a_graph_that_differs_from_the_manifest_is_refused(directory: Path, change: Change, line: str) -> None:
    assert spoil(directory, change) == line


def weights() -> onnx.TensorProto:
    return numpy_helper.from_array(np.ones(4, np.float32), "weights")


def outside(tensor: onnx.TensorProto) -> onnx.TensorProto:
    """The same tensor with its numbers in another file."""
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    return tensor


def branching(node: onnx.NodeProto) -> onnx.NodeProto:
    """`node`, hidden in both branches of an If."""
    body = helper.make_graph([node], "body", [], [helper.make_tensor_value_info("z", TensorProto.FLOAT, [4])])
    return helper.make_node("If", ["condition"], ["either"], then_branch=body, else_branch=body)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.graph.node.pop(),
        lambda m: m.ClearField("ir_version"),
        lambda m: m.graph.initializer.pop(),
        lambda m: setattr(m.graph.node[0], "op_type", "NoSuchOperator"),
        lambda m: m.graph.node.append(m.graph.node[0]),
        lambda m: m.ClearField("opset_import"),
    ],
)
def test_a_graph_that_is_not_valid_is_refused(directory: Path, change: Change) -> None:
    assert spoil(directory, change).startswith("expected a valid ONNX model, found ")


def test_weights_of_a_sparse_tensor_stay_inside_too(directory: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        sparse = model.graph.sparse_initializer.add(dims=[4])
        sparse.values.CopyFrom(outside(weights()))
        sparse.indices.CopyFrom(numpy_helper.from_array(np.arange(4), "indices"))

    spoil(directory, change)


def test_text_that_is_no_text_is_refused(directory: Path) -> None:
    """A name in the graph that is not UTF-8: the checker's own message cannot be read then."""
    content = (directory / MODEL).read_bytes()
    put(directory, content.replace(b"Softmax", b"Softm\xd4x"))

    refusal(directory)


@pytest.mark.parametrize("seed", range(3))
def test_no_damage_to_a_graph_breaks_the_checks(directory: Path, seed: int) -> None:
    content = (directory / MODEL).read_bytes()
    random = np.random.default_rng(seed)
    for _ in range(20):
        damaged = bytearray(content)
        for at in random.integers(0, 800, 3):
            damaged[at] = random.integers(256)
        put(directory, bytes(damaged))
        try:
            repository.verify(repository.read(directory))
        except RepositoryError as fault:
            assert len(str(fault).splitlines()) == 1


# ------------------------------------------------------------------------------------------------------------- the samples


def test_samples_that_do_not_fit_are_refused(directory: Path, digits: Repository) -> None:
    x, y = digits.samples()
    for x_found, y_found, line in [
        (x.astype(np.float32), y, "samples.npz: x: found float32 [600, 8, 8], expected uint8 [n, 8, 8]"),
        (x[:, :7], y, "samples.npz: x: found uint8 [600, 7, 8], expected uint8 [n, 8, 8]"),
        (x, y + 1, "samples.npz: y: found label 10, expected 0 to 9"),
        (x, y.astype(np.int32), "samples.npz: y: found int32 [600], expected int64 [n]"),
        (x, y[1:], "samples.npz: found 600 rows of x and 599 of y, expected equal numbers, at least 1"),
    ]:
        np.savez(directory / "samples.npz", x=x_found, y=y_found)
        assert refusal(directory) == line


def test_pickled_samples_are_refused(directory: Path, digits: Repository) -> None:
    x, y = digits.samples()
    np.savez(directory / "samples.npz", x=x.astype(object), y=y)

    assert refusal(directory) == "samples.npz: x: found object [600, 8, 8], expected uint8 [n, 8, 8]"


# ----------------------------------------------------------------------------------------------------------- what is written


@pytest.fixture
def manifest(digits: Repository) -> dict[str, Any]:
    """What `write` is given: the manifest without hashes."""
    content = yaml.safe_load((digits.path / "ensemble.yaml").read_text())
    for member in content["members"]:
        del member["sha256"]
    return content


@pytest.fixture
def models(digits: Repository) -> dict[str, bytes]:
    return {member.name: digits.model(member) for member in digits.spec.members}


def everything(directory: Path) -> dict[str, bytes | None]:
    """All files and directories below, with what is in them."""
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None for path in directory.rglob("*")
    }


def test_what_is_written_is_what_ships(tmp_path: Path, manifest: Any, models: Any, digits: Repository) -> None:
    written = repository.write(tmp_path / "new" / "digits", manifest, models, digits.samples())

    assert written.spec == digits.spec and written.digest == digits.digest
    assert everything(written.path) == everything(digits.path)
    assert os.listdir(tmp_path / "new") == ["digits"]


def test_writing_again_replaces_all_that_was_there(
    directory: Path, manifest: Any, models: Any, digits: Repository
) -> None:
    (directory / "left over").write_text("from before")
    del manifest["members"][1:], manifest["policies"]
    manifest["vote"] = {"quorum": 1}
    written = repository.write(directory, manifest, models, digits.samples())

    repository.verify(written)
    assert sorted(os.listdir(directory)) == ["ensemble.yaml", "mlp", "samples.npz"]
    assert os.listdir(directory.parent) == ["digits"]


def test_triton_is_told_what_the_graph_says(directory: Path) -> None:
    assert (directory / "cnn" / "config.pbtxt").read_text() == (
        'name: "cnn"\n'
        'platform: "onnxruntime_onnx"\n'
        "max_batch_size: 64\n"
        'input [{ name: "image" data_type: TYPE_UINT8 dims: [ 8, 8 ] }]\n'
        'output [{ name: "probabilities" data_type: TYPE_FP32 dims: [ 10 ] }]\n'
        "dynamic_batching {}\n"
    )


Spoiler = Callable[[dict[str, Any], dict[str, bytes], list[Any]], object]


@pytest.mark.parametrize(
    "spoiler",
    [
        lambda manifest, models, samples: manifest.update(author="me"),
        lambda manifest, models, samples: manifest["labels"].pop(),
        lambda manifest, models, samples: manifest["input"].update(shape=[8, 7]),
        lambda manifest, models, samples: manifest["members"][0].update(sha256="0" * 64),
        lambda manifest, models, samples: samples.__setitem__(1, samples[1] + 1),
        lambda manifest, models, samples: samples.__setitem__(0, samples[0].astype(np.float32)),
        lambda manifest, models, samples: models.update(mlp=models["mlp"][:-1]),
        lambda manifest, models, samples: models.update(mlp=b"no graph"),
        lambda manifest, models, samples: manifest["members"][0].update(model="../outside.onnx"),
        lambda manifest, models, samples: manifest["members"][0].update(model="ensemble.yaml"),
        lambda manifest, models, samples: (
            manifest["members"][0].update(name="samples.npz"),
            models.update({"samples.npz": models["mlp"]}),
        ),
        lambda manifest, models, samples: samples.__setitem__(0, samples[0].astype(object)),
    ],
    ids=[
        "key",
        "labels",
        "shape",
        "hash",
        "y",
        "x",
        "truncated",
        "garbage",
        "out",
        "clash",
        "name",
        "objects",
    ],
)
def test_a_write_that_fails_leaves_everything_as_it_was(
    directory: Path, manifest: Any, models: Any, digits: Repository, spoiler: Spoiler
) -> None:
    samples = list(digits.samples())
    spoiler(manifest, models, samples)
    before = everything(directory.parent)

    with pytest.raises(RepositoryError) as fault:
        repository.write(directory, manifest, models, (samples[0], samples[1]))

    assert len(str(fault.value).splitlines()) == 1
    assert everything(directory.parent) == before


def test_a_write_never_leaves_the_directory(tmp_path: Path, manifest: Any, models: Any, digits: Repository) -> None:
    for escape in ("../../outside.onnx", str(tmp_path / "outside.onnx")):
        manifest["members"][0]["model"] = escape
        with suppress(RepositoryError, OSError):
            repository.write(tmp_path / "inner" / "digits", manifest, models, digits.samples())
        assert not (tmp_path / "outside.onnx").exists(), escape


def test_a_model_may_be_written_where_the_manifest_says(
    tmp_path: Path, manifest: Any, models: Any, digits: Repository
) -> None:
    manifest["members"][0]["model"] = "graphs/of/mlp.onnx"
    written = repository.write(tmp_path / "digits", manifest, models, digits.samples())

    assert (written.path / "graphs" / "of" / "mlp.onnx").read_bytes() == models["mlp"]


def test_a_first_write_that_fails_leaves_nothing(
    tmp_path: Path, manifest: Any, models: Any, digits: Repository
) -> None:
    manifest["labels"].pop()
    with pytest.raises(RepositoryError):
        repository.write(tmp_path / "digits", manifest, models, digits.samples())

    assert os.listdir(tmp_path) == []
