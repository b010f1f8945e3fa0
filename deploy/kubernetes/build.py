"""Writes the rules for the Prometheus operator: `python deploy/kubernetes/build.py`, or with a file behind it where they shall go."""

import sys
from pathlib import Path

import yaml

HERE = Path(__file__).parent
RULES = sorted((HERE.parent / "prometheus" / "rules").glob("*.yaml"))
MADE = HERE / "components" / "monitoring" / "rules.yaml"
HEAD = "# Made by deploy/kubernetes/build.py from deploy/prometheus/rules: change it there.\n"


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """Queries keep their lines."""
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


def main() -> None:
    groups = [group for file in RULES for group in yaml.safe_load(file.read_text())["groups"]]
    made = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "scrutin"},
        "spec": {"groups": groups},
    }
    yaml.SafeDumper.add_representer(str, _text)
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else MADE
    target.write_text(HEAD + yaml.safe_dump(made, sort_keys=False, width=120, allow_unicode=True))


if __name__ == "__main__":
    main()
