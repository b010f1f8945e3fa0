"""What independent votes would give. Pure."""

from collections.abc import Sequence

import numpy as np


def independent_majority_error(errors: Sequence[float]) -> float:
    """The error of a majority vote of members that err independently, `errors[i]` of the time.

    The number of wrong votes is Poisson-binomial: the convolution of the members' two-point distributions. A tie of an even
    number counts half. Exact for two classes; with more, wrong votes can split, and this is an upper bound.
    Raises ValueError for an error outside 0 to 1, or for none.
    """
    if not errors or not all(0 <= error <= 1 for error in errors):
        raise ValueError(f"found errors {list(errors)}, expected at least one, each from 0 to 1")
    wrong = np.ones(1)
    for error in errors:
        wrong = np.convolve(wrong, [1 - error, error])
    members = len(errors)
    tie = wrong[members // 2] / 2 if members % 2 == 0 else 0.0
    return float(wrong[members // 2 + 1 :].sum() + tie)
