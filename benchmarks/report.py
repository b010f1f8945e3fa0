"""What was measured beside what was hoped for, as text."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Goal:
    bound: float
    at_least: bool = False

    def met_by(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.bound:g}"


@dataclass(frozen=True)
class Row:
    """One number with a value for each round; none where it could not be measured, and then the note says why."""

    what: str
    values: Sequence[float]
    goal: Goal | None = None
    note: str = ""

    @property
    def value(self) -> float | None:
        return median(self.values) if self.values else None

    @property
    def verdict(self) -> str:
        if self.value is None:
            return "not measured"
        if self.goal is None:
            return ""
        return "met" if self.goal.met_by(self.value) else "missed"

    def cells(self) -> list[str]:
        value = "-" if self.value is None else f"{self.value:.3f}"
        spread = f"{min(self.values):.3f} to {max(self.values):.3f}" if len(self.values) > 1 else ""
        return [self.what, value, spread, str(self.goal or ""), self.verdict, self.note]

    def as_json(self) -> dict[str, object]:
        goal = str(self.goal) if self.goal else None
        return {
            "what": self.what,
            "value": self.value,
            "values": list(self.values),
            "goal": goal,
            "verdict": self.verdict,
            "note": self.note,
        }


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """The first column to the left, numbers to the right, the last to the left again."""
    cells = [list(head), *map(list, lines)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    last = len(head) - 1
    return "\n".join(
        "  ".join(
            cell.ljust(width) if at in (0, last) else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    )


def goals_table(rows: Iterable[Row]) -> str:
    return table(["", "median", "lowest to highest", "goal", "", ""], [row.cells() for row in rows])
