"""Is this member to be asked? After repeated faults it rests, and is tried again after pauses that grow. Pure: times come in."""

FAULTS = 3
"""In a row, before a member leaves the rotation: one may be an accident of a batch, three are none."""

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds between a failed trial and the next; each one doubles the pause. The first trial comes at once: it may have been the
requests' doing, and then the member is back before anybody misses it."""


class Rotation:
    """One member's. Instants are in seconds of one monotonic clock."""

    __slots__ = ("_faults", "_pause", "tried_at")

    def __init__(self) -> None:
        self._faults = 0
        self._pause = FIRST_PAUSE
        self.tried_at: float | None = None
        """When a member that has left is tried again; None while it is in rotation."""

    @property
    def present(self) -> bool:
        """Whether the member is in rotation."""
        return self.tried_at is None

    def answered(self) -> bool:
        """It gave votes. Whether it comes back by that."""
        self._faults = 0
        returns, self.tried_at, self._pause = self.tried_at is not None, None, FIRST_PAUSE
        return returns

    def failed(self, now: float) -> bool:
        """It gave none. Whether it leaves by that."""
        self._faults += 1
        if self.tried_at is not None:
            self.tried_at, self._pause = now + self._pause, min(2 * self._pause, LONGEST_PAUSE)
            return False
        if self._faults < FAULTS:
            return False
        self.tried_at = now
        return True
