"""Durations, counted in buckets of equal relative width instead of being kept: memory does not grow with the requests. Pure.

The buckets are those of HdrHistogram (Tene), so that its tools read what `hdr.encode` writes.
"""

import math
from collections.abc import Iterable
from typing import Self

import numpy as np
from numpy.typing import NDArray

NANOSECONDS = 1_000_000_000
"""In a second; durations are whole numbers of them, so that sums and merges are exact in any order."""


class Histogram:
    """Counts of durations; a quantile is within 0.05% (3 digits) or 0.4% (2 digits) of the sample's own.

    `digits`: significant decimal digits, 3 for what is reported, 2 for the many small ones of a time line.
    The smallest, the largest and the sum are kept exactly. Not safe for threads: one a thread or process, then `merge`.
    """

    __slots__ = ("_bits", "count", "counts", "digits", "largest", "smallest", "total")

    def __init__(self, digits: int = 3) -> None:
        self.digits = digits
        self._bits = math.ceil(math.log2(2 * 10**digits)) - 1
        self.counts: dict[int, int] = {}
        """How many durations fell into each bucket; buckets that hold none are absent."""
        self.count = 0
        self.total = 0
        """The sum in ns."""
        self.smallest = 0
        self.largest = 0
        """In ns; 0 where nothing was recorded."""

    @classmethod
    def of(cls, seconds: Iterable[float] | NDArray[np.floating], digits: int = 3) -> Self:
        found = cls(digits)
        found.record_all(np.fromiter(seconds, float) if not isinstance(seconds, np.ndarray) else seconds)
        return found

    @classmethod
    def from_counts(cls, counts: dict[int, int], digits: int, ends: tuple[int, int, int]) -> Self:
        """As it was: buckets, and `ends`, the smallest, largest and sum in ns."""
        found = cls(digits)
        found.counts = dict(counts)
        found.count = sum(counts.values())
        found.smallest, found.largest, found.total = ends
        return found

    def record(self, seconds: float, count: int = 1) -> None:
        """`count` times the same duration. What is below zero (a clock's grain) counts as zero."""
        value = round(seconds * NANOSECONDS) if seconds > 0 else 0
        shift = value.bit_length() - self._bits - 1
        bucket = (shift << self._bits) + (value >> shift) if shift > 0 else value
        self.counts[bucket] = self.counts.get(bucket, 0) + count
        self.largest = max(self.largest, value)
        if value < self.smallest or not self.count:
            self.smallest = value
        self.count += count
        self.total += value * count

    def record_all(self, seconds: NDArray[np.floating]) -> None:
        """Many durations [n] at once, about 20 times as fast as one by one."""
        if not len(seconds):
            return
        values = np.maximum(np.rint(np.asarray(seconds, np.float64) * NANOSECONDS), 0).astype(np.int64)
        buckets, counts = np.unique(self._buckets(values), return_counts=True)
        ends = int(values.min()), int(values.max()), int(values.sum())
        self.merge(self.from_counts(dict(zip(buckets.tolist(), counts.tolist(), strict=True)), self.digits, ends))

    def _buckets(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        lengths = np.frexp(values.astype(np.float64))[1].astype(np.int64)  # in bits; exact below 2^53 ns, 104 days
        shifts = np.maximum(lengths - self._bits - 1, 0)
        found: NDArray[np.int64] = (shifts << self._bits) + (values >> shifts)
        return found

    def merge(self, other: "Histogram") -> None:
        """Add what the other counted. Raises ValueError for other digits."""
        if other.digits != self.digits:
            raise ValueError(f"found a histogram of {other.digits} significant digits, expected {self.digits}")
        if not other.count:
            return
        for bucket, count in other.counts.items():
            self.counts[bucket] = self.counts.get(bucket, 0) + count
        self.smallest = min(self.smallest, other.smallest) if self.count else other.smallest
        self.largest = max(self.largest, other.largest)
        self.count += other.count
        self.total += other.total

    def bounds(self, bucket: int) -> tuple[int, int]:
        """The least and the greatest whole number of ns that fall into a bucket."""
        shift = max((bucket >> self._bits) - 1, 0)
        low = (bucket - (shift << self._bits)) << shift
        return low, low + (1 << shift) - 1

    def _middles(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Of the buckets that hold any, in no order: their middles in ns [k], and their counts [k]."""
        buckets = np.fromiter(self.counts.keys(), np.int64, len(self.counts))
        counts = np.fromiter(self.counts.values(), np.int64, len(self.counts))
        shifts = np.maximum((buckets >> self._bits) - 1, 0)
        lows = (buckets - (shifts << self._bits)) << shifts
        return lows + ((1 << shifts) - 1) / 2, counts

    def ordered(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """The buckets in order: their middles in seconds [k], within the smallest and largest, and their counts [k]."""
        middles, counts = self._middles()
        order = np.argsort(middles)
        return np.clip(middles[order], self.smallest, self.largest) / NANOSECONDS, counts[order]

    def quantile(self, q: float) -> float:
        """In seconds: the least duration that a share `q` (0 to 1) of all does not exceed. NaN where nothing was recorded."""
        if not self.count:
            return math.nan
        rank = min(max(math.ceil(q * self.count - 1e-9), 1), self.count)
        if rank in {1, self.count}:
            return (self.smallest if rank == 1 < self.count else self.largest) / NANOSECONDS
        middles, counts = self.ordered()
        return float(middles[np.searchsorted(np.cumsum(counts), rank)])

    def within(self, seconds: float) -> int:
        """How many durations are at most so long, exact to the bucket (0.1% of the limit at 3 digits)."""
        limit = seconds * NANOSECONDS
        if limit >= self.largest:
            return self.count
        middles, counts = self._middles()
        return int(counts[middles <= limit].sum())

    @property
    def mean(self) -> float:
        """In seconds, exact; NaN where nothing was recorded."""
        return self.total / self.count / NANOSECONDS if self.count else math.nan

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Histogram) and self._content() == other._content()

    __hash__ = None  # type: ignore[assignment]

    def _content(self) -> tuple[object, ...]:
        return self.digits, self.counts, self.count, self.smallest, self.largest, self.total
