"""Labelled data in .npz files, folders and zips: the same rows in the same order, and each fault in one line."""

import io
import os
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ensembles import dataset, folders, pictures
from ensembles.dataset import DatasetError
from ensembles.spec import ImageSpec, InputSpec

LABELS = ("bird", "cat", "dog")
ROWS = InputSpec(name="x", datatype="UINT8", shape=(2, 3))
PHOTO = InputSpec(name="x", datatype="UINT8", shape=(4, 4, 3), image=ImageSpec(mode="RGB", width=4, height=4))
X = np.arange(60, dtype=np.uint8).reshape(10, 2, 3)
Y = np.arange(10) % 3


def picture(shade: int, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), (shade, 0, 255 - shade)).save(stream, kind)
    return stream.getvalue()


FILES = {
    "dog/0.png": picture(10),
    "cat/b.jpg": picture(20, "JPEG"),
    "cat/a.png": picture(30),
    "bird/x.jpeg": picture(40, "JPEG"),
    "bird/y.PNG": picture(50),
}


def folder(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def zipped(file: Path, files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file


def under(part: str, files: dict[str, bytes] = FILES) -> dict[str, bytes]:
    return {f"{part}/{name}": content for name, content in files.items()}


def refusal(path: Path, given: InputSpec = PHOTO, labels: tuple[str, ...] = LABELS) -> str:
    """The line with which the data is refused."""
    with pytest.raises(DatasetError) as fault:
        dataset.read(path, given, labels)
    assert len(str(fault.value).splitlines()) == 1
    return str(fault.value)


# -------------------------------------------------------------------------------------------------------------------- .npz


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("size", [1, 3, 10, 64])
def test_an_npz_file_is_read_in_batches(tmp_path: Path, save: Any, size: int) -> None:
    save(tmp_path / "data.npz", x=X, y=Y)
    data = dataset.read(tmp_path / "data.npz", ROWS, LABELS)
    batches = list(data.batches(size))

    assert np.array_equal(np.concatenate([batch.rows for batch in batches]), X)
    assert np.concatenate([batch.places for batch in batches]).tolist() == list(range(10))
    assert {len(batch.rows) for batch in batches[:-1]} <= {size}
    assert np.array_equal(data.y, Y) and data.y.dtype == np.int64
    assert not any(len(batch.unreadable) for batch in batches)


@pytest.mark.parametrize("kind", ["u1", "i2", "i4", "u4", "u8", ">i8"])
def test_labels_may_be_whole_numbers_of_any_size(tmp_path: Path, kind: str) -> None:
    np.savez(tmp_path / "data.npz", x=X, y=Y.astype(kind))

    assert np.array_equal(dataset.read(tmp_path / "data.npz", ROWS, LABELS).y, Y)


def test_a_path_that_no_file_can_have_is_refused() -> None:
    with pytest.raises(DatasetError, match="found File name too long, expected readable data"):
        dataset.read(Path("n" * 300), ROWS, LABELS)


def test_single_rows_are_found_again(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=X, y=Y)
    data = dataset.read(tmp_path / "data.npz", ROWS, LABELS)

    assert np.array_equal(data.rows(np.array([0, 4, 9])), X[[0, 4, 9]])
    assert data.rows(np.array([], np.int64)).shape == (0, 2, 3)
    assert data.row_names(np.array([4])) == ["row 4"]


def test_a_large_file_takes_the_memory_of_a_batch(tmp_path: Path) -> None:
    wide = InputSpec(name="x", datatype="UINT8", shape=(64, 1024))
    np.savez_compressed(tmp_path / "data.npz", x=np.zeros((1000, 64, 1024), np.uint8), y=np.arange(1000) % 2)
    tracemalloc.start()
    try:
        assert sum(len(batch.rows) for batch in dataset.read(tmp_path / "data.npz", wide, LABELS).batches(16)) == 1000
        assert tracemalloc.get_traced_memory()[1] < 8_000_000, "of 65 MB"
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("arrays", "line"),
    [
        ({"x": X}, "y: missing, expected arrays x and y"),
        ({"y": Y}, "x: missing, expected arrays x and y"),
        ({"x": X.astype(np.float32), "y": Y}, "x: found float32 [10, 2, 3], expected uint8 [n, 2, 3]"),
        ({"x": X.reshape(10, 3, 2), "y": Y}, "x: found uint8 [10, 3, 2], expected uint8 [n, 2, 3]"),
        ({"x": X.reshape(10, 6), "y": Y}, "x: found uint8 [10, 6], expected uint8 [n, 2, 3]"),
        (
            {"x": np.asfortranarray(X), "y": Y},
            "x: found uint8 [10, 2, 3] in Fortran order, expected uint8 [n, 2, 3]",
        ),
        ({"x": X, "y": Y[:9]}, "found 10 rows of x and 9 of y, expected equal numbers"),
        ({"x": X, "y": Y.astype(float)}, "y: found float64 [10], expected whole numbers [n]"),
        ({"x": X, "y": Y[:, None]}, "y: found int64 [10, 1], expected whole numbers [n]"),
        ({"x": X, "y": np.array([str(label) for label in Y])}, "y: found <U1 [10], expected whole numbers [n]"),
        ({"x": X, "y": Y + 1}, "y: found label 3, expected 0 to 2"),
        ({"x": X, "y": Y - 1}, "y: found label -1, expected 0 to 2"),
        ({"x": X, "y": np.full(10, 2**64 - 1, np.uint64)}, "y: found label 18446744073709551615, expected a class"),
        ({"x": X[:0], "y": Y[:0]}, "found no rows, expected labelled rows of at least 2 classes"),
        ({"x": X, "y": np.ones(10, int)}, "found one class only, number 1, expected at least 2"),
    ],
)
def test_an_npz_file_that_does_not_fit_is_refused(tmp_path: Path, arrays: dict[str, Any], line: str) -> None:
    np.savez(tmp_path / "data.npz", **arrays)

    assert refusal(tmp_path / "data.npz", ROWS).endswith(f"data.npz: {line}")


def test_pickled_objects_are_refused_unopened(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.array([{}, []], dtype=object), y=Y)

    assert "x: found object [2]" in refusal(tmp_path / "data.npz", ROWS)


def test_a_header_that_claims_more_rows_than_there_are_costs_nothing(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (10**7, 2, 3)})
    labels = io.BytesIO()
    np.lib.format.write_array(labels, Y)
    zipped(tmp_path / "data.npz", {"x.npy": header.getvalue(), "y.npy": labels.getvalue()})

    assert refusal(tmp_path / "data.npz", ROWS).endswith("x: found 0 bytes, expected 60000000")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_bytes_are_damaged_there_is_one_line_or_rows(tmp_path: Path, data: st.DataObject) -> None:
    stream = io.BytesIO()
    np.savez_compressed(stream, x=X, y=Y)
    content = bytearray(stream.getvalue())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[place] ^= data.draw(st.integers(1, 255))
    file = tmp_path / "data.npz"
    file.write_bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)
    try:
        read = dataset.read(file, ROWS, LABELS)
        assert sum(len(batch.rows) for batch in read.batches(4)) == len(read.y)
    except DatasetError as fault:
        assert len(str(fault).splitlines()) == 1 and str(fault).startswith(str(file))


# --------------------------------------------------------------------------------------------------------- class folders


def test_a_folder_of_class_folders_is_in_the_order_of_the_labels_and_then_the_names(tmp_path: Path) -> None:
    data = dataset.read(folder(tmp_path, FILES), PHOTO, LABELS)

    names = ["bird/x.jpeg", "bird/y.PNG", "cat/a.png", "cat/b.jpg", "dog/0.png"]
    assert data.row_names(np.arange(5)) == names
    assert data.y.tolist() == [0, 0, 1, 1, 2]
    assert dataset.read(tmp_path, PHOTO, LABELS[::-1]).row_names(np.arange(5)) == [names[4], *names[2:4], *names[:2]]
    (batch,) = data.batches(8)
    assert batch.rows[2].tolist() == [[[30, 0, 225]] * 4] * 4


def test_a_zip_gives_the_same_rows_as_the_folder(tmp_path: Path) -> None:
    zipped(tmp_path / "data.zip", dict(reversed(FILES.items())))
    packed = dataset.read(tmp_path / "data.zip", PHOTO, LABELS)
    plain = dataset.read(folder(tmp_path / "data", FILES), PHOTO, LABELS)

    assert packed.row_names(np.arange(5)) == plain.row_names(np.arange(5))
    for one, other in zip(packed.batches(2), plain.batches(2), strict=True):
        assert np.array_equal(one.rows, other.rows)


def test_a_part_is_chosen_by_its_name(tmp_path: Path) -> None:
    one = {"cat/a.png": picture(1), "dog/b.png": picture(2)}
    zipped(tmp_path / "data.zip", under("all/train") | under("all/test", one))

    test = dataset.read(Path(f"{tmp_path}/data.zip#test"), PHOTO, LABELS)
    assert test.row_names(np.arange(2)) == ["all/test/cat/a.png", "all/test/dog/b.png"]
    assert test.name == "data.zip#test"
    assert len(dataset.read(Path(f"{tmp_path}/data.zip#all/train"), PHOTO, LABELS).y) == 5
    assert "#val: found nothing there, expected one of all/test, all/train" in refusal(Path(f"{tmp_path}/data.zip#val"))
    assert "found class folders under all/test, all/train, expected #all/test or another" in refusal(
        tmp_path / "data.zip"
    )


def test_the_only_part_needs_no_name(tmp_path: Path) -> None:
    assert len(dataset.read(zipped(tmp_path / "data.zip", under("some/where")), PHOTO, LABELS).y) == 5


def test_a_zip_of_a_folder_itself_is_read(tmp_path: Path) -> None:
    assert len(dataset.read(zipped(tmp_path / "data.zip", under(".")), PHOTO, LABELS).y) == 5


def test_hidden_files_and_files_beside_the_class_folders_are_passed_over(tmp_path: Path) -> None:
    more = {"README.txt": b"hello", "cat/.DS_Store": b"", "__MACOSX/cat/a.png": b"", ".git/x": b""}

    assert len(dataset.read(folder(tmp_path, FILES | more), PHOTO, LABELS).y) == 5


@pytest.mark.parametrize(
    ("files", "line"),
    [
        ({"fish/a.png": b""} | FILES, "found the folder 'fish', expected one of bird, cat, dog"),
        ({"cat/more/a.png": b""} | FILES, "found 'cat/more/a.png', expected images right inside their class's folder"),
        ({"a.png": b""}, "found no folder named like a class, expected bird, cat, dog"),
        ({}, "found no folder named like a class, expected bird, cat, dog"),
        ({"cat/a.png": b"", "cat/b.png": b""}, "found one class only, number 1, expected at least 2"),
    ],
)
def test_folders_that_are_not_the_classes_are_refused(tmp_path: Path, files: dict[str, bytes], line: str) -> None:
    (tmp_path / "data").mkdir()

    assert refusal(folder(tmp_path / "data", files)).endswith(line)
    assert refusal(zipped(tmp_path / "data.zip", files)).endswith(line)


def test_pictures_for_a_manifest_that_knows_none_are_refused(tmp_path: Path) -> None:
    line = "found images, expected an .npz file or an input.image in the manifest (`ensembles export --image`)"

    assert refusal(folder(tmp_path, FILES), ROWS).endswith(line)


def test_what_cannot_be_read_is_left_out_and_can_be_named(tmp_path: Path) -> None:
    broken = {"cat/broken.jpg": FILES["cat/b.jpg"][:200], "dog/text.png": b"hello", "dog/empty.png": b""}
    data = dataset.read(folder(tmp_path, FILES | broken), PHOTO, LABELS)
    batches = list(data.batches(3))
    unreadable = np.concatenate([batch.unreadable for batch in batches])

    assert sum(len(batch.rows) for batch in batches) == 5
    assert data.row_names(unreadable) == ["cat/broken.jpg", "dog/empty.png", "dog/text.png"]
    with pytest.raises(DatasetError, match=r"found 3 unreadable of 8 images \(cat/broken.jpg, dog/empty.png, dog/"):
        dataset.refuse_unreadable(data, unreadable)


def test_a_picture_too_large_is_refused_by_its_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MAX_PIXELS", 15)

    with pytest.raises(pictures.PictureError, match="found 16 pixels, expected at most 15"):
        pictures.row(picture(1), PHOTO, ImageSpec(mode="RGB", width=4, height=4))


@pytest.mark.parametrize(
    ("given", "image"),
    [
        (PHOTO, PHOTO.image),
        (
            InputSpec(name="x", datatype="FP32", shape=(3, 4, 4)),
            ImageSpec(mode="RGB", width=4, height=4, range=(-1, 1)),
        ),
        (InputSpec(name="x", datatype="UINT8", shape=(4, 4)), ImageSpec(mode="L", width=4, height=4, range=(0, 255))),
        (InputSpec(name="x", datatype="FP64", shape=(1, 4, 4)), ImageSpec(mode="L", width=4, height=4, range=(1, 0))),
    ],
)
def test_a_row_shows_the_picture_that_it_was_made_of(given: InputSpec, image: ImageSpec) -> None:
    row = pictures.row(picture(30), given, image)

    assert row.shape == given.shape and row.dtype == given.dtype
    assert np.array_equal(pictures.row(pictures.png(row, given, image), given, image), row)


# ------------------------------------------------------------------------------------------------------------- hostile ones


@pytest.mark.parametrize("name", ["../cat/a.png", "/cat/a.png", "cat/../../a.png", "..\\cat\\a.png"])
def test_paths_that_leave_the_zip_are_refused(tmp_path: Path, name: str) -> None:
    assert "expected one inside the zip" in refusal(zipped(tmp_path / "data.zip", {name: b""} | FILES))


def test_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    os.symlink("link", tmp_path / "images" / "link")

    assert refusal(tmp_path / "images").endswith("found the link link, expected files inside the folder")


@pytest.mark.parametrize("target", ["/etc/hostname", "/etc", "../outside.png"])
def test_links_that_leave_the_folder_are_refused(tmp_path: Path, target: str) -> None:
    (tmp_path / "outside.png").write_bytes(picture(1))
    root = folder(tmp_path / "data", FILES)
    os.symlink(target, root / "link")
    os.symlink(root / "cat" / "a.png", root / "dog" / "inside.png")

    assert refusal(root).endswith("found the link link, expected files inside the folder")


def test_a_zip_that_would_burst_is_refused_unread(tmp_path: Path) -> None:
    zipped(tmp_path / "data.zip", FILES | {"cat/zeros.png": bytes(10_000_000)})

    assert "bytes zipped into" in refusal(tmp_path / "data.zip")


def test_an_entry_too_large_counts_as_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "MAX_FILE_BYTES", 100)
    big = {"cat/big.png": os.urandom(101), "dog/a.png": picture(1)}
    for path in (zipped(tmp_path / "data.zip", big), folder(tmp_path / "data", big)):
        (batch,) = dataset.read(path, PHOTO, LABELS).batches(8)
        assert batch.unreadable.tolist() == [0] and batch.places.tolist() == [1]


def test_a_name_twice_in_a_zip_is_refused(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr("cat/a.png", b"")
        archive.writestr("cat/a.png", b"")

    assert refusal(tmp_path / "data.zip").endswith("found a name twice, expected each file once")


@pytest.mark.parametrize("name", ["data.npz", "data.zip", "data.csv"])
def test_what_is_neither_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"hello")

    assert refusal(tmp_path / name).startswith(f"{tmp_path / name}: expected ")
    assert "found nothing, expected an .npz file" in refusal(tmp_path / "absent.npz")


# ------------------------------------------------------------------------------------------------------------------ digests


def test_the_digest_is_that_of_rows_labels_and_what_makes_rows_of_pictures(tmp_path: Path) -> None:
    root = folder(tmp_path / "data", FILES)
    smaller = InputSpec(name="x", datatype="UINT8", shape=(2, 2), image=ImageSpec(mode="L", width=2, height=2))
    before = dataset.read(root, PHOTO, LABELS).digest

    assert dataset.read(root, PHOTO, LABELS).digest == before
    assert dataset.read(root, smaller, LABELS).digest != before
    assert dataset.read(root, PHOTO, LABELS[::-1]).digest != before
    (root / "cat" / "a.png").write_bytes(picture(31))
    assert dataset.read(root, PHOTO, LABELS).digest != before


def test_the_digest_of_a_zip_is_that_of_its_bytes_and_the_part(tmp_path: Path) -> None:
    file = zipped(tmp_path / "data.zip", under("train") | under("test"))
    test, train = (dataset.read(Path(f"{file}#{part}"), PHOTO, LABELS).digest for part in ("test", "train"))

    assert test != train
    assert dataset.read(Path(f"{file}#test"), PHOTO, LABELS).digest == test
    zipped(file, under("train") | under("test", FILES | {"cat/a.png": picture(31)}))
    assert dataset.read(Path(f"{file}#test"), PHOTO, LABELS).digest != test
