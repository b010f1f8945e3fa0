"""What the operator decides, parsed once into one frozen value. Nothing else in `serving` reads flags, files or the environment."""

import os
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

ENVIRONMENT = "SCRUTIN_SETTINGS"

Port = Annotated[int, Field(ge=0, le=65535)]


class SettingsError(ValueError):
    """The settings make no sense. One line: key, what was found, what was expected."""


class Settings(BaseModel):
    """Every default with its reason.

    `host`: loopback, so that nothing is open to a network that nobody decided to open.
    `http_port`, `grpc_port`, `metrics_port`: Triton's, so that its users' scripts fit. 0 picks a free one.
    `price_per_hour`: USD for an hour of one device of this process. 0.10 is about what two cloud vCPUs cost on demand in 2026;
    put in your own.
    `drain_delay_seconds`: how long requests are still taken after SIGTERM while readiness is already gone. 0, since without a
    load balancer nobody needs it; behind one, as long as it needs to notice.
    `drain_timeout_seconds`: how long those that were admitted may take to finish; under the 30 s that Kubernetes grants.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    repositories: tuple[Path, ...] = Field(min_length=1)
    host: str = "127.0.0.1"
    http_port: Port = 8000
    grpc_port: Port = 8001
    metrics_port: Port = 8002
    price_per_hour: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] = 0.10
    drain_delay_seconds: Annotated[float, Field(ge=0, le=3600)] = 0.0
    drain_timeout_seconds: Annotated[float, Field(ge=0, le=3600)] = 20.0

    def to_environment(self) -> dict[str, str]:
        """For a process that this one becomes."""
        return {ENVIRONMENT: self.model_dump_json()}


def from_environment() -> Settings:
    """The settings that `to_environment` handed over. Raises SettingsError."""
    if ENVIRONMENT not in os.environ:
        raise SettingsError(f"{ENVIRONMENT}: missing, expected to be started by `serving run`")
    try:
        return Settings.model_validate_json(os.environ[ENVIRONMENT])
    except ValidationError as error:
        raise SettingsError(f"{ENVIRONMENT}: {_first_fault(error)}") from None


def read(file: Path | None, flags: dict[str, object]) -> Settings:
    """Settings from a YAML file, if there is one, and flags, which win. Raises SettingsError."""
    content = _content(file) if file else {}
    given = {key: value for key, value in flags.items() if value is not None}
    try:
        return Settings.model_validate({**content, **given})
    except ValidationError as error:
        keys = error.errors()[0]["loc"]
        where = f"{file}: " if file and keys and keys[0] not in given else ""
        raise SettingsError(f"{where}{_first_fault(error)}") from None


def _first_fault(error: ValidationError) -> str:
    fault = error.errors()[0]
    key = ".".join(map(str, fault["loc"]))
    found = "" if fault["type"] == "missing" else f"found {fault['input']!r}, "
    return _one_line(f"{key}: {found}{fault['msg'].replace('Input should be', 'expected')}")


def _one_line(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 300 else text[:297] + "..."


def _content(file: Path) -> dict[str, object]:
    try:
        content = yaml.safe_load(file.read_text())
    except OSError as error:
        raise SettingsError(f"{file}: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise SettingsError(_one_line(f"{file}: expected YAML, found {error}")) from None
    if not isinstance(content, dict):
        raise SettingsError(f"{file}: found {type(content).__name__}, expected a mapping")
    return content
