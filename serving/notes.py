"""What happened is noted at once and counted later, many notes in a row.

Counting takes a third of the time then: between a member's run and the next, the processor has forgotten this code and its data.
"""

from collections.abc import Callable
from typing import Any

MOST = 256
"""Notes that are kept before they are counted."""


class Notes:
    """Written and counted on the event loop's thread alone."""

    __slots__ = ("_notes",)

    def __init__(self) -> None:
        self._notes: list[tuple[Callable[..., None], tuple[Any, ...]]] = []

    def add(self, count: Callable[..., None], *what: Any) -> None:
        """Note what `count` will be told."""
        self._notes.append((count, what))
        if len(self._notes) == MOST:
            self.count()

    def count(self) -> None:
        """Count what was noted, in its order."""
        notes, self._notes = self._notes, []
        for count, what in notes:
            count(*what)
