"""What waits, and what runs next. Pure: entries and a time go in, decisions come out; no clock, no event loop, no I/O."""

from collections import deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from numpy.typing import NDArray


class Entry(Protocol):
    """One waiting request. `deadline` and `arrived` are instants of one monotonic clock, in seconds."""

    rows: NDArray[Any]
    policy: str
    arrived: float
    deadline: float

    @property
    def gone(self) -> bool:
        """Whether nobody waits for the answer any more."""


E = TypeVar("E", bound=Entry)


@dataclass(frozen=True, slots=True)
class Taken(Generic[E]):
    """What runs now, all of one policy, and what can no longer be answered in time."""

    batch: list[E]
    expired: list[E]


class BatchQueue(Generic[E]):
    """First come, first served. A batch is the oldest request and the next ones of its policy, as far as they fit."""

    def __init__(self, max_batch_size: int, max_queue_size: int) -> None:
        """`max_batch_size`: rows of a batch. `max_queue_size`: rows that may wait."""
        self._max_batch_size = max_batch_size
        self.max_queue_size = max_queue_size
        self._waiting: deque[E] = deque()
        self.rows = 0

    def fits(self, rows: int) -> bool:
        """Whether so many more rows may wait. Those who have gone make room when it is needed."""
        if self.rows + rows > self.max_queue_size:
            self._waiting = deque(entry for entry in self._waiting if not entry.gone)
            self.rows = sum(len(entry.rows) for entry in self._waiting)
        return self.rows + rows <= self.max_queue_size

    @property
    def full(self) -> bool:
        """Whether enough rows wait for a whole batch."""
        return self.rows >= self._max_batch_size

    def push(self, entry: E) -> None:
        self._waiting.append(entry)
        self.rows += len(entry.rows)

    def take(self, now: float) -> Taken[E]:
        """The next batch at the instant `now`; those who have gone or expired leave before they cost anything."""
        batch: list[E] = []
        expired: list[E] = []
        kept: list[E] = []
        waiting, room, policy = self._waiting, self._max_batch_size, None
        while waiting and room:
            entry = waiting.popleft()
            rows = len(entry.rows)
            if entry.gone:
                self.rows -= rows
            elif entry.deadline <= now:
                self.rows -= rows
                expired.append(entry)
            elif policy not in (None, entry.policy):
                kept.append(entry)
            elif rows <= room:
                room -= rows
                batch.append(entry)
                policy = entry.policy
            else:
                kept.append(entry)
                break
        self.rows -= self._max_batch_size - room
        waiting.extendleft(reversed(kept))
        return Taken(batch, expired)

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[E]:
        return iter(self._waiting)

    def __repr__(self) -> str:
        return f"<BatchQueue {len(self._waiting)} requests, {self.rows} rows>"


PATIENCE = 8
"""How often rows between two stages let a fuller batch go first."""

T = TypeVar("T")


@dataclass(slots=True)
class _Line(Generic[T]):
    items: list[tuple[T, int]]
    rows: int = 0
    passed_over: int = 0


class Backlog(Generic[T]):
    """Batches between two stages, in a line for each key. Those of one line can run together, so that later stages run full too."""

    def __init__(self, max_batch_size: int) -> None:
        self._max_batch_size = max_batch_size
        self._lines: dict[Hashable, _Line[T]] = {}

    @property
    def rows(self) -> int:
        """How many rows wait."""
        return sum(line.rows for line in self._lines.values())

    def put(self, key: Hashable, item: T, rows: int) -> None:
        line = self._lines.setdefault(key, _Line([]))
        line.items.append((item, rows))
        line.rows += rows

    def take(self, others: int) -> list[T]:
        """What runs next together: the line that fills a batch best, unless `others` rows of new requests fill one better.

        Lines that were passed over often enough go first, the most often first, and so does every line when nobody else waits.
        """
        if not self._lines:
            return []
        key = max(self._lines, key=lambda key: (max(self._lines[key].passed_over, PATIENCE - 1), self._lines[key].rows))
        line = self._lines[key]
        fills = min(line.rows, self._max_batch_size) >= min(others, self._max_batch_size)
        chosen = fills or line.passed_over >= PATIENCE
        for other, passed in self._lines.items():
            if not chosen or other != key:
                passed.passed_over += 1
        return self._cut(key) if chosen else []

    def _cut(self, key: Hashable) -> list[T]:
        """The first of a line, as far as they fit a batch."""
        line = self._lines[key]
        taken: list[T] = []
        room = self._max_batch_size
        while line.items and line.items[0][1] <= room:
            item, rows = line.items.pop(0)
            taken.append(item)
            room -= rows
            line.rows -= rows
        line.passed_over = 0
        if not line.items:
            del self._lines[key]
        return taken
