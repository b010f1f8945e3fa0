"""The Open Inference Protocol over HTTP, of our servers and others: tensors as binary behind the JSON, or in it."""

import ssl
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from loadtest.targets.address import Address
from loadtest.targets.answers import OK, Answer, Description, Raw, TargetError
from loadtest.targets.datatypes import DTYPES
from loadtest.targets.http1 import HEAD_END, get, header
from loadtest.targets.oip import Tensor, classes, described
from loadtest.targets.predict import little_endian

JSON_BYTES = b"inference-header-content-length"


async def describe(address: Address, tls: ssl.SSLContext | None, output: str = "") -> Description:
    """Raises TargetError."""
    if not address.name:
        raise TargetError(f"{address.place}: found no model in the URL, expected {address.place}/MODEL")
    path = f"/v2/models/{address.name}"
    metadata = await json_of(address, tls, path)
    await json_of(address, tls, f"{path}/ready", empty=True)
    try:
        inputs, outputs = (
            [Tensor(each["name"], each["datatype"], tuple(map(int, each["shape"]))) for each in metadata[key]]
            for key in ("inputs", "outputs")
        )
    except (KeyError, TypeError, ValueError):
        raise TargetError(
            f"{address.place}: found no metadata of a model at {path}, expected inputs and outputs"
        ) from None
    return described(
        address.place, address.name, inputs, outputs, output, ",".join(map(str, metadata.get("versions", [])))
    )


async def json_of(address: Address, tls: ssl.SSLContext | None, path: str, *, empty: bool = False) -> dict[str, Any]:
    """What GET answers. Raises TargetError."""
    raw = await get(address, tls, path)
    if raw.code != OK:
        raise TargetError(f"{address.place}: found {raw.code} ({raw.message}) at {path}, expected 200")
    if empty:
        return {}
    try:
        found = orjson.loads(raw.body)
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        raise TargetError(f"{address.place}: found no JSON object at {path}, expected one")
    return found


def post(address: Address, path: str, headers: dict[str, str], front: bytes) -> bytes:
    """The head of an `HttpCaller`'s requests: all but the length of the content, and the front of the body."""
    lines = [f"POST {path} HTTP/1.1", f"Host: {address.authority}", "User-Agent: scrutin-loadtest"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + HEAD_END + front


class OipHttpCodec:
    """`binary`: the rows as bytes behind the JSON, and the outputs likewise. `deadline`: seconds, 0 for none."""

    def __init__(
        self, address: Address, description: Description, *, binary: bool, rows: int, deadline: float = 0.0
    ) -> None:
        self._address, self._description, self._binary = address, description, binary
        batch = [rows] if description.batched else []
        self._shape = [*batch, *description.shape]
        self._deadline = deadline

    def head(self, policy: str) -> bytes:
        parameters: dict[str, Any] = {"binary_data_output": True} if self._binary else {}
        parameters |= {"policy": policy} if policy else {}
        parameters |= {"timeout": round(self._deadline * 1e6)} if self._deadline else {}
        described = self._description
        tensor: dict[str, Any] = {"name": described.input_name, "datatype": described.datatype}
        path = f"/v2/models/{described.name}/infer"
        if not self._binary:
            text = orjson.dumps({"parameters": parameters, "inputs": [{**tensor, "shape": self._shape, "data": []}]})
            return post(self._address, path, {"Content-Type": "application/json"}, text.removesuffix(b"[]}]}"))
        tensor["shape"] = self._shape
        size = int(np.prod(self._shape)) * DTYPES[described.datatype].itemsize
        tensor["parameters"] = {"binary_data_size": size}
        text = orjson.dumps({"parameters": parameters, "inputs": [tensor]})
        headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(text))}
        return post(self._address, path, headers, text)

    @property
    def _tail_shape(self) -> list[int]:
        return self._shape

    def tail(self, rows: NDArray[Any]) -> bytes:
        if self._binary:
            return little_endian(rows)
        return orjson.dumps(rows.ravel().tolist()) + b"}]}"

    def decode(self, raw: Raw) -> Answer:
        size = header(raw.head, JSON_BYTES)
        text = raw.body[: int(size)] if size else raw.body
        answer = orjson.loads(text)
        values = answer.get("parameters", {})
        return Answer(
            self._labels(answer["outputs"], raw.body[len(text) :]),
            values.get("ensemble_partial", False),
            values.get("ensemble_brownout_level", 0) > 0,
            values.get("ensemble_device_seconds", 0.0),
            values.get("ensemble_cost_usd", 0.0),
            values.get("ensemble_policy", ""),
        )

    def _labels(self, outputs: list[dict[str, Any]], binary: bytes) -> list[int]:
        at = 0
        for output in outputs:
            size = output.get("parameters", {}).get("binary_data_size", 0)
            if output["name"] == self._description.output:
                data = (
                    np.frombuffer(binary[at : at + size], DTYPES[output["datatype"]])
                    if size
                    else np.array(output["data"])
                )
                return classes(data, output["shape"][0] if self._description.batched else 1)
            at += size
        raise ValueError(f"found no output {self._description.output}")
