"""The rules, and what there is for them to read."""

import os
import re
import shutil
from pathlib import Path

import pytest
import yaml

from serving.app import Server
from serving.settings import Settings

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
RULE_FILES = sorted((PROMETHEUS / "rules").glob("*.yaml"))
HISTOGRAM_PARTS = ("_bucket", "_count", "_sum")


@pytest.fixture(scope="session")
def rules() -> list[dict]:
    """Of all files and groups."""
    documents = [yaml.safe_load(file.read_text()) for file in RULE_FILES]
    return [rule for document in documents for group in document["groups"] for rule in group["rules"]]


@pytest.fixture(scope="session")
def alerts(rules) -> dict[str, dict]:
    return {rule["alert"]: rule for rule in rules if "alert" in rule}


@pytest.fixture(scope="session")
def recorded(rules) -> set[str]:
    return {rule["record"] for rule in rules if "record" in rule}


@pytest.fixture(scope="session")
def shown(digits) -> set[str]:
    """The names of all samples that a server can show, and `up`, which Prometheus makes itself."""
    families = Server(Settings(repositories=(digits.path,))).books.telemetry.registry.collect()
    names = {"up", "ensemble_energy_joules_total"}
    for family in families:
        if family.type == "histogram":
            names |= {family.name + part for part in HISTOGRAM_PARTS}
        else:
            names.add(family.name + "_total" if family.type == "counter" else family.name)
    return names


@pytest.fixture(scope="session")
def promtool() -> str:
    """The command. On a developer's machine it may be missing; in CI it may not."""
    if shutil.which("promtool") is None and "CI" not in os.environ:
        pytest.skip("promtool is not installed; on Debian it is in the package prometheus")
    return "promtool"


@pytest.fixture(scope="session")
def asked_for():
    """`asked_for(query)`: the names of the series that it reads."""

    def asked_for(query: str) -> set[str]:
        named = {
            f"ensemble_{idle}{what}"
            for what in re.findall(r'__name__=~"ensemble_\(idle_\)\?(\w+)"', query)
            for idle in ("", "idle_")
        }
        bare = re.sub(r'"[^"]*"', "", query)
        return named | set(re.findall(r"\b(?:\w+:)?ensemble_\w+(?::\w+)?|\bobjective:\w+|\bup\b", bare))

    return asked_for
