"""What is written by hand is what the protobuf library reads, and writes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as pb

from scrutin.v1 import ensemble_pb2
from serving.wire.protobuf import delimited, parameter, tag, varint

int64 = st.integers(-(2**63), 2**63 - 1)


@given(int64)
@pytest.mark.parametrize("field", ["label_index", "votes"])
def test_packed_integers_of_either_sign(field: str, number: int) -> None:
    numbers = [0, number, 1, -1, number]
    before = tag(ensemble_pb2.PredictResponse.DESCRIPTOR.fields_by_name[field].number)
    written = delimited(before, b"".join(map(varint, numbers)))

    assert list(getattr(ensemble_pb2.PredictResponse.FromString(written), field)) == numbers
    assert written == ensemble_pb2.PredictResponse(**{field: numbers}).SerializeToString()


@given(st.text(max_size=300))
def test_text_of_any_length(text: str) -> None:
    written = delimited(tag(3), text.encode())

    assert pb.ModelInferResponse.FromString(written).id == text


VALUES = {"bool_param": st.booleans(), "int64_param": int64, "string_param": st.text(), "double_param": st.floats()}


@pytest.mark.parametrize("kind", VALUES)
@given(st.data())
def test_parameters_of_every_kind(kind: str, data: st.DataObject) -> None:
    value = data.draw(VALUES[kind])
    message = pb.ModelInferResponse.FromString(parameter(tag(4), b"name", value))
    (name,) = message.parameters
    found = message.parameters[name]

    assert (name, found.WhichOneof("parameter_choice")) == ("name", kind)
    assert getattr(found, kind) == value or value != value


def test_pieces_are_one_message() -> None:
    pieces = [parameter(tag(4), b"a", 1), delimited(tag(3), b"id"), parameter(tag(4), b"b", "two")]
    message = pb.ModelInferResponse.FromString(b"".join(pieces))

    assert (message.id, dict(sorted((k, str(v).strip()) for k, v in message.parameters.items()))) == (
        "id",
        {"a": "int64_param: 1", "b": 'string_param: "two"'},
    )
