"""Protobuf's wire format, as far as the answers on the hot way need it: a field is a tag, a length and bytes.

Setting the fields of a message one by one costs more than a light member's run. The columns of an answer are bytes already,
and a message may be put together from pieces, since protobuf reads concatenated messages as one.
"""

import struct

VARINT, DELIMITED = 0, 2

_SMALL = [bytes([number]) for number in range(128)]
_DOUBLE = struct.Struct("<d")


def varint(number: int) -> bytes:
    """An integer of up to 64 bits; a negative one takes ten bytes, as int64 fields have it."""
    if 0 <= number < 128:
        return _SMALL[number]
    number &= (1 << 64) - 1
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def tag(number: int, wire_type: int = DELIMITED) -> bytes:
    """What stands before the value of field `number`."""
    return varint(number << 3 | wire_type)


def delimited(before: bytes, content: bytes) -> bytes:
    """A field of bytes, text, a message or packed numbers. `before`: its tag."""
    return before + varint(len(content)) + content


_KEY, _VALUE = tag(1), tag(2)
_BOOL, _INT64, _STRING, _DOUBLE_TAG = tag(1, VARINT), tag(2, VARINT), tag(3), b"\x21"  # field 4, eight bytes


def parameter(before: bytes, name: bytes, value: bool | float | str) -> bytes:
    """An entry of the protocol's map of parameters: a name and an InferParameter. `before`: the map's tag."""
    if isinstance(value, bool):
        content = _BOOL + varint(value)
    elif isinstance(value, int):
        content = _INT64 + varint(value)
    elif isinstance(value, float):
        content = _DOUBLE_TAG + _DOUBLE.pack(value)
    else:
        content = delimited(_STRING, value.encode())
    return delimited(before, delimited(_KEY, name) + delimited(_VALUE, content))
