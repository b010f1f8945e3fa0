"""Learning rates, as shares of the highest, by the share of the training that is done (0 to 1)."""

import math
from collections.abc import Callable

WARM_UP = 0.2


def one_cycle(progress: float) -> float:
    """Up in a line for a fifth of the training, then down in a line to nothing (Smith 2018)."""
    return max(0.05, progress / WARM_UP) if progress < WARM_UP else (1 - progress) / (1 - WARM_UP)


def cosine(progress: float) -> float:
    """Down along half a cosine (Loshchilov & Hutter 2017, without restarts)."""
    return (1 + math.cos(math.pi * progress)) / 2


def constant(progress: float) -> float:
    return 1.0


SCHEDULES: dict[str, Callable[[float], float]] = {rate.__name__: rate for rate in (one_cycle, cosine, constant)}
