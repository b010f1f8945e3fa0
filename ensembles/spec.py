"""What `ensemble.yaml` says, as frozen values. Reads no file but the text that it is given."""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, StringConstraints, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from ensembles import plain_yaml
from ensembles.frozen import Frozen, Positive, refuse_twice
from ensembles.member_spec import NAME, MemberSpec, Name
from ensembles.policies import Policies, PolicySpec
from ensembles.trials import AuditSpec, ShadowSpec
from ensembles.votes import Ballot, Ints, Rule, TieBreak
from ensembles.wording import one_line, shown

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
}
"""Open Inference Protocol datatypes that a classifier's input can have."""

RESERVED = ("full", "audit", "shadow", "probe")
"""Names that no policy may take: every ensemble has `full`, and under the others the books show what ran outside of any request."""


class SpecError(ValueError):
    """The manifest is not one. One line: key, what was found, what was expected."""


class ImageSpec(Frozen):
    """How a PNG or JPEG becomes the input tensor."""

    mode: Literal["L", "RGB"]
    width: Positive
    height: Positive
    range: tuple[float, float] = (0.0, 255.0)

    @field_validator("range", mode="before")
    @classmethod
    def _pair(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value

    @field_validator("range")
    @classmethod
    def _spans(cls, value: tuple[float, float]) -> tuple[float, float]:
        low, high = value
        if not (math.isfinite(low) and math.isfinite(high) and low != high):
            raise ValueError(f"found {list(value)}, expected two different finite numbers")
        return value


def _check_fills(image: ImageSpec, shape: tuple[int, ...]) -> None:
    """Raises ValueError unless the picture's numbers, channels first or last, are those of one sample."""
    pixels = (image.height, image.width)
    fitting: dict[str, list[tuple[int, ...]]] = {
        "L": [pixels, (1, *pixels), (*pixels, 1)],
        "RGB": [(3, *pixels), (*pixels, 3)],
    }
    if shape not in fitting[image.mode]:
        raise ValueError(
            f"image: found {image.mode} {image.width}x{image.height}, expected one that fills {list(shape)}"
        )


class InputSpec(Frozen):
    """The one input of every member. `shape` is one sample's, without the batch dimension."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    datatype: Literal[tuple(DTYPES)]  # type: ignore[valid-type]  # one table of names serves checks and conversion
    shape: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=8)]
    image: ImageSpec | None = None

    @field_validator("shape", mode="before")
    @classmethod
    def _dimensions(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        return DTYPES[self.datatype]

    @cached_property
    def shape_text(self) -> str:
        """For messages."""
        return "nested lists of shape [" + ", ".join(map(str, self.shape)) + "]"

    @cached_property
    def row_bytes(self) -> int:
        """Bytes of one sample."""
        return int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize

    @model_validator(mode="after")
    def _consistent(self) -> "InputSpec":
        if self.row_bytes > 2**30:
            raise ValueError(f"one sample of {self.row_bytes} bytes, expected at most {2**30}")
        if self.image is not None:
            _check_fills(self.image, self.shape)
        return self


class VoteSpec(Frozen):
    """How votes become an answer. `quorum` is the fewest votes with which one may be given."""

    rule: Annotated[Rule, Field(strict=False)] = Rule.PROBABILITY_AVERAGE
    tie_break: Annotated[TieBreak, Field(strict=False)] = TieBreak.PROBABILITY
    temperature: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] = 1.0
    quorum: Positive = 1


class Limits(Frozen):
    """Sizes and times beyond which the ensemble refuses.

    `brownout_ms`: the waiting beyond which requests step down `policies.ladder`; a quarter of `timeout_ms`, if not given.
    """

    max_batch_size: Annotated[int, Field(ge=1, le=65536)] = 64
    max_queue_size: Annotated[int, Field(ge=1, le=10**7)] = 1024
    timeout_ms: Annotated[int, Field(ge=1, le=3_600_000)] = 1000
    brownout_ms: Annotated[int, Field(ge=1, le=3_600_000)] | None = None

    @property
    def brownout_seconds(self) -> float:
        return (self.timeout_ms / 4 if self.brownout_ms is None else self.brownout_ms) / 1000

    @model_validator(mode="after")
    def _one_batch_fits(self) -> "Limits":
        if self.max_queue_size < self.max_batch_size:
            raise ValueError(
                f"max_queue_size: found {self.max_queue_size}, expected at least max_batch_size, {self.max_batch_size}"
            )
        return self


class EnsembleSpec(Frozen):
    """One `ensemble.yaml`: members, labels, input, voting rule and policies under one name and version."""

    name: Name
    version: Annotated[int, Field(ge=1, le=2**31)] = 1
    labels: tuple[Annotated[str, StringConstraints(min_length=1, max_length=1024)], ...]
    input: InputSpec
    members: tuple[MemberSpec, ...]
    vote: VoteSpec = VoteSpec()
    policies: Policies = Policies()
    limits: Limits = Limits()
    audit: AuditSpec = AuditSpec()
    shadows: tuple[ShadowSpec, ...] = ()

    MEMBER_PREFIX: ClassVar[str] = "member:"

    @field_validator("labels", "members", "shadows", mode="before")
    @classmethod
    def _sequence(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _consistent(self) -> "EnsembleSpec":
        names = [member.name for member in self.members]
        refuse_twice("labels", self.labels)
        refuse_twice("members", names)
        refuse_twice("shadows", [*names, *(shadow.name for shadow in self.shadows)])
        if len(self.labels) < 2:
            raise ValueError(f"labels: found {len(self.labels)}, expected at least 2")
        if not names:
            raise ValueError("members: found none, expected at least 1")
        if self.vote.quorum > len(names):
            raise ValueError(
                f"vote.quorum: found {self.vote.quorum}, expected at most {len(names)}, the number of members"
            )
        for name, policy in self.policies.named.items():
            if not re.fullmatch(NAME, name) or name in RESERVED:
                raise ValueError(
                    f"policies: found the name {shown(name)}, expected another than {', '.join(RESERVED)} that matches {NAME}"
                )
            policy.check_fits(f"policies.{name}", names, self.vote.rule)
        self.policies.check_names({name: self._members_run(name) for name in self.policy_names})
        return self

    def _members_run(self, policy: str) -> int:
        """How many members a policy may ask."""
        if policy == "full":
            return len(self.members)
        return len(self.policies.named[policy].members) if policy in self.policies.named else 1

    @property
    def classifiers(self) -> tuple[MemberSpec, ...]:
        """All that have a graph in the repository: members and shadows."""
        return (*self.members, *self.shadows)

    @cached_property
    def policy_names(self) -> tuple[str, ...]:
        members = (self.MEMBER_PREFIX + member.name for member in self.members)
        return ("full", *self.policies.named, *members)

    def certified_digest(self, policy: PolicySpec) -> str:
        """The sha256 of all that a policy's answers depend on: input, the members' graphs and weights, labels, vote and exits."""
        rule = policy.rule or self.vote.rule
        described = {
            "labels": self.labels,
            "input": self.input.model_dump(mode="json"),
            "members": [
                [member.name, member.sha256, member.emits, member.weight]
                for member in self.members
                if member.name in policy.members
            ],
            "vote": [rule, self.vote.tie_break, self.vote.temperature],
            "priority": _priority(self.members).tolist() if self.vote.tie_break is TieBreak.PRIORITY else None,
            "stages": policy.stages,
            "exit": policy.exit if isinstance(policy.exit, str) else [policy.exit.score, policy.exit.threshold],
        }
        return hashlib.sha256(json.dumps(described, separators=(",", ":")).encode()).hexdigest()

    @property
    def warnings(self) -> list[str]:
        """What does not keep the ensemble from being served, and its operator should know; a line each."""
        return [
            f"policies.{name}: its certificate was made for another manifest; run `ensembles plan`"
            for name, policy in self.policies.named.items()
            if self.stale(policy)
        ]

    def stale(self, policy: PolicySpec) -> bool:
        """Whether the policy has a certificate that was made for something else than what the manifest says now."""
        certificate = policy.certificate
        return certificate is not None and certificate.digest != self.certified_digest(policy)

    @property
    def ballot(self) -> Ballot:
        """How a table of all members' votes is counted."""
        return self._ballot_of(self.members)

    def ballot_with(self, shadow: ShadowSpec) -> Ballot:
        """How a table of all members' votes is counted whose last column is the vote of `shadow`."""
        return self._ballot_of((*self.members, shadow))

    def _ballot_of(self, members: Sequence[MemberSpec]) -> Ballot:
        weights = np.array([member.weight for member in members], dtype=np.float64)
        return Ballot(self.vote.rule, weights, _priority(members), self.vote.tie_break, self.vote.temperature)


def _priority(members: Sequence[MemberSpec]) -> Ints:
    """The best validated member first; members without calibration last; equals in the order of the manifest."""
    accuracy = [member.calibration.accuracy if member.calibration else -1.0 for member in members]
    return np.argsort(-np.array(accuracy), kind="stable").astype(np.int64)


def parse(text: str) -> EnsembleSpec:
    """Read the text of an `ensemble.yaml`. Raises SpecError, one line that names the key, what was found and expected."""
    try:
        return from_mapping(plain_yaml.mapping(text, "a manifest"))
    except plain_yaml.NotPlainError as error:
        raise SpecError(str(error)) from None


def from_mapping(content: Mapping[str, Any]) -> EnsembleSpec:
    """The same from a mapping. Raises SpecError."""
    try:
        return EnsembleSpec.model_validate(dict(content))
    except ValidationError as error:
        raise SpecError(first_fault(error)) from None


def first_fault(error: ValidationError) -> str:
    """The first fault that pydantic found, in one line: the key, what was found and what was expected."""
    fault = error.errors()[0]
    key = one_line(re.sub(r"\.(\d+)", r"[\1]", ".".join(map(str, fault["loc"]))))
    return f"{key}: {_told(fault)}" if key else _told(fault)


def _told(fault: ErrorDetails) -> str:
    kind = fault["type"]
    if kind == "extra_forbidden":
        return "unknown key"
    if kind == "missing":
        return "missing"
    if kind == "model_type":
        return f"found {shown(fault['input'])}, expected a mapping"
    if kind == "value_error":
        return str(fault["ctx"]["error"])
    expected = fault["msg"].removeprefix("Input should be ").removeprefix("String should ").replace("String should", "")
    return f"found {shown(fault['input'])}, expected {expected}"
