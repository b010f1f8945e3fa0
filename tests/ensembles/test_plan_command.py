"""`ensembles plan` as users call it: what it prints, writes and refuses."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import typer
import yaml
from typer.testing import CliRunner, Result

from ensembles import repository
from ensembles.commands import Fault, plan
from ensembles.repository import Repository, RepositoryError

app = typer.Typer()
app.command(epilog=plan.EPILOG)(plan.plan)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def copy(digits: Repository, tmp_path: Path) -> Path:
    """A copy of `exported_models/digits`, to be written to."""
    return shutil.copytree(digits.path, tmp_path / "digits")


def call(folder: Path, cache: Path, *more: object, data: object = None) -> Result:
    words = [folder, "--data", data or folder / "samples.npz", "--cache", cache, *more]
    return CliRunner().invoke(app, list(map(str, words)))


def refusal(result: Result, code: int = 1) -> str:
    """The line of the fault."""
    assert isinstance(result.exception, Fault), result.output
    assert result.exception.code == code
    (line,) = str(result.exception).splitlines()
    return line


def test_a_table_is_printed_with_what_was_chosen(digits: Repository, cache: Path) -> None:
    result = call(digits.path, cache, "--disagreement", 0.02)

    assert result.exit_code == 0
    for word in ("best member", "bigger model", "full", "early exit", "chosen", "decided", "180 other rows"):
        assert word in result.stdout, word
    assert max(map(len, result.stdout.splitlines())) <= 120
    assert "…" not in result.stdout


def test_help_says_where_votes_are_kept() -> None:
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}, color=False)

    assert "[default: ~/.cache/scrutin/votes]" in shown.stdout


def test_json_is_for_machines(digits: Repository, cache: Path, tmp_path: Path) -> None:
    result = call(digits.path, cache, "--json", "--out", tmp_path)
    content = json.loads(result.stdout)

    assert content == json.loads((tmp_path / "plan.json").read_text())
    assert content["judged_on"] == 180
    assert content["notes"] == [
        (
            "no cascade: 180 rows are left to certify one, 598 are needed for a disagreement of 0.5% at 95% confidence, "
            "1994 in all"
        )
    ]
    costs = [entry["cost_usd_per_1000"]["value"] for entry in content["front"]]
    assert costs == sorted(costs)


def test_the_price_scales_the_costs(digits: Repository, cache: Path) -> None:
    cheap, dear = (
        json.loads(call(digits.path, cache, "--json", "--price-per-hour", price).stdout)["chosen"] for price in (1, 3)
    )

    assert dear["cost_usd_per_1000"]["value"] == pytest.approx(3 * cheap["cost_usd_per_1000"]["value"])
    assert dear["seconds_per_1000"] == cheap["seconds_per_1000"]


def test_a_price_beyond_all_numbers_is_unknown(digits: Repository, cache: Path) -> None:
    result = call(digits.path, cache, "--price-per-hour", 1e308)

    assert result.exit_code == 0
    assert "unknown" in result.stdout


def test_the_answer_can_be_no(digits: Repository, cache: Path) -> None:
    result = call(digits.path, cache, "--min-accuracy", 0.999)
    assert "best member" in result.stdout, "the table is shown nevertheless"
    assert refusal(result).endswith("none is right on 99.9% on the rows that choose")

    line = refusal(call(digits.path, cache, "--min-accuracy", 0.95, "--max-cost", 0))
    assert line.endswith("none is right on 95.0% at no more than 0 USD per 1,000 rows on the rows that choose")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--disagreement", 0], "--disagreement: found 0.0, expected a share from 1e-09 to less than 1"),
        (["--disagreement", "5e-324"], "--disagreement: found 5e-324, expected a share from 1e-09 to less than 1"),
        (["--disagreement", "nan"], "--disagreement: found nan, expected a share from 1e-09 to less than 1"),
        (["--confidence", 1], "--confidence: found 1.0, expected a share from 1e-09 to less than 1"),
        (["--max-cost", "inf"], "--max-cost: found inf, expected a finite number"),
        (["--price-per-hour", "inf"], "--price-per-hour: found inf, expected a finite number"),
    ],
)
def test_numbers_that_mean_nothing_are_wrong_usage(
    digits: Repository, cache: Path, words: list[object], line: str
) -> None:
    assert refusal(call(digits.path, cache, *words), code=2) == line


def test_data_that_cannot_be_used_is_refused(digits: Repository, cache: Path, tmp_path: Path) -> None:
    assert "expected" in refusal(call(digits.path, cache, data=tmp_path / "nothing.npz"))
    assert "expected a model repository" in refusal(call(tmp_path / "nowhere", cache, data="x.npz"))

    x, y = digits.samples()
    np.savez(tmp_path / "few.npz", x=x[:8], y=y[:8])
    line = refusal(call(digits.path, cache, data=tmp_path / "few.npz"))
    assert line == "found 8 rows, expected at least 10 to choose, certify and judge on different ones"


# ------------------------------------------------------------------------------------------------------------ the manifest


def test_written_policies_are_those_of_the_plan(copy: Path, cache: Path) -> None:
    before = yaml.safe_load((copy / "ensemble.yaml").read_text())
    result = call(copy, cache, "--disagreement", 0.02, "--write", "--json")
    assert result.exit_code == 0, result.exception
    content = json.loads(result.stdout)
    after = yaml.safe_load((copy / "ensemble.yaml").read_text())

    by_name = {name: entry for entry in content["front"] for name in entry["known_as"]}
    assert after["policies"]["default"] == before["policies"]["default"]
    assert after["policies"]["early_exit"]["stages"] == by_name["early_exit"]["stages"]
    assert after["policies"]["cascade"]["exit"] == by_name["cascade"]["exit"]
    assert after["policies"]["cascade"]["certificate"].keys() == {"disagreement", "confidence", "n", "digest"}
    assert after["policies"]["planned"]["stages"] == content["chosen"]["stages"]
    assert after["vote"] == {**before["vote"], "temperature": content["temperature"]}
    assert {key: value for key, value in after.items() if key not in {"policies", "vote"}} == {
        key: value for key, value in before.items() if key not in {"policies", "vote"}
    }
    repository.verify(repository.read(copy))


def test_nothing_is_written_where_the_answer_is_no(copy: Path, cache: Path) -> None:
    before = (copy / "ensemble.yaml").read_bytes()
    refusal(call(copy, cache, "--min-accuracy", 0.999, "--write"))

    assert (copy / "ensemble.yaml").read_bytes() == before


def test_planning_again_writes_the_same(copy: Path, cache: Path) -> None:
    call(copy, cache, "--disagreement", 0.02, "--write")
    once = (copy / "ensemble.yaml").read_bytes()
    call(copy, cache, "--disagreement", 0.02, "--write")

    assert (copy / "ensemble.yaml").read_bytes() == once


def test_nothing_is_written_unless_asked(copy: Path, cache: Path) -> None:
    before = (copy / "ensemble.yaml").read_bytes()
    call(copy, cache)

    assert (copy / "ensemble.yaml").read_bytes() == before


def test_rewriting_keeps_all_else_to_the_byte(copy: Path) -> None:
    file = copy / "ensemble.yaml"
    text = re.sub("temperature: [0-9.]+", "temperature: 1.0", file.read_text())
    file.write_text("# ours\n" + text + "# the end\n")
    file.chmod(0o640)
    before = file.read_text()
    again = repository.rewrite(repository.read(copy), {"vote": {"temperature": 1.5}})

    assert again.spec.vote.temperature == 1.5
    assert file.read_text() == before.replace("temperature: 1.0", "temperature: 1.5")
    assert file.stat().st_mode & 0o777 == 0o640
    assert not list(copy.glob(".ensemble*"))


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_rewriting_keeps_the_comments_after_a_section_in_block_style(copy: Path, newline: str) -> None:
    file = copy / "ensemble.yaml"
    content = re.sub("vote: .*\n", "vote:\n  quorum: 3\n\n# how much is run\n", file.read_text())
    file.write_bytes(content.replace("\n", newline).encode())
    repository.rewrite(repository.read(copy), {"vote": {"quorum": 2}})

    expected = content.replace("vote:\n  quorum: 3\n", "vote: {quorum: 2}\n")
    assert file.read_bytes().decode().replace(newline, "\n") == expected


def test_a_section_that_is_missing_is_added_and_a_key_without_value_goes(copy: Path) -> None:
    file = copy / "ensemble.yaml"
    file.write_text(file.read_text().replace("policies: {default: full}\n", ""))
    found = repository.rewrite(repository.read(copy), {"policies": {"default": "member:mlp"}, "vote": {"quorum": None}})

    assert found.spec.policies.default == "member:mlp"
    assert found.spec.vote.quorum == 1


def test_what_would_be_no_manifest_is_not_written(copy: Path) -> None:
    file = copy / "ensemble.yaml"
    before, found = file.read_bytes(), repository.read(copy)

    with pytest.raises(RepositoryError, match="policies.default: found 'nothing', expected one of full"):
        repository.rewrite(found, {"policies": {"default": "nothing"}})
    assert file.read_bytes() == before

    file.write_bytes(before + b"# somebody else was here\n")
    with pytest.raises(RepositoryError, match=r"ensemble\.yaml: was changed meanwhile, expected what was read"):
        repository.rewrite(found, {"vote": {"quorum": 1}})
