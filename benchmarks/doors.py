"""Scrutin with something in it that a benchmark needs, behind the same door: `python -m benchmarks.doors KIND SETTINGS`.

`stalling`: members that take a while and no core, one of them ten times as long; what they say is `agreeing`'s. `timed`: the server
as it is, with a watch on its bookkeeping, which `GET /bookkeeping` shows.
"""

import asyncio
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np

from ensembles.members import SHORT_SECONDS, Occupation, Rows, Scores
from ensembles.members.timing import TimeByRows

KIND, STALLED = "BENCHMARK_DOOR", "BENCHMARK_STALLED"
RUN_SECONDS, TIMES = 0.01, 10


class Waiting:
    """A member elsewhere: its run takes time and no core of this process."""

    provider, device = "Waiting", "elsewhere"

    def __init__(self, name: str, said: Scores, seconds: float) -> None:
        self.name = name
        self.timing = TimeByRows()
        self._said, self._seconds = said, seconds

    def brief(self, rows: int, at_most: float = SHORT_SECONDS) -> bool:
        return False

    def predict(self, rows: int) -> float | None:
        return self.timing.predict(rows)

    async def run(self, rows: Rows, occupation: Occupation, at_most: float = SHORT_SECONDS) -> Scores:
        start = time.perf_counter()
        with occupation:
            await asyncio.sleep(self._seconds)
        self.timing.observe(len(rows), time.perf_counter() - start)
        answer: Scores = self._said[rows.reshape(len(rows), -1)[:, 0].astype(np.int64)]
        return answer

    def close(self) -> None:
        """Nothing to free."""


def stalling() -> Any:
    from benchmarks.agreeing import MEMBERS, asked
    from serving.app import Server
    from serving.settings import from_environment

    scores, stalled = asked().scores, os.environ[STALLED]

    def load_member(spec: Any, content: bytes) -> Waiting:
        seconds = RUN_SECONDS * (TIMES if spec.name == stalled else 1)
        return Waiting(spec.name, scores[:, MEMBERS.index(spec.name)], seconds)

    return Server(from_environment(), load_member).application


NOTHING = "nothing"


def _do_nothing() -> None:
    """To be looked at."""


def _all(_: object) -> float:
    return 1.0


class Watch:
    """Adds up the CPU time in functions, by what they are for; one that another one calls counts once."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.calls: defaultdict[str, int] = defaultdict(int)
        self._inside = ""
        self._apart = 0.0

    def on(self, purpose: str, owner: Any, *names: str, wasted: Callable[[Any], float] | None = None) -> None:
        """`wasted`: by what such a call gave, the share of what was done `apart` in it that came to nothing."""
        for name in names:
            setattr(owner, name, self._watched(purpose, getattr(owner, name), wasted or _all))

    def apart(self, owner: Any, *names: str) -> None:
        """What these do within a watched call has its own use, but for what is wasted."""
        for name in names:
            setattr(owner, name, self._set_apart(getattr(owner, name)))

    def _watched(self, purpose: str, act: Callable[..., Any], wasted: Callable[[Any], float]) -> Callable[..., Any]:
        @wraps(act)
        def watched(*given: Any, **named: Any) -> Any:
            if self._inside:
                return act(*given, **named)
            self._look(NOTHING, _do_nothing, _all, (), {})
            return self._look(purpose, act, wasted, given, named)

        return watched

    def _look(
        self,
        purpose: str,
        act: Callable[..., Any],
        wasted: Callable[[Any], float],
        given: tuple[Any, ...],
        named: dict[str, Any],
    ) -> Any:
        """After a look at nothing: what the watch takes to come back into the caches is not the function's."""
        self._inside, self._apart = purpose, 0.0
        start = time.thread_time()
        try:
            gave = act(*given, **named)
        finally:
            self.seconds[purpose] += time.thread_time() - start - self._apart
            self.calls[purpose] += 1
            self._inside = ""
        if self._apart:
            self.seconds[purpose] += wasted(gave) * self._apart
        return gave

    def _set_apart(self, act: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(act)
        def apart(*given: Any, **named: Any) -> Any:
            if not self._inside:
                return act(*given, **named)
            start = time.thread_time()
            try:
                return act(*given, **named)
            finally:
                self._apart += time.thread_time() - start
                self.calls[self._inside] += 1

        return apart

    def shown(self) -> dict[str, Any]:
        """By purpose, and what watching a call takes."""
        seconds = {purpose: spent for purpose, spent in self.seconds.items() if purpose != NOTHING}
        return {"seconds": seconds, "calls": self.calls, "cost": self.cost()}

    def cost(self) -> tuple[float, float]:
        """Seconds of CPU time that watching a call takes: what the watch sees of it itself, and all."""
        idle = Watch()

        class Nothing:
            def nothing(self) -> None:
                pass

        idle.on("idleness", Nothing, "nothing")
        nothing, calls, start = Nothing(), 20_000, time.thread_time()
        for _ in range(calls):
            nothing.nothing()
        return idle.seconds["idleness"] / calls, (time.thread_time() - start) / calls


class Shown:
    """An application with one more path."""

    def __init__(self, application: Any, watch: Watch) -> None:
        self.application, self.watch = application, watch

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"] != "/bookkeeping":
            await self.application(scope, receive, send)
            return
        body = json.dumps(self.watch.shown()).encode()
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def timed() -> Any:
    from ensembles.tally import Tally
    from ensembles.votes import Standing
    from serving.answers import Answers
    from serving.app import create
    from serving.ledger import Device
    from serving.records import Counted, Spent
    from serving.statistics import Statistics
    from serving.telemetry import Telemetry
    from serving.wire.stamp import Stamp

    watch = Watch()
    watch.on("ledger", Device, "enter", "leave")
    watch.on("ledger", Spent, "spend", "end", "counts", "missing", "told", "device_time")
    watch.on("ledger", Counted, "part")
    watch.on("metrics", Answers, "add", "count")
    watch.on("metrics", Telemetry, "begun", "ran", "outcomes", "batch", "early_exits")
    watch.on("metrics", Statistics, "member_ran", "batch")
    watch.on("receipts", Stamp, "receipt", "of_rows")
    watch.on("exit tests", Tally, "leave", wasted=lambda leaves: 1 - leaves.mean())
    watch.apart(Standing, "result")
    watch.apart(Tally, "_standing")  # rows that leave are counted there and nowhere else
    return Shown(create(), watch)


def main() -> None:
    from serving.door import become, with_free_ports
    from serving.settings import read

    os.environ[KIND] = sys.argv[1]
    become(with_free_ports(read(None, json.loads(sys.argv[2]))), "benchmarks.doors:application")


if __name__ == "__main__":
    main()
elif KIND in os.environ:
    application = {"stalling": stalling, "timed": timed}[os.environ[KIND]]()
