"""gRPC on ASGI: a message is five bytes (a flag, a length) and a protobuf; the status is a trailer; a deadline is a header.

Servicers are grpcio's own kind, written against generated base classes, so that health and reflection are mounted unchanged.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, MutableMapping
from contextlib import suppress
from functools import cached_property
from typing import Any
from urllib.parse import quote

from google.protobuf.message import DecodeError, Message
from grpc import RpcMethodHandler, StatusCode

from serving.errors import DeadlinePassed, Fault, InvalidRequest, Overloaded, TooLarge, Unsupported
from serving.journey import Caller
from serving.wire.codec import decompressed
from serving.wire.origin import echo, names
from serving.wire.status import status

log = logging.getLogger(__name__)

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Complete = Callable[[], None]

CONTENT_TYPE = (b"content-type", b"application/grpc")
START = {"type": "http.response.start", "status": 200, "headers": [CONTENT_TYPE], "trailers": True}
FINISHED = {"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")]}
PREFIX = 5
UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}


class Gone(Exception):
    """The caller has left; nobody reads an answer."""


class Aborted(Exception):
    """A servicer ended its call with a status of its own."""

    def __init__(self, code: StatusCode, details: str) -> None:
        super().__init__(details)
        self.code = code


class Context:
    """What a servicer is told of its call: the part of `grpc.aio.ServicerContext` that servicers here use, and who calls."""

    def __init__(self, timeout: float | None, call: "GrpcCall") -> None:
        self._until = None if timeout is None else time.perf_counter() + timeout
        self._call = call
        self.caller = call.caller

    def write_soon(self, message: bytes) -> None:
        """Put a serialised message on the stream."""
        self._call.outbox.put(message)

    async def drained(self) -> None:
        """Wait while too much is on the stream that nobody reads."""
        await self._call.outbox.drained()

    def time_remaining(self) -> float | None:
        """Seconds until the caller's deadline; None without one."""
        return None if self._until is None else self._until - time.perf_counter()

    def set_code(self, code: StatusCode) -> None:
        """What generated base classes do before they raise NotImplementedError."""

    def set_details(self, details: str) -> None:
        """Likewise."""

    async def abort(self, code: StatusCode, details: str = "") -> None:
        raise Aborted(code, details)


class Methods:
    """All RPCs by path. To the generated `add_…Servicer_to_server` functions it is a server to add to."""

    def __init__(self) -> None:
        self._handlers: dict[str, RpcMethodHandler] = {}

    def add_generic_rpc_handlers(self, handlers: Iterable[object]) -> None:
        """The old way of adding; the generated functions use both."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, RpcMethodHandler]) -> None:
        for name, handler in handlers.items():
            self._handlers[f"/{service}/{name}"] = handler

    def find(self, path: str) -> RpcMethodHandler:
        """Raises Unsupported."""
        handler = self._handlers.get(path)
        if handler is None:
            raise Unsupported(f"unknown method {path[:128]}")
        return handler


class Outbox:
    """What goes out on a stream. Messages that are ready at once leave as one piece, since each piece costs a thread's wake-up."""

    MOST_BYTES = 1 << 20

    def __init__(self, write: Callable[[bytes], Awaitable[None]]) -> None:
        self._write = write
        self._frames: list[bytes] = []
        self._bytes = 0
        self._flush: asyncio.Task[None] | None = None

    def put(self, message: bytes) -> None:
        """Let a message leave as soon as the loop comes to it."""
        frame = _framed(message)
        self._frames.append(frame)
        self._bytes += len(frame)
        if self._flush is None or self._flush.done():
            self._flush = asyncio.get_running_loop().create_task(self._flushed())

    async def drained(self) -> None:
        """Returns at once, unless the caller reads so slowly that a megabyte is waiting for it."""
        if self._bytes > self.MOST_BYTES:
            await self.emptied()

    async def emptied(self) -> None:
        if self._flush is not None:
            await asyncio.shield(self._flush)

    async def _flushed(self) -> None:
        while self._frames:
            frames = b"".join(self._frames)
            self._frames.clear()
            self._bytes = 0
            with suppress(OSError):  # the caller has left; the call is about to hear of it
                await self._write(frames)


class GrpcCall:
    """One RPC, from its headers to its trailers."""

    def __init__(self, receive: Receive, send: Send, max_bytes: int, caller: Caller | None = None) -> None:
        self.caller = caller
        known = echo(caller)
        self._start = {**START, "headers": [CONTENT_TYPE, *known]} if known else START
        self._receive = receive
        self._send = send
        self._max_bytes = max_bytes
        self._encoding = ""
        self._started = False
        self._serialise: Callable[[Message], bytes] = Message.SerializeToString

    @cached_property
    def outbox(self) -> Outbox:
        """Of a stream."""
        return Outbox(self._write_frames)

    async def serve(self, methods: Methods, path: str, headers: Mapping[bytes, bytes], complete: Complete) -> None:
        """Answer with a message and a status, whatever happens. `complete` is called once the request is read whole."""
        try:
            if b"grpc-encoding" in headers:
                self._encoding = headers[b"grpc-encoding"].decode("latin-1")
            timeout = _timeout(headers[b"grpc-timeout"]) if b"grpc-timeout" in headers else None
            context = Context(timeout, self)
            handler = methods.find(path)
            self._serialise = handler.response_serializer
            if handler.request_streaming or handler.response_streaming:
                await self._stream(handler, context, complete)
                return
            request = await self._only_request(handler)
            complete()
            response = await handler.unary_unary(request, context)
            # A method may answer with a message that it has serialised itself.
            message = response if isinstance(response, bytes) else self._serialise(response)
            await self._send(self._start)
            await self._send({"type": "http.response.body", "body": _framed(message)})
            await self._send(FINISHED)
        except Fault as fault:
            more = (
                [(b"grpc-retry-pushback-ms", b"%d" % (fault.retry_after * 1e3))]
                if isinstance(fault, Overloaded)
                else []
            )
            await self._finish(status(fault).grpc, str(fault), more)
        except Aborted as aborted:
            await self._finish(aborted.code, str(aborted))
        except NotImplementedError:
            await self._finish(StatusCode.UNIMPLEMENTED, f"{path} is not offered")
        except (Gone, OSError):  # ASGI raises an OSError where an answer meets a closed connection
            pass
        except Exception:
            log.exception("%s broke; this is a bug", path, extra=names(self.caller))
            await self._finish(StatusCode.INTERNAL, "the call broke; this is a bug")

    async def _stream(self, handler: RpcMethodHandler, context: Context, complete: Complete) -> None:
        """A streaming method yields its messages, or writes them, serialised, to its context."""
        if not handler.response_streaming:
            raise Unsupported("found a client-streaming method, expected none to be served")
        if handler.request_streaming:
            responses = handler.stream_stream(self._requests(handler, complete), context)
        else:
            request = await self._only_request(handler)
            complete()
            responses = handler.unary_stream(request, context)
        if isinstance(responses, AsyncIterator):
            async for response in responses:
                self.outbox.put(response if isinstance(response, bytes) else self._serialise(response))
                await self.outbox.drained()
        else:
            await responses
        await self._finish(StatusCode.OK, "")

    async def _write_frames(self, frames: bytes) -> None:
        if not self._started:
            self._started = True
            await self._send(self._start)
        await self._send({"type": "http.response.body", "body": frames, "more_body": True})

    async def _finish(self, code: StatusCode, details: str, more: Iterable[tuple[bytes, bytes]] = ()) -> None:
        fields = [(b"grpc-status", b"%d" % code.value[0]), *more]
        if details:
            fields.append((b"grpc-message", quote(details, safe=" !#$&'()*+,/:;=?@[]").encode()))
        if "outbox" in self.__dict__:
            await self.outbox.emptied()
        if self._started:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
            await self._send({"type": "http.response.trailers", "headers": fields})
        else:
            headers = [CONTENT_TYPE, *echo(self.caller), *fields]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
            await self._send({"type": "http.response.body", "body": b""})

    async def _only_request(self, handler: RpcMethodHandler) -> Message:
        event = await self._receive()
        if event["type"] == "http.disconnect":
            raise Gone
        buffer, more = event["body"], event.get("more_body", False)
        length = _length(buffer, self._max_bytes)
        if more:
            buffer = bytearray(buffer)
        while more:
            event = await self._receive()
            if event["type"] == "http.disconnect":
                raise Gone
            buffer += event["body"]
            more = event.get("more_body", False)
            length = _length(buffer, self._max_bytes)
            if length is not None and len(buffer) > PREFIX + length:
                break
        if length is not None and len(buffer) > PREFIX + length:
            raise InvalidRequest("found more than one message, expected one")
        if length is None or len(buffer) < PREFIX + length:
            raise InvalidRequest(f"found a message cut off after {len(buffer)} bytes")
        return self._message(handler, buffer[0], memoryview(buffer)[PREFIX:])

    async def _requests(self, handler: RpcMethodHandler, complete: Complete) -> AsyncIterator[Message]:
        buffer, more = bytearray(), True
        while more:
            event = await self._receive()
            if event["type"] == "http.disconnect":
                raise Gone
            buffer += event["body"]
            more = event.get("more_body", False)
            while (length := _length(buffer, self._max_bytes)) is not None and len(buffer) >= PREFIX + length:
                end = PREFIX + length
                flag, content = buffer[0], bytes(buffer[PREFIX:end])
                del buffer[:end]
                yield self._message(handler, flag, memoryview(content))
        complete()
        if buffer:
            raise InvalidRequest(f"found a message cut off after {len(buffer)} bytes")

    def _message(self, handler: RpcMethodHandler, flag: int, content: memoryview) -> Message:
        if flag:
            if not self._encoding:
                raise InvalidRequest("found a compressed message without the header grpc-encoding")
            content = memoryview(decompressed(bytes(content), self._encoding, self._max_bytes))
        try:
            message: Message = handler.request_deserializer(content)
        except DecodeError:
            raise InvalidRequest(f"found {len(content)} bytes that are no request of this method") from None
        return message


def _length(buffer: bytes | bytearray, limit: int) -> int | None:
    """That of the message at the front, once it is known. Raises TooLarge before the message's own bytes are there."""
    if len(buffer) < PREFIX:
        return None
    length = int.from_bytes(buffer[1:PREFIX], "big")
    if length > limit:
        raise TooLarge(f"found a message of {length} bytes, expected at most {limit}")
    return length


def _framed(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


def _timeout(value: bytes) -> float:
    """Seconds of a grpc-timeout header. Raises InvalidRequest, and DeadlinePassed for one of nothing."""
    digits, unit = value[:-1], UNITS.get(value[-1:])
    if unit is None or not digits.isdigit() or len(digits) > 8:
        raise InvalidRequest("found a grpc-timeout that is none, expected up to 8 digits and a unit of HMSmun")
    seconds = int(digits) * unit
    if seconds <= 0:
        raise DeadlinePassed("the deadline had passed when the request arrived")
    return seconds
