"""One HTTP/2 connection of a client (RFC 9113): requests go out as bytes made before, nothing is awaited."""

import asyncio
import time
from collections import deque
from dataclasses import dataclass
from typing import Any, Protocol

from loadtest.targets import frames
from loadtest.targets.answers import UNAVAILABLE, Raw, lost
from loadtest.targets.frames import Frame, FrameReader, Header, HeaderBlocks, Http2Error

ENOUGH = 1 << 30
"""Received bytes after which a window is opened again; windows are 2 GiB."""

RESET_CODES = {0x1: "INTERNAL", 0x7: UNAVAILABLE, 0x8: "CANCELLED", 0xB: "RESOURCE_EXHAUSTED", 0xC: "PERMISSION_DENIED"}
"""What a reset stream is to gRPC, by the HTTP/2 error; all others are INTERNAL."""


class Stream(Protocol):
    """One side of an exchange. The connection sets `id` and `request`, and keeps `window`, the bytes that may yet be sent on it."""

    id: int
    window: int
    request: "Request | None"

    def headers(self, fields: dict[bytes, bytes], now: float) -> None: ...
    def data(self, payload: bytes, now: float) -> None: ...
    def ended(self, now: float) -> None: ...
    def broken(self, raw: Raw, now: float) -> None: ...


@dataclass(frozen=True, slots=True)
class RequestHeaders:
    """The headers of all requests of a connection: in full, to be put into the server's table, and out of it."""

    literal: bytes
    first: bytes
    later: bytes
    table_bytes: int

    @classmethod
    def of(cls, headers: list[Header]) -> "RequestHeaders":
        first, later = frames.remembered_block(headers)
        return cls(frames.literal_block(headers), first, later, frames.table_bytes(headers))


Request = tuple[bytes, bool, bytes | None]
"""What a stream began with: data, whether that was all, and headers other than the connection's."""


class _Unsent:
    """Data that waits for the server's windows."""

    __slots__ = ("at", "data", "end", "stream")

    def __init__(self, stream: Stream, data: bytes, end: bool) -> None:
        self.stream, self.data, self.end, self.at = stream, data, end, 0


class Connection(asyncio.Protocol):
    """Streams begun beyond what the server allows at once wait their turn; the rest is sent as the windows allow."""

    def __init__(self, headers: RequestHeaders) -> None:
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.usable = True
        self._headers = headers
        self._block = headers.literal
        self._transport: Any = None
        self._reader, self._blocks = FrameReader(), HeaderBlocks()
        self._streams: dict[int, Stream] = {}
        self._next_id = 1
        self._most_streams, self._initial_window, self._largest_frame = (
            2**31,
            frames.DEFAULT_WINDOW,
            frames.SMALLEST_FRAME,
        )
        self._window = frames.DEFAULT_WINDOW
        self._table_size = frames.DEFAULT_TABLE
        self._waiting: deque[tuple[Stream, bytes, bool, bytes | None]] = deque()
        self._unsent: deque[_Unsent] = deque()
        self._received = 0
        self._partial: tuple[int, int, bytes] | None = None  # stream, flags and block of headers that go on

    def start(self, stream: Stream, data: bytes, *, end: bool, block: bytes | None = None) -> None:
        """Begin an exchange. `block`: other headers than the connection's."""
        if len(self._streams) >= self._most_streams:
            self._waiting.append((stream, data, end, block))
            return
        stream.id, self._next_id = self._next_id, self._next_id + 2
        self._streams[stream.id] = stream
        stream.request = data, end, block
        if block is None:
            block, self._block = self._block, self._headers.later if self._remembers else self._headers.literal
        size, window = len(data), self._initial_window
        head = frames.head_of(len(block), frames.HEADERS, frames.END_HEADERS, stream.id)
        if end and size <= window and size <= self._window and size <= self._largest_frame and not self._unsent:
            self._window -= size
            stream.window = window - size
            flag = frames.head_of(size, frames.DATA, frames.END_STREAM, stream.id)
            self._transport.write(b"".join((head, block, flag, data)))
        else:
            stream.window = window
            self._transport.write(head + block)
            if end or data:
                self.write(stream, data, end=end)

    def write(self, stream: Stream, data: bytes, *, end: bool = False) -> None:
        """More data on a stream."""
        size = len(data)
        if size <= stream.window and size <= self._window and size <= self._largest_frame and not self._unsent:
            stream.window -= size
            self._window -= size
            self._transport.write(frames.head_of(size, frames.DATA, end, stream.id) + data)
        else:
            self._unsent.append(_Unsent(stream, data, end))
            self._flush()

    def cancel(self, stream: Stream) -> None:
        """Forget an exchange, and let the server know."""
        if self._streams.pop(stream.id, None) is None:
            self._waiting = deque(entry for entry in self._waiting if entry[0] is not stream)
            return
        self._unsent = deque(entry for entry in self._unsent if entry.stream is not stream)
        if self.usable or not self._transport.is_closing():
            self._transport.write(frames.frame(frames.RST_STREAM, 0, stream.id, frames.CANCEL.to_bytes(4, "big")))
        self._start_waiting()

    def close(self) -> None:
        self.usable = False
        if self._transport is not None:
            self._transport.close()

    # what the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        own = {frames.HEADER_TABLE_SIZE: 0, frames.ENABLE_PUSH: 0, frames.INITIAL_WINDOW_SIZE: frames.LARGEST_WINDOW}
        opening = frames.window_update(0, frames.LARGEST_WINDOW - frames.DEFAULT_WINDOW)
        self._transport.write(frames.PREFACE + frames.settings(own) + opening)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        try:
            for frame in self._received_frames(data):
                self._take(frame, now)
        except Http2Error as error:
            self._fail(str(error))
            self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(f"the connection was lost ({error or 'closed by the server'})")

    # the rest

    @property
    def _remembers(self) -> bool:
        return self._headers.table_bytes <= self._table_size

    def _received_frames(self, data: bytes) -> list[Frame]:
        if not self.opened.done() and data[:5] == b"HTTP/":
            raise Http2Error(f"found {data[:12].decode(errors='replace')}, expected HTTP/2")
        self._received += len(data)
        if self._received >= ENOUGH:
            self._transport.write(frames.window_update(0, self._received))
            self._received = 0
        return self._reader.feed(data)

    def _take(self, frame: Frame, now: float) -> None:
        kind, flags, number, payload = frame
        if kind == frames.DATA:
            stream = self._streams.get(number)
            if stream is not None:
                stream.data(frames.without_padding(flags & frames.PADDED, payload), now)
                if flags & frames.END_STREAM:
                    self._ended(stream, now)
        elif kind in {frames.HEADERS, frames.CONTINUATION}:
            self._take_headers(frame, now)
        elif kind == frames.WINDOW_UPDATE:
            self._open_window(number, frames.number(payload))
        elif kind == frames.SETTINGS:
            if not flags & frames.ACK:
                self._settle(frames.read_settings(payload))
        elif kind == frames.PING:
            if not flags & frames.ACK:
                self._transport.write(frames.frame(frames.PING, frames.ACK, 0, payload))
        elif kind == frames.RST_STREAM:
            self._reset(number, frames.number(payload), now)
        elif kind == frames.GOAWAY:
            self._go(frames.number(payload), now)

    def _take_headers(self, frame: Frame, now: float) -> None:
        flags, number, payload = frame.flags, frame.stream, frame.payload
        if frame.kind == frames.HEADERS:
            payload = frames.without_padding(flags, payload)
        elif self._partial is not None:
            number, begun, block = self._partial
            payload, flags, self._partial = block + payload, flags | begun, None
        if not flags & frames.END_HEADERS:
            self._partial = number, flags, payload
            return
        fields = self._blocks.read(payload)
        stream = self._streams.get(number)
        if stream is not None:
            stream.headers(fields, now)
            if flags & frames.END_STREAM:
                self._ended(stream, now)

    def _ended(self, stream: Stream, now: float) -> None:
        if self._streams.pop(stream.id, None) is None:
            return
        if self._unsent:
            self._drop_unsent(stream)
        stream.ended(now)
        if self._waiting:
            self._start_waiting()

    def _reset(self, number: int, error: int, now: float) -> None:
        stream = self._streams.pop(number, None)
        if stream is None:
            return
        self._drop_unsent(stream)
        if error == frames.REFUSED_STREAM and stream.request is not None:
            # not a word of it was read (RFC 9113, 8.7): it was begun before the server had counted the last one as ended
            self._waiting.appendleft((stream, *stream.request))
            if self._streams:
                return
        else:
            code = RESET_CODES.get(error, "INTERNAL")
            stream.broken(Raw(code, f"the stream was reset with HTTP/2 error {error}", b"", b""), now)
        self._start_waiting()

    def _drop_unsent(self, stream: Stream) -> None:
        self._unsent = deque(entry for entry in self._unsent if entry.stream is not stream)

    def _settle(self, values: dict[int, int]) -> None:
        window = values.get(frames.INITIAL_WINDOW_SIZE, self._initial_window)
        for stream in self._streams.values():
            stream.window += window - self._initial_window
        self._initial_window = window
        self._most_streams = values.get(frames.MAX_CONCURRENT_STREAMS, self._most_streams)
        self._largest_frame = values.get(frames.MAX_FRAME_SIZE, self._largest_frame)
        self._table_size = values.get(frames.HEADER_TABLE_SIZE, self._table_size)
        self._transport.write(frames.frame(frames.SETTINGS, frames.ACK, 0))
        if not self.opened.done():
            self._block = self._headers.first if self._remembers else self._headers.literal
            self.opened.set_result(None)
        self._flush()
        self._start_waiting()

    def _open_window(self, number: int, size: int) -> None:
        if number == 0:
            self._window += size
        elif number in self._streams:
            self._streams[number].window += size
        if self._unsent:
            self._flush()

    def _flush(self) -> None:
        stuck: set[int] = set()
        left: deque[_Unsent] = deque()
        for entry in self._unsent:
            if entry.stream.id in stuck or not self._send(entry):
                stuck.add(entry.stream.id)
                left.append(entry)
        self._unsent = left

    def _send(self, entry: _Unsent) -> bool:
        """As much of it as the windows allow; whether that was all."""
        stream, size = entry.stream, len(entry.data)
        while True:
            room = min(self._window, stream.window, self._largest_frame, size - entry.at)
            if room <= 0 and entry.at < size:
                return False
            part = entry.data[entry.at : entry.at + room]
            entry.at += room
            self._window -= room
            stream.window -= room
            last = entry.at == size
            self._transport.write(frames.head_of(room, frames.DATA, entry.end and last, stream.id) + part)
            if last:
                return True

    def _start_waiting(self) -> None:
        while self._waiting and len(self._streams) < self._most_streams and self.usable:
            stream, data, end, block = self._waiting.popleft()
            self.start(stream, data, end=end, block=block)

    def _go(self, last: int, now: float) -> None:
        """The server takes no more streams on this connection, and none above `last`."""
        self.usable = False
        refused = [stream for number, stream in self._streams.items() if number > last]
        waiting, self._waiting = [entry[0] for entry in self._waiting], deque()
        for stream in refused:
            del self._streams[stream.id]
        for stream in refused + waiting:
            stream.broken(lost("the server is going away"), now)

    def _fail(self, message: str) -> None:
        self.usable = False
        if not self.opened.done():
            self.opened.set_exception(Http2Error(message))
        streams = [*self._streams.values(), *(entry[0] for entry in self._waiting)]
        self._streams.clear()
        self._waiting.clear()
        self._unsent.clear()
        now = time.perf_counter()
        for stream in streams:
            stream.broken(lost(message), now)
