"""A member that follows a script: answers, delays and faults from a list. For tests, and for trying a client against faults."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from ensembles.members import SHORT_SECONDS, MemberError, Occupation, Rows, Scores


@dataclass(frozen=True, slots=True)
class Step:
    """What one run does: wait `delay` seconds, then raise `fault`, or answer.

    `answer`: rows [n, *shape] to scores [n, K].
    """

    answer: Callable[[Rows], Scores]
    delay: float = 0.0
    fault: str | None = None


def always(index: int, classes: int, confidence: float = 0.9) -> Callable[[Rows], Scores]:
    """An answer that gives class `index` the probability `confidence` in every row."""
    scores = np.full(classes, (1 - confidence) / (classes - 1), np.float32)
    scores[index] = confidence
    return lambda rows: np.tile(scores, (len(rows), 1))


class ScriptedMember:
    """Follows its steps one run after the other, and the last one from then on. `ran` lists the rows of each run begun."""

    def __init__(self, name: str, steps: Iterable[Step], device: str = "cpu", predicted: float | None = None) -> None:
        """`predicted`: seconds that it says a run will take."""
        self.name = name
        self.device = device
        self.provider = "Scripted"
        self.ran: list[int] = []
        self._predicted = predicted
        self._steps: Iterator[Step] = iter(steps)
        self._step = next(self._steps)

    def brief(self, rows: int, at_most: float = SHORT_SECONDS) -> bool:
        return not self._step.delay

    def predict(self, rows: int) -> float | None:
        return self._predicted

    async def run(self, rows: Rows, occupation: Occupation, at_most: float = SHORT_SECONDS) -> Scores:
        step, self._step = self._step, next(self._steps, self._step)
        self.ran.append(len(rows))
        with occupation:
            if step.delay:
                await asyncio.sleep(step.delay)
            if step.fault is not None:
                raise MemberError(step.fault)
            return step.answer(rows)

    def close(self) -> None:
        """Nothing to free."""
