"""Labelled rows in files: what is read, and that a hostile file is refused in one line before it costs anything."""

import struct
import tracemalloc
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ensembles.samples import SamplesError, read_npz, write_npz

SHAPE = (2, 3)
CLASSES = 4
X = np.arange(30, dtype=np.uint8).reshape(5, *SHAPE)
Y = np.array([0, 1, 2, 3, 0])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "samples.npz"


def read(file: Path) -> tuple[Any, Any]:
    return read_npz(file, X.dtype, SHAPE, CLASSES)


def refusal(file: Path) -> str:
    """The line with which the file is refused."""
    with pytest.raises(SamplesError) as fault:
        read(file)
    assert len(str(fault.value).splitlines()) == 1
    return str(fault.value)


def header(text: str, version: tuple[int, int] = (1, 0)) -> bytes:
    """The header of an .npy file, whatever it says."""
    content = text.encode() + b"\n"
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H" if version == (1, 0) else "<I", len(content)) + content


def declared(shape: str, descr: str = "'|u1'", fortran: bool = False) -> bytes:
    return header(f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}")


def npy(array: Any, **more: Any) -> bytes:
    stream = BytesIO()
    np.lib.format.write_array(stream, np.asarray(array), **more)
    return stream.getvalue()


def zipped(file: Path, compression: int = zipfile.ZIP_DEFLATED, **entries: bytes) -> Path:
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(f"{name}.npy", content)
    return file


# ------------------------------------------------------------------------------------------------------------ what is read


def test_what_was_written_is_read(file: Path) -> None:
    write_npz(file, X, Y)
    x, y = read(file)

    assert np.array_equal(x, X) and x.dtype == np.uint8
    assert np.array_equal(y, Y) and y.dtype == np.int64


@pytest.mark.parametrize("dtype", ["u1", "i8", "f2", "f4", "f8", "?"])
def test_rows_of_any_type(file: Path, dtype: str) -> None:
    write_npz(file, X.astype(dtype), Y)

    assert np.array_equal(read_npz(file, np.dtype(dtype), SHAPE, CLASSES)[0], X.astype(dtype))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_numpy_reads_and_writes_the_same_files(file: Path, save: Any) -> None:
    write_npz(file, X, Y)
    with np.load(file, allow_pickle=False) as content:
        assert np.array_equal(content["x"], X) and np.array_equal(content["y"], Y)

    save(file, x=X, y=Y, more=np.zeros(3))
    assert np.array_equal(read(file)[0], X), "more arrays are no fault"


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    one, other = tmp_path / "a.npz", tmp_path / "b.npz"
    write_npz(one, X, Y)
    write_npz(other, np.asfortranarray(X), Y.copy())

    assert one.read_bytes() == other.read_bytes()


def test_a_second_version_of_the_header_is_read(file: Path) -> None:
    zipped(file, x=npy(X, version=(2, 0)), y=npy(Y))

    assert np.array_equal(read(file)[0], X)


# --------------------------------------------------------------------------------------------------------- what is refused

GOOD = {"x": npy(X), "y": npy(Y)}


@pytest.mark.parametrize(
    ("entries", "line"),
    [
        ({"x": GOOD["x"]}, "y: missing, expected arrays x and y"),
        ({"y": GOOD["y"]}, "x: missing, expected arrays x and y"),
        ({**GOOD, "x": npy(X.astype(np.float32))}, r"x: found float32 \[5, 2, 3\], expected uint8 \[n, 2, 3\]"),
        ({**GOOD, "x": npy(X.astype(np.int8))}, r"x: found int8 \[5, 2, 3\], expected uint8 \[n, 2, 3\]"),
        ({**GOOD, "x": npy(X.reshape(5, 3, 2))}, r"x: found uint8 \[5, 3, 2\], expected uint8 \[n, 2, 3\]"),
        ({**GOOD, "x": npy(X.reshape(5, 6))}, r"x: found uint8 \[5, 6\], expected uint8 \[n, 2, 3\]"),
        ({**GOOD, "x": npy(X[0])}, r"x: found uint8 \[2, 3\], expected uint8 \[n, 2, 3\]"),
        ({**GOOD, "x": npy(np.uint8(1))}, r"x: found uint8 \[\], expected uint8 \[n, 2, 3\]"),
        ({**GOOD, "x": npy(X[:4])}, "found 4 rows of x and 5 of y, expected equal numbers, at least 1"),
        ({"x": npy(X[:0]), "y": npy(Y[:0])}, "found 0 rows of x and 0 of y, expected equal numbers, at least 1"),
        ({**GOOD, "y": npy(Y.astype(np.int32))}, r"y: found int32 \[5\], expected int64 \[n\]"),
        ({**GOOD, "y": npy(Y.astype(">i8"))}, r"y: found >i8 \[5\], expected int64 \[n\]"),
        ({**GOOD, "y": npy(Y[:, None])}, r"y: found int64 \[5, 1\], expected int64 \[n\]"),
        ({**GOOD, "y": npy(Y + 1)}, "y: found label 4, expected 0 to 3"),
        ({**GOOD, "y": npy(Y - 1)}, "y: found label -1, expected 0 to 3"),
        ({**GOOD, "y": npy(np.array([2**62, 0, 0, 0, 0]))}, "y: found label 4611686018427387904, expected 0 to 3"),
        ({**GOOD, "x": b""}, "x: expected a plain .npy array, found "),
        ({**GOOD, "x": b"hello"}, "x: expected a plain .npy array, found "),
        ({**GOOD, "x": GOOD["x"][:40]}, "x: expected a plain .npy array, found EOF"),
        ({**GOOD, "x": GOOD["x"][:-1]}, "x: found 29 bytes or more, expected 30"),
        ({**GOOD, "x": GOOD["x"] + b"!"}, "x: found 30 bytes or more, expected 30"),
        ({**GOOD, "x": GOOD["x"].replace(b"\x01\x00v", b"\x09\x00v")}, "x: expected a plain .npy array, found "),
    ],
)
def test_what_does_not_fit_is_refused_with_what_was_found_and_expected(
    file: Path, entries: dict[str, bytes], line: str
) -> None:
    found = refusal(zipped(file, **entries))
    with pytest.raises(SamplesError, match=line):
        raise SamplesError(found)


@pytest.mark.parametrize("content", [b"", b"PK", b"hello", b"\x80\x04\x95", npy(X)])
def test_what_is_no_zip_is_refused(file: Path, content: bytes) -> None:
    file.write_bytes(content)

    assert refusal(file).startswith("expected an .npz file, found ")


class Evil:
    """Leaves a trace if it is ever unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return Path.touch, (self.trace,)


def test_a_pickle_is_refused_and_never_opened(file: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    objects = np.array([Evil(trace)] * 30, dtype=object).reshape(X.shape)
    zipped(file, x=npy(objects, allow_pickle=True), y=npy(Y))

    assert refusal(file) == "x: found object [5, 2, 3], expected uint8 [n, 2, 3]"
    assert not trace.exists()


# ------------------------------------------------------------------------------------------------------------ hostile files


@pytest.mark.parametrize(
    ("shape", "line"),
    [
        ("(10**12, 2, 3)", "x: expected a plain .npy array, found "),
        (f"({10**12}, 2, 3)", "x: found 6000000000000 bytes, expected at most 4294967296"),
        (f"({10**40}, 2, 3)", r"x: found 6000.* bytes, expected at most 4294967296"),
        (f"({2**61}, 2, 3)", "x: found 13835058055282163712 bytes, expected at most 4294967296"),
        (f"({'9' * 5000}, 2, 3)", "x: expected a plain .npy array, found "),
        ("(2.0, 2, 3)", "x: expected a plain .npy array, found "),
        ("'abc'", "x: expected a plain .npy array, found "),
    ],
    ids=lambda shape: shape[:20],
)
def test_a_header_that_declares_terabytes_is_refused(file: Path, shape: str, line: str) -> None:
    found = refusal(zipped(file, x=declared(shape) + b"\0" * 60, y=npy(Y)))
    with pytest.raises(SamplesError, match=line):
        raise SamplesError(found)


@pytest.mark.parametrize("shape", ["(5, 2, 3)", "(0, 2, 3)", "(-1, 2, 3)", "(-5, 2, 3)"])
def test_bytes_that_no_header_announced_are_not_unpacked(file: Path, shape: str) -> None:
    """Some 60 kilobytes that unpack to 64 megabytes."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("x.npy", "w") as stream:
            stream.write(declared(shape))
            for _ in range(16):
                stream.write(bytes(4 << 20))
        archive.writestr("y.npy", npy(Y))

    tracemalloc.start()
    try:
        refusal(file)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "(" * 5000,
        "{'descr': '''",
        "1+" * 3000 + "1",
        "-" * 9000 + "1",
        "  {\n 1",
        "\0",
        "[" * 60 + "]" * 60,
        "x" * 20000,
    ],
    ids=lambda text: repr(text)[:12],
)
def test_a_header_that_says_nothing_is_refused(file: Path, text: str) -> None:
    refusal(zipped(file, x=header(text) + b"\0" * 30, y=npy(Y)))


@pytest.mark.parametrize(
    "descr", ["'zz'", "None", "[('a', '<i4')]", "('|u1', (1, 2))", "{'names': 1}", "'<M8[zz]'", "'|V1'"]
)
def test_another_type_is_refused(file: Path, descr: str) -> None:
    assert refusal(zipped(file, x=declared("(5, 2, 3)", descr) + b"\0" * 30, y=npy(Y))).startswith("x: ")


def test_columns_first_are_refused_rather_than_scrambled(file: Path) -> None:
    """Reading them as rows would give other pictures under the same labels."""
    refusal(zipped(file, x=npy(np.asfortranarray(X)), y=npy(Y)))


def test_an_encrypted_file_is_refused(file: Path) -> None:
    content = bytearray(zipped(file, **GOOD).read_bytes())
    for sign, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(sign) + flags] |= 1
    file.write_bytes(content)

    refusal(file)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_stream_is_refused(file: Path, compression: int) -> None:
    """Each of the bytes after the name of the first entry, one after the other."""
    whole = zipped(file, compression, **GOOD).read_bytes()
    start = whole.index(b"x.npy") + len(b"x.npy")
    for at in range(start, start + 60):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 0x5A]) + whole[at + 1 :])
        try:
            x, y = read(file)
        except SamplesError as fault:
            assert len(str(fault).splitlines()) == 1
        else:
            assert np.array_equal(x, X) and np.array_equal(y, Y), "the bit had no meaning"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=100)
@given(st.data())
def test_no_damage_at_all_breaks_the_reader(file: Path, data: st.DataObject) -> None:
    whole = zipped(file, zipfile.ZIP_STORED, **GOOD).read_bytes()
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, min(len(whole), start + 8)))
    file.write_bytes(whole[:start] + data.draw(st.binary(max_size=8)) + whole[stop:])
    try:
        x, y = read(file)
    except SamplesError as fault:
        assert len(str(fault).splitlines()) == 1
    else:
        assert (x.shape[1:], x.dtype, len(x)) == (SHAPE, X.dtype, len(y))
        assert ((y >= 0) & (y < CLASSES)).all()
