"""Requests whose beginning is known are read without being parsed, and never taken for what they are not."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb

from ensembles.spec import InputSpec
from serving.errors import InvalidRequest
from serving.wire.oip_request import InferRequest, Reader


def manifest(datatype: str = "FP32", shape: tuple[int, ...] = (2, 3)) -> Any:
    return SimpleNamespace(input=InputSpec(name="image", datatype=datatype, shape=shape))


def request(rows: np.ndarray[Any, Any], datatype: str = "FP32", name: str = "image") -> bytes:
    message = pb.ModelInferRequest(model_name="digits", id="7", raw_input_contents=[rows.tobytes()])
    message.inputs.add(name=name, datatype=datatype, shape=rows.shape)
    return bytes(message.SerializeToString())


def read(reader: Reader, content: bytes) -> InferRequest:
    return reader.read(memoryview(content))


def rows_of(seed: int, rows: int = 1) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).random((rows, 2, 3), np.float32)


def test_each_request_with_a_known_beginning_has_its_own_rows() -> None:
    reader, spec = Reader(), manifest()
    for seed in range(4):
        found = read(reader, request(rows_of(seed)))

        assert (found.beginning is not None) == (seed > 0)
        assert found.head.request_id == "7"
        assert np.array_equal(found.rows(spec), rows_of(seed))


def test_requests_with_other_numbers_of_rows_begin_otherwise() -> None:
    reader, spec = Reader(), manifest()
    for rows in (1, 2, 1, 2, 200, 200):
        assert read(reader, request(rows_of(rows, rows))).rows(spec).shape == (rows, 2, 3)


@pytest.mark.parametrize("cut", [1, 4, 23])
def test_a_known_beginning_with_too_few_or_too_many_bytes_behind_it_is_no_such_request(cut: int) -> None:
    reader, content = Reader(), request(rows_of(0))
    read(reader, content)
    for changed in (content[:-cut], content + b"\0" * cut):
        with pytest.raises(Exception, match=r"(?i)pars|wire|invalid"):
            read(reader, changed)


def test_what_fitted_one_manifest_is_held_against_the_next_one() -> None:
    reader, first, second = Reader(), manifest(), manifest(shape=(3, 2))
    for _ in range(3):
        read(reader, request(rows_of(0))).rows(first)
    for _ in range(2):
        with pytest.raises(InvalidRequest, match="found FP32"):
            read(reader, request(rows_of(0))).rows(second)
    assert read(reader, request(rows_of(0))).rows(first).shape == (1, 2, 3)


def test_what_does_not_fit_is_refused_each_time() -> None:
    reader, spec = Reader(), manifest()
    for _ in range(3):
        with pytest.raises(InvalidRequest, match="inputs"):
            read(reader, request(rows_of(0), name="picture")).rows(spec)
        with pytest.raises(InvalidRequest, match="found FP64"):
            read(reader, request(rows_of(0).astype(np.float64), "FP64")).rows(spec)
        with pytest.raises(InvalidRequest, match="found 24 bytes, expected 48"):
            read(reader, _of_more_rows_than_bytes()).rows(spec)


def _of_more_rows_than_bytes() -> bytes:
    message = pb.ModelInferRequest(model_name="digits", raw_input_contents=[rows_of(0).tobytes()])
    message.inputs.add(name="image", datatype="FP32", shape=(2, 2, 3))
    return bytes(message.SerializeToString())


def test_each_byte_of_truth_values_is_looked_at_each_time() -> None:
    reader, spec = Reader(), manifest("BOOL")
    for _ in range(3):
        assert read(reader, request(np.ones((1, 2, 3), np.bool_), "BOOL")).rows(spec).all()
        with pytest.raises(InvalidRequest, match="expected BOOL"):
            read(reader, request(np.full((1, 2, 3), 2, np.uint8), "BOOL")).rows(spec)
