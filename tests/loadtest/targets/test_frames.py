from hpack import Decoder, Encoder
from hypothesis import given
from hypothesis import strategies as st

from loadtest.targets import frames
from loadtest.targets.frames import Frame, FrameReader, HeaderBlocks

HEADERS = [(b":method", b"POST"), (b":path", b"/a.Service/Method"), (b"te", b"trailers"), (b"x", b"y" * 300)]

some_frames = st.lists(
    st.builds(Frame, st.integers(0, 9), st.integers(0, 255), st.integers(0, 2**31 - 1), st.binary(max_size=300)),
    max_size=8,
)


@given(some_frames, st.lists(st.integers(1, 60), max_size=40))
def test_frames_come_out_whole_however_the_bytes_are_cut(sent, cuts) -> None:
    data = b"".join(frames.frame(*each) for each in sent)
    reader, got = FrameReader(), []
    for size in [*cuts, len(data)]:
        got += reader.feed(data[:size])
        data = data[size:]

    assert got == sent


def test_a_literal_block_says_its_headers_and_leaves_the_table_alone() -> None:
    decoder = Decoder()

    assert decoder.decode(frames.literal_block(HEADERS), raw=True) == HEADERS
    assert len(decoder.header_table.dynamic_entries) == 0


def test_headers_that_were_put_into_the_table_take_a_byte_each_from_then_on() -> None:
    first, later = frames.remembered_block(HEADERS)
    decoder = Decoder()

    assert len(later) == len(HEADERS)
    assert [decoder.decode(block, raw=True) for block in (first, later, later)] == [HEADERS] * 3
    assert frames.table_bytes(HEADERS) == decoder.header_table._current_size


def test_what_a_peer_without_a_table_sends_is_read_with_and_without_huffman() -> None:
    encoder, blocks = Encoder(), HeaderBlocks()
    encoder.header_table_size = 0

    for huffman in (True, False, True):
        assert blocks.read(encoder.encode(HEADERS, huffman=huffman)) == dict(HEADERS)


def test_padding_and_priority_are_no_data() -> None:
    assert frames.without_padding(frames.PADDED, b"\x02data\0\0") == b"data"
    assert frames.without_padding(frames.PADDED | frames.WITH_PRIORITY, b"\x01\0\0\0\0\x10block\0") == b"block"
