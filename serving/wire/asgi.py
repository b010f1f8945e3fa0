"""The one ASGI application: which request goes to which protocol, how many are under way, and whose caller has left."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from itertools import islice
from typing import Any

from grpc import StatusCode
from prometheus_client import CONTENT_TYPE_LATEST
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST as OPENMETRICS_TYPE

from serving.wire import http
from serving.wire.exchange import Serving
from serving.wire.grpc import GrpcCall, Methods, Receive, Send
from serving.wire.oip_http import Inference
from serving.wire.origin import REQUEST_ID, TRACEPARENT, caller

LOOK_SECONDS = 0.025
"""How often those who have waited that long are asked whether they are still there.

ASGI has no call for it: one has to read, which wakes three threads. So quick answers never pay for it, and a caller who leaves
can cost the work that begins within the next 50 ms, or later where more than `LOOK_AT_MOST` wait.
"""

MOST_LAG_SECONDS, CROWD = 0.05, 256
"""How late that look may be with more than so many requests under way. A loop that comes later to what is due has more arrivals
than it can even refuse in order; what arrives then is turned away unread, so that those who were let in are answered."""

OPENMETRICS = b"application/openmetrics-text"
"""Whoever accepts it gets it, since exemplars are told in no other format; Prometheus does by itself."""

HEALTH = {"/v2/health/live", "/v2/health/ready"}
"""Also told on the port of the metrics, which stays plain and open to whoever watches."""

INFERENCE = ("/infer", ":predict", "/ModelInfer", "/Predict")

LOOK_AT_MOST = 64
"""Of those that were not seen for the longest time, at once."""


TURNED_AWAY = b'{"error":"more requests arrive than can be read, try again later"}'
TURNED_AWAY_GRPC = {
    "type": "http.response.start",
    "status": 200,
    "headers": [
        (b"content-type", b"application/grpc"),
        (b"grpc-status", b"%d" % StatusCode.RESOURCE_EXHAUSTED.value[0]),
        (b"grpc-retry-pushback-ms", b"1000"),
        (b"grpc-message", b"more requests arrive than can be read, try again later"),
    ],
}
TURNED_AWAY_HTTP = {
    "type": "http.response.start",
    "status": 429,
    "headers": [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(TURNED_AWAY)),
        (b"retry-after", b"1"),
    ],
}


class Call:
    """One request under way."""

    __slots__ = ("asked", "complete", "receive", "seen", "task")

    def __init__(self, receive: Receive) -> None:
        self.seen = time.perf_counter()
        self.receive = receive
        self.complete = False  # the request was read whole, so that reading on tells only whether the caller has left
        self.asked = False
        self.task = asyncio.current_task()

    def read_whole(self) -> None:
        self.complete = True


class Application:
    """ASGI 3. `lifespan`: what to do at start-up and at the end; `ready`: whether the server takes requests."""

    def __init__(
        self, serving: Serving, methods: Methods, ready: Callable[[], bool], lifespan: Callable[[], Awaitable[None]],
        metrics_port: int,
    ) -> None:  # fmt: skip
        self._serving = serving
        self._methods = methods
        self._inference = Inference(serving)
        self._ready = ready
        self._lifespan = lifespan
        self._metrics_port = metrics_port
        self._looking = False
        self._look_due = 0.0
        self._overrun = False
        self.calls: dict[int, Call] = {}
        self._next = 0

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        if scope["server"][1] == self._metrics_port and scope["path"] not in HEALTH:
            await self._metrics(scope, send)
            return
        if self._overrun and scope["path"].endswith(INFERENCE):
            await self._turn_away(dict(scope["headers"]), send)
            return
        call = Call(receive)
        self._next = number = self._next + 1
        self.calls[number] = call
        if not self._looking:
            self._looking = True
            self._look_soon()
        try:
            headers = dict(scope["headers"])
            named = TRACEPARENT in headers or REQUEST_ID in headers  # most are not
            origin = caller(headers, scope["headers"]) if named else None
            if headers.get(b"content-type", b"").startswith(b"application/grpc"):
                rpc = GrpcCall(receive, send, self._serving.max_bytes(scope["path"]), origin)
                await rpc.serve(self._methods, scope["path"], headers, call.read_whole)
            else:
                request = http.HttpCall(
                    headers, self._serving, self._inference, self._ready, receive, call.read_whole, origin
                )
                await http.serve(scope, request, send)
        except asyncio.CancelledError:
            pass  # the caller has left, see below; nobody is there to be answered
        except OSError:
            pass  # the connection closed while the answer went out
        finally:
            del self.calls[number]

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        await self._lifespan()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    async def _turn_away(self, headers: Mapping[bytes, bytes], send: Send) -> None:
        """Refuse a request without reading it."""
        self._serving.telemetry.shed("", "overrun")
        if headers.get(b"content-type", b"").startswith(b"application/grpc"):
            await send(TURNED_AWAY_GRPC)
            await send({"type": "http.response.body", "body": b""})
        else:
            await send(TURNED_AWAY_HTTP)
            await send({"type": "http.response.body", "body": TURNED_AWAY})

    def _look_soon(self) -> None:
        self._look_due = time.perf_counter() + LOOK_SECONDS
        asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        """Ask whether callers are still there, whoever was not seen for the longest time first; cancel who has left."""
        now = time.perf_counter()
        self._overrun = len(self.calls) > CROWD and now > self._look_due + MOST_LAG_SECONDS
        self._looking = bool(self.calls) or self._overrun
        if not self._looking:
            return
        self._look_soon()
        waiting = ((number, call) for number, call in self.calls.items() if call.complete and not call.asked)
        due = [pair for pair in islice(waiting, LOOK_AT_MOST) if pair[1].seen <= now - LOOK_SECONDS]
        for number, call in due:
            self.calls[number] = self.calls.pop(number)  # to the end: the others' turn comes next
            call.seen, call.asked = now, True
            asyncio.ensure_future(call.receive()).add_done_callback(partial(_heard, call))

    async def _metrics(self, scope: Mapping[str, Any], send: Send) -> None:
        found = scope["path"] == "/metrics" and scope["method"] == "GET"
        body, content_type = b'{"error":"unknown path, expected GET /metrics or /v2/health/ready"}', http.JSON
        if found:
            exemplars = OPENMETRICS in dict(scope["headers"]).get(b"accept", b"")
            body = self._serving.telemetry.exposition(exemplars)
            content_type = (OPENMETRICS_TYPE if exemplars else CONTENT_TYPE_LATEST).encode()
        headers = [(b"content-type", content_type), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200 if found else 404, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _heard(call: Call, event: "asyncio.Future[Mapping[str, Any]]") -> None:
    call.asked = False
    if not event.cancelled() and event.exception() is None and event.result()["type"] == "http.disconnect":
        task = call.task
        if task is not None:
            task.cancel()
