"""HTTP/1.1 as a load generator needs it: connections that are kept, and opened as requests need them."""

import asyncio
import ssl
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from loadtest.targets.address import Address
from loadtest.targets.answers import OK, Call, Done, Raw, TargetError, lost
from loadtest.targets.grpc_calls import OPEN_SECONDS, PAUSE_SECONDS, plain

HEAD_END = b"\r\n\r\n"
MOST_HEAD_BYTES = 1 << 16
STATUS_AT = slice(9, 12)
"""Where the status is in `HTTP/1.1 200`."""


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """`connections`: opened before the load. `most`: that may be open at once; requests beyond wait, and their waiting counts."""

    connections: int = 4
    most: int = 1000
    tls: ssl.SSLContext | None = None


def header(head: bytes, name: bytes) -> bytes:
    """The value of a header, by its name in lower case; empty where it is not there."""
    at = head.lower().find(b"\r\n" + name + b":")
    if at < 0:
        return b""
    start = at + len(name) + 3
    end = head.find(b"\r\n", start)
    return head[start : end if end >= 0 else len(head)].strip()


class BadReply(Exception):
    """What came is no HTTP answer."""


def unchunked(data: bytes, at: int) -> tuple[bytes, int] | None:
    """The body in chunks that begins at `at`, and where it ends; None while it is not whole (RFC 9112, 7.1). Raises BadReply."""
    parts: list[bytes] = []
    while True:
        line_end = data.find(b"\r\n", at)
        if line_end < 0:
            return None
        try:
            size = int(data[at:line_end].split(b";")[0], 16)
        except ValueError:
            raise BadReply("found a broken chunk") from None
        start = line_end + 2
        if size == 0:
            end = data.find(b"\r\n", start)
            return None if end < 0 else (b"".join(parts), end + 2)
        if len(data) < start + size + 2:
            return None
        parts.append(data[start : start + size])
        at = start + size + 2


class Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self, idle: Callable[["Connection"], None], lost: Callable[["Connection"], None]) -> None:
        self._idle, self._lost = idle, lost
        self._transport: Any = None
        self._finish: Callable[[Raw, float], None] | None = None
        self._data = b""
        self._chunks: list[bytes] = []
        self._size = 0
        self._needed = 0

    def ask(self, request: bytes, finish: Callable[[Raw, float], None]) -> None:
        self._finish = finish
        self._transport.write(request)

    def abort(self) -> None:
        self._finish = None
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        self._chunks.append(data)
        self._size += len(data)
        if self._size < self._needed:
            return
        self._data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks = [self._data]
        try:
            raw, keep = self._whole()
        except BadReply as error:
            raw, keep = lost(f"{error}, expected HTTP/1.1"), False
        if raw is not None:
            self._answered(raw, keep, now)

    def connection_lost(self, error: Exception | None) -> None:
        finish, self._finish = self._finish, None
        self._lost(self)
        if finish is not None:
            message = f"the connection was lost ({error or 'closed by the server'})"
            finish(lost(message), time.perf_counter())

    def _whole(self) -> tuple[Raw | None, bool]:
        """The answer, once it is all there, and whether the connection goes on. Raises BadReply."""
        data = self._data
        if not b"HTTP/1.".startswith(data[:7]) and data[:7] != b"HTTP/1.":
            raise BadReply(f"found {data[:12]!r}")
        end = data.find(HEAD_END)
        if end < 0:
            if len(data) > MOST_HEAD_BYTES:
                raise BadReply(f"found {len(data)} bytes of headers")
            return None, True
        head, start = data[:end], end + len(HEAD_END)
        length = header(head, b"content-length")
        if length:
            self._needed = start + int(length)
            if len(data) < self._needed:
                return None, True
            body = data[start : self._needed]
        elif header(head, b"transfer-encoding").lower() == b"chunked":
            chunks = unchunked(data, start)
            if chunks is None:
                return None, True
            body = chunks[0]
        else:
            body = b""
        status = head[STATUS_AT].decode("ascii", "replace")
        code = OK if status == "200" else status
        return Raw(code, "" if code == OK else said(body), head, body), header(head, b"connection").lower() != b"close"

    def _answered(self, raw: Raw, keep: bool, now: float) -> None:
        finish, self._finish = self._finish, None
        self._chunks, self._size, self._needed = [], 0, 0
        if keep and finish is not None:
            self._idle(self)
        else:
            self._transport.abort()
        if finish is not None:
            finish(raw, now)


def said(body: bytes) -> str:
    """An error as the body tells it."""
    import orjson

    try:
        found = orjson.loads(body)
        return str(found["error"] if isinstance(found, dict) and "error" in found else found)[:300]
    except orjson.JSONDecodeError:
        return body[:200].decode("utf-8", "replace")


class _Wanted:
    """A request under way: where it is, or that it waits for a connection."""

    __slots__ = ("connection", "finish", "request")

    def __init__(self, request: bytes, finish: Callable[[Raw, float], None]) -> None:
        self.request, self.finish = request, finish
        self.connection: Connection | None = None


class Pool:
    """Connections to one server; the one that was used last is used first, so that no more stay busy than need be."""

    def __init__(self, address: Address, options: HttpOptions) -> None:
        self._address, self._options = address, options
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self._wanted: deque[_Wanted] = deque()
        self._not_before = 0.0
        self._fault = ""

    async def open(self) -> None:
        """Raises TargetError."""
        try:
            self._idle += await asyncio.gather(*(self._connected() for _ in range(self._options.connections)))
        except TargetError:
            await self.close()
            raise

    def ask(self, request: bytes, finish: Callable[[Raw, float], None]) -> _Wanted:
        wanted = _Wanted(request, finish)
        if self._idle:
            wanted.connection = self._idle.pop()
            wanted.connection.ask(request, finish)
            return wanted
        now = time.perf_counter()
        if now < self._not_before:
            asyncio.get_running_loop().call_soon(finish, lost(self._fault), now)
            return wanted
        self._wanted.append(wanted)
        self._connect()
        return wanted

    def forget(self, wanted: _Wanted) -> None:
        """What HTTP/1.1 has for that is to hang up."""
        if wanted.connection is not None:
            wanted.connection.abort()
        elif wanted in self._wanted:
            self._wanted.remove(wanted)

    async def close(self) -> None:
        for task in self._connecting:
            task.cancel()
        self._wanted.clear()
        for connection in list(self._open):
            connection.abort()
        await asyncio.sleep(0)  # the loop closes what was aborted in its next round, which may be its last

    def _connect(self) -> None:
        if len(self._open) + len(self._connecting) < self._options.most and len(self._connecting) < len(self._wanted):
            task = asyncio.get_running_loop().create_task(self._connect_one())
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    async def _connect_one(self) -> None:
        try:
            self._free(await self._connected())
        except TargetError as error:
            now = time.perf_counter()
            self._fault, self._not_before = str(error), now + PAUSE_SECONDS
            wanted, self._wanted = self._wanted, deque()
            for each in wanted:
                each.finish(lost(str(error)), now)

    async def _connected(self) -> Connection:
        loop, address = asyncio.get_running_loop(), self._address
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                _, connection = await loop.create_connection(
                    lambda: Connection(self._free, self._lose),
                    address.host,
                    address.port,
                    ssl=self._options.tls,
                    server_hostname=address.host if self._options.tls else None,
                )
        except TimeoutError:
            raise TargetError(f"{address.place}: found no connection within {OPEN_SECONDS:g} s") from None
        except (OSError, ssl.SSLError) as error:
            raise TargetError(f"{address.place}: {plain(error)}; expected an HTTP server") from None
        self._open.add(connection)
        return connection

    def _free(self, connection: Connection) -> None:
        if not self._wanted:
            self._idle.append(connection)
            return
        wanted = self._wanted.popleft()
        wanted.connection = connection
        connection.ask(wanted.request, wanted.finish)

    def _lose(self, connection: Connection) -> None:
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if self._wanted:
            self._connect()


class HttpCaller:
    """`start`: of each policy's requests, the request line and all headers but the length of the content."""

    def __init__(self, address: Address, options: HttpOptions, done: Done) -> None:
        self._pool = Pool(address, options)
        self._done = done

    async def open(self) -> None:
        await self._pool.open()

    def send(self, call: Call, head: bytes, tail: bytes) -> None:
        """`head`: an HTTP head without its end, a blank line, and the front of the body."""
        lines, _, front = head.partition(HEAD_END)
        length = b"\r\nContent-Length: %d\r\n\r\n" % (len(front) + len(tail))
        call.sent = time.perf_counter()
        call.state = self._pool.ask(b"".join((lines, length, front, tail)), lambda raw, now: self._done(call, raw, now))

    def forget(self, call: Call) -> None:
        self._pool.forget(call.state)

    async def close(self) -> None:
        await self._pool.close()


async def get(address: Address, tls: ssl.SSLContext | None, path: str) -> Raw:
    """One GET on a connection of its own. Raises TargetError where nothing answers at all."""
    pool = Pool(address, HttpOptions(1, 1, tls))
    await pool.open()
    ended: asyncio.Future[Raw] = asyncio.get_running_loop().create_future()
    request = f"GET {path} HTTP/1.1\r\nHost: {address.authority}\r\n\r\n".encode()
    pool.ask(request, lambda raw, now: None if ended.done() else ended.set_result(raw))
    try:
        return await asyncio.wait_for(ended, OPEN_SECONDS)
    except TimeoutError:
        raise TargetError(f"{address.place}: found no answer to GET {path} within {OPEN_SECONDS:g} s") from None
    finally:
        await pool.close()
