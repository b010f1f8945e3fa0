"""`PredictStream`: many requests on one stream, each answered as soon as its batch is counted."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from scrutin.v1 import ensemble_pb2 as pb
from serving.aggregator import Answer, Request
from serving.batch import Entry
from serving.errors import Fault
from serving.journey import Caller, Operation
from serving.wire.exchange import GRPC, Exchange, Serving
from serving.wire.status import status

OPERATION = Operation(GRPC, "scrutin.v1.EnsembleService/PredictStream")

IN_FLIGHT = 256
"""Requests of one stream that are worked on at once; the next ones are read when an answer has gone out."""

Decode = Callable[[pb.PredictRequest, float], Request | Awaitable[Request]]
Encode = Callable[[str, Answer], bytes]
Write = Callable[[bytes], None]


class Stream:
    """The requests of one stream that are under way.

    A task for each would cost as much as decoding it; so what has to be done with an answer hangs on its entry's future.
    Pictures, which take long to decode, have a task.
    """

    def __init__(self, serving: Serving, decode: Decode, encode: Encode, write: Write, caller: Caller | None) -> None:
        """`write` takes a serialised answer and returns at once."""
        self._serving = serving
        self._decode = decode
        self._encode = encode
        self._write = write
        self._caller = caller
        self._under_way: set[asyncio.Future[Any]] = set()
        self._room = asyncio.Event()

    async def room(self) -> None:
        """Wait until one more may be worked on."""
        while len(self._under_way) >= IN_FLIGHT:
            self._room.clear()
            await self._room.wait()

    def take(self, request: pb.PredictRequest) -> None:
        """Work on a request. One that fails is answered with its error."""
        exchange = Exchange(self._serving, OPERATION, request.ensemble, self._caller)
        try:
            decoded = self._decode(request, exchange.arrived)
            if isinstance(decoded, Request):
                self._wait_for(exchange.submit(decoded), request, exchange)
            else:
                task = asyncio.ensure_future(decoded)
                self._under_way.add(task)
                task.add_done_callback(partial(self._decoded, request, exchange))
        except Exception as error:
            self._refuse(request, exchange.failed(error))

    def _decoded(self, request: pb.PredictRequest, exchange: Exchange, task: "asyncio.Future[Request]") -> None:
        self._done(task)
        if task.cancelled():
            exchange.cancelled()
            return
        try:
            self._wait_for(exchange.submit(task.result()), request, exchange)
        except Exception as error:
            self._refuse(request, exchange.failed(error))

    def _wait_for(self, entry: Entry, request: pb.PredictRequest, exchange: Exchange) -> None:
        self._under_way.add(entry.future)
        entry.future.add_done_callback(partial(self._counted, entry, request, exchange))

    def _counted(
        self, entry: Entry, request: pb.PredictRequest, exchange: Exchange, future: "asyncio.Future[Any]"
    ) -> None:
        self._done(future)
        if future.cancelled():
            exchange.cancelled()
            return
        try:
            self._write(self._encode(request.id, exchange.collect(entry)))
        except Exception as error:
            self._refuse(request, exchange.failed(error))

    def _done(self, future: "asyncio.Future[Any]") -> None:
        self._under_way.discard(future)
        self._room.set()

    def _refuse(self, request: pb.PredictRequest, fault: Fault) -> None:
        error = pb.Error(code=status(fault).grpc.value[0], message=str(fault))
        self._write(pb.PredictResponse(ensemble=request.ensemble, id=request.id, error=error).SerializeToString())

    async def finished(self) -> None:
        """Wait until all are answered."""
        while self._under_way:
            await asyncio.wait(self._under_way)

    def leave(self) -> None:
        """The caller has left: take out what waits."""
        for future in self._under_way:
            future.cancel()
