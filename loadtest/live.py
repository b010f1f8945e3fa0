"""What happens while it happens: a table where there is a terminal, lines elsewhere; on the standard error."""

import math
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from loadtest.jobs import Beat

LINE_SECONDS = 5.0


def milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if math.isfinite(seconds) else "–"


class View:
    """Call it once a second with how long the run has lasted, and what happened since: one `Beat` a policy."""

    def __init__(self, policies: Sequence[str], duration: float, *, quiet: bool = False) -> None:
        self._policies, self._duration, self._quiet = policies, duration, quiet
        self._totals = [Beat() for _ in policies]
        self._since_line = [Beat() for _ in policies]
        self._next_line = LINE_SECONDS
        console = Console(stderr=True)
        self._live = Live(console=console, transient=True, auto_refresh=False) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live and not self._quiet:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._live:
            self._live.stop()

    def __call__(self, elapsed: float, beats: list[Beat]) -> None:
        for total, line, beat in zip(self._totals, self._since_line, beats, strict=True):
            total.merge(beat)
            line.merge(beat)
        if self._quiet:
            return
        if self._live:
            self._live.update(self._table(elapsed, beats), refresh=True)
        elif elapsed >= self._next_line:
            print(self._line(elapsed), file=sys.stderr, flush=True)
            self._since_line = [Beat() for _ in self._policies]
            self._next_line = elapsed - elapsed % LINE_SECONDS + LINE_SECONDS

    def _table(self, elapsed: float, beats: Sequence[Beat]) -> Group:
        table = Table("policy", *("sent/s", "answered/s", "errors", "p50", "p99", "answered"), box=None)
        for name, total, beat in zip(self._policies, self._totals, beats, strict=True):
            quantiles = [milliseconds(beat.latency.quantile(q)) for q in (0.5, 0.99)]
            table.add_row(name, f"{beat.sent:,}", f"{beat.done:,}", f"{total.errors:,}", *quantiles, f"{total.done:,}")
        title = f"{elapsed:.0f} of {self._duration:g} s" if elapsed >= 0 else "warming up"
        return Group(Text(title), ProgressBar(self._duration, max(elapsed, 0), width=60), table)

    def _line(self, elapsed: float) -> str:
        """Of what happened since the last line."""
        parts = []
        for name, beat in zip(self._policies, self._since_line, strict=True):
            p50, p99 = (milliseconds(beat.latency.quantile(q)) for q in (0.5, 0.99))
            errors = f", {beat.errors:,} errors" if beat.errors else ""
            parts.append(f"{name} {beat.done:,} answered{errors}, p50 {p50}, p99 {p99}")
        return f"{elapsed:.0f} of {self._duration:g} s: " + "; ".join(parts)
