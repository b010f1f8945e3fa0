"""Names beside points, so that they cover each other as little as may be. Pure; all lengths in points of a 9 point font."""

from collections.abc import Sequence
from typing import NamedTuple

POINT = 5.0
GAP = 9.0
LETTER = 5.2
HEIGHT = 9.0


class Corner(NamedTuple):
    """On which side of its point a name stands."""

    right: bool
    above: bool

    @property
    def offset(self) -> tuple[float, float]:
        """From the point to the near lower end of the name."""
        return (GAP if self.right else -GAP), (3.0 if self.above else -10.0)


class _Box(NamedTuple):
    left: float
    bottom: float
    right: float
    top: float

    def covered(self, other: "_Box") -> float:
        across = min(self.right, other.right) - max(self.left, other.left)
        along = min(self.top, other.top) - max(self.bottom, other.bottom)
        return across * along if across > 0 and along > 0 else 0.0

    def outside(self, width: float) -> float:
        return (max(0.0, -self.left) + max(0.0, self.right - width)) * HEIGHT


CORNERS = tuple(Corner(right, above) for right in (True, False) for above in (True, False))


def placed(x: Sequence[float], y: Sequence[float], names: Sequence[str], width: float) -> list[Corner]:
    """For each point in turn the corner where its name covers the least of points and earlier names, and is least cut off.

    `width`: of the plane, whose left end is 0.
    """
    taken = [_Box(a - POINT, b - POINT, a + POINT, b + POINT) for a, b in zip(x, y, strict=True)]
    corners = []
    for a, b, name in zip(x, y, names, strict=True):
        _, best = min((_cost(_box(a, b, corner, name), taken, width), number) for number, corner in enumerate(CORNERS))
        corners.append(CORNERS[best])
        taken.append(_box(a, b, corners[-1], name))
    return corners


def _cost(box: _Box, taken: Sequence[_Box], width: float) -> float:
    return sum(box.covered(other) for other in taken) + 10 * box.outside(width)


def _box(x: float, y: float, corner: Corner, name: str) -> _Box:
    across, along = corner.offset
    near, far = x + across, x + across + LETTER * len(name) * (1 if corner.right else -1)
    return _Box(min(near, far), y + along, max(near, far), y + along + HEIGHT)
