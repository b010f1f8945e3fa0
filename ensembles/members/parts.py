"""Scores of a run that was made some rows at a time."""

from collections.abc import Sequence

import numpy as np

from ensembles.members import MemberError, Scores


def joined(parts: Sequence[Scores], rows: int, size: int) -> Scores:
    """Those of all `rows`, which were run `size` at a time. Raises MemberError unless each part has scores of its own rows."""
    for start, part in zip(range(0, rows, size), parts, strict=True):
        expected = (min(size, rows - start), *parts[0].shape[1:])
        if part.shape != expected:
            raise MemberError(f"found scores of shape {list(part.shape)} for {expected[0]} rows")
    return np.concatenate(parts)
