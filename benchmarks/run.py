"""Scrutin, Triton and a bare loop in turns on one core, in one run: python -m benchmarks.run [--rounds 5] [--seconds 2].

Every server is pinned to the first core and the client to the second; what counts is the ratios.
"""

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

import uvloop

from benchmarks import machine, rest
from benchmarks.contest import CANDIDATES, OTHER_DOOR, PEERS, Contest, Terms, all_arms, say
from benchmarks.models import write_repository
from benchmarks.processes import ROOT
from benchmarks.ratios import Rounds
from benchmarks.report import Row, goals_table

WORK = ROOT / ".bench" / "run"
DIGITS = ROOT / "exported_models" / "digits"


async def measure_all(args: argparse.Namespace, cores: list[int]) -> tuple[Rounds, list[Row]]:
    candidates = CANDIDATES | (OTHER_DOOR if args.other_door else {})
    repository, names = WORK / "light", list(candidates)
    write_repository(repository)
    rows = []
    for name, start in CANDIDATES.items():
        rows += rest.starting(name, start, DIGITS, ",".join(map(str, cores)), WORK / f"{name}-digits.log")
    terms = Terms(repository, WORK, cores[0], args.rounds, args.seconds, args.warmup)
    contest = Contest(terms, all_arms(candidates, PEERS))
    with contest.started():
        await contest.fight()
        rows += await rest.idling(contest.servers, args.idle, names)
    return contest.rounds, [*contest.rounds.ratios(names), *rows, *contest.stops]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Ratios of Scrutin to Triton and to a bare ONNX Runtime loop. Exit code 1: a goal was missed.",
        epilog="Example: python -m benchmarks.run --rounds 1 --idle 3",
    )
    parser.add_argument("--rounds", type=int, default=5, help="of everybody in turn (default 5)")
    parser.add_argument("--seconds", type=float, default=2, help="of each measurement (default 2)")
    parser.add_argument("--warmup", type=float, default=1, help="seconds of load before each measurement (default 1)")
    parser.add_argument(
        "--idle", type=float, default=10, help="seconds over which idle CPU time is counted (default 10)"
    )
    parser.add_argument("--other-door", action="store_true", help="also the same servicers behind grpc.aio and uvicorn")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results.json")
    return parser.parse_args()


def write(path: Path, described: dict[str, object], rounds: Rounds, rows: list[Row]) -> None:
    document = {
        "machine": described,
        "rows": [row.as_json() for row in rows],
        "rounds": rounds.rounds,
        "failures": rounds.failures,
    }
    path.write_text(json.dumps(document, indent=1))


def main() -> int:
    args, cores = arguments(), sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        say("needs two cores: one for the server and one for the client")
        return 2
    described = machine.describe()
    os.sched_setaffinity(0, {cores[1]})
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    rounds, rows = uvloop.run(measure_all(args, cores[:2]))
    write(args.out, described, rounds, rows)
    print(machine.text(described), rounds.table(), goals_table(rows), sep="\n\n")
    return int(any(row.verdict == "missed" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
