"""`POST /v1/models/{m}:predict`: rows as JSON, or a picture, to an answer that a person can read."""

from collections.abc import Awaitable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from ensembles.spec import EnsembleSpec
from serving.aggregator import Answer, Request
from serving.errors import InvalidRequest
from serving.journey import Caller, Operation
from serving.wire.codec import rows_from_nested
from serving.wire.exchange import HTTP, Serving
from serving.wire.oip_http import json_object
from serving.wire.predict import describe, from_images
from serving.wire.stamp import Stamp

__all__ = ["describe", "predict", "takes_images"]

OPERATION = Operation(HTTP, "POST /v1/models/{model}:predict")

IMAGES, FORM = (b"image/png", b"image/jpeg"), b"multipart/form-data"

MOST_FIELDS = 1024
"""Of a form, far more than images fit into a batch in practice."""

DECIMALS = 6
"""Of a share, which is more than any ensemble's accuracy means."""


def takes_images(content_type: str) -> bool:
    """Whether a body of this type may be as large as pictures are."""
    kind, _ = parse_options_header(content_type)
    return kind == FORM or kind in IMAGES


async def predict(serving: Serving, name: str, body: bytes, content_type: str, caller: Caller | None) -> dict[str, Any]:
    """The JSON of an answer. Raises a Fault."""

    def decode(arrived: float) -> Request | Awaitable[Request]:
        model = serving.catalog.find(name)
        spec = model.live.spec
        made = partial(Request, model, arrived=arrived)
        kind, options = parse_options_header(content_type)
        if kind in IMAGES:
            return from_images(made, model, [body])
        if kind == FORM:
            fields = form(body, options.get(b"boundary", b""))
            unknown = fields.keys() - {"image", "policy"}
            if unknown:
                raise InvalidRequest(f"unknown field {min(unknown)[:64]!r}, expected image and policy")
            policy = fields.get("policy", [b""])[0].decode("utf-8", "replace")
            return from_images(partial(made, policy=policy), model, fields.get("image", []))
        content = json_object(body)
        return made(rows=_rows(spec, content), policy=_policy(content))

    answer = await serving.answer(OPERATION, name, decode, caller)
    receipt = Stamp(serving.receipts).receipt(answer).decode()
    return {**_encode(answer), **({"receipt": receipt} if receipt else {})}


def _rows(spec: EnsembleSpec, content: dict[str, Any]) -> NDArray[Any]:
    unknown = content.keys() - {"instances", "policy"}
    if unknown:
        raise InvalidRequest(f"unknown key {min(unknown)[:64]!r}, expected instances and policy")
    instances = content.get("instances")
    if not isinstance(instances, list) or not 1 <= len(instances) <= spec.limits.max_batch_size:
        found = f"{len(instances)} of them" if isinstance(instances, list) else type(instances).__name__
        raise InvalidRequest(f"instances: found {found}, expected a list of 1 to {spec.limits.max_batch_size} samples")
    return rows_from_nested(spec.input, instances)


def _policy(content: dict[str, Any]) -> str:
    policy = content.get("policy", "")
    if not isinstance(policy, str):
        raise InvalidRequest(f"policy: found {type(policy).__name__}, expected a string")
    return policy


def form(body: bytes, boundary: bytes) -> dict[str, list[bytes]]:
    """The fields of a multipart form by name. Raises InvalidRequest."""
    if not boundary:
        raise InvalidRequest("found multipart/form-data without a boundary")
    reader = _FormReader()
    try:
        parser = MultipartParser(boundary, reader.callbacks)
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise InvalidRequest(f"found a broken form: {str(error)[:100]}") from None
    if not reader.ended:
        raise InvalidRequest("found a form that is cut off")
    return reader.fields


class _FormReader:
    """Collects what the multipart parser calls out."""

    def __init__(self) -> None:
        self.fields: dict[str, list[bytes]] = {}
        self.ended = False
        self._parts = 0
        self._header, self._value, self._name, self._content = b"", b"", "", bytearray()
        self.callbacks = {
            "on_part_begin": self._begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_end": self._finish,
        }

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > MOST_FIELDS:
            raise InvalidRequest(f"found a form of more than {MOST_FIELDS} fields")
        self._name, self._content = "", bytearray()

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            _, options = parse_options_header(self._value)
            self._name = options.get(b"name", b"").decode("utf-8", "replace")
        self._header = self._value = b""

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._content += data[start:end]

    def _end(self) -> None:
        self.fields.setdefault(self._name, []).append(bytes(self._content))

    def _finish(self) -> None:
        self.ended = True


def _encode(answer: Answer) -> dict[str, Any]:
    counted = answer.counted
    return {
        "predictions": _predictions(answer),
        "policy": counted.policy,
        "requested_policy": answer.asked,
        "brownout_level": answer.brownout_level,
        "certificate": answer.certificate,
        "partial": answer.partial,
        "members": {
            run.member: {
                "outcome": run.outcome.value,
                "seconds": _short(run.seconds),
                "cost_usd": _short(run.cost_usd),
            }
            for run in answer.members
        },
        "latency_seconds": {
            "queue": _short(answer.queue_seconds),
            "compute": _short(counted.compute_seconds),
            "vote": _short(counted.vote_seconds),
            "total": _short(answer.total_seconds),
        },
        "device_seconds": _short(answer.device_seconds),
        "cost_usd": _short(answer.cost_usd),
        "digest": answer.live.digest,
    }


def _predictions(answer: Answer) -> list[dict[str, Any]]:
    labels = answer.live.spec.labels
    members = [member.name for member in answer.live.spec.members]
    probabilities, agreement, margin = map(_rounded, (answer.probabilities, answer.agreement, answer.margin))
    return [
        {
            "label": label,
            "probability": row[index] if index >= 0 else None,
            "probabilities": row,
            "agreement": agree,
            "margin": lead,
            "exact": exact,
            "votes": {member: labels[vote] for member, vote in zip(members, votes, strict=True) if vote >= 0},
        }
        for label, index, row, agree, lead, exact, votes in zip(
            answer.labels,
            answer.label_index.tolist(),
            probabilities,
            agreement,
            margin,
            answer.exact.tolist(),
            answer.votes.tolist(),
            strict=True,
        )
    ]


def _short(value: float) -> float:
    """Six digits, which a clock is good for."""
    return float(f"{value:.6g}")


def _rounded(values: NDArray[np.float32]) -> Any:
    return np.round(values.astype(np.float64), DECIMALS).tolist()
