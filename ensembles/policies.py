"""How much of an ensemble runs, and when a row leaves: what stands under `policies` in `ensemble.yaml`, as frozen values."""

from collections.abc import Collection, Mapping
from functools import cached_property
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StringConstraints, field_validator, model_validator

from ensembles.frozen import Frozen, Positive, Share, refuse_twice
from ensembles.votes import Rule
from ensembles.wording import shown

DECIDED: Literal["decided"] = "decided"
SCORES = ("margin", "agreement")


class Exit(Frozen):
    """A row leaves where its `margin` or its `agreement` (see `votes.Result`) reaches the threshold; one of them is given."""

    margin: Share | None = None
    agreement: Share | None = None

    @property
    def score(self) -> str:
        return "margin" if self.margin is not None else "agreement"

    @property
    def threshold(self) -> float:
        value = self.margin if self.margin is not None else self.agreement
        assert value is not None  # noqa: S101  one of them is given
        return value


class Certificate(Frozen):
    """At this confidence, at most `disagreement` of rows leave early with another label than all of the policy's members give.

    From `n` rows that chose nothing. `digest`: of what it depends on (`EnsembleSpec.certified_digest`), for which alone it holds.
    """

    disagreement: Annotated[float, Field(gt=0, lt=1)]
    confidence: Annotated[float, Field(gt=0, lt=1)]
    n: Positive
    digest: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None


class PolicySpec(Frozen):
    """Members that run one stage after the other, and when a row leaves between them.

    A policy need not name every member; `rule` is its own voting rule where that is not the ensemble's.
    """

    stages: tuple[tuple[str, ...], ...]
    exit: Literal["decided"] | Exit = DECIDED
    rule: Annotated[Rule, Field(strict=False)] | None = None
    certificate: Certificate | None = None

    @field_validator("stages", mode="before")
    @classmethod
    def _lists(cls, value: object) -> object:
        if not isinstance(value, list):
            return value
        return tuple(tuple(stage) if isinstance(stage, list) else stage for stage in value)

    @field_validator("exit", mode="before")
    @classmethod
    def _one_exit(cls, value: object) -> object:
        if value == DECIDED or isinstance(value, Exit):
            return value
        if isinstance(value, dict) and len(value) == 1 and set(value) <= {*SCORES}:
            (threshold,) = value.values()
            if isinstance(threshold, int | float) and not isinstance(threshold, bool) and 0 <= threshold <= 1:
                return value
        raise ValueError(f"found {shown(value)}, expected decided, or margin or agreement with a threshold from 0 to 1")

    @model_validator(mode="after")
    def _some_members(self) -> "PolicySpec":
        if not self.stages or not all(self.stages):
            raise ValueError("stages: found none or an empty one, expected at least one member in each")
        refuse_twice("stages", self.members)
        return self

    @cached_property
    def members(self) -> tuple[str, ...]:
        """In the order in which they run."""
        return tuple(name for stage in self.stages for name in stage)

    def check_fits(self, key: str, known: Collection[str], rule: Rule) -> None:
        """Raises ValueError unless it can run in an ensemble with these members and this rule; `key` is where it stands."""
        for member in self.members:
            if member not in known:
                raise ValueError(f"{key}.stages: found {shown(member)}, expected members: {', '.join(known)}")
        rule = self.rule or rule
        if len(self.stages) > 1 and self.exit == DECIDED and rule in (Rule.LOG_AVERAGE, Rule.MEDIAN):
            raise ValueError(
                f"{key}.exit: found decided, expected a threshold: under {rule} nothing is decided before all have voted"
            )


class Policies(Frozen):
    """How much of the ensemble a request runs. Besides `default`, every key is a policy.

    `default`: when a request does not say: `full`, `member:NAME` or a policy's name. `ladder`: such names from the dearest to the
    cheapest, along which requests step down when the waiting gets long (`limits.brownout_ms`); none, if empty.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, PolicySpec] = Field(init=False)

    default: str = "full"
    ladder: tuple[str, ...] = ()

    @field_validator("ladder", mode="before")
    @classmethod
    def _steps(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value

    def check_names(self, known: Mapping[str, int]) -> None:
        """Raises ValueError unless `default` is one of the `known` policies, and the ladder goes down among them.

        `known`: by name, how many members a policy may ask.
        """
        if self.default not in known:
            raise ValueError(f"policies.default: found {shown(self.default)}, expected one of {', '.join(known)}")
        if len(self.ladder) == 1:
            raise ValueError("policies.ladder: found 1 step, expected at least 2, or none")
        refuse_twice("policies.ladder", self.ladder)
        for step in self.ladder:
            if step not in known:
                raise ValueError(f"policies.ladder: found {shown(step)}, expected steps among {', '.join(known)}")
        if "full" in self.ladder[1:]:
            raise ValueError("policies.ladder: found full below another step, expected nothing above it")
        for higher, lower in pairwise(self.ladder):
            if known[lower] > known[higher]:
                raise ValueError(
                    f"policies.ladder: found {lower} with {known[lower]} members below {higher} with {known[higher]}, "
                    "expected no more members from step to step"
                )

    @property
    def named(self) -> Mapping[str, PolicySpec]:
        return self.__pydantic_extra__
