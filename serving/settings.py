"""What the operator decides, parsed once into one frozen value. Nothing else in `serving` reads flags, files or the environment."""

import os
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator

from ensembles.price import PRICE_PER_HOUR
from ensembles.spec import first_fault
from serving.logs import LogFormat

ENVIRONMENT = "SCRUTIN_SETTINGS"

Port = Annotated[int, Field(ge=0, le=65535)]
UsdPerHour = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
DeviceName = Annotated[str, StringConstraints(pattern=r"^(cpu|cuda:\d{1,3})$")]


class SettingsError(ValueError):
    """The settings make no sense. One line: key, what was found, what was expected."""


class DevicePrice(BaseModel):
    """What an hour of one device costs in USD, and on which day it did: prices change, and old bills have to be understood."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    usd_per_hour: UsdPerHour
    as_of: date

    @field_validator("as_of", mode="before")
    @classmethod
    def _day(cls, value: object) -> object:
        if isinstance(value, str | date):
            return value
        raise ValueError(f"found {value!r}, expected a day such as 2026-11-24")


class Settings(BaseModel):
    """Every default with its reason.

    `host`: loopback, so that nothing is open to a network that nobody decided to open.
    `http_port`, `grpc_port`, `metrics_port`: Triton's, so that its users' scripts fit. 0 picks a free one.
    `price_per_hour`: USD for an hour of one device of this process. 0.10 is about what two cloud vCPUs cost on demand in 2026;
    put in your own.
    `prices`: the same by device (`cpu`, `cuda:0`), each with its day, for machines whose devices differ; none, since one price does
    for one machine without a GPU.
    `receipt_seconds`: how long an answer's receipt can be sent back with the true labels; 0 gives none. A day, since labels that
    come from people who use a product come within one; where they take longer, as long as they do.
    `receipt_key_file`: where the key is that receipts are signed with, the same for all replicas of a service; without one each
    process makes its own, so that nothing has to be prepared for a single one.
    `max_connection_age_seconds`: how long a connection lasts, with up to a tenth more by chance, before its caller is asked to open
    another one; what is under way on it is answered first. None, for as long as the caller likes, since a single server has no other
    one to send callers to; behind a list of servers that grows and shrinks, some minutes.
    `drain_delay_seconds`: how long requests are still taken after SIGTERM while readiness is already gone. 0, since without a
    load balancer nobody needs it; behind one, as long as it needs to notice.
    `management`: whether callers may load and unload ensembles. No, since whoever may ask for a vote may then take it from others.
    `drain_timeout_seconds`: how long those that were admitted may take to finish; under the 30 s that Kubernetes grants.
    `log_format`: text, since whoever starts a server by hand reads its log by eye; json where machines do.
    `access_log`: whether the log has a line for each request. No, since Python then takes 1.4 times as long for a light one; failures
    by our own doing are told in any case.
    `otlp_endpoint`: the URL of an OpenTelemetry collector that takes OTLP over HTTP; none, since spans need one to go to.
    `trace_ratio`: the share of requests that a trace is begun for, of those that come without one. A hundredth, since Python takes three
    times as long for a light request that is traced. Whether a caller's own trace is kept is for the caller to say, in its traceparent.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    repositories: tuple[Path, ...] = Field(min_length=1)
    host: str = "127.0.0.1"
    http_port: Port = 8000
    grpc_port: Port = 8001
    metrics_port: Port = 8002
    price_per_hour: UsdPerHour = PRICE_PER_HOUR
    prices: Mapping[DeviceName, DevicePrice] = {}
    receipt_seconds: Annotated[float, Field(ge=0, le=366 * 86400, allow_inf_nan=False)] = 86400.0
    receipt_key_file: Path | None = None
    management: bool = False
    max_connection_age_seconds: Annotated[float, Field(ge=1, le=366 * 86400)] | None = None
    drain_delay_seconds: Annotated[float, Field(ge=0, le=3600)] = 0.0
    drain_timeout_seconds: Annotated[float, Field(ge=0, le=3600)] = 20.0
    log_format: LogFormat = "text"
    access_log: bool = False
    otlp_endpoint: str | None = None
    trace_ratio: Annotated[float, Field(ge=0, le=1)] = 0.01

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
        raise SettingsError(f"{ENVIRONMENT}: {first_fault(error)}") from None


def read(file: Path | None, flags: dict[str, object]) -> Settings:
    """Settings from a YAML file, if there is one, and flags, which win. Raises SettingsError."""
    content = _content(file) if file else {}
    given = {key: value for key, value in flags.items() if value is not None}
    try:
        return Settings.model_validate({**content, **given})
    except ValidationError as error:
        keys = error.errors()[0]["loc"]
        where = f"{file}: " if file and keys and keys[0] not in given else ""
        raise SettingsError(f"{where}{first_fault(error)}") from None


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
