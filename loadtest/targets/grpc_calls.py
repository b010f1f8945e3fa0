"""gRPC over `http2.Connection`: channels that connect again, single calls, and a stream that many calls share."""

import asyncio
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from loadtest.targets.address import Address
from loadtest.targets.answers import OK, UNAVAILABLE, Call, Done, Raw, TargetError, lost
from loadtest.targets.frames import Http2Error, literal_block
from loadtest.targets.http2 import Connection, Request, RequestHeaders, Stream

CODES = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
]

HTTP_CODES = {400: "INTERNAL", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "UNIMPLEMENTED"} | dict.fromkeys(
    (429, 502, 503, 504), UNAVAILABLE
)
"""What an HTTP status without a gRPC status means, as gRPC's own documents have it; all others are UNKNOWN."""

OPEN_SECONDS = 5.0
PAUSE_SECONDS = 0.2
"""Between attempts to connect; calls in between fail at once, as with any gRPC channel."""

PREFIX_BYTES = 5

ENDED = {b"grpc-status": b"14", b"grpc-message": b"the server ended the stream"}
"""What it is to the requests on a stream that the server ends, in its own view well."""


@dataclass(frozen=True, slots=True)
class GrpcOptions:
    """`deadline` in seconds, 0 for none."""

    channels: int = 4
    deadline: float = 0.0
    tls: ssl.SSLContext | None = None


def code_of(number: bytes) -> str:
    return CODES[int(number)] if number.isdigit() and int(number) < len(CODES) else "UNKNOWN"


def framed(message: bytes) -> bytes:
    return b"\x00" + len(message).to_bytes(4, "big") + message


def request_headers(address: Address, method: str, deadline: float = 0.0) -> list[tuple[bytes, bytes]]:
    """`deadline` in seconds; 0 is none."""
    timeout = [(b"grpc-timeout", b"%du" % round(deadline * 1e6))] if deadline else []
    return [
        (b":method", b"POST"),
        (b":scheme", b"https" if address.tls else b"http"),
        (b":path", method.encode()),
        (b":authority", address.authority.encode()),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
        *timeout,
        (b"user-agent", b"scrutin-loadtest"),
    ]


class Channel:
    """One connection at a time, made again when it is lost."""

    def __init__(self, address: Address, method: str, options: GrpcOptions) -> None:
        self._address, self._options = address, options
        self._headers = RequestHeaders.of(request_headers(address, method, options.deadline))
        self._connection: Connection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._waiting: list[tuple[Stream, Callable[[Connection], None]]] = []
        self._not_before = 0.0
        self._fault = ""

    async def open(self) -> Connection:
        """Raises TargetError."""
        loop, address = asyncio.get_running_loop(), self._address
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                _, connection = await loop.create_connection(
                    lambda: Connection(self._headers),
                    address.host,
                    address.port,
                    ssl=self._options.tls,
                    server_hostname=address.host if self._options.tls else None,
                )
                await connection.opened
        except TimeoutError:
            raise TargetError(f"{address.place}: found nothing that speaks HTTP/2 within {OPEN_SECONDS:g} s") from None
        except Http2Error as error:
            raise TargetError(f"{address.place}: {error}; expected a gRPC server") from None
        except (OSError, ssl.SSLError) as error:
            raise TargetError(f"{address.place}: {plain(error)}; expected a gRPC server") from None
        self._connection = connection
        return connection

    def use(self, stream: Stream, start: Callable[[Connection], None]) -> None:
        """Start a stream now, or once connected; it breaks if that fails."""
        connection = self._connection
        if connection is not None and connection.usable:
            start(connection)
            return
        now = time.perf_counter()
        if now < self._not_before:
            asyncio.get_running_loop().call_soon(stream.broken, lost(self._fault), now)
            return
        self._waiting.append((stream, start))
        if self._connecting is None or self._connecting.done():
            self._connecting = asyncio.get_running_loop().create_task(self._connect())

    def cancel(self, stream: Stream) -> None:
        self._waiting = [entry for entry in self._waiting if entry[0] is not stream]
        if self._connection is not None and stream.id:
            self._connection.cancel(stream)

    async def _connect(self) -> None:
        try:
            connection = await self.open()
        except TargetError as error:
            self._fault = str(error)
            now = time.perf_counter()
            self._not_before = now + PAUSE_SECONDS
            waiting, self._waiting = self._waiting, []
            for stream, _ in waiting:
                stream.broken(lost(str(error)), now)
            return
        waiting, self._waiting = self._waiting, []
        for _, start in waiting:
            start(connection)

    def close(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
        if self._connection is not None:
            self._connection.close()


class UnaryStream:
    """One call: collects the message and the status."""

    __slots__ = ("_body", "_fields", "_finish", "id", "request", "window")

    def __init__(self, finish: Callable[[Raw, float], None]) -> None:
        self.id = self.window = 0
        self.request: Request | None = None
        self._body = b""
        self._fields: dict[bytes, bytes] = {}
        self._finish = finish

    def headers(self, fields: dict[bytes, bytes], now: float) -> None:
        self._fields = {**self._fields, **fields} if self._fields else fields

    def data(self, payload: bytes, now: float) -> None:
        self._body = self._body + payload if self._body else payload

    def ended(self, now: float) -> None:
        self._finish(answered(self._fields, self._body), now)

    def broken(self, raw: Raw, now: float) -> None:
        self._finish(raw, now)


def answered(fields: dict[bytes, bytes], body: bytes) -> Raw:
    """What the headers, the trailers and the frames of a call say."""
    status = fields.get(b"grpc-status")
    if status == b"0":
        if len(body) < PREFIX_BYTES or int.from_bytes(body[1:PREFIX_BYTES], "big") != len(body) - PREFIX_BYTES:
            return Raw("INTERNAL", f"found {len(body)} bytes that are not one gRPC message", b"", b"")
        return Raw(OK, "", b"", body[PREFIX_BYTES:])
    if status is None:
        http = fields.get(b":status", b"0")
        code = HTTP_CODES.get(int(http) if http.isdigit() else 0, "UNKNOWN")
        return Raw(code, f"found HTTP status {http.decode()} and no gRPC status", b"", b"")
    return Raw(code_of(status), unquote(fields.get(b"grpc-message", b"").decode("utf-8", "replace")), b"", b"")


async def ask(address: Address, tls: ssl.SSLContext | None, method: str, request: bytes) -> Raw:
    """One call on a connection of its own. Raises TargetError where nothing answers at all."""
    channel = Channel(address, method, GrpcOptions(1, 0.0, tls))
    connection = await channel.open()
    ended: asyncio.Future[Raw] = asyncio.get_running_loop().create_future()
    stream = UnaryStream(lambda raw, now: None if ended.done() else ended.set_result(raw))
    block = literal_block(request_headers(address, method, OPEN_SECONDS))
    connection.start(stream, framed(request), end=True, block=block)
    try:
        return await asyncio.wait_for(ended, OPEN_SECONDS)
    except TimeoutError:
        raise TargetError(f"{address.place}: found no answer to {method} within {OPEN_SECONDS:g} s") from None
    finally:
        channel.close()


class UnaryCaller:
    """One gRPC call a request, channel after channel."""

    def __init__(self, address: Address, method: str, options: GrpcOptions, done: Done) -> None:
        self._channels = [Channel(address, method, options) for _ in range(options.channels)]
        self._turn = 0
        self._done = done

    async def open(self) -> None:
        await asyncio.gather(*(channel.open() for channel in self._channels))

    def send(self, call: Call, head: bytes, tail: bytes) -> None:
        size = len(head) + len(tail)
        message = b"".join((b"\x00", size.to_bytes(4, "big"), head, tail))
        channel = self._channels[self._turn]
        self._turn = (self._turn + 1) % len(self._channels)
        stream = UnaryStream(lambda raw, now: self._done(call, raw, now))
        call.state = (channel, stream)
        call.sent = time.perf_counter()
        channel.use(stream, lambda connection: connection.start(stream, message, end=True))

    def forget(self, call: Call) -> None:
        channel, stream = call.state
        channel.cancel(stream)

    async def close(self) -> None:
        for channel in self._channels:
            channel.close()


Identify = Callable[[bytes], tuple[str, Any]]
"""Of a message on a stream: whose answer it is, and the message parsed."""


class SharedStream:
    """One bidirectional stream with the requests that are under way on it."""

    def __init__(self, done: Done, identify: Identify) -> None:
        self.id = self.window = 0
        self.request: Request | None = None
        self.over = False
        self.connection: Connection | None = None
        self.pending: dict[str, Call] = {}
        self.unsent: list[bytes] = []
        self._done, self._identify = done, identify
        self._rest = b""
        self._fields: dict[bytes, bytes] = {}

    def begin(self, connection: Connection) -> None:
        self.connection = connection
        connection.start(self, b"", end=False)
        for message in self.unsent:
            connection.write(self, message)
        self.unsent.clear()

    def headers(self, fields: dict[bytes, bytes], now: float) -> None:
        self._fields = {**self._fields, **fields}

    def data(self, payload: bytes, now: float) -> None:
        data = self._rest + payload if self._rest else payload
        at, end = 0, len(data)
        while end - at >= PREFIX_BYTES:
            stop = at + PREFIX_BYTES + int.from_bytes(data[at + 1 : at + PREFIX_BYTES], "big")
            if stop > end:
                break
            name, parsed = self._identify(data[at + PREFIX_BYTES : stop])
            call = self.pending.pop(name, None)
            if call is not None:
                self._done(call, Raw(OK, "", b"", b"", parsed), now)
            at = stop
        self._rest = data[at:]

    def ended(self, now: float) -> None:
        fields = self._fields if self._fields.get(b"grpc-status") != b"0" else ENDED
        self.broken(answered(fields, b""), now)

    def broken(self, raw: Raw, now: float) -> None:
        self.over = True
        pending, self.pending = self.pending, {}
        for call in pending.values():
            self._done(call, raw, now)


class StreamCaller:
    """A stream a channel; requests are told apart by an id that is added to each, so answers may come in any order."""

    def __init__(self, address: Address, method: str, options: GrpcOptions, done: Done, identify: Identify) -> None:
        without_deadline = GrpcOptions(options.channels, 0.0, options.tls)  # a stream outlives its requests
        self._channels = [Channel(address, method, without_deadline) for _ in range(options.channels)]
        self._streams: list[SharedStream | None] = [None] * options.channels
        self._done, self._identify = done, identify
        self._count = 0

    async def open(self) -> None:
        await asyncio.gather(*(channel.open() for channel in self._channels))

    def send(self, call: Call, head: bytes, tail: bytes) -> None:
        self._count += 1
        name = b"%d" % self._count
        id_field = b"\x1a%c%b" % (len(name), name)  # field 3, a string
        size = len(head) + len(tail) + len(id_field)
        message = b"".join((b"\x00", size.to_bytes(4, "big"), head, tail, id_field))
        call.sent = time.perf_counter()
        stream = self._stream(self._count % len(self._channels))
        call.state = (stream, name.decode())
        stream.pending[call.state[1]] = call
        if stream.connection is None:
            stream.unsent.append(message)
        else:
            stream.connection.write(stream, message)

    def _stream(self, turn: int) -> SharedStream:
        stream = self._streams[turn]
        if stream is None or stream.over:
            stream = self._streams[turn] = SharedStream(self._done, self._identify)
            self._channels[turn].use(stream, stream.begin)
        return stream

    def forget(self, call: Call) -> None:
        stream, name = call.state
        stream.pending.pop(name, None)

    async def close(self) -> None:
        for channel in self._channels:
            channel.close()


def plain(error: OSError) -> str:
    """An error of the network in the words of the system."""
    return (error.strerror or str(error) or type(error).__name__).lower()
