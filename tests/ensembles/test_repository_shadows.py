"""The files of shadows are verified and written as those of members are."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from ensembles import repository
from ensembles import samples as labelled
from ensembles.cli import app
from ensembles.repository import Repository, RepositoryError

MODEL = "newcomer/1/model.onnx"


@pytest.fixture
def directory(digits: Repository, tmp_path: Path) -> Path:
    """A copy of `exported_models/digits` in which the mlp stands on trial too, from files of its own."""
    copy = shutil.copytree(digits.path, tmp_path / "digits")
    shutil.copytree(copy / "mlp", copy / "newcomer")
    mlp = yaml.safe_load((copy / "ensemble.yaml").read_text())["members"][0]
    edit(copy, lambda manifest: manifest.update(shadows=[{**mlp, "name": "newcomer", "model": MODEL, "share": 0.1}]))
    return copy


def edit(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest."""
    file = directory / "ensemble.yaml"
    content = yaml.safe_load(file.read_text())
    change(content)
    file.write_text(yaml.safe_dump(content, sort_keys=False))


def refusal(directory: Path) -> str:
    """The line with which the repository is refused, without the directory."""
    with pytest.raises(RepositoryError) as fault:
        repository.verify(repository.read(directory))
    return str(fault.value).removeprefix(f"{directory}/")


def test_a_shadow_with_files_of_its_own_is_sound(directory: Path) -> None:
    found = repository.read(directory)
    repository.verify(found)

    assert found.model(found.spec.shadows[0]) == (directory / MODEL).read_bytes()


def test_one_that_shares_the_file_of_a_member_is_too(directory: Path) -> None:
    edit(directory, lambda manifest: manifest["shadows"][0].update(model="mlp/1/model.onnx"))
    shutil.rmtree(directory / "newcomer")

    repository.verify(repository.read(directory))


def test_a_shadow_that_is_another_file_is_refused(directory: Path, digits: Repository) -> None:
    shutil.copy(directory / "cnn" / "1" / "model.onnx", directory / MODEL)
    mlp, cnn = (member.sha256 for member in digits.spec.members[:2])

    assert refusal(directory) == f"{MODEL}: shadows.newcomer.sha256: found {cnn}, expected {mlp}"


def test_a_shadow_without_a_file_is_refused(directory: Path) -> None:
    (directory / MODEL).unlink()

    assert refusal(directory) == f"{MODEL}: found nothing, expected a file"


def test_a_shadow_from_outside_is_refused(directory: Path) -> None:
    edit(directory, lambda manifest: manifest["shadows"][0].update(model="../newcomer.onnx"))

    assert refusal(directory) == "ensemble.yaml: found the path '../newcomer.onnx', expected one inside the repository"


def test_what_is_written_with_a_shadow_is_sealed_and_read_again(
    tmp_path: Path, digits: Repository, samples: Any
) -> None:
    models = {member.name: digits.model(member) for member in digits.spec.members}
    content = yaml.safe_load((digits.path / "ensemble.yaml").read_text())
    members = [{"name": member["name"], "emits": member["emits"]} for member in content["members"]]
    shadow = {"name": "newcomer", "emits": "probabilities", "share": 0.25}
    manifest = {**content, "members": members, "policies": {"default": "full"}, "shadows": [shadow]}
    written = repository.write(tmp_path / "new", manifest, {**models, "newcomer": models["mlp"]}, samples)

    (found,) = written.spec.shadows
    assert (found.sha256, found.share, found.model) == (digits.spec.members[0].sha256, 0.25, MODEL)
    assert (tmp_path / "new" / "newcomer" / "config.pbtxt").exists(), "Triton finds it too"


def test_members_that_join_leave_the_shadows_where_they_are(
    directory: Path, digits: Repository, tmp_path: Path
) -> None:
    before = repository.read(directory).spec
    labelled.write_npz(tmp_path / "heldout.npz", *digits.samples())
    shutil.copy(digits.path / "cnn" / "1" / "model.onnx", tmp_path / "twin.onnx")
    words = [tmp_path / "twin.onnx", "--to", directory, "--data", tmp_path / "heldout.npz"]
    done = CliRunner().invoke(app, ["export", *map(str, words)])
    assert done.exit_code == 0, done.output
    after = repository.read(directory)
    repository.verify(after)

    assert [member.name for member in after.spec.members] == [*(member.name for member in before.members), "twin"]
    assert after.spec.shadows == before.shadows


def test_a_change_of_the_manifest_keeps_its_shadows(directory: Path) -> None:
    before = repository.read(directory)
    after = repository.rewrite(before, {"vote": {"temperature": 1.5}})

    assert after.spec.shadows == before.spec.shadows
