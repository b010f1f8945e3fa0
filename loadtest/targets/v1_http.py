"""`POST /v1/models/{m}:predict`: rows and answers as JSON that a person can read."""

import ssl
from typing import Any

import orjson
from numpy.typing import NDArray

from loadtest.targets.address import Address
from loadtest.targets.answers import Answer, Description, Raw, TargetError
from loadtest.targets.oip_http import json_of, post

ABSTENTION = ""


async def describe(address: Address, tls: ssl.SSLContext | None) -> Description:
    """The ensemble that the address names, or the only one there is. Raises TargetError."""
    content = await json_of(address, tls, "/v1/models")
    try:
        found = {str(each["name"]): each for each in content["models"]}
        name = address.name or (next(iter(found)) if len(found) == 1 else "")
        if name in found:
            return _description(found[name])
    except (KeyError, TypeError, ValueError):
        raise TargetError(
            f"{address.place}: found no list of models at /v1/models, expected a server of ensembles"
        ) from None
    raise TargetError(
        f"{address.place}: found the ensembles {', '.join(found) or 'none'}, expected {address.name or 'the URL to name one'}"
    )


def _description(model: dict[str, Any]) -> Description:
    return Description(
        name=model["name"],
        input_name="",
        datatype=model["datatype"],
        shape=tuple(model["shape"]),
        labels=tuple(model["labels"]),
        members=tuple(member["name"] for member in model["members"]),
        policies=tuple(model["policies"]),
        default_policy=model["default_policy"],
        max_batch_size=model["max_batch_size"],
        ready=model["ready"],
        version=str(model["version"]),
        digest=model["digest"],
    )


class V1HttpCodec:
    def __init__(self, address: Address, description: Description) -> None:
        self._address, self._name = address, description.name
        self._index = {label: index for index, label in enumerate(description.labels)} | {ABSTENTION: -1}

    def head(self, policy: str) -> bytes:
        front = b'{"policy":' + orjson.dumps(policy) + b',"instances":' if policy else b'{"instances":'
        return post(self._address, f"/v1/models/{self._name}:predict", {"Content-Type": "application/json"}, front)

    def tail(self, rows: NDArray[Any]) -> bytes:
        return orjson.dumps(rows.tolist()) + b"}"

    def decode(self, raw: Raw) -> Answer:
        answer = orjson.loads(raw.body)
        return Answer(
            [self._index[each["label"]] for each in answer["predictions"]],
            answer["partial"],
            answer.get("brownout_level", 0) > 0,
            answer["device_seconds"],
            answer["cost_usd"],
            answer["policy"],
        )
