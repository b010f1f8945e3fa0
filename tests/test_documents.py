"""What the documents point to is there, and what they tell to type runs."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml

from ensembles import cli, spec
from ensembles.training import recipes
from serving.ledger import Ledger
from serving.telemetry import Telemetry

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


def test_the_options_in_the_workbench_page_are_those_of_the_commands() -> None:
    text = (ROOT / "docs" / "workbench.md").read_text()
    for name, command in typer.main.get_command(cli.app).commands.items():
        section = text.split(f"\n## ensembles {name}\n")[1].split("\n## ")[0]
        real = {option for each in command.params for option in each.opts if option.startswith("--")} | {"--json"}

        assert set(re.findall(r"--[a-z][a-z-]+", section.strip().split("\n")[0])) <= real, name
        assert {each for each in real - {"--json", "--help"} if each not in section} == set(), name


def test_the_recipe_in_the_workbench_page_is_one() -> None:
    members, search = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "workbench.md").read_text(), re.DOTALL)
    recipe = recipes.parse((members + search).encode())

    assert recipe.member_names == ("vgg", "small", "twin", "grey")
    assert recipe.search is not None


def test_the_policies_in_the_serving_page_are_some(digits) -> None:
    text = (ROOT / "docs" / "serving.md").read_text().split("\n## Policies\n")[1]
    policies = yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1].replace("…", "0" * 64))["policies"]
    members = [
        {**digits.spec.members[0].model_dump(mode="json"), "name": each}
        for each in ("small", "forest", "twin", "grey", "vgg")
    ]
    found = spec.from_mapping({**digits.spec.model_dump(mode="json"), "members": members, "policies": policies})

    assert found.policy_names[:4] == ("full", "early_exit", "cascade", "planned")


def queries() -> list[str]:
    """The PromQL of the page about costs."""
    return re.findall(r"```promql\n(.*?)```", (ROOT / "docs" / "cost.md").read_text(), re.DOTALL)


def test_the_queries_in_the_cost_page_ask_for_series_that_there_are() -> None:
    families = {family.name for family in Telemetry(Ledger(1.0)).registry.collect()} | {"ensemble_energy_joules"}
    asked = {name for query in queries() for name in re.findall(r"ensemble_\w+", re.sub(r'"[^"]*"', "", query))}

    assert len(asked) > 8
    assert {name.removesuffix("_total") for name in asked} <= families


def test_the_queries_in_the_cost_page_are_promql(tmp_path: Path) -> None:
    if shutil.which("promtool") is None and "CI" not in os.environ:
        pytest.skip("promtool is not installed")
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries())]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "cost", "rules": rules}]}))
    done = subprocess.run(["promtool", "check", "rules", file], capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules)} rules found" in done.stdout
