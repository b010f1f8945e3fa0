"""`loadtest compare`, `merge` and `report`, as typed."""

import dataclasses
import json
from pathlib import Path

import pytest

from loadtest import outputs, results


@pytest.fixture(scope="module")
def saved(side_by_side, tmp_path_factory):
    """`saved(name, run)`: its results.json."""

    def save(run) -> Path:
        folder = tmp_path_factory.mktemp("run")
        return results.write(results.document(run), folder)

    return save


@pytest.fixture(scope="module")
def good(saved, side_by_side):
    return saved(side_by_side(full=(390, 1e-6), member_cnn=(370, 1e-6)))


@pytest.fixture(scope="module")
def dear(saved, side_by_side):
    return saved(side_by_side(full=(390, 2e-6), member_cnn=(370, 1e-6), seed=1))


def test_a_run_compared_with_itself_is_no_worse(loadtest, good: Path) -> None:
    done = loadtest("compare", good, good.parent)

    assert (done.returncode, done.stderr) == (0, "")
    assert "No change is shown in any of" in done.stdout


def test_a_dearer_run_is_worse_with_exit_code_1(loadtest, good: Path, dear: Path) -> None:
    done = loadtest("compare", good, dear)

    assert done.returncode == 1
    assert "Worse: cost of 1,000 rows of full." in done.stdout
    assert loadtest("compare", dear, good).returncode == 0
    assert loadtest("compare", good, dear, tolerance="150%").returncode == 2


def test_a_comparison_in_json_has_intervals(loadtest, good: Path, dear: Path) -> None:
    found = json.loads(loadtest("compare", good, dear, json=True).stdout)
    cost = next(
        each for each in found["changes"] if each["measure"] == "cost of 1,000 rows" and each["policy"] == "full"
    )

    assert cost["worse"] and found["worse"] and found["valid"]
    assert cost["change"]["low"] < cost["change"]["value"] < cost["change"]["high"]
    assert cost["change"]["value"] == pytest.approx(1.0, rel=0.05)


def test_policies_of_one_run_are_compared_by_pairs(loadtest, dear: Path) -> None:
    done = loadtest("compare", dear, dear, pair="member:cnn=full")

    assert done.returncode == 1
    assert "member:cnn → full" in done.stdout
    assert "Better: accuracy of member:cnn → full." in " ".join(done.stdout.split())


def test_an_invalid_run_is_no_ground_for_a_comparison(loadtest, saved, side_by_side, good: Path) -> None:
    late = side_by_side(full=(390, 1e-6), member_cnn=(370, 1e-6))
    late.arms[0].lateness.record(0.5, 1000)
    done = loadtest("compare", good, saved(late))

    assert done.returncode == 4
    assert "INVALID" in done.stdout and "the generator was late" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["GOOD", "nowhere.json"], "nowhere.json: found No such file or directory"),
        (["GOOD", "GOOD", "--tolerance", "much"], "--tolerance: found 'much', expected a share from 0 to 1 such as 5%"),
        (
            ["GOOD", "GOOD", "--pair", "full=best"],
            "--pair full=best: found no policy best, expected one of full, member:cnn",
        ),
        (["GOOD", "OTHER"], "found policies cascade, early_exit, expected one of full, member:cnn"),
    ],
)
def test_wrong_comparisons_are_refused_in_one_line(loadtest, saved, side_by_side, good: Path, arguments, told) -> None:
    other = saved(side_by_side(cascade=(390, 1e-6), early_exit=(390, 1e-6)))
    places = {"GOOD": str(good), "OTHER": str(other)}
    done = loadtest("compare", *(places.get(each, each) for each in arguments))

    assert done.returncode == 2
    assert told in done.stderr
    assert done.stderr.count("\n") == 1


def test_shards_are_merged_into_a_run_with_all_its_files(loadtest, saved, side_by_side, tmp_path: Path) -> None:
    run = side_by_side(full=(390, 1e-6), member_cnn=(370, 1e-6))
    shards = [saved(dataclasses.replace(run, shards=[number], of_shards=2)) for number in (1, 2)]
    done = loadtest("merge", *shards, out=tmp_path / "merged")

    assert done.returncode == 0, done.stderr
    assert results.read(tmp_path / "merged").arms[0].requests == 2 * run.arms[0].requests
    assert (tmp_path / "merged" / outputs.CSV).exists() and (tmp_path / "merged" / "report.html").exists()


def test_a_missing_shard_makes_the_run_invalid(loadtest, saved, side_by_side, tmp_path: Path) -> None:
    run = side_by_side(full=(390, 1e-6))
    shards = [saved(dataclasses.replace(run, shards=[number], of_shards=3)) for number in (1, 2)]
    done = loadtest("merge", *shards, out=tmp_path / "merged")

    assert done.returncode == 4
    assert "shards are missing: 3 of 3" in done.stdout


def test_the_same_shard_twice_is_refused(loadtest, good: Path, tmp_path: Path) -> None:
    done = loadtest("merge", good, good, out=tmp_path / "merged")

    assert done.returncode == 2
    assert "found shard 1 of 1" in done.stderr and done.stderr.count("\n") == 1


def test_the_pages_of_a_run_are_made_again(loadtest, good: Path, tmp_path: Path) -> None:
    done = loadtest("report", good, out=tmp_path / "pages")

    assert (done.returncode, done.stderr) == (0, "")
    assert [Path(line).name for line in done.stdout.split()] == [
        "results.json",
        "results.csv",
        "latency.hlog",
        "report.html",
    ]
    assert results.read(tmp_path / "pages") == results.read(good)


@pytest.mark.parametrize("command", ["compare", "merge", "report"])
def test_help_has_an_example(loadtest, command: str) -> None:
    done = loadtest(command, "--help")

    assert done.returncode == 0
    assert f"Example: loadtest {command}" in done.stdout
