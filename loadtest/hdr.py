"""Histograms in HdrHistogram's interchange format V2, for its tools and for our own files. Pure.

https://github.com/HdrHistogram/HdrHistogram, `AbstractHistogram.encodeIntoCompressedByteBuffer` and `HistogramLogWriter`.
"""

import base64
import struct
import zlib
from collections.abc import Iterable, Iterator

from loadtest.histogram import NANOSECONDS, Histogram

COOKIE, COMPRESSED_COOKIE = 0x1C849313, 0x1C849314
HEADER = struct.Struct(">iiiiqqd")
COMPRESSED_HEADER = struct.Struct(">ii")
DAY = 86_400 * NANOSECONDS
LARGEST = 1 << 28
"""Bytes that a histogram may unpack to; a full one of 3 digits has less than one million."""

MOST_BUCKETS = 64 << 17
"""Of 63 bits and 5 digits."""


class HdrError(ValueError):
    """No histogram in this format. One line."""


def encode(histogram: Histogram) -> str:
    """Compressed, in base64. The unit of values is the nanosecond."""
    payload = b"".join(_words(histogram))
    head = HEADER.pack(COOKIE, len(payload), 0, histogram.digits, 1, max(DAY, histogram.largest), 1.0)
    packed = zlib.compress(head + payload)
    return base64.b64encode(COMPRESSED_HEADER.pack(COMPRESSED_COOKIE, len(packed)) + packed).decode()


def _words(histogram: Histogram) -> Iterator[bytes]:
    """Counts in order of buckets; so many empty ones as a negative number."""
    expected = 0
    for bucket in sorted(histogram.counts):
        if bucket > expected:
            yield _zigzag(expected - bucket)
        yield _zigzag(histogram.counts[bucket])
        expected = bucket + 1


def _zigzag(value: int) -> bytes:
    """ZigZag LEB128 of a 64-bit integer, the ninth byte a whole one."""
    rest = (value << 1) ^ (value >> 63)
    found = bytearray()
    while rest >= 0x80 and len(found) < 8:
        found.append(rest & 0x7F | 0x80)
        rest >>= 7
    found.append(rest)
    return bytes(found)


def decode(text: str, ends: tuple[int, int, int] | None = None) -> Histogram:
    """`ends`: smallest, largest and sum in ns, which the format does not keep; without them, those of the buckets.

    Raises HdrError.
    """
    try:
        digits, payload = _unpacked(base64.b64decode(text, validate=True))
        counts = _counts(payload)
    except (ValueError, struct.error, zlib.error, IndexError) as error:
        raise HdrError(f"found no histogram of HdrHistogram's format V2: {error}") from None
    found = Histogram.from_counts(counts, digits, ends or (0, 0, 0))
    return found if ends or not counts else Histogram.from_counts(counts, digits, _ends(found))


def _unpacked(content: bytes) -> tuple[int, bytes]:
    cookie, length = COMPRESSED_HEADER.unpack_from(content)
    if cookie != COMPRESSED_COOKIE:
        raise ValueError(f"cookie {cookie:#x}, expected {COMPRESSED_COOKIE:#x}")
    stream = zlib.decompressobj()
    plain = stream.decompress(content[COMPRESSED_HEADER.size :][:length], LARGEST)
    if not stream.eof:
        raise ValueError("it is cut off, or too large")
    cookie, length, offset, digits, unit, _, scale = HEADER.unpack_from(plain)
    if (cookie, offset, unit, scale) != (COOKIE, 0, 1, 1.0) or digits not in {1, 2, 3, 4, 5}:
        raise ValueError(f"{digits} digits of unit {unit}, expected 1 to 5 digits of unit 1 without offset or scale")
    return digits, plain[HEADER.size :][:length]


def _counts(payload: bytes) -> dict[int, int]:
    counts: dict[int, int] = {}
    place = bucket = 0
    while place < len(payload):
        value, place = _unzigzag(payload, place)
        if value > 0:
            counts[bucket] = value
        bucket += -value if value < 0 else 1
        if bucket > MOST_BUCKETS:
            raise ValueError("a value of more than 63 bits")
    return counts


def _unzigzag(payload: bytes, place: int) -> tuple[int, int]:
    rest = shift = 0
    while True:
        byte = payload[place]
        place += 1
        rest |= (byte if shift == 56 else byte & 0x7F) << shift
        if byte < 0x80 or shift == 56:
            return (rest >> 1) ^ -(rest & 1), place
        shift += 7


def _ends(histogram: Histogram) -> tuple[int, int, int]:
    bounds = {bucket: histogram.bounds(bucket) for bucket in histogram.counts}
    total = sum(sum(bounds[bucket]) * count for bucket, count in histogram.counts.items()) // 2
    return min(low for low, _ in bounds.values()), max(high for _, high in bounds.values()), total


def log(histograms: Iterable[tuple[str, float, float, Histogram]], started_at: float) -> str:
    """A log of format 1.3: tag, start and length in seconds since `started_at` (Unix time), histogram. Maxima are in ms."""
    lines = [
        "#[Histogram log format version 1.3]",
        f"#[StartTime: {started_at:.3f} (seconds since epoch)]",
        f"#[BaseTime: {started_at:.3f} (seconds since epoch)]",
        '"StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram"',
    ]
    for tag, start, length, each in histograms:
        label = "".join(letter if letter.isalnum() or letter in "._:-" else "_" for letter in tag)
        lines.append(f"Tag={label},{start:.3f},{length:.3f},{each.largest / 1e6:.3f},{encode(each)}")
    return "\n".join(lines) + "\n"
