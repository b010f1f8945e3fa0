"""A server whose members freeze, fail, lie and crawl at random, behind the same door as `serving run`.

A program and a module, as in `scripted_app.py`. FAULTS in the environment is JSON: `{"seed": 1, "rates": {"freeze": 0.02, …}}`,
the chance of each way to go wrong in one run, and `"table": FILE.npy`: what members honestly say of the row that carries its
number in its first place, [rows, M, K]. The path `GET /tasks` is there as in `counting_app.py`.
"""

import asyncio
import json
import logging
import os
import random
import sys

import numpy as np

from ensembles import repository
from ensembles.members import SHORT_SECONDS, MemberError
from serving import sanity
from serving.app import Server
from serving.settings import from_environment

FAULTS = "FAULTS"
CRAWL_SECONDS = 0.06
WORK_SECONDS = 0.002


class FaultyMember:
    """Honest while samples are replayed, and then as the dice fall."""

    def __init__(self, name: str, table: np.ndarray, dice: random.Random, rates: dict[str, float], honest: int) -> None:
        self.name, self.device, self.provider = name, "cpu", "Faulty"
        self._table, self._dice, self._rates, self._honest = table, dice, rates, honest
        self._runs = 0

    def _says(self, rows) -> np.ndarray:
        return self._table[rows[:, 0].astype(np.int64)]

    def brief(self, rows: int, at_most: float = SHORT_SECONDS) -> bool:
        return False

    def predict(self, rows: int) -> float:
        return WORK_SECONDS

    async def run(self, rows, occupation, at_most: float = SHORT_SECONDS):
        self._runs += 1
        lot = "honest" if self._runs <= self._honest else self._lot()
        with occupation:
            await asyncio.sleep(WORK_SECONDS)
            return await getattr(self, lot)(rows)

    def _lot(self) -> str:
        names = [*self._rates, "honest"]
        return self._dice.choices(names, [*self._rates.values(), 1 - sum(self._rates.values())])[0]

    async def honest(self, rows):
        return self._says(rows)

    async def freeze(self, rows):
        await asyncio.sleep(3600)

    async def crawl(self, rows):
        await asyncio.sleep(CRAWL_SECONDS)
        return self._says(rows)

    async def fail(self, rows):
        raise MemberError("out of memory")

    async def breaks(self, rows):
        raise ZeroDivisionError

    async def too_many_classes(self, rows):
        return np.full((len(rows), 99), 1 / 99, np.float32)

    async def too_few_rows(self, rows):
        return self._says(rows)[1:]

    async def not_a_number(self, rows):
        scores = self._says(rows)
        scores[-1, 0] = np.nan
        return scores

    async def no_probabilities(self, rows):
        return self._says(rows) * 3

    async def negative(self, rows):
        scores = self._says(rows)
        scores[:, 0] -= 1
        scores[:, 1] += 1
        return scores

    def close(self) -> None:
        """Nothing to free."""


class Counting:
    def __init__(self, application) -> None:
        self.application = application

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "http" and scope["path"] == "/tasks":
            body = str(len(asyncio.all_tasks())).encode()
            headers = [(b"content-length", b"%d" % len(body))]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": body})
        else:
            await self.application(scope, receive, send)


def create() -> Counting:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    settings, wanted = from_environment(), json.loads(os.environ[FAULTS])
    table, members = np.load(wanted["table"]), {}
    for path in settings.repositories:
        ensemble = repository.read(path)
        honest = sum(1 for _ in sanity._batches(ensemble.samples()[0], ensemble.spec.limits.max_batch_size))
        for number, member in enumerate(ensemble.spec.members):
            dice = random.Random(f"{wanted['seed']} {member.name}")
            members[member.sha256] = FaultyMember(member.name, table[:, number], dice, wanted["rates"], honest)
    return Counting(Server(settings, load_member=lambda spec, content: members[spec.sha256]).application)


if __name__ == "__main__":
    from serving.door import become, with_free_ports
    from serving.settings import read

    become(with_free_ports(read(None, json.loads(sys.argv[1]))), "faulty_app:application")
elif FAULTS in os.environ:
    application = create()
