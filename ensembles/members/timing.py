"""How long a member takes by the number of rows, learned as it runs."""

RECENT = 0.2
"""The weight of the newest run: after ten runs, nine tenths of the figure are theirs."""


class TimeByRows:
    """Seconds of a run by its rows, in steps of powers of two. `observe` and `predict` take and give seconds."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}

    def observe(self, rows: int, seconds: float) -> None:
        step = (rows - 1).bit_length()
        known = self._seconds.get(step)
        figure = self._seconds[step] = seconds if known is None else known + RECENT * (seconds - known)
        if rows != 1 << step:
            return
        # Twice the rows take twice as long at the most. A size that seemed too long in a bad moment is avoided, so that no run of its own
        # would ever show that it is not.
        while (larger := self._seconds.get(step := step + 1)) is not None and larger > 2 * figure:
            figure = self._seconds[step] = 2 * figure

    def predict(self, rows: int) -> float | None:
        """The figure of the nearest step that was seen, scaled by rows where it was a smaller one; None before any run."""
        step = (rows - 1).bit_length()
        if step in self._seconds:  # runs on other threads may be observed meanwhile
            return self._seconds[step]
        if not self._seconds:
            return None
        nearest = min(tuple(self._seconds), key=lambda known: abs(known - step))
        return self._seconds[nearest] * 2.0 ** max(step - nearest, 0)
