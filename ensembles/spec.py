"""What `ensemble.yaml` says, as frozen values. Reads no file but the text that it is given."""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator, model_validator

from ensembles.votes import Ballot, Rule, TieBreak
from ensembles.wording import one_line, shown

NAME = r"^[a-z0-9][a-z0-9._-]{0,62}$"

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

Name = Annotated[str, StringConstraints(pattern=NAME)]
Positive = Annotated[int, Field(gt=0, le=2**31)]


class SpecError(ValueError):
    """The manifest is not one. One line: key, what was found, what was expected."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ImageSpec(_Frozen):
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


class InputSpec(_Frozen):
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


class Calibration(_Frozen):
    """What the member did on rows that took no part in its training; written by the tools, never by hand."""

    accuracy: Annotated[float, Field(ge=0, le=1)]
    n: Positive


class RunOn(_Frozen):
    """Where a member runs."""

    backend: Literal["onnxruntime"] = "onnxruntime"
    device: Annotated[str, StringConstraints(pattern=r"^(auto|cpu|cuda:\d{1,3})$")] = "auto"
    threads: Annotated[int, Field(ge=1, le=256)] = 1


class MemberSpec(_Frozen):
    """One trained classifier."""

    name: Name
    model: Annotated[str, StringConstraints(min_length=1, max_length=1024)]
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    emits: Literal["probabilities", "logits"]
    weight: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] = 1.0
    calibration: Calibration | None = None
    run_on: RunOn = RunOn()


class VoteSpec(_Frozen):
    """How votes become an answer. `quorum` is the fewest votes with which one may be given."""

    rule: Annotated[Rule, Field(strict=False)] = Rule.PROBABILITY_AVERAGE
    tie_break: Annotated[TieBreak, Field(strict=False)] = TieBreak.PROBABILITY
    temperature: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] = 1.0
    quorum: Positive = 1


Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
DECIDED: Literal["decided"] = "decided"
SCORES = ("margin", "agreement")


class Exit(_Frozen):
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


class Certificate(_Frozen):
    """At this confidence, at most `disagreement` of rows leave early with another label than all of the policy's members give.

    From `n` rows that chose nothing. `digest`: of what it depends on (`EnsembleSpec.certified_digest`), for which alone it holds.
    """

    disagreement: Annotated[float, Field(gt=0, lt=1)]
    confidence: Annotated[float, Field(gt=0, lt=1)]
    n: Positive
    digest: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None


class PolicySpec(_Frozen):
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
        _distinct("stages", self.members)
        return self

    @cached_property
    def members(self) -> tuple[str, ...]:
        """In the order in which they run."""
        return tuple(name for stage in self.stages for name in stage)


class Policies(_Frozen):
    """How much of the ensemble a request runs. Besides `default`, every key is a policy.

    `default`: when a request does not say: `full`, `member:NAME` or a policy's name.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, PolicySpec] = Field(init=False)

    default: str = "full"

    @property
    def named(self) -> Mapping[str, PolicySpec]:
        return self.__pydantic_extra__


class Limits(_Frozen):
    """Sizes and times beyond which the ensemble refuses."""

    max_batch_size: Annotated[int, Field(ge=1, le=65536)] = 64
    max_queue_size: Annotated[int, Field(ge=1, le=10**7)] = 1024
    timeout_ms: Annotated[int, Field(ge=1, le=3_600_000)] = 1000

    @model_validator(mode="after")
    def _one_batch_fits(self) -> "Limits":
        if self.max_queue_size < self.max_batch_size:
            raise ValueError(
                f"max_queue_size: found {self.max_queue_size}, expected at least max_batch_size, {self.max_batch_size}"
            )
        return self


class EnsembleSpec(_Frozen):
    """One `ensemble.yaml`: members, labels, input, voting rule and policies under one name and version."""

    name: Name
    version: Annotated[int, Field(ge=1, le=2**31)] = 1
    labels: tuple[Annotated[str, StringConstraints(min_length=1, max_length=1024)], ...]
    input: InputSpec
    members: tuple[MemberSpec, ...]
    vote: VoteSpec = VoteSpec()
    policies: Policies = Policies()
    limits: Limits = Limits()

    MEMBER_PREFIX: ClassVar[str] = "member:"

    @field_validator("labels", "members", mode="before")
    @classmethod
    def _sequence(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _consistent(self) -> "EnsembleSpec":
        names = [member.name for member in self.members]
        _distinct("labels", self.labels)
        _distinct("members", names)
        if len(self.labels) < 2:
            raise ValueError(f"labels: found {len(self.labels)}, expected at least 2")
        if not names:
            raise ValueError("members: found none, expected at least 1")
        if self.vote.quorum > len(names):
            raise ValueError(
                f"vote.quorum: found {self.vote.quorum}, expected at most {len(names)}, the number of members"
            )
        for name, policy in self.policies.named.items():
            self._check_policy(name, policy)
        if self.policies.default not in self.policy_names:
            raise ValueError(
                f"policies.default: found {self.policies.default!r}, expected one of {', '.join(self.policy_names)}"
            )
        return self

    def _check_policy(self, name: str, policy: PolicySpec) -> None:
        known = [member.name for member in self.members]
        if not re.fullmatch(NAME, name) or name == "full":
            raise ValueError(f"policies: found the name {shown(name)}, expected another than full that matches {NAME}")
        for member in policy.members:
            if member not in known:
                raise ValueError(f"policies.{name}.stages: found {shown(member)}, expected members: {', '.join(known)}")
        rule = policy.rule or self.vote.rule
        if len(policy.stages) > 1 and policy.exit == DECIDED and rule in (Rule.LOG_AVERAGE, Rule.MEDIAN):
            raise ValueError(
                f"policies.{name}.exit: found decided, expected a threshold: under {rule} nothing is decided before all have voted"
            )

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
            "priority": self._priority.tolist() if self.vote.tie_break is TieBreak.PRIORITY else None,
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
        weights = np.array([member.weight for member in self.members], dtype=np.float64)
        return Ballot(self.vote.rule, weights, self._priority, self.vote.tie_break, self.vote.temperature)

    @property
    def _priority(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """The best validated member first; members without calibration last; equals in the order of the manifest."""
        accuracy = [member.calibration.accuracy if member.calibration else -1.0 for member in self.members]
        return np.argsort(-np.array(accuracy), kind="stable").astype(np.int64)


def _distinct(key: str, values: Iterable[str]) -> None:
    twice = _twice(values)
    if twice is not None:
        raise ValueError(f"{key}: found {shown(twice)} twice, expected distinct names")


def _twice(values: Iterable[str]) -> str | None:
    """The first value that comes a second time."""
    seen: set[str] = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None


class PlainLoader(yaml.SafeLoader):
    """Safe YAML without aliases (a few lines of them can grow into gigabytes) and without keys given twice."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            line = self.peek_event().start_mark.line + 1  # type: ignore[no-untyped-call]
            raise SpecError(f"line {line}: found an alias, expected plain YAML")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        twice = _twice(str(key.value) for key, _ in node.value)
        if twice is not None:
            raise SpecError(f"line {node.start_mark.line + 1}: found key {shown(twice)} twice, expected it once")
        return super().construct_mapping(node, deep)


def parse(text: str) -> EnsembleSpec:
    """Read the text of an `ensemble.yaml`. Raises SpecError, one line that names the key, what was found and expected."""
    try:
        content = yaml.load(text, Loader=PlainLoader)  # noqa: S506  a SafeLoader, stricter
    except yaml.YAMLError as error:
        raise SpecError(f"expected YAML, found {one_line(error)}") from None
    except RecursionError:
        raise SpecError("expected a manifest, found YAML that nests too deep") from None
    except SpecError:
        raise
    except (ValueError, KeyError, AttributeError, TypeError) as error:  # a date that is none, a number of 5,000 digits
        raise SpecError(f"expected YAML, found {one_line(error)}") from None
    if not isinstance(content, dict):
        raise SpecError(f"expected a mapping, found {type(content).__name__}")
    return from_mapping(content)


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
    kind = fault["type"]
    if kind == "extra_forbidden":
        return f"{key}: unknown key"
    if kind == "missing":
        return f"{key}: missing"
    if kind == "model_type":
        return f"{key}: found {shown(fault['input'])}, expected a mapping"
    if kind == "value_error":
        text = str(fault["ctx"]["error"])
        return f"{key}: {text}" if key else text
    expected = fault["msg"].removeprefix("Input should be ").removeprefix("String should ").replace("String should", "")
    return f"{key}: found {shown(fault['input'])}, expected {expected}"
