"""The rules are PromQL over series that there are, and of each alert it is shown when it fires, when not, and what to do."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
RULE_FILES = sorted((PROMETHEUS / "rules").glob("*.yaml"))
RULE_TESTS = sorted((PROMETHEUS / "tests").glob("*.yaml"))
RUNBOOK = "docs/operations.md"


def run(*command: object, seconds: float = 250) -> subprocess.CompletedProcess:
    return subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=seconds, check=False)


def sections() -> dict[str, str]:
    """What the page says of each alert, by its heading."""
    text = (ROOT / RUNBOOK).read_text().split("\n## When an alert fires\n")[1]
    return dict(re.findall(r"^### (\w+)\n\n(.*?)(?=^### |\Z)", text, re.DOTALL | re.MULTILINE))


def queries() -> list[str]:
    return re.findall(r"```promql\n(.*?)```", (ROOT / RUNBOOK).read_text(), re.DOTALL)


def test_prometheus_takes_the_rules_and_the_configuration(promtool, rules) -> None:
    done = run(promtool, "check", "config", PROMETHEUS / "prometheus.yaml")

    assert done.returncode == 0, done.stdout + done.stderr
    assert sum(map(int, re.findall(r"(\d+) rules found", done.stdout))) == len(rules)


@pytest.mark.parametrize("file", RULE_TESTS, ids=lambda file: file.stem)
def test_alerts_fire_when_they_should_and_only_then(promtool, file: Path) -> None:
    done = run(promtool, "test", "rules", file)

    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_is_shown_to_fire_and_not_to_fire(alerts) -> None:
    checks = [
        check
        for file in RULE_TESTS
        for test in yaml.safe_load(file.read_text())["tests"]
        for check in test["alert_rule_test"]
    ]

    assert {check["alertname"] for check in checks if check["exp_alerts"]} == set(alerts)
    assert {check["alertname"] for check in checks if not check["exp_alerts"]} == set(alerts)


def test_the_rule_tests_read_all_rules_in_their_order(rules) -> None:
    """A rule that reads what another one records comes after it."""
    groups = [group["name"] for file in RULE_FILES for group in yaml.safe_load(file.read_text())["groups"]]
    for file in RULE_TESTS:
        test = yaml.safe_load(file.read_text())
        assert {(file.parent / name).resolve() for name in test["rule_files"]} == set(RULE_FILES), file
        assert sorted(test["group_eval_order"]) == sorted(groups), file


def test_each_alert_says_how_urgent_it_is_what_is_wrong_and_where_to_read_on(alerts) -> None:
    for name, alert in alerts.items():
        assert alert["labels"]["severity"] in {"page", "ticket"}, name
        assert alert["annotations"].keys() == {"summary", "runbook_url"}, name
        assert alert["annotations"]["runbook_url"] == f"{RUNBOOK}#{name.lower()}", name


def test_the_runbook_has_a_section_with_a_query_for_each_alert_and_no_others(alerts) -> None:
    found = sections()

    assert set(found) == set(alerts)
    assert [name for name, text in found.items() if len(text) < 200] == []
    assert [name for name, text in found.items() if "```promql" not in text] == ["AvailabilityBurn3d", "LatencyBurn3d"]


def test_the_rules_read_series_that_a_server_shows_or_another_rule_records(rules, recorded, shown, asked_for) -> None:
    asked = {name for rule in rules for name in asked_for(rule["expr"])}

    assert len(asked) > 30
    assert asked - recorded - shown == set()


def test_the_runbook_reads_series_that_there_are(recorded, shown, asked_for) -> None:
    asked = {name for query in queries() for name in asked_for(query)}

    assert len(asked) > 15
    assert asked - recorded - shown == set()


def test_the_runbook_names_every_series_that_is_recorded(recorded) -> None:
    text = (ROOT / RUNBOOK).read_text()

    assert [name for name in recorded if name not in text and re.sub(r"\d+[mhd]$", "…", name) not in text] == []


def test_the_queries_of_the_runbook_are_promql(promtool, tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    found = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries())]
    file.write_text(yaml.safe_dump({"groups": [{"name": "runbook", "rules": found}]}))
    done = run(promtool, "check", "rules", file)

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(found)} rules found" in done.stdout


def test_the_latency_objective_is_a_bucket(rules) -> None:
    from serving.telemetry import SECONDS

    [objective] = [rule for rule in rules if rule.get("record") == "objective:latency"]
    assert objective["labels"]["le"] in {str(float(bound)) for bound in SECONDS}
