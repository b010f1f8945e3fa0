"""`ensembles evaluate` and `ensembles report` as users call them: what they print, write and refuse."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

pytest.importorskip("matplotlib")

from ensembles.commands import Fault, evaluate, report
from ensembles.repository import Repository

app = typer.Typer()
app.command()(evaluate.evaluate)
app.command()(report.report)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def call(*words: object) -> Result:
    return CliRunner().invoke(app, list(map(str, words)), catch_exceptions=True)


def evaluated(digits: Repository, cache: Path, *more: object, data: object = None) -> Result:
    return call("evaluate", digits.path, "--data", data or digits.path / "samples.npz", "--cache", cache, *more)


def refusal(result: Result, code: int = 1) -> str:
    """The line of the fault."""
    assert isinstance(result.exception, Fault), result.output
    assert result.exception.code == code
    (line,) = str(result.exception).splitlines()
    return line


def test_help_says_where_votes_are_kept() -> None:
    shown = CliRunner().invoke(app, ["evaluate", "--help"], env={"COLUMNS": "200"}, color=False)

    assert "[default: ~/.cache/scrutin/votes]" in shown.stdout


def test_a_table_is_printed_with_the_verdict_last(digits: Repository, cache: Path) -> None:
    result = evaluated(digits, cache)

    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert {"mlp", "cnn", "forest", "logistic", "bayes", "majority"} <= {
        line.split()[0] for line in lines if line.split()
    }
    assert any(line.startswith("The vote beats cnn, the best member, by 3.0 points") for line in lines[-4:])
    assert max(map(len, lines)) <= 120


def test_json_is_for_machines(digits: Repository, cache: Path, tmp_path: Path) -> None:
    result = evaluated(digits, cache, "--json", "--out", tmp_path)

    assert json.loads(result.stdout) == json.loads((tmp_path / "evaluation.json").read_text())
    again = json.loads(call("report", tmp_path, "--json").stdout)
    assert again == {"report": str(tmp_path / "report.html"), "pictures": []}


def test_files_are_written_and_the_report_can_be_drawn_again(digits: Repository, cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "a" / "b"
    assert evaluated(digits, cache, "--out", out).exit_code == 0
    assert sorted(file.name for file in out.iterdir()) == ["evaluation.json", "report.html"]
    before = (out / "report.html").read_bytes()
    (out / "report.html").write_text("gone")

    result = call("report", out)
    assert result.stdout.strip() == str(out / "report.html")
    assert (out / "report.html").read_bytes() == before


def test_a_report_without_pictures_says_the_same_without_an_image_of_the_data(
    digits: Repository, cache: Path, tmp_path: Path
) -> None:
    shown, bare = tmp_path / "shown", tmp_path / "bare"
    assert evaluated(digits, cache, "--out", shown).exit_code == 0
    assert evaluated(digits, cache, "--out", bare, "--no-pictures").exit_code == 0

    expected, found = (json.loads((out / "evaluation.json").read_text()) for out in (shown, bare))
    assert all(sample.pop("picture").startswith("data:image/png") for sample in expected["samples"])
    assert all(sample.pop("picture") is None for sample in found["samples"])
    assert found == expected
    assert "data:image" in (shown / "report.html").read_text()
    assert "data:image" not in (bare / "report.html").read_text()


def test_a_price_is_what_the_costs_follow(digits: Repository, cache: Path) -> None:
    dear, free = (
        json.loads(evaluated(digits, cache, "--json", "--price-per-hour", price).stdout) for price in (3600, 0)
    )

    served = dear["ensembles"][0]
    assert served["cost_usd_per_1000"]["value"] == pytest.approx(served["seconds_per_1000"]["value"])
    assert free["ensembles"][0]["cost_usd_per_1000"]["value"] == 0


@pytest.mark.parametrize("price", ["-1", "nan"])
def test_a_price_that_is_none_is_wrong_usage(digits: Repository, cache: Path, price: str) -> None:
    assert evaluated(digits, cache, "--price-per-hour", price).exit_code == 2


def test_an_endless_price_is_wrong_usage(digits: Repository, cache: Path) -> None:
    assert (
        refusal(evaluated(digits, cache, "--price-per-hour", "inf"), code=2)
        == "--price-per-hour: found inf, expected USD"
    )


def test_too_few_rows_are_told_and_not_refused(digits: Repository, samples: Any, cache: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "few.npz", x=samples[0][:12], y=samples[1][:12])
    result = evaluated(digits, cache, data=tmp_path / "few.npz")

    assert result.exit_code == 0
    assert "Too few rows to say anything: on these 12, even a vote without any error could not be told" in result.stdout


def test_data_that_does_not_fit_is_one_line_and_earlier_files_stay(
    digits: Repository, samples: Any, cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "evaluation.json").write_text("earlier")
    np.savez(tmp_path / "wrong.npz", x=samples[0][:12], y=samples[1][:12] + 5)

    line = refusal(evaluated(digits, cache, "--out", tmp_path, data=tmp_path / "wrong.npz"))
    assert line.endswith("wrong.npz: y: found label 14, expected 0 to 9")
    assert (tmp_path / "evaluation.json").read_text() == "earlier"
    assert not (tmp_path / "report.html").exists()


def test_other_faults_are_one_line(digits: Repository, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    assert "found nothing, expected" in refusal(evaluated(digits, cache, data=tmp_path / "none.npz"))
    assert "expected a model repository" in refusal(call("evaluate", tmp_path / "none", "--data", "x.npz"))
    assert "expected a folder to keep votes in" in refusal(evaluated(digits, tmp_path / "file"))
    assert "expected a place to write to" in refusal(evaluated(digits, cache, "--out", tmp_path / "file"))
    assert "evaluation.json: found No such file" in refusal(call("report", tmp_path))
