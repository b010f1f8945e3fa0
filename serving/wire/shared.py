"""What answers have in common is made once: for those of one batch, and for those of all batches."""

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from serving.aggregator import Answer
from serving.records import Counted

LASTING = 1024
"""Kinds of answers whose common part is kept: models x rows x outputs asked for x what became of the members."""

T = TypeVar("T")


class PerBatch(Generic[T]):
    """What was made for the batch that was encoded last; its requests are answered one right after the other."""

    def __init__(self) -> None:
        self._counted: Counted | None = None
        self._made: dict[Hashable, T] = {}

    def of(self, counted: Counted) -> dict[Hashable, T]:
        """What was made for this batch so far, to be added to."""
        if self._counted is not counted:
            self._counted, self._made = counted, {}
        return self._made


class Lasting:
    """What stays the same from batch to batch, as long as the members fare the same."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, bytes] = {}

    def get(self, answer: Answer, wanted: Hashable, make: Callable[[], bytes]) -> bytes:
        """`wanted`: what the request says of the form of its answer."""
        counted = answer.counted
        told = (answer.certificate, answer.asked, answer.brownout_level, tuple(answer.outcomes))
        key = (wanted, answer.rows, answer.live.digest, counted.policy, told)
        made = self._kept.get(key)
        if made is None:
            if len(self._kept) >= LASTING:
                self._kept.clear()
            made = self._kept[key] = make()
        return made
