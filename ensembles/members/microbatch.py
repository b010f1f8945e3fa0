"""How many rows of a run go through a model at a time, learned as it runs. Pure: rows and seconds in, sizes out.

What the layers of a model make of a few rows stays in the processor's caches from one layer to the next, and leaves room there for
what else the server does; of many rows it does not. Whether that outweighs what each call costs by itself depends on the model and the machine.
"""

LEAST_ROWS = 8
"""So few rows always go through at once."""

SOON, EVERY = 2, 64
"""One run in so many tries a size that may not be the best: in the beginning, and later."""

BEGINNING = 48
"""Runs."""

RECENT = 0.1
"""The weight of the newest comparison."""

MOST_APART = 2.0
"""Times: what makes two runs, one right after the other, differ by more is not their size."""

BETTER = 0.97
"""From that ratio on, another size takes the place of the best one."""


class MicroBatchSize:
    """The best size by the rows of a run, in steps of powers of two.

    A size is compared with the best one so far by its time a row over that of the run before, so that the machine's moods meet both.
    """

    def __init__(self) -> None:
        self._races: dict[int, _Race] = {}

    def choose(self, rows: int) -> int:
        """The size for a run of so many rows; it may be more than they are, which is all at once."""
        if rows <= LEAST_ROWS:
            return LEAST_ROWS
        step = (rows - 1).bit_length()
        race = self._races.get(step)
        if race is None:
            race = self._races[step] = _Race(step)
        return race.next()

    def observe(self, rows: int, size: int, seconds: float) -> None:
        """So long did a run of so many rows take with a size that was chosen for it."""
        race = self._races.get((rows - 1).bit_length())
        if race is not None:
            race.observe(size, seconds / rows)


class _Race:
    def __init__(self, step: int) -> None:
        """Between `LEAST_ROWS` at a time, twice as many, and so on, and all of up to 2 to the power of `step`."""
        self._sizes = [1 << power for power in range(LEAST_ROWS.bit_length() - 1, step + 1)]
        self._best = self._sizes[-1]
        self._relative = dict.fromkeys(self._sizes, 1.0)
        self._pace = 0.0
        self._runs = 0

    def next(self) -> int:
        self._runs += 1
        every = SOON if self._runs <= BEGINNING else EVERY
        if self._runs % every:
            return self._best
        return self._sizes[self._runs // every % len(self._sizes)]

    def observe(self, size: int, seconds: float) -> None:
        """`seconds`: of a row."""
        if size == self._best:
            self._pace = seconds
        elif self._pace:
            ratio = min(max(seconds / self._pace, 1 / MOST_APART), MOST_APART)
            self._relative[size] += RECENT * (ratio - self._relative[size])
            if self._relative[size] < BETTER:
                self._crown(size)

    def _crown(self, best: int) -> None:
        """All are told in relation to the best."""
        self._best, self._pace, by = best, 0.0, self._relative[best]
        self._relative = {size: relative / by for size, relative in self._relative.items()}
