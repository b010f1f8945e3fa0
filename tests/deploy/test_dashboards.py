"""The dashboards are what their script makes, ask PromQL for series that there are, and say what they show."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
GRAFANA = ROOT / "deploy" / "grafana"
BOARDS = sorted((GRAFANA / "dashboards").glob("*.json"))


def panels(board: Path) -> list[dict]:
    """Those that show something, the bars between them left out."""
    return [panel for panel in json.loads(board.read_text())["panels"] if panel["type"] != "row"]


def queries(board: Path) -> list[str]:
    """With all jobs and ensembles chosen."""
    found = [target["expr"] for panel in panels(board) for target in panel["targets"]]
    return [query.replace("$job", ".*").replace("$ensemble", ".*") for query in found]


def test_the_dashboards_are_what_their_script_makes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, GRAFANA / "build.py", tmp_path], check=True, timeout=60)

    assert sorted(file.name for file in tmp_path.iterdir()) == [board.name for board in BOARDS]
    for board in BOARDS:
        assert (tmp_path / board.name).read_text() == board.read_text(), f"run {GRAFANA / 'build.py'}"


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.stem)
def test_each_panel_has_a_place_of_its_own_and_says_what_it_shows(board: Path) -> None:
    taken: Counter[tuple[int, int]] = Counter()
    for panel in json.loads(board.read_text())["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        taken.update((place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"]))
    numbers = [panel["id"] for panel in json.loads(board.read_text())["panels"]]

    assert max(taken.values()) == 1
    assert len(set(numbers)) == len(numbers)
    assert all(panel["description"] and panel["fieldConfig"]["defaults"]["unit"] for panel in panels(board))


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.stem)
def test_a_dashboard_reads_series_that_there_are(board: Path, recorded, shown, asked_for) -> None:
    asked = {name for query in queries(board) for name in asked_for(query)}

    assert len(asked) > 10
    assert asked - recorded - shown == set()


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.stem)
def test_the_queries_of_a_dashboard_are_promql(board: Path, promtool, tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    found = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries(board))]
    file.write_text(yaml.safe_dump({"groups": [{"name": board.stem, "rules": found}]}))
    done = subprocess.run([promtool, "check", "rules", file], capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(found)} rules found" in done.stdout
