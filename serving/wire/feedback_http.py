"""`POST /v1/models/{m}:feedback`: a receipt and the true labels, as JSON."""

from typing import Any

from serving.errors import InvalidRequest
from serving.wire.exchange import Serving
from serving.wire.oip_http import json_object

KEYS = {"receipt", "labels"}


def feedback(serving: Serving, name: str, body: bytes) -> dict[str, Any]:
    """The JSON of the score. Raises a Fault."""
    model = serving.catalog.find(name)
    content = json_object(body)
    unknown = content.keys() - KEYS
    if unknown:
        raise InvalidRequest(f"unknown key {min(unknown)[:64]!r}, expected receipt and labels")
    receipt, labels = content.get("receipt"), content.get("labels")
    if not isinstance(receipt, str):
        raise InvalidRequest(f"receipt: found {type(receipt).__name__}, expected a string")
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        found = "other values than strings" if isinstance(labels, list) else type(labels).__name__
        raise InvalidRequest(f"labels: found {found}, expected a list of strings, one for each row")
    score = serving.feedback.take(model, receipt, labels)
    return {"rows": score.rows, "right": score.right, "members": score.members}
