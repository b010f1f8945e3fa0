"""What a traceparent says, by the words of W3C Trace Context; whatever is none is as if there were none."""

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from serving.trace import SpanContext, parse, root
from serving.wire.origin import caller

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GOOD = f"00-{TRACE}-{SPAN}-01".encode()


def digits(count: int) -> st.SearchStrategy[str]:
    return st.text("0123456789abcdef", min_size=count, max_size=count).filter(lambda text: int(text, 16))


@given(digits(32), digits(16), st.integers(0, 255))
def test_the_four_fields_are_read(trace_id: str, span_id: str, flags: int) -> None:
    assert parse(f"00-{trace_id}-{span_id}-{flags:02x}".encode()) == SpanContext(trace_id, span_id, bool(flags & 1))


SHAPE = re.compile(
    rb"(00|01|ff|[0-9a-f]{2})-(0{32}|[0-9a-f]{32})-(0{16}|[0-9a-f]{16})-([0-9a-f]{2})(-[ -~]{0,8})?", re.ASCII
)


@given(st.one_of(st.binary(max_size=80), st.from_regex(SHAPE, fullmatch=True)))
def test_anything_may_come_and_what_has_the_shape_is_none_for_three_reasons_alone(value: bytes) -> None:
    found, shape = parse(value), SHAPE.fullmatch(value)

    if shape is None:
        assert found is None
        return
    version, trace_id, span_id, flags, more = shape.groups()
    no_such_version, no_names = version == b"ff", 0 in (int(trace_id, 16), int(span_id, 16))
    if no_such_version or no_names or (version == b"00" and more):
        assert found is None
    else:
        assert found == SpanContext(trace_id.decode(), span_id.decode(), sampled=bool(int(flags, 16) & 1))


@given(st.integers(0, len(GOOD) - 1), st.binary(min_size=1, max_size=1))
def test_one_wrong_byte_gives_none_or_another_field_that_is_well_formed(place: int, byte: bytes) -> None:
    assume(byte not in b"0123456789abcdef")
    assume(byte != GOOD[place : place + 1])

    assert parse(GOOD[:place] + byte + GOOD[place + 1 :]) is None


@pytest.mark.parametrize(
    "value",
    [
        GOOD.upper(),
        b" " + GOOD,
        GOOD + b" ",
        GOOD + b"-",
        GOOD + b"-00",
        GOOD[:-1],
        b"ff" + GOOD[2:],
        b"00-" + b"0" * 32 + GOOD[35:],
        GOOD[:36] + b"0" * 16 + b"-01",
        b"cc" + GOOD[2:] + b".more",
        b"",
    ],
)
def test_what_is_no_traceparent_is_none(value: bytes) -> None:
    assert parse(value) is None


@pytest.mark.parametrize("value", [b"01" + GOOD[2:], b"cc" + GOOD[2:] + b"-what-comes"])
def test_versions_to_come_are_read_as_far_as_this_one_goes(value: bytes) -> None:
    assert parse(value) == SpanContext(TRACE, SPAN, sampled=True)


def test_a_child_is_of_the_same_trace_and_another_span() -> None:
    parent = SpanContext(TRACE, SPAN, sampled=True, state="vendor=1")
    child = parent.child()

    assert (child.trace_id, child.sampled, child.state) == (TRACE, True, "vendor=1")
    assert child.span_id != SPAN
    assert len(child.span_id) == 16


def test_a_root_is_a_span_that_others_can_read() -> None:
    span = root()

    assert parse(f"00-{span.trace_id}-{span.span_id}-01".encode()) == span


def called(*fields: tuple[bytes, bytes]) -> object:
    return caller(dict(fields), fields)


def test_two_traceparents_are_none() -> None:
    assert called((b"traceparent", GOOD), (b"traceparent", GOOD)).parent is None


def test_several_tracestates_are_one() -> None:
    given = called((b"tracestate", b"a=1"), (b"traceparent", GOOD), (b"tracestate", b"b=2"))

    assert given.parent == SpanContext(TRACE, SPAN, sampled=True, state="a=1,b=2")


def test_a_tracestate_that_is_too_long_is_left_out() -> None:
    assert called((b"traceparent", GOOD), (b"tracestate", b"a=" + b"1" * 511)).parent.state == ""


def test_a_request_id_that_is_too_long_is_none() -> None:
    assert called((b"x-request-id", b"1" * 129)).request_id == ""
    assert called((b"x-request-id", b"1" * 128)).request_id == "1" * 128
