"""How long will a request wait, and how far must policies step down so that it is not too long? Pure: times come in."""

RECENT = 0.3
"""The weight of the newest look in what is learned from many."""

SPAN_SECONDS = 0.03
"""Of a look at how fast rows leave the queue, at the least."""

LEAST_SPANS = 2
"""Before anything is believed of how long a row takes: the machine may stand still for a moment, also in the first."""

STEP_SECONDS = 0.1
"""From one step down to the next at the least: the step before has to show first."""

CALM = 0.25
"""Back up only when the wait is less than this share of what makes policies step down."""

FIRST_HOLD, LONGEST_HOLD = 1.0, 60.0
"""Seconds of calm before a step back up; doubled each time when the calm turns out to have been the step's doing."""

SOON = 5.0
"""A step down within so many holds after one up was caused by it."""


class Pace:
    """How long a row takes to leave the queue, learned while others wait behind it, and then to be answered. In seconds.

    All time of the last spans over all rows of them, the newer ones weighing more. So a moment in which nothing ran counts for its
    length alone, where the mean of what each span showed would take the few rows in it for what rows are like.
    """

    __slots__ = ("_busy_since", "_rows", "_rows_seen", "_seconds_seen", "_spans", "run_seconds", "seconds_per_row")

    def __init__(self) -> None:
        self.run_seconds = 0.0
        self.seconds_per_row = 0.0
        self._busy_since: float | None = None
        self._rows = 0
        self._spans = 0
        self._seconds_seen = self._rows_seen = 0.0

    def took(self, now: float, rows: int, left: int) -> None:
        """A batch of `rows` was taken from the queue, `left` rows remain.

        Looked at over spans in which the queue was never empty, since several batches may be taken at once.
        """
        if self._busy_since is not None and now - self._busy_since >= SPAN_SECONDS:
            self._look(now - self._busy_since, self._rows)
            self._busy_since = None
        if not left:
            self._busy_since = None
        elif self._busy_since is None:
            self._busy_since, self._rows = now, rows
        else:
            self._rows += rows

    def _look(self, seconds: float, rows: int) -> None:
        self._seconds_seen = seconds + (1 - RECENT) * self._seconds_seen
        self._rows_seen = rows + (1 - RECENT) * self._rows_seen
        self._spans += 1
        if self._spans >= LEAST_SPANS:
            self.seconds_per_row = self._seconds_seen / self._rows_seen

    def ran(self, seconds: float) -> None:
        """Rows were answered so long after they had left the queue."""
        self.run_seconds += RECENT * (seconds - self.run_seconds)


class Brownout:
    """How many steps policies go down a ladder of `steps` policies, 0 at first. `limit`: the wait in seconds that is too long."""

    __slots__ = ("_calm_since", "_hold", "_last_down", "_last_up", "_limit", "_steps", "level")

    def __init__(self, steps: int, limit: float) -> None:
        self.level = 0
        self._steps = steps
        self._limit = limit
        self._hold = FIRST_HOLD
        self._calm_since: float | None = None
        self._last_down = self._last_up = float("-inf")

    def observe(self, wait: float, now: float) -> int:
        """The level from `now` on, where a request would wait for `wait` seconds."""
        if wait > self._limit:
            self._calm_since = None
            if self.level + 1 < self._steps and now - self._last_down >= STEP_SECONDS:
                self._step_down(now)
        elif wait > CALM * self._limit:
            self._calm_since = None
        elif self._calm_since is None:
            self._calm_since = now
        else:
            self._step_up(now)
        return self.level

    def _step_down(self, now: float) -> None:
        if now - self._last_up < SOON * self._hold:
            self._hold = min(2 * self._hold, LONGEST_HOLD)
        self.level += 1
        self._last_down = now

    def _step_up(self, now: float) -> None:
        assert self._calm_since is not None  # noqa: S101  its only caller has looked
        while self.level and now - self._calm_since >= self._hold:
            self.level -= 1
            self._calm_since += self._hold
            self._last_up = now
        if not self.level and now - self._last_up > SOON * self._hold:
            self._hold = FIRST_HOLD


class Ladder:
    """Policies from the dearest to the cheapest, and how far down requests are served now."""

    def __init__(self, policies: tuple[str, ...], limit: float) -> None:
        self._place = {policy: place for place, policy in enumerate(policies)}
        self._policies = policies
        self._brownout = Brownout(len(policies), limit)

    def observe(self, wait: float, now: float) -> int:
        """The level where a request would wait for `wait` seconds."""
        return self._brownout.observe(wait, now)

    def step(self, asked: str, wait: float, now: float) -> tuple[str, int]:
        """The policy to run for one that was asked for, and how many steps that is below it.

        One that is not on the ladder is run as it is, and so is one that stands below the level already.
        """
        level = self.observe(wait, now)
        place = self._place.get(asked)
        if place is None or place >= level:
            return asked, 0
        return self._policies[level], level - place
