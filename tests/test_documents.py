"""What the documents point to is there, and what they tell to type runs."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    text = document.read_text()
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if not target.startswith("http"):
            assert (document.parent / target).exists(), target


def test_the_life_of_a_request_names_files_that_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text().split("## Obvious places for what comes")[0]
    named = re.findall(r"`((?:serving|ensembles)/[\w/]+\.py)`", text)

    assert len(named) > 8
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_answer_in_the_readme_has_the_keys_of_a_real_one() -> None:
    shown = json.loads(re.search(r"```json\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1])

    assert shown["predictions"][0]["votes"] == {"mlp": "3", "cnn": "7", "forest": "7", "logistic": "7", "bayes": "8"}
    assert shown.keys() >= {"predictions", "policy", "partial", "members", "latency_seconds", "cost_usd", "digest"}


def test_the_digest_in_the_readme_is_that_of_the_ensemble(digits) -> None:
    assert digits.digest in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("command", ["serving", "ensembles", "loadtest"])
def test_every_command_of_the_project_explains_itself(command: str) -> None:
    code = f"import sys; sys.argv = ['{command}', '--help']; from {command}.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0
    assert "Usage:" in done.stdout
