"""What `ensemble.yaml` says of one member, as frozen values."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from ensembles.frozen import Frozen, Positive

NAME = r"^[a-z0-9][a-z0-9._-]{0,62}$"
Name = Annotated[str, StringConstraints(pattern=NAME)]


class Calibration(Frozen):
    """What the member did on rows that took no part in its training; written by the tools, never by hand."""

    accuracy: Annotated[float, Field(ge=0, le=1)]
    n: Positive


class RunOn(Frozen):
    """Where a member runs."""

    backend: Literal["onnxruntime"] = "onnxruntime"
    device: Annotated[str, StringConstraints(pattern=r"^(auto|cpu|cuda:\d{1,3})$")] = "auto"
    threads: Annotated[int, Field(ge=1, le=256)] = 1


class MemberSpec(Frozen):
    """One trained classifier."""

    name: Name
    model: Annotated[str, StringConstraints(min_length=1, max_length=1024)]
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    emits: Literal["probabilities", "logits"]
    weight: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] = 1.0
    calibration: Calibration | None = None
    run_on: RunOn = RunOn()
