"""Writes the dashboards: `python deploy/grafana/build.py`, or with a folder behind it where they shall go."""

import json
import sys
from pathlib import Path

from operators import OPERATORS
from panels import board
from worth import WORTH

BOARDS = {
    "operators": board(
        "scrutin-operators", "Scrutin: operation", "Is it well? Traffic, latency, members, queue, devices", OPERATORS
    ),
    "worth": board("scrutin-worth", "Scrutin: worth", "Accuracy gained against cost, by policy and member", WORTH),
}


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("dashboards")
    folder.mkdir(exist_ok=True)
    for name, made in BOARDS.items():
        (folder / f"{name}.json").write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
