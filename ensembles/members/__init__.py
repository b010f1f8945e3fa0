"""A member turns rows into one column of the table of votes. This is the whole contract between the vote and what runs."""

from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[Any]
Scores = NDArray[np.float32]
Occupation = AbstractContextManager[object]

SHORT_SECONDS = 0.001
"""Runs predicted to be shorter than this are made on the event loop itself, where nobody allows longer ones.

Going to a thread and back costs about 0.1 ms, a quarter of a light request and more, and on a busy loop several; members that run at
once are worth that from about 1 ms.
"""


class MemberError(RuntimeError):
    """The member cannot be loaded or did not answer. One line."""


class Member(Protocol):
    """One trained classifier, loaded.

    `device`: what it occupies, such as `cpu` or `cuda:0`. `provider`: what executes it, in its backend's own words.
    """

    name: str
    device: str
    provider: str

    def brief(self, rows: int, at_most: float = SHORT_SECONDS) -> bool:
        """Whether a run of so many rows is made on the event loop itself, since it will take less than `at_most` seconds."""

    def predict(self, rows: int) -> float | None:
        """How many seconds a run of so many rows will take, from those before it; None before any."""

    async def run(self, rows: Rows, occupation: Occupation, at_most: float = SHORT_SECONDS) -> Scores:
        """Probabilities [n, K] for rows [n, *shape], n >= 1. `at_most`: see `brief`.

        `occupation` is entered exactly while the device works on these rows. Calls may overlap. A call that is cancelled stops
        its work as soon as it can, ends when the device is free of it, and leaves the member usable. Raises MemberError.
        """

    def close(self) -> None:
        """Free the device. No call may be under way, and none may follow."""
