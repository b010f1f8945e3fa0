"""Images are decoded once, by the rule by which a server decodes them."""

import shutil
import zipfile

import numpy as np
import pytest

from ensembles import pictures as decoding
from ensembles.dataset import DatasetError
from ensembles.training import images

from .conftest import COLOURS, ROWS, SIDE


def silent(done, total):
    pass


@pytest.fixture
def folder(pictures, tmp_path):
    return shutil.copytree(pictures, tmp_path / "pictures")


def test_rows_are_what_a_server_would_make_of_the_files(pictures, tmp_path):
    data, labels = images.read(str(pictures), SIDE)
    found = images.load(images.decode(data, SIDE, tmp_path, silent))
    given = images.served(SIDE)
    assert labels == COLOURS
    assert (found.y == np.repeat([0, 1, 2], ROWS)).all()
    content = (pictures / "green" / "03.png").read_bytes()
    assert (found.x[ROWS + 3] == decoding.row(content, given, given.image)).all()


def test_a_folder_inside_a_zip_is_chosen_after_a_hash(pictures, tmp_path):
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        for file in sorted(pictures.rglob("*.png")):
            archive.write(file, f"train/{file.relative_to(pictures)}")
            archive.write(file, f"test/{file.parent.name}/x.png") if file.stem == "00" else None
    data, labels = images.read(f"{tmp_path / 'p.zip'}#train", SIDE)
    assert (labels, len(data.y)) == (COLOURS, 3 * ROWS)


def test_a_second_time_nothing_is_decoded(folder, tmp_path):
    data, _ = images.read(str(folder), SIDE)
    first = images.decode(data, SIDE, tmp_path / "cache", silent)
    shutil.rmtree(folder)
    assert images.decode(data, SIDE, tmp_path / "cache", silent) == first


def test_what_a_killed_process_left_half_decoded_is_ignored_and_removed(folder, tmp_path):
    left = tmp_path / "cache" / ".partial-of-a-killed-one"
    left.mkdir(parents=True)
    (left / images.ROWS).write_bytes(b"half")
    data, _ = images.read(str(folder), SIDE)
    found = images.load(images.decode(data, SIDE, tmp_path / "cache", silent))
    assert len(found.x) == 3 * ROWS
    assert not left.exists()


def test_unreadable_images_are_named_and_counted_and_nothing_is_left(folder, tmp_path):
    (folder / "red" / "03.png").write_bytes(b"no picture")
    (folder / "red" / "07.png").write_bytes((folder / "red" / "07.png").read_bytes()[:60])
    data, _ = images.read(str(folder), SIDE)
    with pytest.raises(DatasetError, match=r"found 2 unreadable of 60 images \(red/03.png, red/07.png\)"):
        images.decode(data, SIDE, tmp_path / "cache", silent)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("nonesuch", "nonesuch: found nothing, expected a folder of class folders of images or a zip of it"),
        ("pictures#train", "pictures#train: found class folders: none; expected at least 2"),
        ("pictures/red", "pictures/red: found class folders: none; expected at least 2"),
        ("a.zip", "a.zip: expected a zip of class folders"),
    ],
)
def test_what_holds_no_class_folders_gets_one_line(folder, tmp_path, monkeypatch, source, fault):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.zip").write_bytes(b"no zip")
    with pytest.raises(DatasetError) as told:
        images.read(source, SIDE)
    assert str(told.value).startswith(fault)
