"""gRPC over `http2.Connection`: channels that connect again, and single calls."""

import asyncio
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
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


def _why(error: Http2Error | OSError) -> str:
    """No connection."""
    if isinstance(error, TimeoutError):
        return f"found nothing that speaks HTTP/2 within {OPEN_SECONDS:g} s"
    return f"{plain(error) if isinstance(error, OSError) else error}; expected a gRPC server"


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
        connection = Connection(self._headers)
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                await loop.create_connection(
                    lambda: connection,
                    address.host,
                    address.port,
                    ssl=self._options.tls,
                    server_hostname=address.host if self._options.tls else None,
                )
                await connection.opened
        except (Http2Error, OSError) as error:
            connection.close()
            raise TargetError(f"{address.place}: {_why(error)}") from None
        except asyncio.CancelledError:
            connection.close()
            raise
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
        await asyncio.sleep(0)  # the loop closes sockets in its next round, which may be its last


def plain(error: OSError) -> str:
    """An error of the network in the words of the system."""
    return (error.strerror or str(error) or type(error).__name__).lower()
