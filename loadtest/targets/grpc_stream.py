"""A gRPC stream that many requests share."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from loadtest.targets.address import Address
from loadtest.targets.answers import OK, Call, Done, Raw
from loadtest.targets.grpc_calls import PREFIX_BYTES, Channel, GrpcOptions, answered
from loadtest.targets.http2 import Connection, Request

ENDED = {b"grpc-status": b"14", b"grpc-message": b"the server ended the stream"}
"""What it is to the requests on a stream that the server ends, in its own view well."""

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
        await asyncio.sleep(0)  # the loop closes sockets in its next round, which may be its last
