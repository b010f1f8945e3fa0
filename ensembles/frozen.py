"""What every value that is read from YAML has in common: it never changes, takes no unknown key, and converts nothing."""

from collections.abc import Iterable
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from ensembles.wording import shown

Positive = Annotated[int, Field(gt=0, le=2**31)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Frozen(BaseModel):
    """The base of such values."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def refuse_twice(key: str, values: Iterable[str]) -> None:
    twice = first_twice(values)
    if twice is not None:
        raise ValueError(f"{key}: found {shown(twice)} twice, expected distinct names")


def first_twice(values: Iterable[str]) -> str | None:
    """The first value that comes a second time."""
    seen: set[str] = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None
