"""`ensembles export`: from what was trained to a repository that can be served, whole or not at all."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import typer
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from ensembles import assembly, measuring, repository, samples, shares
from ensembles.commands import Fault
from ensembles.commands.export import EPILOG, export
from ensembles.repository import Repository
from ensembles.spec import InputSpec

LABELS = ",".join("0123456789")

app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
app.command(epilog=EPILOG)(export)


def run(*words: object) -> str:
    """What the command prints. Raises the Fault that it ends with."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None:
        raise result.exception
    return result.stdout


def refusal(*words: object) -> str:
    with pytest.raises(Fault) as fault:
        run(*words)
    assert len(str(fault.value).splitlines()) == 1
    return str(fault.value)


def files(directory: Path) -> dict[str, bytes]:
    return {str(file.relative_to(directory)): file.read_bytes() for file in directory.rglob("*") if file.is_file()}


@pytest.fixture
def data(digits: Repository, tmp_path: Path) -> Path:
    """400 labelled digits in a file."""
    x, y = digits.samples()
    samples.write_npz(tmp_path / "heldout.npz", x[:400], y[:400])
    return tmp_path / "heldout.npz"


@pytest.fixture
def models(digits: Repository, tmp_path: Path) -> Callable[[str], Path]:
    """The files NAME.onnx of members that ship."""

    def path(name: str) -> Path:
        file = tmp_path / f"{name}.onnx"
        file.write_bytes((digits.path / name / "1" / "model.onnx").read_bytes())
        return file

    return path


@pytest.fixture
def experiment(digits: Repository, tmp_path: Path) -> Callable[..., Path]:
    """A finished experiment folder around a member that ships."""

    def folder(name: str, **changes: Any) -> Path:
        place = tmp_path / "runs" / name
        place.mkdir(parents=True)
        (place / "model.onnx").write_bytes((digits.path / name / "1" / "model.onnx").read_bytes())
        about = {
            "name": name,
            "input": digits.spec.input.model_dump(mode="json"),
            "labels": list(digits.spec.labels),
            "emits": "probabilities",
            "calibration": {"accuracy": 0.93, "n": 300},
            "parameters": 1000,
            "seconds_trained": 2.5,
        }
        (place / "member.json").write_text(json.dumps(about | changes))
        return place

    return folder


# --------------------------------------------------------------------------------------------------------- what is written


def test_onnx_files_become_an_ensemble(models, data: Path, tmp_path: Path) -> None:
    to = tmp_path / "models" / "numbers"
    printed = run(
        models("mlp"), f"tree={models('forest')}", "--to", to, "--data", data, "--labels", LABELS, "--image", "L:0:16"
    )
    written = repository.read(to)
    repository.verify(written)

    assert written.spec.name == "numbers" and written.spec.input.image is not None
    assert [member.name for member in written.spec.members] == ["mlp", "tree"]
    assert written.model(written.spec.members[0]) == models("mlp").read_bytes()
    assert 'name: "tree"' in (to / "tree" / "config.pbtxt").read_text()
    assert "worst difference" in printed and "200 rows" in printed


@pytest.fixture
def pool(experiment) -> Callable[..., Path]:
    """The folder of a search that gave members these weights."""

    def folder(**weights: float) -> Path:
        place = [experiment(name) for name in weights][0].parent
        members = [{"name": name, "weight": weight, "accuracy": {}} for name, weight in weights.items()]
        (place / "selection.json").write_text(json.dumps({"members": members, "vote": {}}))
        return place

    return folder


def test_what_a_search_selected_comes_with_its_weights(pool, data: Path, tmp_path: Path) -> None:
    run(pool(mlp=2, forest=0, cnn=1), "--to", tmp_path / "new", "--data", data)

    members = repository.read(tmp_path / "new").spec.members
    assert [(member.name, member.weight) for member in members] == [("mlp", 2), ("cnn", 1)]


def test_a_member_of_a_search_can_be_taken_alone(pool, data: Path, tmp_path: Path) -> None:
    run(pool(mlp=2, cnn=1) / "mlp", "--to", tmp_path / "new", "--data", data)

    assert [member.weight for member in repository.read(tmp_path / "new").spec.members] == [1]


def test_a_search_that_chose_nobody_or_wrote_something_else_is_refused(pool, data: Path, tmp_path: Path) -> None:
    folder = pool(mlp=0)
    file, to = folder / "selection.json", ("--to", tmp_path / "new", "--data", data)

    assert refusal(folder, *to) == f"{file}: found no member with a weight above 0, expected at least 1"
    assert (
        refusal(f"all={folder}", *to) == f"{folder}: found the pool of a search, expected no name before it: found all="
    )
    file.write_text('{"members": [{"name": "../mlp", "weight": 1}]}')
    assert refusal(folder, *to).startswith(f"{file}: members[0].name: found '../mlp', expected ")
    file.write_text('{"members": [{"name": "mlp", "weight": "NaN"}]}')
    assert refusal(folder, *to).startswith(f"{file}: members[0].weight: found ")
    assert not (tmp_path / "new").exists()


def test_the_samples_are_no_rows_that_judge(models, data: Path, tmp_path: Path) -> None:
    run(models("mlp"), "--to", tmp_path / "new", "--data", data, "--labels", LABELS)
    written = repository.read(tmp_path / "new")
    member, (x, y) = written.spec.members[0], written.samples()

    assert len(x) == 100 and member.calibration.n == 200
    right = (measuring.scores(written.model(member), x).argmax(axis=1) == y).mean()
    assert right == pytest.approx(member.calibration.accuracy, abs=0.1)


def test_each_row_has_one_part(digits: Repository, tmp_path: Path) -> None:
    x = np.arange(400, dtype=np.float32)[:, None]
    samples.write_npz(tmp_path / "rows.npz", x, np.arange(400) % 2)
    given = InputSpec(name="x", datatype="FP32", shape=(1,))
    parts = shares.split(tmp_path / "rows.npz", given, ("a", "b"), None, most=150)
    drawn = [part.x[:, 0].astype(int).tolist() for part in (parts.samples, parts.choosing, parts.judging)]

    assert len(set(sum(drawn, []))) == len(sum(drawn, []))
    assert [len(part) for part in drawn] == [100, 100, 150]
    assert all((part.y == part.x[:, 0] % 2).all() for part in (parts.samples, parts.choosing, parts.judging))


def test_the_first_samples_are_of_all_classes_though_the_data_come_class_by_class(tmp_path: Path) -> None:
    x = np.arange(400, dtype=np.float32)[:, None]
    samples.write_npz(tmp_path / "rows.npz", x, np.arange(400) // 100)
    rows = shares.read(tmp_path / "rows.npz", InputSpec(name="x", datatype="FP32", shape=(1,)), tuple("abcd"))

    assert min(np.bincount(rows.y[:100], minlength=4)) >= 10
    assert sorted(rows.x[:, 0]) == list(range(400)) and (rows.y == rows.x[:, 0] // 100).all()


def test_an_experiment_knows_its_input_and_classes(experiment, data: Path, tmp_path: Path) -> None:
    run(experiment("cnn"), experiment("mlp"), "--to", tmp_path / "new", "--samples", data)
    written = repository.read(tmp_path / "new")

    assert written.spec.labels == tuple("0123456789")
    assert written.spec.input.image.range == (0, 16)
    assert written.spec.members[0].calibration.accuracy == 0.93
    assert len(written.samples()[0]) == 400


def test_members_join_a_repository_that_is_there(experiment, models, data: Path, tmp_path: Path) -> None:
    to = tmp_path / "new"
    run(experiment("cnn"), "--to", to, "--samples", data)
    (to / "README.md").write_text("Ours.")
    before = files(to)
    run(models("bayes"), "--to", to, "--data", data)
    after = files(to)

    assert [member.name for member in repository.read(to).spec.members] == ["cnn", "bayes"]
    assert {name: after[name] for name in before if name != "ensemble.yaml"} == {
        name: content for name, content in before.items() if name != "ensemble.yaml"
    }


def test_a_member_makes_way_when_told(experiment, models, data: Path, tmp_path: Path) -> None:
    to = tmp_path / "new"
    run(experiment("cnn"), "--to", to, "--samples", data)
    manifest = (to / "ensemble.yaml").read_text()
    (to / "ensemble.yaml").write_text(manifest.replace("weight: 1", "weight: 3"))

    line = refusal(f"cnn={models('bayes')}", "--to", to)
    assert line == f"{to}: found a member cnn there, expected another name or --replace"
    run(f"cnn={models('bayes')}", "--to", to, "--data", data, "--replace")
    (member,) = repository.read(to).spec.members
    assert member.weight == 3 and member.calibration.n == 300
    assert repository.read(to).model(member) == models("bayes").read_bytes()


def test_logits_are_declared(models, data: Path, tmp_path: Path) -> None:
    model = onnx.load_model(models("mlp"))
    model.graph.output[0].name = model.graph.node.pop().input[0]
    onnx.save_model(model, tmp_path / "logits.onnx")
    (found,) = json.loads(
        run(tmp_path / "logits.onnx", "--to", tmp_path / "new", "--data", data, "--labels", LABELS, "--json")
    )
    run(models("mlp"), "--to", tmp_path / "other", "--data", data, "--labels", LABELS)

    assert found["emits"] == repository.read(tmp_path / "new").spec.members[0].emits == "logits"
    ours, theirs = (repository.read(tmp_path / name).spec.members[0].calibration for name in ("new", "other"))
    assert ours == theirs


def test_cheaper_copies_tell_what_they_lost(models, data: Path, tmp_path: Path) -> None:
    words = [models("cnn"), "--to", tmp_path / "new", "--data", data, "--labels", LABELS]
    whole, *copies = json.loads(run(*words, "--variant", "int8", "--variant", "fp16", "--json"))
    members = repository.read(tmp_path / "new").spec.members

    assert [member.name for member in members] == ["cnn", "cnn-int8", "cnn-fp16"]
    for copy in copies:
        lost = copy["accuracy_lost"]
        assert lost["value"] == pytest.approx(whole["accuracy"]["value"] - copy["accuracy"]["value"])
        assert lost["low"] <= lost["value"] <= lost["high"] and lost["n"] == 200
        assert copy["speed"] > 0 and copy["bytes"] < whole["bytes"]


def test_the_table_has_a_line_a_member(models, data: Path, tmp_path: Path) -> None:
    words = [models("mlp"), "--to", tmp_path / "new", "--data", data, "--labels", LABELS, "--variant", "fp16"]
    head, member, copy, lost = run(*words).splitlines()

    assert head.split("  ")[0] == "member" and "95% interval" in head
    assert member.startswith("mlp ") and "probabilities" in member and "200 rows" in member
    assert copy.startswith("mlp-fp16 ")
    assert lost.startswith("mlp-fp16: lost ") and lost.endswith("times as fast on this machine, on one core")


# --------------------------------------------------------------------------------------------------------- what is refused


def test_a_failed_export_leaves_what_stood_there(experiment, models, data: Path, tmp_path: Path) -> None:
    to = tmp_path / "models" / "new"
    run(experiment("cnn"), "--to", to, "--samples", data)
    before = files(to.parent)
    broken = onnx.load_model(models("mlp"))
    broken.graph.node[-1].op_type = "Sigmoid"
    broken.graph.node[-1].ClearField("attribute")
    onnx.save_model(broken, tmp_path / "broken.onnx")

    assert "rows sum to" in refusal(models("bayes"), tmp_path / "broken.onnx", "--to", to, "--data", data)
    assert files(to.parent) == before
    assert [entry.name for entry in to.parent.iterdir()] == ["new"]


def test_the_first_class_that_differs_is_named(experiment, data: Path, tmp_path: Path) -> None:
    run(experiment("cnn"), "--to", tmp_path / "new", "--samples", data)
    other = experiment("mlp", labels=[*"0123456798"])

    line = refusal(other, "--to", tmp_path / "new")
    assert line == f"{other}: labels: found '9' as class 8, expected '8'"
    line = refusal(other, "--to", tmp_path / "new", "--labels", "a,b")
    assert line == "labels: found 2, expected 10"


def test_another_input_is_refused(experiment, data: Path, tmp_path: Path) -> None:
    run(experiment("cnn"), "--to", tmp_path / "new", "--samples", data)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["pixels", "weights"], ["scores"])],
        "other",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(np.ones((3, 10), np.float32), "weights")],
    )
    file = tmp_path / "other.onnx"
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), file)

    assert refusal(file, "--to", tmp_path / "new") == f"{file}: input: found FP32 [3], expected UINT8 [8, 8]"
    few = ["--labels", "a,b", "--samples", data]
    assert refusal(file, "--to", tmp_path / "fresh", *few) == f"{file}: found 10 classes, expected 2"


def test_what_member_json_says_has_to_be_true(experiment, data: Path, tmp_path: Path) -> None:
    words = ["--to", tmp_path / "new", "--samples", data]
    logits = experiment("mlp", emits="logits")
    nine = experiment("cnn", labels=[*"012345678"])
    odd = experiment("bayes", calibration={"accuracy": 3, "n": 1})

    assert refusal(logits, *words) == (
        f"{logits}: {logits}/member.json: emits: found logits, expected probabilities, which model.onnx gives"
    ).removeprefix(f"{logits}: ")
    assert refusal(nine, *words) == f"{nine}/member.json: labels: found 9, expected 10 as in model.onnx"
    assert refusal(odd, *words).startswith(f"{odd}/member.json: calibration.accuracy: found 3, expected less than")
    (nine / "member.json").unlink()
    assert (
        refusal(nine, *words)
        == f"{nine}: found no member.json, expected an experiment folder whose training is finished"
    )


def test_what_has_to_be_unpickled_is_refused(tmp_path: Path) -> None:
    for name in ("tree.pkl", "tree.joblib", "net.pt"):
        line = refusal(tmp_path / name, "--to", tmp_path / "new")
        assert line.startswith(f"{tmp_path / name}: found a file that only unpickling reads")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["nothing.onnx"],
            "nothing.onnx: found nothing, expected an experiment folder, a search's pool, an .onnx file, ",
        ),
        (["timm:a?b=1"], "timm:a?b=1: found option 'b', expected pretrained, weights or classes"),
    ],
)
def test_a_source_that_there_is_not_is_refused(words: list[str], line: str, tmp_path: Path) -> None:
    assert refusal(*words, "--to", tmp_path / "new").startswith(line)


def test_wrong_usage_has_a_code_of_its_own(models, data: Path, tmp_path: Path) -> None:
    words = [models("mlp"), "--to", tmp_path / "new", "--labels", LABELS]
    for more, line in (
        (["--variant", "int4"], "--variant: found 'int4', expected int8 or fp16"),
        (["--variant", "int8"], "--variant int8: found no --data, expected labelled rows that tell what it loses"),
        (["--image", "CMYK"], "--image: found 'CMYK', expected L or RGB, or RGB:BLACK:WHITE"),
    ):
        with pytest.raises(Fault) as fault:
            run(*words, *more)
        assert (str(fault.value), fault.value.code) == (line, 2)


@pytest.mark.parametrize("ends", ["0:0", "nan:1", "0:inf"])
def test_a_picture_without_contrast_is_refused(models, data: Path, tmp_path: Path, ends: str) -> None:
    words = [models("mlp"), "--to", tmp_path / "new", "--data", data, "--labels", LABELS, "--image", f"L:{ends}"]

    assert "--image: range: found [" in refusal(*words)
    assert not (tmp_path / "new").exists()


def test_what_a_new_repository_needs_is_told(models, data: Path, tmp_path: Path) -> None:
    to = tmp_path / "new"
    assert refusal(models("mlp"), "--to", to, "--data", data).startswith("labels: found none, expected --labels")
    assert refusal(models("mlp"), "--to", to, "--labels", LABELS) == (
        f"{to}: found no rows, expected --data or --samples: a new repository has samples.npz"
    )
    assert refusal(models("mlp"), models("mlp"), "--to", to, "--data", data, "--labels", LABELS) == (
        "members: found mlp twice, expected distinct names: NAME=SOURCE gives one"
    )
    assert refusal(f"tree={models('forest')}", "--to", tmp_path, "--data", data, "--labels", LABELS) == (
        f"{tmp_path}: found something without ensemble.yaml, expected a model repository or nothing"
    )
    assert not to.exists()


def test_a_copy_of_a_forest_is_refused(models, data: Path, tmp_path: Path) -> None:
    file = models("forest")
    line = refusal(file, "--to", tmp_path / "new", "--data", data, "--labels", LABELS, "--variant", "int8")

    assert line.startswith(f"{file}: int8: found no Conv, ConvTranspose, Gemm, MatMul in the graph")


def test_a_torch_module_joins_from_python(digits: Repository, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from ensembles.assembly import Finished, Place
    from ensembles.export import Input, from_torch

    x, y = digits.samples()
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    model = from_torch(module, Input("image", "UINT8", (8, 8), scale=1 / 16), x[:32])
    there = Place(tmp_path / "new", "new", digits.spec.labels, digits.spec.input, None)
    written = assembly.write(there, [Finished("linear", model, "probabilities", None)], shares.Labelled(x, y))

    repository.verify(written)
    assert [member.name for member in written.spec.members] == ["linear"]
