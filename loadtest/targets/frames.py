"""Frames and header blocks of HTTP/2 (RFC 9113 and 7541), as far as gRPC needs them. Pure."""

import struct
from collections.abc import Iterable
from typing import NamedTuple

from hpack import Decoder, HPACKError

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 0x1
END_HEADERS, PADDED, WITH_PRIORITY = 0x4, 0x8, 0x20

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = range(1, 6)
REFUSED_STREAM, CANCEL = 0x7, 0x8

HEAD_BYTES = 9
DEFAULT_WINDOW = 65_535
DEFAULT_TABLE = 4096
LARGEST_WINDOW = 2**31 - 1
SMALLEST_FRAME = 16_384
"""The largest payload that every peer takes."""

_HEAD = struct.Struct(">HBBBI")
_SETTING = struct.Struct(">HI")
_NUMBER = struct.Struct(">I")


class Http2Error(Exception):
    """A peer that breaks the protocol, or speaks another one."""


class Frame(NamedTuple):
    kind: int
    flags: int
    stream: int
    payload: bytes


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    size = len(payload)
    return _HEAD.pack(size >> 8, size & 0xFF, kind, flags, stream) + payload


def head_of(size: int, kind: int, flags: int, stream: int) -> bytes:
    """What stands before a payload of this size."""
    return _HEAD.pack(size >> 8, size & 0xFF, kind, flags, stream)


def settings(values: dict[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join([_SETTING.pack(*pair) for pair in values.items()]))


def read_settings(payload: bytes) -> dict[int, int]:
    return dict(_SETTING.iter_unpack(payload[: len(payload) // 6 * 6]))


def window_update(stream: int, size: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, _NUMBER.pack(size))


def number(payload: bytes) -> int:
    """The 31 bits of a WINDOW_UPDATE, a RST_STREAM or the front of a GOAWAY."""
    return int.from_bytes(payload[:4], "big") & 0x7FFFFFFF


def without_padding(flags: int, payload: bytes) -> bytes:
    """Of DATA and HEADERS, what is data or header block."""
    if flags & PADDED:
        payload = payload[1 : len(payload) - payload[0]]
    return payload[5:] if flags & WITH_PRIORITY else payload


class FrameReader:
    """Bytes in, whole frames out."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Frame]:
        if self._rest:
            data = self._rest + data
        frames = []
        at, end = 0, len(data)
        while end - at >= HEAD_BYTES:
            high, low, kind, flags, stream = _HEAD.unpack_from(data, at)
            stop = at + HEAD_BYTES + (high << 8 | low)
            if stop > end:
                break
            frames.append(Frame(kind, flags, stream & 0x7FFFFFFF, data[at + HEAD_BYTES : stop]))
            at = stop
        self._rest = data[at:]
        return frames


Header = tuple[bytes, bytes]


def _integer(value: int, prefix_bits: int, pattern: int) -> bytes:
    """RFC 7541, 5.1."""
    most = (1 << prefix_bits) - 1
    if value < most:
        return bytes([pattern | value])
    out = bytearray([pattern | most])
    value -= most
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _text(value: bytes) -> bytes:
    return _integer(len(value), 7, 0) + value


def literal_block(headers: Iterable[Header]) -> bytes:
    """A block that neither uses nor changes the peer's table."""
    return b"".join([b"\x00" + _text(name) + _text(value) for name, value in headers])


def remembered_block(headers: list[Header]) -> tuple[bytes, bytes]:
    """The block that puts these into the peer's empty table, and the one that later says the same in a byte a header."""
    first = b"".join([b"\x40" + _text(name) + _text(value) for name, value in headers])
    newest = 62  # the static table has 61 entries
    later = b"".join([_integer(newest + place, 7, 0x80) for place in reversed(range(len(headers)))])
    return first, later


def table_bytes(headers: Iterable[Header]) -> int:
    """What these take in a table (RFC 7541, 4.1)."""
    return sum(len(name) + len(value) + 32 for name, value in headers)


class HeaderBlocks:
    """Reads a peer's header blocks. It was told to keep no table, so equal bytes mean equal headers, and are read once."""

    MOST_KEPT = 4096

    def __init__(self) -> None:
        self._known: dict[bytes, dict[bytes, bytes]] = {}

    def read(self, block: bytes) -> dict[bytes, bytes]:
        """Raises Http2Error."""
        found = self._known.get(block)
        if found is None:
            if len(self._known) >= self.MOST_KEPT:
                self._known.clear()
            found = self._known[block] = self._decoded(block)
        return found

    @staticmethod
    def _decoded(block: bytes) -> dict[bytes, bytes]:
        decoder = Decoder()
        decoder.header_table_size = 0
        try:
            return {bytes(name): bytes(value) for name, value in decoder.decode(block, raw=True)}
        except HPACKError as error:
            raise Http2Error(f"found a header block that cannot be read: {error}") from None
