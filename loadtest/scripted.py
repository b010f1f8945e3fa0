"""A server that behaves as it is told: for the tests of load generators, and to measure this one. It votes for nothing.

    python -m loadtest.scripted --port 9001 --freeze 4:2

answers every request with class 0, and from 4 s after the load's first one stands still for 2 s, as a paused process does. One port speaks
`scrutin.v1.EnsembleService` and the Open Inference Protocol, over gRPC and over HTTP/1.1. It trusts its clients to take all that it
sends (it keeps no account of their HTTP/2 windows), so it is no server for anything else.
"""

import asyncio
import contextlib
import signal
from dataclasses import dataclass, field
from typing import Annotated, Any, Optional

import orjson
import typer
from hpack import Decoder
from tritonclient.grpc import service_pb2 as oip

from loadtest.script import NAME, Script, ensemble, inferred, metadata, predicted
from loadtest.targets import frames
from loadtest.targets.frames import Frame, FrameReader, literal_block
from loadtest.targets.grpc_calls import PREFIX_BYTES, framed
from loadtest.targets.http1 import HEAD_END, header
from loadtest.targets.http2 import ENOUGH
from scrutin.v1 import ensemble_pb2 as scrutin

PREDICT, STREAM, INFER = (
    b"/scrutin.v1.EnsembleService/Predict",
    b"/scrutin.v1.EnsembleService/PredictStream",
    b"/inference.GRPCInferenceService/ModelInfer",
)

SAID: dict[bytes, bytes] = {
    b"/scrutin.v1.EnsembleService/ListEnsembles": scrutin.ListEnsemblesResponse(
        ensembles=[scrutin.Ensemble(**ensemble())]
    ).SerializeToString(),
    b"/inference.GRPCInferenceService/ModelMetadata": oip.ModelMetadataResponse(**metadata()).SerializeToString(),
    b"/inference.GRPCInferenceService/ModelReady": oip.ModelReadyResponse(ready=True).SerializeToString(),
}

RESPONSE = literal_block([(b":status", b"200"), (b"content-type", b"application/grpc")])
TRAILERS = literal_block([(b"grpc-status", b"0")])


def refusal(status: bytes, message: bytes) -> bytes:
    """The headers of an answer that is a status only."""
    fields = [(b":status", b"200"), (b"content-type", b"application/grpc")]
    return literal_block([*fields, (b"grpc-status", status), (b"grpc-message", message)])


EXHAUSTED, UNKNOWN_METHOD = refusal(b"8", b"scripted"), refusal(b"12", b"unknown method")


@dataclass(slots=True)
class _Asked:
    path: bytes
    body: bytes = b""


class Http2Server:
    """One connection of gRPC."""

    def __init__(self, script: Script, transport: Any) -> None:
        self._script, self._transport = script, transport
        self._reader, self._decoder = FrameReader(), Decoder()
        self._known: dict[bytes, bytes] = {}
        self._asked: dict[int, _Asked] = {}
        self._received = 0
        own = {
            frames.INITIAL_WINDOW_SIZE: frames.LARGEST_WINDOW,
            frames.MAX_CONCURRENT_STREAMS: frames.LARGEST_WINDOW,
        }
        opening = frames.window_update(0, frames.LARGEST_WINDOW - frames.DEFAULT_WINDOW)
        transport.write(frames.settings(own) + opening)

    def feed(self, data: bytes) -> None:
        self._received += len(data)
        if self._received >= ENOUGH:
            self._transport.write(frames.window_update(0, self._received))
            self._received = 0
        for frame in self._reader.feed(data):
            self._take(frame)

    def _take(self, frame: Frame) -> None:
        kind, flags, number, payload = frame
        if kind == frames.HEADERS:
            path = self._path(frames.without_padding(flags, payload))
            self._asked[number] = _Asked(path)
            if path == STREAM:
                self._send(number, frames.HEADERS, frames.END_HEADERS, RESPONSE)
        elif kind == frames.DATA and number in self._asked:
            asked = self._asked[number]
            asked.body += frames.without_padding(flags, payload)
            if asked.path == STREAM:
                self._answer_messages(number, asked)
            elif flags & frames.END_STREAM:
                self._answer(number, self._asked.pop(number))
        elif kind == frames.SETTINGS and not flags & frames.ACK:
            self._send(0, frames.SETTINGS, frames.ACK, b"")
        elif kind == frames.PING and not flags & frames.ACK:
            self._send(0, frames.PING, frames.ACK, payload)
        elif kind == frames.RST_STREAM:
            self._asked.pop(number, None)

    def _path(self, block: bytes) -> bytes:
        """Blocks of references to the table say the same as long as the table stays the same, which others change."""
        found = self._known.get(block)
        if found is None:
            fields = dict(self._decoder.decode(block, raw=True))
            found = fields[b":path"]
            if all(byte & 0x80 for byte in block):
                self._known[block] = found
            else:
                self._known.clear()
        return found

    def _send(self, number: int, kind: int, flags: int, payload: bytes) -> None:
        self._transport.write(frames.frame(kind, flags, number, payload))

    def _answer(self, number: int, asked: _Asked) -> None:
        path = asked.path
        if path == PREDICT:
            rows = scrutin.PredictRequest.FromString(asked.body[PREFIX_BYTES:]).tensor.shape[0]
            self._script.answer(lambda good: self._reply(number, predicted(rows) if good else None))
        elif path == INFER:
            rows = oip.ModelInferRequest.FromString(asked.body[PREFIX_BYTES:]).inputs[0].shape[0]
            self._script.answer(lambda good: self._reply(number, inferred(rows) if good else None))
        elif path in SAID:
            self._reply(number, SAID[path])
        else:
            self._send(number, frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, UNKNOWN_METHOD)

    def _reply(self, number: int, message: bytes | None) -> None:
        """The message, or that there is none."""
        if self._transport.is_closing():
            return
        last = frames.END_HEADERS | frames.END_STREAM
        if message is None:
            self._send(number, frames.HEADERS, last, EXHAUSTED)
            return
        body = framed(message)
        parts = (
            frames.head_of(len(RESPONSE), frames.HEADERS, frames.END_HEADERS, number),
            RESPONSE,
            frames.head_of(len(body), frames.DATA, 0, number),
            body,
            frames.head_of(len(TRAILERS), frames.HEADERS, last, number),
            TRAILERS,
        )
        self._transport.write(b"".join(parts))

    def _answer_messages(self, number: int, asked: _Asked) -> None:
        data, at = asked.body, 0
        while len(data) - at >= PREFIX_BYTES:
            stop = at + PREFIX_BYTES + int.from_bytes(data[at + 1 : at + PREFIX_BYTES], "big")
            if stop > len(data):
                break
            self._answer_message(number, scrutin.PredictRequest.FromString(data[at + PREFIX_BYTES : stop]))
            at = stop
        asked.body = data[at:]

    def _answer_message(self, number: int, request: scrutin.PredictRequest) -> None:
        name, rows = request.id.encode(), request.tensor.shape[0]
        own_id = b"\x1a%c%b" % (len(name), name)

        def reply(good: bool) -> None:
            error = scrutin.PredictResponse(error=scrutin.Error(code=8, message="scripted"))
            message = predicted(rows) if good else error.SerializeToString()
            self._send(number, frames.DATA, 0, framed(message + own_id))

        self._script.answer(reply)


class Http1Server:
    """One connection of HTTP/1.1."""

    def __init__(self, script: Script, transport: Any) -> None:
        self._script, self._transport = script, transport
        self._data = b""

    def feed(self, data: bytes) -> None:
        self._data += data
        end = self._data.find(HEAD_END)
        if end < 0:
            return
        head, start = self._data[:end], end + len(HEAD_END)
        stop = start + int(header(head, b"content-length") or 0)
        if len(self._data) >= stop:
            body, self._data = self._data[start:stop], self._data[stop:]
            self._answer(head, body)

    def _answer(self, head: bytes, body: bytes) -> None:
        method, path, _ = head.split(b"\r\n", 1)[0].decode().split(" ", 2)
        if method == "GET":
            said = {
                "/v1/models": {"models": [ensemble()]},
                f"/v2/models/{NAME}": metadata(),
                f"/v2/models/{NAME}/ready": {},
            }
            found = said.get(path)
            self._reply(b"200 OK", orjson.dumps(found)) if found is not None else self._reply(b"404 Not Found", b"{}")
            return
        make = self._predicted if path.endswith(":predict") else self._inferred
        self._script.answer(lambda good: make(head, body) if good else self._reply(b"429 Too Many Requests", b"{}"))

    def _predicted(self, head: bytes, body: bytes) -> None:
        rows = len(orjson.loads(body)["instances"])
        content = {"predictions": [{"label": "no"}] * rows, "policy": "full", "partial": False}
        self._reply(b"200 OK", orjson.dumps({**content, "device_seconds": 1e-4, "cost_usd": 1e-9}))

    def _inferred(self, head: bytes, body: bytes) -> None:
        size = header(head, b"inference-header-content-length")
        rows = orjson.loads(body[: int(size)] if size else body)["inputs"][0]["shape"][0]
        output: dict[str, Any] = {"name": "label_index", "datatype": "INT64", "shape": [rows]}
        if not size:
            self._reply(b"200 OK", orjson.dumps({"model_name": NAME, "outputs": [{**output, "data": [0] * rows}]}))
            return
        output["parameters"] = {"binary_data_size": 8 * rows}
        text = orjson.dumps({"model_name": NAME, "outputs": [output]})
        self._reply(b"200 OK", text + b"\0" * 8 * rows, b"Inference-Header-Content-Length: %d\r\n" % len(text))

    def _reply(self, status: bytes, body: bytes, more: bytes = b"") -> None:
        if not self._transport.is_closing():
            self._transport.write(b"HTTP/1.1 %b\r\n%bContent-Length: %d\r\n\r\n%b" % (status, more, len(body), body))


@dataclass(slots=True)
class Door(asyncio.Protocol):
    """Which protocol a connection speaks, its first bytes say."""

    script: Script
    _side: Http2Server | Http1Server | None = None
    _transport: Any = None
    _data: bytes = field(default=b"")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._side is not None:
            self._side.feed(data)
            return
        self._data += data
        if len(self._data) < len(frames.PREFACE):
            return
        is_http2 = self._data.startswith(frames.PREFACE)
        self._side = (Http2Server if is_http2 else Http1Server)(self.script, self._transport)
        self._side.feed(self._data.removeprefix(frames.PREFACE))


async def serve(script: Script, port: int) -> None:
    """Until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    server = await loop.create_server(lambda: Door(script), "127.0.0.1", port, backlog=1024)
    print(f"grpc://127.0.0.1:{server.sockets[0].getsockname()[1]}/{NAME}", flush=True)
    await ended.wait()
    server.close()


def pair(text: str) -> tuple[float, float]:
    """Of `4:2`."""
    with contextlib.suppress(ValueError):
        at, seconds = map(float, text.split(":"))
        return at, seconds
    raise typer.BadParameter(f"found {text!r}, expected AT:SECONDS such as 4:2")


def main(
    port: Annotated[int, typer.Option(help="0 picks a free one.")] = 0,
    service: Annotated[float, typer.Option(help="Seconds that each request takes, one after the other.")] = 0.0,
    freeze: Annotated[Optional[str], typer.Option(metavar="AT:SECONDS", help="When to stand still.")] = None,
    error: Annotated[int, typer.Option(help="Refuse every n-th request.")] = 0,
    end: Annotated[Optional[float], typer.Option(help="When to die.")] = None,
) -> None:
    """A scripted server; prints its address once ready."""
    import uvloop

    uvloop.run(serve(Script(service, pair(freeze) if freeze else None, error, end), port))


if __name__ == "__main__":
    typer.run(main)
