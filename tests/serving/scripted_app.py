"""A server whose members follow a script, behind the same door as `serving run`.

As a program it becomes that server: `python scripted_app.py '{"repositories": […], "grpc_port": 0, …}'`. Inside, as a module, it
is the application. The script is JSON in the environment variable SCRIPT: by ensemble and member the steps of
`ensembles.members.scripted`, `{"digits": {"mlp": [{"delay": 5}, {"fault": "…"}, {"answer": 3}]}}`. They begin behind the replay of
the samples, which every member passes at once by answering class 0.

An ensemble's key `gate` names a file: while it is not there, its members' runs wait. So a test decides how long they take.

The process runs on one core, so that an ensemble has one executor and a second batch has to wait for the first.
"""

import asyncio
import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ensembles import repository
from ensembles.members import SHORT_SECONDS, Occupation, Rows, Scores
from ensembles.members.scripted import ScriptedMember, Step, always
from ensembles.repository import Repository
from serving import logs, sanity
from serving.app import Server
from serving.settings import from_environment

SCRIPT = "SCRIPT"


class GatedMember(ScriptedMember):
    """A scripted member whose runs begin only while a file is there."""

    def __init__(self, name: str, steps: Iterable[Step], device: str, gate: Path) -> None:
        super().__init__(name, steps, device)
        self.gate = gate

    def brief(self, rows: int, at_most: float = SHORT_SECONDS) -> bool:
        return False

    async def run(self, rows: Rows, occupation: Occupation, at_most: float = SHORT_SECONDS) -> Scores:
        while not self.gate.exists():
            await asyncio.sleep(0.005)
        return await super().run(rows, occupation)


def step(classes: int, said: Mapping[str, Any]) -> Step:
    return Step(always(said.get("answer", 0), classes), said.get("delay", 0.0), said.get("fault"))


def scripted(ensemble: Repository, script: Mapping[str, Any]) -> dict[str, ScriptedMember]:
    """The ensemble's members by their sha256, which is all that a loader is told of where they belong."""
    spec = ensemble.spec
    replayed = sum(1 for _ in sanity._batches(ensemble.samples()[0], spec.limits.max_batch_size))
    classes = len(spec.labels)
    members = {}
    for member in spec.members:
        steps = [step(classes, said) for said in script.get(member.name, [{}])]
        device = script.get("devices", {}).get(member.name, "cpu")
        steps = [step(classes, {})] * replayed + steps
        gate = script.get("gate")
        members[member.sha256] = (
            GatedMember(member.name, steps, device, Path(gate)) if gate else ScriptedMember(member.name, steps, device)
        )
    return members


def create() -> Any:
    settings, script = from_environment(), json.loads(os.environ[SCRIPT])
    logs.begin(settings.log_format)
    members: dict[str, ScriptedMember] = {}
    for path in settings.repositories:
        ensemble = repository.read(path)
        members |= scripted(ensemble, script.get(ensemble.spec.name, {}))
    return Server(settings, load_member=lambda spec, content: members[spec.sha256]).application


def main() -> None:
    from serving.door import become, with_free_ports
    from serving.settings import read

    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[os.getpid() % len(cores)]})
    become(with_free_ports(read(None, json.loads(sys.argv[1]))), "scripted_app:application")


if __name__ == "__main__":
    main()
else:
    application = create()
