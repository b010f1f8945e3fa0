"""A member turns rows into one column of the table of votes. This is the whole contract between the vote and what runs."""

from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[Any]
Scores = NDArray[np.float32]
Occupation = AbstractContextManager[object]


class MemberError(RuntimeError):
    """The member cannot be loaded or did not answer. One line."""


class Member(Protocol):
    """One trained classifier, loaded.

    `device`: what it occupies, such as `cpu` or `cuda:0`. `provider`: what executes it, in its backend's own words.
    """

    name: str
    device: str
    provider: str

    def brief(self, rows: int, alone: bool = False) -> bool:
        """Whether a run of so many rows is so short that it is made on the event loop itself.

        `alone`: no other member would run meanwhile, so that a thread could save no time.
        """

    def predict(self, rows: int) -> float | None:
        """How many seconds a run of so many rows will take, from those before it; None before any."""

    async def run(self, rows: Rows, occupation: Occupation, alone: bool = False) -> Scores:
        """Probabilities [n, K] for rows [n, *shape], n >= 1.

        `occupation` is entered exactly while the device works on these rows. Calls may overlap. A call that is cancelled stops
        its work as soon as it can, ends when the device is free of it, and leaves the member usable. Raises MemberError.
        """

    def close(self) -> None:
        """Free the device. No call may be under way, and none may follow."""
