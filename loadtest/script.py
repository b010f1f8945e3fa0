"""What the scripted server does, and what it says."""

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tritonclient.grpc import service_pb2 as oip

from scrutin.v1 import ensemble_pb2 as scrutin

NAME, LABELS, SHAPE, DATATYPE = "scripted", ("no", "yes"), (4,), "FP32"
POLICIES = ("full", "early_exit")

FIRST = 4
"""Which request is the first of a load: clients may ask a few before, to see whether anyone is there."""


@dataclass(slots=True)
class Script:
    """`service`: seconds each request keeps the one server busy, in turn (a queue with one server). `freeze`: when it stands still, and how long.

    `error`: every n-th request is answered RESOURCE_EXHAUSTED (429). `end`: when the process dies. All instants in seconds from the load's first request.
    """

    service: float = 0.0
    freeze: tuple[float, float] | None = None
    error: int = 0
    end: float | None = None
    _free_at: float = 0.0
    _count: int = 0

    def answer(self, reply: Callable[[bool], None]) -> None:
        """Call `reply` when its time comes, with whether it is an answer."""
        self._count += 1
        if self._count == FIRST:
            self._begin()
        good = not self.error or self._count % self.error != 0
        if not self.service:
            reply(good)
            return
        now = time.perf_counter()
        self._free_at = max(self._free_at, now) + self.service
        asyncio.get_running_loop().call_later(self._free_at - now, reply, good)

    def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        if self.freeze:
            loop.call_later(self.freeze[0], time.sleep, self.freeze[1])
        if self.end is not None:
            loop.call_later(self.end, os._exit, 1)


@lru_cache(64)
def predicted(rows: int) -> bytes:
    """The PredictResponse to so many rows."""
    return bytes(
        scrutin.PredictResponse(
            ensemble=NAME,
            policy="full",
            label=["no"] * rows,
            label_index=[0] * rows,
            probabilities=[1.0, 0.0] * rows,
            agreement=[1.0] * rows,
            margin=[1.0] * rows,
            exact=[True] * rows,
            device_seconds=1e-4 * rows,
            cost_usd=1e-9 * rows,
        ).SerializeToString()
    )


@lru_cache(64)
def inferred(rows: int) -> bytes:
    """The ModelInferResponse to so many rows."""
    answer = oip.ModelInferResponse(model_name=NAME, raw_output_contents=[b"\0" * 8 * rows])
    answer.outputs.add(name="label_index", datatype="INT64", shape=[rows])
    answer.parameters["ensemble_policy"].string_param = "full"
    return bytes(answer.SerializeToString())


def ensemble() -> dict[str, Any]:
    """What the server says of itself, as `GET /v1/models/{m}` has it."""
    return {
        "name": NAME,
        "version": "1",
        "labels": list(LABELS),
        "datatype": DATATYPE,
        "shape": list(SHAPE),
        "members": [{"name": "only", "weight": 1.0}],
        "policies": list(POLICIES),
        "default_policy": "full",
        "digest": "",
        "ready": True,
        "max_batch_size": 64,
    }


def metadata() -> dict[str, Any]:
    return {
        "name": NAME,
        "versions": ["1"],
        "inputs": [{"name": "x", "datatype": DATATYPE, "shape": [-1, *SHAPE]}],
        "outputs": [{"name": "label_index", "datatype": "INT64", "shape": [-1]}],
    }
