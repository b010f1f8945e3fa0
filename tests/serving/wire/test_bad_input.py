"""What no server likes to get, over every wire: each is refused with one clear line and the right status, and the next request is served."""

import contextlib
import gzip
import io
import json
import queue
import re
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from urllib.parse import quote, unquote

import grpc
import h2.config
import h2.connection
import h2.events
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image
from tritonclient.grpc import service_pb2 as oip
from tritonclient.grpc import service_pb2_grpc as oip_grpc

from scrutin.v1 import ensemble_pb2 as pb

OK = ("OK", 200)
INVALID = ("INVALID_ARGUMENT", 400)
UNKNOWN = ("NOT_FOUND", 404)
TOO_LARGE = ("RESOURCE_EXHAUSTED", 413)
QUEUE_FULL = ("RESOURCE_EXHAUSTED", 429)
LATE = ("DEADLINE_EXCEEDED", 504)
UNAVAILABLE = ("UNAVAILABLE", 503)

PREDICT = "/v1/models/digits:predict"
INFER = "/v2/models/digits/infer"

DTYPES = {"UINT8": np.uint8, "FP32": np.float32, "INT64": np.int64}
CONTENTS = {"UINT8": "uint_contents", "FP32": "fp32_contents", "INT64": "int64_contents"}


@pytest.fixture(scope="module")
def served(launch, digits, write_tiny):
    """The digits, and an ensemble `floats` that takes FP32 [4]."""
    with launch(digits.path, write_tiny("floats", ["a", "b"])) as server:
        yield server


@dataclass(frozen=True)
class Ask:
    """One request, before a wire gives it its form. As it stands it is a good one."""

    model: str = "digits"
    version: str = ""
    policy: str = ""
    name: str = "image"
    output: str = "label_index"
    datatype: str = "UINT8"
    shape: tuple[int, ...] = (1, 8, 8)
    data: bytes = bytes(64)
    timeout: int = 0

    @property
    def values(self):
        return np.frombuffer(self.data, DTYPES[self.datatype])


GOOD = Ask()
FLOATS = Ask(model="floats", name="x", datatype="FP32", shape=(1, 4), data=np.float32([1, 0, 0, 0]).tobytes())


def rpc(call: Callable[[], object]) -> tuple[str, str]:
    """The status and the message of a call over gRPC."""
    try:
        call()
    except grpc.RpcError as error:
        return error.code().name, error.details()
    return "OK", ""


def oip_over_grpc(served, ask: Ask, typed: bool = False) -> tuple[str, str]:
    request = oip.ModelInferRequest(model_name=ask.model, model_version=ask.version)
    if ask.policy:
        request.parameters["policy"].string_param = ask.policy
    if ask.timeout:
        request.parameters["timeout"].int64_param = ask.timeout
    tensor = request.inputs.add(name=ask.name, datatype=ask.datatype, shape=ask.shape)
    if typed:
        getattr(tensor.contents, CONTENTS[ask.datatype]).extend(ask.values.tolist())
    else:
        request.raw_input_contents.append(ask.data)
    request.outputs.add(name=ask.output)
    with grpc.insecure_channel(served.grpc) as channel:
        return rpc(lambda: oip_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request))


def oip_over_grpc_typed(served, ask: Ask) -> tuple[str, str]:
    return oip_over_grpc(served, ask, typed=True)


def predict_over_grpc(served, ask: Ask) -> tuple[str, str]:
    request = pb.PredictRequest(
        ensemble=ask.model,
        version=ask.version,
        policy=ask.policy,
        timeout_microseconds=ask.timeout,
        tensor=pb.Tensor(datatype=ask.datatype, shape=ask.shape, data=ask.data),
    )
    with served.stub() as stub:
        return rpc(lambda: stub.Predict(request))


def oip_over_http(served, ask: Ask, binary: bool = True) -> tuple[int, str]:
    tensor = {"name": ask.name, "datatype": ask.datatype, "shape": ask.shape}
    if binary:
        tensor["parameters"] = {"binary_data_size": len(ask.data)}
    else:
        tensor["data"] = ask.values.tolist()
    parameters = {"policy": ask.policy, "timeout": ask.timeout}
    head = json.dumps({"inputs": [tensor], "outputs": [{"name": ask.output}], "parameters": parameters}).encode()
    version = f"/versions/{quote(ask.version, safe='')}" if ask.version else ""
    path = f"/v2/models/{quote(ask.model, safe='')}{version}/infer"
    headers = {"Inference-Header-Content-Length": str(len(head))} if binary else {}
    return heard(served.post(path, head + (ask.data if binary else b""), headers))


def oip_over_http_json(served, ask: Ask) -> tuple[int, str]:
    return oip_over_http(served, ask, binary=False)


def v1(served, ask: Ask) -> tuple[int, str]:
    instances = ask.values.reshape(ask.shape).tolist()
    body = {"instances": instances, **({"policy": ask.policy} if ask.policy else {})}
    return heard(served.post(f"/v1/models/{quote(ask.model, safe='')}:predict", body))


def heard(reply) -> tuple[int, str]:
    """The status and the error of an answer over HTTP, whose body has nothing but it."""
    if reply.status == 200:
        return 200, ""
    assert reply.headers["content-type"] == "application/json"
    assert reply.json.keys() == {"error"}
    return reply.status, reply.json["error"]


RAW = (oip_over_grpc, predict_over_grpc, oip_over_http)
TYPED = (oip_over_grpc_typed, oip_over_http_json)
OIP = (oip_over_grpc, oip_over_http, *TYPED)
ALL = (*RAW, *TYPED, v1)


def check_clear(text: str) -> None:
    """One line that a stranger may read and understand."""
    assert text, "no message"
    assert text.isprintable(), text
    assert len(text) < 600, text
    for inside in ("Traceback", "/work", "site-packages", "/tmp", ".py", "serving.", "this is a bug", "Error("):
        assert inside not in text, text


def check_refused(served, heard: tuple[str | int, str], expected: tuple[str, int], good=oip_over_http) -> None:
    """Refused with this status and one clear line; and the next good request is served."""
    status, text = heard
    assert status in expected, (status, text)
    check_clear(text)
    assert good(served, GOOD)[0] in OK


def test_the_examples_are_good_as_they_stand(served):
    for wire in ALL:
        assert wire(served, GOOD)[0] in OK, wire
        assert wire(served, FLOATS)[0] in OK, wire


# One matrix of what is wrong, by how it is sent.

CASES = {
    "an unknown ensemble": (Ask(model="nobody"), UNKNOWN, ALL),
    "an unknown member": (Ask(model="digits.nobody"), UNKNOWN, ALL),
    "no name": (Ask(model=""), UNKNOWN, (oip_over_grpc, predict_over_grpc)),
    "a name with a new line": (Ask(model="digits\nsecond line"), UNKNOWN, (oip_over_grpc, oip_over_http, v1)),
    "a name of 10,000 letters": (Ask(model="a" * 10_000), UNKNOWN, ALL),
    "a name that is a path": (Ask(model="../../etc/passwd"), UNKNOWN, ALL),
    "an unknown version": (Ask(version="2"), UNKNOWN, (*RAW, *TYPED)),
    "a version that is no number": (Ask(version="latest"), UNKNOWN, (*RAW, *TYPED)),
    "an unknown policy": (Ask(policy="nobody"), INVALID, ALL),
    "a policy of an unknown member": (Ask(policy="member:nobody"), INVALID, ALL),
    "a policy with a new line": (Ask(policy="full\n"), INVALID, ALL),
    "a policy of 100,000 letters": (Ask(policy="a" * 100_000), INVALID, ALL),
    "a member asked for a policy": (Ask(model="digits.mlp", policy="full"), INVALID, ALL),
    "an unknown input": (Ask(name="picture"), INVALID, OIP),
    "an input without a name": (Ask(name=""), INVALID, OIP),
    "an unknown output": (Ask(output="certainty"), INVALID, OIP),
    "an output with a new line": (Ask(output="label\n"), INVALID, OIP),
    "a wrong shape": (Ask(shape=(1, 4, 4), data=bytes(16)), INVALID, ALL),
    "a shape turned over": (Ask(shape=(8, 8, 1)), INVALID, ALL),
    "a dimension too many": (Ask(shape=(1, 8, 8, 1)), INVALID, ALL),
    "a dimension too few": (Ask(shape=(1, 64)), INVALID, ALL),
    "no batch dimension": (Ask(shape=(8, 8)), INVALID, ALL),
    "no dimensions": (Ask(shape=()), INVALID, (*RAW, *TYPED)),
    "a thousand dimensions": (Ask(shape=(1,) * 1000), INVALID, (*RAW, *TYPED)),
    "a wrong type": (Ask(datatype="FP32", data=bytes(256)), INVALID, (*RAW, *TYPED)),
    "a type of the same size": (Ask(datatype="INT8"), INVALID, RAW),
    "an unknown type": (Ask(datatype="COMPLEX64"), INVALID, RAW),
    "a type of text": (Ask(datatype="BYTES"), INVALID, RAW),
    "a byte too few": (Ask(data=bytes(63)), INVALID, (*RAW, *TYPED)),
    "a byte too many": (Ask(data=bytes(65)), INVALID, (*RAW, *TYPED)),
    "no bytes": (Ask(data=b""), INVALID, (*RAW, *TYPED)),
    "more rows than bytes": (Ask(shape=(2, 8, 8)), INVALID, (*RAW, *TYPED)),
    "no rows": (Ask(shape=(0, 8, 8), data=b""), INVALID, ALL),
    "too many rows": (Ask(shape=(65, 8, 8), data=bytes(65 * 64)), INVALID, ALL),
    "negative rows": (Ask(shape=(-1, 8, 8)), INVALID, (*RAW, *TYPED)),
    "a negative dimension": (Ask(shape=(1, -8, -8)), INVALID, (*RAW, *TYPED)),
    "2**62 rows": (Ask(shape=(2**62, 8, 8)), INVALID, (*RAW, *TYPED)),
    "2**62 in every dimension": (Ask(shape=(2**62, 2**62, 2**62)), INVALID, (*RAW, *TYPED)),
    "a negative timeout": (Ask(timeout=-1), INVALID, (*RAW, *TYPED)),
    "a timeout that has passed": (Ask(timeout=1), LATE, (*RAW, *TYPED)),
    "not a number": (replace(FLOATS, data=np.float32([np.nan, 0, 0, 0]).tobytes()), INVALID, (*RAW, oip_over_grpc_typed)),
    "infinity": (replace(FLOATS, data=np.float32([0, 0, 0, -np.inf]).tobytes()), INVALID, (*RAW, oip_over_grpc_typed)),
}  # fmt: skip


@pytest.mark.parametrize(
    ("case", "wire"), [(case, wire) for case, (_, _, wires) in CASES.items() for wire in wires], ids=lambda v: getattr(v, "__name__", v)
)  # fmt: skip
def test_what_is_wrong_is_said(served, case, wire):
    ask, expected, _ = CASES[case]

    check_refused(served, wire(served, ask), expected, good=wire)


@pytest.mark.parametrize("wire", [predict_over_grpc, oip_over_grpc, v1, oip_over_http], ids=lambda wire: wire.__name__)
def test_an_unknown_policy_is_told_those_there_are(served, wire):
    _, text = wire(served, Ask(policy="nobody"))

    assert "full, early_exit, cascade, planned, member:mlp, member:cnn" in text


@pytest.mark.parametrize("wire", [predict_over_grpc, oip_over_grpc, v1, oip_over_http], ids=lambda wire: wire.__name__)
def test_a_wrong_shape_is_told_what_came_and_what_was_expected(served, wire):
    _, text = wire(served, Ask(shape=(1, 4, 4), data=bytes(16)))

    assert "'image'" in text
    assert "4" in text and "8, 8" in text


# The Open Inference Protocol over gRPC.


@pytest.fixture
def infer(served):
    """Send a message as it is; its status and its message."""
    with grpc.insecure_channel(served.grpc) as channel:
        stub = oip_grpc.GRPCInferenceServiceStub(channel)
        yield lambda request: rpc(lambda: stub.ModelInfer(request))


def message(**more: object) -> oip.ModelInferRequest:
    tensor = oip.ModelInferRequest.InferInputTensor(name="image", datatype="UINT8", shape=[1, 8, 8])
    return oip.ModelInferRequest(**{"model_name": "digits", "inputs": [tensor], **more})


def test_typed_and_raw_contents_mixed(served, infer):
    mixed = message(raw_input_contents=[bytes(64)])
    mixed.inputs[0].contents.uint_contents.extend(range(64))
    heard = infer(mixed)

    check_refused(served, heard, INVALID)
    assert "contents field must not be specified when using raw_input_contents for 'image'" in heard[1]


BAD_MESSAGES = {
    "no input": message(inputs=[]),
    "two inputs": message(inputs=[*message().inputs, *message().inputs], raw_input_contents=[bytes(64)] * 2),
    "raw contents twice": message(raw_input_contents=[bytes(64), bytes(64)]),
    "no contents": message(),
    "contents of another type": message(
        inputs=[
            oip.ModelInferRequest.InferInputTensor(
                name="image", datatype="UINT8", shape=[1, 8, 8], contents=oip.InferTensorContents(fp32_contents=[0] * 64)
            )
        ]
    ),
    "a value beyond the type": message(
        inputs=[
            oip.ModelInferRequest.InferInputTensor(
                name="image", datatype="UINT8", shape=[1, 8, 8], contents=oip.InferTensorContents(uint_contents=[256] * 64)
            )
        ]
    ),
    "a hundred outputs": message(
        raw_input_contents=[bytes(64)],
        outputs=[oip.ModelInferRequest.InferRequestedOutputTensor(name="label")] * 100,
    ),
    "a policy that is a number": message(
        raw_input_contents=[bytes(64)], parameters={"policy": oip.InferParameter(int64_param=1)}
    ),
    "a policy that is nothing": message(raw_input_contents=[bytes(64)], parameters={"policy": oip.InferParameter()}),
    "a timeout that is a text": message(
        raw_input_contents=[bytes(64)], parameters={"timeout": oip.InferParameter(string_param="1")}
    ),
    "a timeout that is a truth": message(
        raw_input_contents=[bytes(64)], parameters={"timeout": oip.InferParameter(bool_param=True)}
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_MESSAGES)
def test_messages_of_the_protocol_that_make_no_sense(served, infer, case):
    check_refused(served, infer(BAD_MESSAGES[case]), INVALID, good=oip_over_grpc)


def test_shared_memory_which_is_not_there(served, infer):
    region = message()
    region.inputs[0].parameters["shared_memory_region"].string_param = "somewhere"

    check_refused(served, infer(region), INVALID)


def test_predict_without_an_input(served):
    with served.stub() as stub:
        check_refused(served, rpc(lambda: stub.Predict(pb.PredictRequest(ensemble="digits"))), INVALID)


# gRPC below its messages.


def raw_grpc(served, body: bytes, headers=(), path: str = "/scrutin.v1.EnsembleService/Predict") -> tuple[str, str]:
    """Send bytes as the body of a call; its status and its message."""
    fields: dict[str, str] = {}
    with h2_stream(served, path, headers) as (connection, link, stream):
        for start in range(0, len(body), 16_000):
            while connection.local_flow_control_window(stream) < 16_000 and "grpc-status" not in fields:
                fields |= received(connection, link)
            if "grpc-status" in fields:
                break
            connection.send_data(stream, body[start : start + 16_000])
            link.sendall(connection.data_to_send())
        else:
            connection.end_stream(stream)
            link.sendall(connection.data_to_send())
        while "grpc-status" not in fields:
            fields |= received(connection, link)
    code = next(code for code in grpc.StatusCode if code.value[0] == int(fields["grpc-status"]))
    return code.name, unquote(fields.get("grpc-message", ""))


@contextlib.contextmanager
def h2_stream(served, path: str, headers=()):
    host, port = served.grpc.rsplit(":", 1)
    with contextlib.ExitStack() as stack:
        link = stack.enter_context(socket.create_connection((host, int(port)), timeout=20))
        connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        connection.initiate_connection()
        stream = connection.get_next_available_stream_id()
        must = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "test")]
        connection.send_headers(stream, [*must, ("content-type", "application/grpc"), ("te", "trailers"), *headers])
        link.sendall(connection.data_to_send())
        yield connection, link, stream


def received(connection, link) -> dict[str, str]:
    """The headers and trailers in what comes next."""
    data = link.recv(65536)
    assert data, "the connection was closed without an answer"
    fields: dict[str, str] = {}
    for event in connection.receive_data(data):
        if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
            fields |= dict(event.headers)
        if isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated):
            assert "grpc-status" in fields, f"found {event}, expected a status"
    link.sendall(connection.data_to_send())
    return fields


def framed(content: bytes, flag: int = 0, length: int | None = None) -> bytes:
    return struct.pack(">BI", flag, len(content) if length is None else length) + content


PREDICTION = pb.PredictRequest(
    ensemble="digits", tensor=pb.Tensor(datatype="UINT8", shape=[1, 8, 8], data=bytes(64))
).SerializeToString()

BAD_FRAMES = {
    "garbage": (framed(b"\xff" * 100), (), INVALID),
    "text that is not UTF-8": (framed(b"\x0a\x02\xff\xff"), (), INVALID),
    "a field that is cut off": (framed(PREDICTION[:-10]), (), INVALID),
    "a group that never ends": (framed(b"\x0b" * 10_000), (), INVALID),
    "nothing at all": (b"", (), INVALID),
    "half a frame header": (b"\0\0", (), INVALID),
    "a message cut off": (framed(PREDICTION)[:-10], (), INVALID),
    "a message that declares more": (framed(PREDICTION, length=1000), (), INVALID),
    "a message that declares less": (framed(PREDICTION, length=10), (), INVALID),
    "a message that declares 4 GiB": (framed(PREDICTION, length=2**32 - 1), (), TOO_LARGE),
    "two messages": (framed(PREDICTION) * 2, (), INVALID),
    "compressed by nobody": (framed(gzip.compress(PREDICTION), flag=1), (), INVALID),
    "compressed by something unknown": (framed(PREDICTION, flag=1), [("grpc-encoding", "snappy")], INVALID),
    "not compressed though it says so": (framed(PREDICTION, flag=1), [("grpc-encoding", "gzip")], INVALID),
    "half of a compressed message": (
        framed(gzip.compress(PREDICTION)[:-10], flag=1),
        [("grpc-encoding", "gzip")],
        INVALID,
    ),
    "compressed, with more behind it": (
        framed(gzip.compress(PREDICTION) + b"more", flag=1),
        [("grpc-encoding", "gzip")],
        INVALID,
    ),
    "a bomb": (framed(gzip.compress(bytes(1 << 28)), flag=1), [("grpc-encoding", "gzip")], TOO_LARGE),
    "a deadline that is a word": (framed(PREDICTION), [("grpc-timeout", "soon")], INVALID),
    "a deadline below zero": (framed(PREDICTION), [("grpc-timeout", "-1S")], INVALID),
    "a deadline of a hundred digits": (framed(PREDICTION), [("grpc-timeout", "9" * 100 + "S")], INVALID),
    "a deadline of nothing": (framed(PREDICTION), [("grpc-timeout", "0m")], LATE),
    "a deadline of a nanosecond": (framed(PREDICTION), [("grpc-timeout", "1n")], LATE),
}


@pytest.mark.parametrize("case", BAD_FRAMES)
def test_frames_that_are_no_request(served, case):
    body, headers, expected = BAD_FRAMES[case]

    check_refused(served, raw_grpc(served, body, headers), expected, good=predict_over_grpc)


def test_the_frames_are_good_as_they_stand(served):
    assert raw_grpc(served, framed(PREDICTION)) == ("OK", "")
    assert raw_grpc(served, framed(gzip.compress(PREDICTION), flag=1), [("grpc-encoding", "gzip")]) == ("OK", "")


@pytest.mark.parametrize("case", ["garbage", "a message cut off", "a message that declares 4 GiB", "a bomb"])
def test_a_stream_that_is_broken_ends_with_its_status(served, case):
    body, headers, expected = BAD_FRAMES[case]
    path = "/scrutin.v1.EnsembleService/PredictStream"

    check_refused(served, raw_grpc(served, body, headers, path), expected, good=predict_over_grpc)


def test_a_message_larger_than_any_request_needs(served):
    with grpc.insecure_channel(served.grpc) as channel:
        send = channel.unary_unary("/scrutin.v1.EnsembleService/Predict")
        check_refused(served, rpc(lambda: send(bytes(20 << 20))), TOO_LARGE)


@pytest.mark.parametrize("path", ["/scrutin.v1.EnsembleService/Predict", "/scrutin.v1.EnsembleService/PredictStream"])
def test_a_call_that_is_cut_off_in_the_middle_of_its_message(served, path):
    with h2_stream(served, path) as (connection, link, stream):
        connection.send_data(stream, framed(PREDICTION)[:20])
        link.sendall(connection.data_to_send())
        time.sleep(0.05)
    with h2_stream(served, path) as (connection, link, stream):
        connection.send_data(stream, framed(PREDICTION)[:20])
        connection.reset_stream(stream)
        link.sendall(connection.data_to_send())
        time.sleep(0.05)

    assert predict_over_grpc(served, GOOD)[0] == "OK"


# JSON.

DEEP = b"[" * 10_000 + b"]" * 10_000
BAD_JSON = {
    "nothing": b"",
    "a word": b"hello",
    "half of it": b'{"instances": [[',
    "a list": b"[]",
    "null": b"null",
    "more behind it": b"{} {}",
    "not a number": b'{"instances": [NaN], "inputs": [NaN]}',
    "infinity": b'{"instances": [Infinity], "inputs": [-Infinity]}',
    "a number too large": b'{"instances": [1e999], "inputs": [1e999]}',
    "a zero byte": b"\0",
    "not UTF-8": b'{"instances": "\xff"}',
    "UTF-16": '{"instances": []}'.encode("utf-16"),
    "half a surrogate": b'{"instances": "\\ud800", "inputs": "\\ud800"}',
    "10,000 deep": DEEP,
    "10,000 deep inside": b'{"instances": ' + DEEP + b', "inputs": ' + DEEP + b"}",
    "10,000 objects deep": b'{"instances":' * 10_000 + b"1" + b"}" * 10_000,
    "an endless name": b'{"' + b"a" * 100_000 + b'": 1}',
}


@pytest.mark.parametrize("path", [PREDICT, INFER])
@pytest.mark.parametrize("case", BAD_JSON)
def test_json_that_is_none(served, path, case):
    check_refused(served, heard(served.post(path, BAD_JSON[case])), INVALID)


IMAGE = np.zeros((8, 8), int).tolist()


def spoilt(value: object) -> list:
    """A sample with one value that is wrong."""
    return [[value, *[0] * 7], *IMAGE[1:]]


BAD_INSTANCES = {
    "none": None,
    "not a list": "image",
    "an empty list": [],
    "an object": [{"image": IMAGE}],
    "a row too few": [IMAGE[1:]],
    "a row too many": [[*IMAGE, IMAGE[0]]],
    "rows of unlike length": [[[0], *IMAGE[1:]]],
    "a number": [0],
    "samples of unlike shape": [IMAGE, IMAGE[1:]],
    "too many": [IMAGE] * 65,
    "too large for the type": [spoilt(256)],
    "below the type": [spoilt(-1)],
    "not whole": [spoilt(0.5)],
    "2**64": [spoilt(2**64)],
    "2**63": [spoilt(2**63)],
    "a text": [spoilt("0")],
    "a text of digits only": [[["0"] * 8] * 8],
    "null inside": [spoilt(None)],
    "a truth": [[[True] * 8] * 8],
    "an object inside": [spoilt({})],
    "a list inside": [spoilt([0])],
    "lists of one everywhere": [[[[0]] * 8] * 8],
    "lists of two everywhere": [[[[0, 0]] * 8] * 8],
    "lists of nothing everywhere": [[[[]] * 8] * 8],
}


@pytest.mark.parametrize("case", BAD_INSTANCES)
def test_instances_that_are_no_samples(served, case):
    check_refused(served, heard(served.post(PREDICT, {"instances": BAD_INSTANCES[case]})), INVALID, good=v1)


@pytest.mark.parametrize(
    "body",
    [
        {"instances": [IMAGE], "policy": 1},
        {"instances": [IMAGE], "policy": None},
        {"instances": [IMAGE], "policies": "full"},
        {"inputs": [IMAGE]},
        {},
    ],
    ids=str,
)
def test_keys_that_are_wrong(served, body):
    check_refused(served, heard(served.post(PREDICT, body)), INVALID, good=v1)


@pytest.mark.parametrize("value", [1e39, -1e39])
def test_a_number_that_is_finite_only_in_double_precision(served, value):
    check_refused(served, heard(served.post("/v1/models/floats:predict", {"instances": [[value, 0, 0, 0]]})), INVALID)


def tensor(**more: object) -> dict:
    return {"name": "image", "shape": [1, 8, 8], "datatype": "UINT8", "data": [0] * 64, **more}


BAD_TENSORS = {
    "inputs that are no list": {"inputs": {}},
    "no inputs": {"inputs": []},
    "two inputs": {"inputs": [tensor(), tensor()]},
    "an input that is no object": {"inputs": [1]},
    "no name": {"inputs": [{"shape": [1, 8, 8], "datatype": "UINT8", "data": [0] * 64}]},
    "a name that is a list": {"inputs": [tensor(name=["image"])]},
    "no shape": {"inputs": [{"name": "image", "datatype": "UINT8", "data": [0] * 64}]},
    "a shape of text": {"inputs": [tensor(shape=["1", "8", "8"])]},
    "a shape of fractions": {"inputs": [tensor(shape=[1.0, 8.0, 8.0])]},
    "a shape of truths": {"inputs": [tensor(shape=[True, 8, 8])]},
    "a shape beyond 64 bits": {"inputs": [tensor(shape=[2**64, 8, 8])]},
    "a datatype that is a number": {"inputs": [tensor(datatype=8)]},
    "no data": {"inputs": [{"name": "image", "shape": [1, 8, 8], "datatype": "UINT8"}]},
    "data that is a number": {"inputs": [tensor(data=0)]},
    "data that is a text": {"inputs": [tensor(data="0" * 64)]},
    "data with a text": {"inputs": [tensor(data=["0"] * 64)]},
    "data with a list": {"inputs": [tensor(data=[*[0] * 63, [0]])]},
    "data of unlike depth": {"inputs": [tensor(data=[[0] * 8, *[0] * 56])]},
    "data of lists of nothing": {"inputs": [tensor(data=[[]] * 64)]},
    "data 1,000 deep": {"inputs": [tensor(data=json.loads("[" * 900 + "0" + "]" * 900))]},
    "data beyond the type": {"inputs": [tensor(data=[256] * 64)]},
    "parameters that are no object": {"inputs": [tensor()], "parameters": []},
    "parameters of a tensor that are no object": {"inputs": [tensor(parameters=1)]},
    "data and a binary size": {"inputs": [tensor(parameters={"binary_data_size": 64})]},
    "a policy that is a number": {"inputs": [tensor()], "parameters": {"policy": 1}},
    "a timeout that is a text": {"inputs": [tensor()], "parameters": {"timeout": "1"}},
    "a timeout that is a fraction": {"inputs": [tensor()], "parameters": {"timeout": 0.5}},
    "a timeout below zero": {"inputs": [tensor()], "parameters": {"timeout": -1}},
    "outputs that are no list": {"inputs": [tensor()], "outputs": {"name": "label"}},
    "an output that is a text": {"inputs": [tensor()], "outputs": ["label"]},
    "an output that is unknown": {"inputs": [tensor()], "outputs": [{"name": "certainty"}]},
    "a hundred outputs": {"inputs": [tensor()], "outputs": [{"name": "label"}] * 100},
    "an id that is a number": {"id": 17, "inputs": [tensor()]},
}


@pytest.mark.parametrize("case", BAD_TENSORS)
def test_tensors_in_json_that_make_no_sense(served, case):
    check_refused(served, heard(served.post(INFER, BAD_TENSORS[case])), INVALID, good=oip_over_http_json)


# Binary tensors behind JSON.

BINARY = json.dumps(
    {"inputs": [{"name": "image", "shape": [1, 8, 8], "datatype": "UINT8", "parameters": {"binary_data_size": 64}}]}
).encode()


@pytest.mark.parametrize(
    "length",
    ["-1", "+1", "one", "1e2", "0x10", "1 1", "1.0", str(10**6), str(2**64), "9" * 5000, "\xb2", "1", str(len(BINARY) - 1),
     str(len(BINARY) + 1), str(len(BINARY) + 64), "0"],
    ids=lambda value: value[:10],
)  # fmt: skip
def test_an_inference_header_content_length_that_is_wrong(served, length):
    reply = served.post(INFER, BINARY + bytes(64), {"Inference-Header-Content-Length": length})

    check_refused(served, heard(reply), INVALID)


@pytest.mark.parametrize("size", [63, 65, 0, -1, 2**62, "64", 64.5, True, [64], {}], ids=str)
def test_a_binary_data_size_that_is_wrong(served, size):
    head = json.dumps({"inputs": [{**tensor(), "parameters": {"binary_data_size": size}}]}).encode()
    head = re.sub(rb', "data": \[[^]]*\]', b"", head)
    reply = served.post(INFER, head + bytes(64), {"Inference-Header-Content-Length": str(len(head))})

    check_refused(served, heard(reply), INVALID)


def test_bytes_behind_the_json_that_nobody_claims(served):
    head = json.dumps({"inputs": [tensor()]}).encode()
    reply = served.post(INFER, head + bytes(64), {"Inference-Header-Content-Length": str(len(head))})

    check_refused(served, heard(reply), INVALID)


# Bodies by their encoding.

INSTANCES = json.dumps({"instances": [IMAGE]}).encode()
BAD_BODIES = {
    "unknown": ("br", INSTANCES, INVALID),
    "two at once": ("gzip, gzip", gzip.compress(gzip.compress(INSTANCES)), INVALID),
    "not gzip": ("gzip", INSTANCES, INVALID),
    "half of it": ("gzip", gzip.compress(INSTANCES)[:-20], INVALID),
    "a wrong checksum": ("gzip", gzip.compress(INSTANCES)[:-8] + bytes(8), INVALID),
    "more behind it": ("gzip", gzip.compress(INSTANCES) + b"more", INVALID),
    "nothing": ("gzip", b"", INVALID),
    "not deflate": ("deflate", INSTANCES, INVALID),
    "a bomb": ("gzip", gzip.compress(bytes(1 << 28)), TOO_LARGE),
    "a bomb by deflate": ("deflate", zlib.compress(bytes(1 << 28)), TOO_LARGE),
}


@pytest.mark.parametrize("path", [PREDICT, INFER])
@pytest.mark.parametrize("case", BAD_BODIES)
def test_encodings_that_are_broken(served, path, case):
    encoding, body, expected = BAD_BODIES[case]

    check_refused(served, heard(served.post(path, body, {"Content-Encoding": encoding})), expected)


# Bodies by their size.


def http_answer(connection) -> tuple[int, bytes]:
    """The status and what follows, of an answer on a bare connection."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            data += part
    assert data.startswith(b"HTTP/1.1 "), data[:100]
    return int(data[9:12]), data


@pytest.mark.parametrize("path", [PREDICT, INFER])
def test_a_body_that_declares_too_much_is_refused_before_it_comes(served, path):
    with served.socket() as connection:
        head = f"POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {1 << 40}\r\nConnection: close\r\n\r\n"
        connection.sendall(head.encode() + b"{")
        status, data = http_answer(connection)

    check_refused(served, (status, json.loads(data.partition(b"\r\n\r\n")[2])["error"]), TOO_LARGE)


@pytest.mark.parametrize("path", [PREDICT, INFER])
def test_a_body_in_pieces_is_refused_once_it_is_too_much(served, path):
    piece = b"%x\r\n" % (1 << 20) + bytes(1 << 20) + b"\r\n"
    with served.socket() as connection:
        connection.sendall(f"POST {path} HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for _ in range(20):
                connection.sendall(piece)
            connection.sendall(b"0\r\n\r\n")
        connection.settimeout(10)
        status = int(connection.recv(65536)[9:12])

    assert status == 413
    assert v1(served, GOOD)[0] == 200


@pytest.mark.parametrize("path", [PREDICT, INFER])
@pytest.mark.parametrize(
    "headers", ["Content-Length: 1000", "Transfer-Encoding: chunked"], ids=["declared", "in pieces"]
)
def test_a_body_that_is_cut_off_disturbs_nobody(served, path, headers):
    for _ in range(5):
        with served.socket() as connection:
            connection.sendall(f"POST {path} HTTP/1.1\r\nHost: test\r\n{headers}\r\n\r\n5\r\nhello\r\n".encode())

    assert v1(served, GOOD)[0] == 200
    assert oip_over_http(served, GOOD)[0] == 200


@pytest.mark.parametrize(
    "request_",
    [
        b"hello\r\n\r\n",
        b"POST /v1/models/digits:predict HTTP/1.1\r\nHost: a\r\nContent-Length: ten\r\n\r\n",
        b"POST /v1/models/digits:predict HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /v1/models/digits:predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nhello",
        b"POST /v1/models/digits:predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\nhello",
        b"GET /v2 HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nHost: a\r\n" + b"X: a\r\n" * 1000 + b"\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    ],
    ids=lambda value: repr(value[:40]),
)
def test_what_is_hardly_http_is_refused_by_the_door(served, request_):
    with served.socket() as connection:
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            connection.sendall(request_)
        data = b""
        with contextlib.suppress(ConnectionResetError):
            data = connection.recv(65536)

    assert not data or re.match(rb"HTTP/1\.[01] (4\d\d|505|501) ", data), data[:200]
    assert oip_over_http(served, GOOD)[0] == 200


# Pictures.


def png(width: int, height: int, mode: str = "L") -> bytes:
    stream = io.BytesIO()
    Image.new(mode, (width, height)).save(stream, "PNG")
    return stream.getvalue()


def claiming(width: int, height: int) -> bytes:
    """A small PNG whose header says that it is another size."""
    small = png(8, 8)
    header = struct.pack(">II", width, height) + small[24:29]
    return small[:16] + header + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + small[33:]


def gif() -> bytes:
    stream = io.BytesIO()
    Image.new("L", (8, 8)).save(stream, "GIF")
    return stream.getvalue()


BAD_PICTURES = {
    "nothing": (b"", INVALID),
    "text": (b"hello", INVALID),
    "a signature only": (png(8, 8)[:8], INVALID),
    "half of it": (png(640, 480)[:-40], INVALID),
    "a wrong checksum": (png(8, 8)[:30] + b"\0" + png(8, 8)[31:], INVALID),
    "another format": (gif(), INVALID),
    "a broken JPEG": (b"\xff\xd8\xff\xe0" + bytes(100), INVALID),
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', INVALID),
    "no pixels": (claiming(0, 0), INVALID),
    "more pixels than data": (claiming(100, 100), INVALID),
    "a bomb by its header": (claiming(100_000, 100_000), TOO_LARGE),
    "2**31 - 1 wide": (claiming(2**31 - 1, 2**31 - 1), TOO_LARGE),
    "a bomb": (png(10_000, 6_000, "1"), TOO_LARGE),
}


@pytest.mark.parametrize("case", BAD_PICTURES)
def test_pictures_that_are_none_over_http(served, case):
    picture, expected = BAD_PICTURES[case]

    check_refused(served, heard(served.post(PREDICT, picture, {"Content-Type": "image/png"})), expected, good=v1)


@pytest.mark.parametrize("case", BAD_PICTURES)
def test_pictures_that_are_none_over_grpc(served, case):
    picture, expected = BAD_PICTURES[case]
    with served.stub() as stub:
        heard = rpc(lambda: stub.Predict(pb.PredictRequest(ensemble="digits", images=pb.Images(files=[picture]))))

    check_refused(served, heard, expected, good=predict_over_grpc)


@pytest.mark.parametrize("number", [0, 65])
def test_too_few_and_too_many_pictures(served, number):
    images = pb.Images(files=[png(8, 8)] * number)
    with served.stub() as stub:
        heard = rpc(lambda: stub.Predict(pb.PredictRequest(ensemble="digits", images=images)))

    check_refused(served, heard, INVALID)


def test_a_picture_for_an_ensemble_of_numbers(served):
    reply = served.post("/v1/models/floats:predict", png(8, 8), {"Content-Type": "image/png"})

    check_refused(served, heard(reply), INVALID)


def form(name: str = "image", content: bytes = b"", boundary: str = "frontier") -> bytes:
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'
    return head.encode() + content + f"\r\n--{boundary}--\r\n".encode()


FORM = "multipart/form-data; boundary=frontier"
BAD_FORMS = {
    "no boundary": ("multipart/form-data", form()),
    "an empty boundary": ("multipart/form-data; boundary=", form()),
    "another boundary": ("multipart/form-data; boundary=other", form()),
    "a boundary of 500 letters": (f"multipart/form-data; boundary={'a' * 500}", form(boundary="a" * 500)),
    "nothing": (FORM, b""),
    "no fields": (FORM, b"--frontier--\r\n"),
    "half of it": (FORM, form(content=png(8, 8))[:-30]),
    "another field": (FORM, form("picture", png(8, 8))),
    "a field without a name": (FORM, b"--frontier\r\n\r\nhello\r\n--frontier--\r\n"),
    "a field that is no picture": (FORM, form(content=b"hello")),
    "a header that is none": (FORM, b"--frontier\r\nhello\r\n\r\nhello\r\n--frontier--\r\n"),
    "600 thousand fields": (FORM, b"--frontier\r\nA: b\r\n\r\n\r\n" * 600_000 + b"--frontier--\r\n"),
    "65 pictures": (FORM, form(content=png(8, 8)).removesuffix(b"--frontier--\r\n") * 65 + b"--frontier--\r\n"),
    "an unknown policy": (
        FORM,
        form("policy", b"nobody").removesuffix(b"--frontier--\r\n") + form(content=png(8, 8)),
    ),
    "a policy that is not UTF-8": (
        FORM,
        form("policy", b"\xff\n").removesuffix(b"--frontier--\r\n") + form(content=png(8, 8)),
    ),
}


@pytest.mark.parametrize("case", BAD_FORMS)
def test_forms_that_are_broken(served, case):
    content_type, body = BAD_FORMS[case]

    check_refused(served, heard(served.post(PREDICT, body, {"Content-Type": content_type})), INVALID, good=v1)


def test_a_picture_that_takes_long_to_decode_does_not_hold_up_the_others(served):
    slow = form(content=png(7000, 7000))  # 49 million pixels, within the limit
    replies = []
    sender = threading.Thread(target=lambda: replies.append(served.post(PREDICT, slow, {"Content-Type": FORM})))
    sender.start()
    answered_meanwhile = 0
    while sender.is_alive():
        assert served.get("/v2/health/live").status == 200
        answered_meanwhile += sender.is_alive()
    sender.join()

    assert replies[0].status == 200
    assert answered_meanwhile > 3, "at most the first few can be answered before the picture has arrived"


def test_callers_who_break_off_leave_nothing_under_way_and_no_error_in_the_log(launch, digits):
    with launch(digits.path) as server:
        for headers in ("Content-Length: 1000", "Transfer-Encoding: chunked"):
            with server.socket() as connection:
                connection.sendall(f"POST {PREDICT} HTTP/1.1\r\nHost: test\r\n{headers}\r\n\r\n5\r\nhello\r\n".encode())
                time.sleep(0.05)
        for method in ("Predict", "PredictStream"):
            path = f"/scrutin.v1.EnsembleService/{method}"
            for message in (framed(PREDICTION)[:20], framed(PREDICTION), b""):
                with h2_stream(server, path) as (connection, link, stream):
                    connection.send_data(stream, message)
                    link.sendall(connection.data_to_send())
                    time.sleep(0.05)
            raw_grpc(server, framed(PREDICTION)[:-10], path=path)
            raw_grpc(server, framed(b"\xff" * 100), path=path)
        assert oip_over_http(server, GOOD)[0] == 200
        time.sleep(0.2)
        server.stop()

        assert "draining: 0 requests under way" in server.log
        assert "ERROR" not in server.log and "Traceback" not in server.log


# A queue that is full, and callers who leave it, on the scripted server: one row at a time, and a gate that the test holds shut.

LEFT = ("by-grpc", "by-v1", "by-v2", "on-a-stream", "on-a-stream-at-its-end", "behind-many", "expired")


@pytest.fixture(scope="module")
def gates(tmp_path_factory):
    """One file for each ensemble; without it, nothing of that ensemble runs."""
    folder = tmp_path_factory.mktemp("gates")
    gates = {name: folder / name for name in ("full", "joined", *LEFT)}
    for gate in gates.values():
        gate.touch()
    return gates


@pytest.fixture(scope="module")
def scripted(launch_scripted, write_tiny, gates):
    limits = {"max_batch_size": 1, "timeout_ms": 60_000}
    repositories = [
        write_tiny("full", ["a"], limits={**limits, "max_queue_size": 2}),
        write_tiny("joined", ["a"], limits={**limits, "max_batch_size": 8}),
        *(write_tiny(name, ["a"], limits=limits) for name in LEFT),
    ]
    script = {name: {"gate": str(gate)} for name, gate in gates.items()}
    script["joined"]["a"] = [{}, {"delay": 1.0}, {}]
    with launch_scripted(script, *repositories) as server:
        yield server


def one_row(ensemble: str, **more: object) -> pb.PredictRequest:
    data = np.float32([1, 0, 0, 0]).tobytes()
    return pb.PredictRequest(ensemble=ensemble, tensor=pb.Tensor(datatype="FP32", shape=[1, 4], data=data), **more)


def rows_run(server, ensemble: str) -> float:
    return server.metric("ensemble_member_rows_total", ensemble=ensemble, outcome="ok")


def queued(server, ensemble: str) -> float:
    return server.metric("ensemble_queued_rows", ensemble=ensemble)


def in_flight(server, ensemble: str) -> float:
    return server.metric("ensemble_in_flight_requests", ensemble=ensemble)


@pytest.fixture
def held_up(scripted, gates):
    """`with held_up("full") as stub`: one request runs for as long as the block, and all others wait behind it."""

    @contextlib.contextmanager
    def held_up(ensemble: str):
        with scripted.stub() as stub:
            gates[ensemble].unlink()
            try:
                running = stub.Predict.future(one_row(ensemble))
                scripted.until(lambda: (in_flight(scripted, ensemble), queued(scripted, ensemble)) == (1, 0))
                yield stub
            finally:
                gates[ensemble].touch()
            assert running.result().label

    return held_up


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back(scripted, held_up):
    with scripted.stub() as stub:
        with held_up("full"):
            waiting = [stub.Predict.future(one_row("full")) for _ in range(2)]
            scripted.until(lambda: queued(scripted, "full") == 2)

            with pytest.raises(grpc.RpcError) as caught:
                stub.Predict(one_row("full"))
            raw = np.float32([1, 0, 0, 0]).tobytes()
            refused = [
                scripted.post("/v1/models/full:predict", {"instances": [[1, 0, 0, 0]]}),
                scripted.post("/v2/models/full/infer", raw, {"Inference-Header-Content-Length": "0"}),
            ]
            assert not any(call.done() for call in waiting)
        answered = [list(call.result(30).label) for call in waiting]

    assert caught.value.code().name == "RESOURCE_EXHAUSTED"
    assert dict(caught.value.trailing_metadata())["grpc-retry-pushback-ms"] == "1000"
    check_clear(caught.value.details())
    for reply in refused:
        assert heard(reply)[0] == 429
        assert reply.headers["retry-after"] == "1"
        check_clear(heard(reply)[1])
    assert answered == [["no"], ["no"]]
    assert scripted.metric("ensemble_shed_total", ensemble="full", reason="queue_full") == 3
    assert rows_run(scripted, "full") == 3


@contextlib.contextmanager
def all_leave(scripted, held_up, ensemble: str):
    """In the block five requests go into the queue, and their callers leave; the one before and one behind them are all that runs."""
    with held_up(ensemble) as stub:
        yield stub, lambda: scripted.until(lambda: queued(scripted, ensemble) == 5)
        scripted.until(lambda: in_flight(scripted, ensemble) == 1, seconds=3)
    with scripted.stub() as stub:
        assert stub.Predict(one_row(ensemble)).label
    assert rows_run(scripted, ensemble) == 2
    assert queued(scripted, ensemble) == in_flight(scripted, ensemble) == 0
    assert scripted.metric("ensemble_cost_usd_total", ensemble=ensemble) < 0.001


def test_a_grpc_call_that_is_cancelled_in_the_queue_costs_nothing(scripted, held_up):
    with all_leave(scripted, held_up, "by-grpc") as (stub, all_wait):
        calls = [stub.Predict.future(one_row("by-grpc")) for _ in range(5)]
        all_wait()
        for call in calls:
            call.cancel()

    assert scripted.metric("ensemble_requests_total", ensemble="by-grpc", code="CANCELLED") == 5


@pytest.mark.parametrize("path", ["/v1/models/by-v1:predict", "/v2/models/by-v2/infer"])
def test_a_connection_that_is_closed_in_the_queue_costs_nothing(scripted, held_up, path):
    ensemble = re.split("[/:]", path)[3]
    tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 0, 0, 0]}
    body = json.dumps({"instances": [[1, 0, 0, 0]]} if "v1" in ensemble else {"inputs": [tensor]}).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with all_leave(scripted, held_up, ensemble) as (_, all_wait), contextlib.ExitStack() as connections:
        for _ in range(5):
            connections.enter_context(scripted.socket()).sendall(head + body)
        all_wait()


def test_a_stream_that_is_cancelled_takes_its_requests_out_of_the_queue(scripted, held_up):
    more = queue.Queue()
    for _ in range(5):
        more.put(one_row("on-a-stream"))
    with all_leave(scripted, held_up, "on-a-stream") as (stub, all_wait):
        answers = stub.PredictStream(iter(more.get, None))
        all_wait()
        answers.cancel()
        more.put(None)


def test_a_stream_that_is_cancelled_after_its_last_request_does_so_too(scripted, held_up):
    with all_leave(scripted, held_up, "on-a-stream-at-its-end") as (stub, all_wait):
        answers = stub.PredictStream(iter([one_row("on-a-stream-at-its-end")] * 5))
        all_wait()
        time.sleep(0.1)  # until the server has read that there are no more
        answers.cancel()


def test_a_caller_who_leaves_is_noticed_behind_many_calls_that_stay(scripted, held_up):
    with grpc.insecure_channel(scripted.grpc) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch
        watchers = [watch(health_pb2.HealthCheckRequest(service="")) for _ in range(70)]
        for watcher in watchers:
            next(watcher)
        with all_leave(scripted, held_up, "behind-many") as (stub, all_wait):
            calls = [stub.Predict.future(one_row("behind-many")) for _ in range(5)]
            all_wait()
            for call in calls:
                call.cancel()
        for watcher in watchers:
            watcher.cancel()


def test_a_request_whose_deadline_passes_in_the_queue_is_told_so_there_and_costs_nothing(scripted, held_up):
    with all_leave(scripted, held_up, "expired") as (stub, _):
        for _ in range(5):
            status, text = rpc(lambda: stub.Predict(one_row("expired", timeout_microseconds=50_000)))
            assert status == "DEADLINE_EXCEEDED"
            check_clear(text)


def test_a_caller_who_leaves_during_the_run_does_not_disturb_those_in_the_same_batch(scripted, held_up):
    with scripted.stub() as stub:
        with held_up("joined"):
            calls = [stub.Predict.future(one_row("joined")) for _ in range(3)]
            scripted.until(lambda: queued(scripted, "joined") == 3)
        scripted.until(lambda: queued(scripted, "joined") == 0)  # the three run as one batch now, for a second
        calls[1].cancel()

        assert [list(calls[index].result(30).label) for index in (0, 2)] == [["no"], ["no"]]
    assert scripted.metric("ensemble_batch_rows_count", ensemble="joined") == 2
    assert scripted.metric("ensemble_batch_rows_sum", ensemble="joined") == 4


# What one request may cost.


def test_a_long_text_among_numbers_is_refused_before_it_is_multiplied(served):
    """numpy would reserve its length for each of the others: 90 kB x 4 x 30,000."""
    import psutil

    tensor = {"name": "image", "datatype": "UINT8", "shape": [1, 8, 8], "data": ["a" * 90_000, *([0] * 30_000)]}
    before = psutil.Process(served.pid).memory_info().rss
    reply = served.post("/v2/models/digits/infer", {"inputs": [tensor]})

    assert reply.status == 400
    assert psutil.Process(served.pid).memory_info().rss - before < 64 << 20


def test_refusing_the_same_request_again_and_again_keeps_nothing():
    from tritonclient.grpc import service_pb2 as pb

    from serving.errors import InvalidRequest
    from serving.wire.oip_request import Reader

    request = pb.ModelInferRequest(model_name="digits", raw_input_contents=[b"1"])
    request.inputs.add(name="image", datatype="UINT8", shape=[1])
    request.parameters["policy"].int64_param = 1
    reader, content = Reader(), memoryview(request.SerializeToString())

    depths = []
    for _ in range(3):
        with pytest.raises(InvalidRequest, match="policy: found int") as refusal:
            reader.read(content).rows(None)
        depths.append(len(refusal.traceback))
    assert depths[0] == depths[2]
