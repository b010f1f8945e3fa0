"""The model repository extension of the Open Inference Protocol: which models there are, and ensembles that come and go.

What both wires do with it stands here. It is off unless the operator turns it on, since it is for whoever deploys, not for
whoever asks.
"""

from collections.abc import Collection

from serving.catalog import Live
from serving.errors import InvalidRequest, Unsupported
from serving.versions import Versions
from serving.wire.exchange import Serving
from serving.wire.oip_http import json_object, mapping

MOST_BYTES = 1 << 16
"""Of a request; none needs more than a few."""

UNLOAD_DEPENDENTS = "unload_dependents"
"""Triton's clients send it always. Members go with their ensemble in any case."""


def index(serving: Serving, ready: bool) -> list[dict[str, str]]:
    """All models, or those alone that take requests. Raises Unsupported where this is off."""
    _versions(serving)
    models = serving.catalog.models.values()
    return [
        {"name": model.name, "version": model.live.version, **_state(model.live)}
        for model in models
        if model.live.ready or not ready
    ]


def _state(live: Live) -> dict[str, str]:
    if live.ready:
        return {"state": "READY", "reason": ""}
    return {"state": "LOADING" if live.reason == "loading" else "UNAVAILABLE", "reason": live.reason}


async def load(serving: Serving, name: str, parameters: Collection[str]) -> dict[str, str]:
    """Load what stands at the ensemble's path by now: what is served then. Raises a Fault."""
    versions = _versions(serving)
    _refuse(parameters, ())
    change = await versions.load(name)
    live = serving.catalog.ensembles[name]
    return {"name": name, "outcome": change.value, "version": live.version, "digest": live.digest}


async def unload(serving: Serving, name: str, parameters: Collection[str]) -> dict[str, str]:
    """Raises a Fault."""
    versions = _versions(serving)
    _refuse(parameters, (UNLOAD_DEPENDENTS,))
    return {"name": name, "outcome": (await versions.unload(name)).value}


def _versions(serving: Serving) -> Versions:
    if serving.versions is None:
        raise Unsupported("repository management is off")
    return serving.versions


def _refuse(parameters: Collection[str], known: Collection[str]) -> None:
    """An ensemble is loaded from its path and as it stands there; no request brings another configuration or file."""
    unknown = sorted(set(parameters) - set(known))
    if unknown:
        raise InvalidRequest(f"found the parameter {unknown[0][:64]!r}, expected {' or '.join(known) or 'none'}")


def ready_only(body: bytes) -> bool:
    """What the JSON of a request for the index says. Raises InvalidRequest."""
    ready = json_object(body or b"{}").get("ready", False)
    if not isinstance(ready, bool):
        raise InvalidRequest(f"ready: found {type(ready).__name__}, expected true or false")
    return ready


def parameters(body: bytes) -> Collection[str]:
    """The names in the JSON of a request to load or unload. Raises InvalidRequest."""
    return mapping(json_object(body or b"{}").get("parameters", {}), "parameters").keys()
