"""Requests that were answered: noted one by one, and counted many at once by all who keep books of them."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

MOST = 1024
"""Requests of a kind that are kept before they are counted, which takes a fifth of a millisecond."""


class Key(NamedTuple):
    """What a request was to: `model` as its caller named it, a member for one."""

    model: str
    ensemble: str
    policy: str
    protocol: str


class Times(NamedTuple):
    """Of requests of one key, in their order: times in seconds, `total` from arrival to answer."""

    rows: Sequence[int]
    queue: Sequence[float]
    compute: Sequence[float]
    total: Sequence[float]


class Answers:
    """Written and counted on the event loop's thread alone. `readers`: count what was noted since they last did."""

    def __init__(self) -> None:
        self.readers: list[Callable[[Key, Times], None]] = []
        self._noted: dict[tuple[str, str, str, str], list[tuple[int, float, float, float]]] = {}

    def add(
        self, key: tuple[str, str, str, str], rows: int, queue_seconds: float, compute_seconds: float, seconds: float
    ) -> None:
        """Note one request. `key`: the fields of `Key`."""
        noted = self._noted.get(key)
        if noted is None:
            noted = self._noted[key] = []
        noted.append((rows, queue_seconds, compute_seconds, seconds))
        if len(noted) == MOST:
            self.count()

    def count(self) -> None:
        """Have all that was noted counted."""
        for key, noted in self._noted.items():
            if noted:
                times = Times(*zip(*noted, strict=True))
                for count in self.readers:
                    count(Key(*key), times)
                noted.clear()
