"""Votes on labelled data: every member once, kept by content, whole or not at all."""

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ensembles import recording, vote_files
from ensembles.dataset import DatasetError
from ensembles.members import MemberError
from ensembles.recording import Recording, RecordingError, record
from ensembles.repository import Repository

ROOT = Path(__file__).parents[2]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def data(digits: Repository) -> Path:
    return digits.path / "samples.npz"


def changed(digits: Repository, **members: dict[str, Any]) -> Repository:
    """The repository with some fields of some members replaced."""
    entries = tuple(entry.model_copy(update=members.get(entry.name, {})) for entry in digits.spec.members)
    return dataclasses.replace(digits, spec=digits.spec.model_copy(update={"members": entries}))


def recorded(repository: Repository, data: Path, cache: Path) -> tuple[Recording, int]:
    """The recording, and how many batches ran for it."""
    told: list[int] = []
    found = record(repository, data, cache, progress=lambda done, total: told.append(done))
    return found, len(told)


def files(cache: Path) -> list[Path]:
    return sorted(cache.iterdir())


def in_a_process_that(does: str, data: Path, cache: Path) -> "subprocess.CompletedProcess[str]":
    """Record in another process, in which the statement `does` runs first."""
    program = f"""
import os, resource, signal
from pathlib import Path
from ensembles import repository
from ensembles.recording import record
watch = None
{does}
record(repository.read(Path({str(ROOT / "exported_models" / "digits")!r})), Path({str(data)!r}), Path({str(cache)!r}), progress=watch)
"""
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False, capture_output=True, text=True)


def pictures_of(x: Any, y: Any, root: Path) -> Path:
    for number, (row, label) in enumerate(zip(x, y, strict=True)):
        folder = root / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.rint(row * (255 / 16)).astype(np.uint8)).save(folder / f"{number:04}.png")
    return root


# ----------------------------------------------------------------------------------------------------------- what is recorded


def test_every_member_says_what_onnx_runtime_says(
    digits: Repository, samples: Any, scores: Any, data: Path, cache: Path
) -> None:
    found = record(digits, data, cache)

    assert len(found.scores) == 5 and found.name == "samples.npz"
    assert all(isinstance(column, np.memmap) and column.dtype == np.float32 for column in found.scores)
    assert np.stack(found.scores, axis=1) == pytest.approx(scores, abs=1e-5)
    assert np.array_equal(found.y, samples[1])
    assert found.seconds.shape == (5,) and (found.seconds > 0).all()
    assert found.devices == ("cpu",) * 5 and "core" in found.machine


def test_time_is_that_of_the_runs_but_the_first(digits: Repository, data: Path, cache: Path) -> None:
    found = record(digits, data, cache)

    assert found.batch_rows == 64
    assert found.runs[0][:, 0].tolist() == [64] * 8 + [24]
    assert found.seconds[0] == pytest.approx(found.runs[0][:, 1].sum() / (600 - 64))


def test_a_second_run_runs_nothing_and_says_the_same(digits: Repository, data: Path, cache: Path) -> None:
    first, batches = recorded(digits, data, cache)
    second, again = recorded(digits, data, cache)

    assert (batches, again) == (10, 0)
    assert all(np.array_equal(a, b) for a, b in zip(first.scores, second.scores, strict=True))
    assert np.array_equal(first.seconds, second.seconds)


def test_only_what_changed_runs_again(
    digits: Repository, samples: Any, data: Path, cache: Path, tmp_path: Path
) -> None:
    record(digits, data, cache)
    slower = digits.spec.members[0].run_on.model_copy(update={"threads": 2})

    _, batches = recorded(changed(digits, mlp={"run_on": slower}), data, cache)
    assert batches == 10 and len(files(cache)) == 6, "the mlp alone"

    np.savez(tmp_path / "other.npz", x=samples[0][:100], y=samples[1][:100])
    record(digits, tmp_path / "other.npz", cache)
    assert len(files(cache)) == 11, "other rows, all members"


def test_members_of_equal_bytes_run_once(digits: Repository, data: Path, cache: Path) -> None:
    mlp = digits.spec.members[0]
    copies = tuple(mlp.model_copy(update={"name": name}) for name in ("a", "b", "c"))
    thrice = dataclasses.replace(digits, spec=digits.spec.model_copy(update={"members": copies}))
    found = record(thrice, data, cache)

    assert len(files(cache)) == 1
    assert np.array_equal(found.scores[0], found.scores[2]) and len(found.scores) == 3


def test_pictures_give_the_votes_of_their_rows(
    digits: Repository, samples: Any, scores: Any, cache: Path, tmp_path: Path
) -> None:
    order = np.argsort(samples[1][:80], kind="stable")
    root = pictures_of(samples[0][:80], samples[1][:80], tmp_path / "digits")
    found = record(digits, root, cache)

    assert np.stack(found.scores, axis=1) == pytest.approx(scores[:80][order], abs=1e-5)
    assert np.array_equal(found.y, samples[1][:80][order])


# ------------------------------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content + b"\0",
        lambda content: content[:5000] + bytes([content[5000] ^ 1]) + content[5001:],
        lambda content: content[:-50] + bytes([content[-50] ^ 1]) + content[-49:],
        lambda content: b"",
        lambda content: b"hello" * 100,
    ],
)
def test_a_damaged_file_is_noticed_and_made_again(digits: Repository, data: Path, cache: Path, damage: Any) -> None:
    first = record(digits, data, cache)
    kept = np.array(first.scores[0])
    victim = files(cache)[0]
    before = victim.read_bytes()
    victim.write_bytes(damage(before))

    again, batches = recorded(digits, data, cache)
    assert batches == 10
    assert np.array_equal(again.scores[0], kept)
    assert len(victim.read_bytes()) > 24_000


def test_a_file_for_another_number_of_classes_is_none(digits: Repository, data: Path, cache: Path) -> None:
    record(digits, data, cache)

    assert vote_files.load(files(cache)[0], 10) is not None
    assert vote_files.load(files(cache)[0], 5) is None


def test_a_killed_run_leaves_nothing_that_the_next_one_trips_over(digits: Repository, data: Path, cache: Path) -> None:
    died = in_a_process_that("def watch(done, total): done > 300 and os.kill(os.getpid(), signal.SIGKILL)", data, cache)

    assert died.returncode == -signal.SIGKILL
    assert {file.suffix for file in files(cache)} == {".part"}
    assert recorded(digits, data, cache)[1] == 10
    assert {file.suffix for file in files(cache)} == {".votes"}, "what was half-written is swept up"


def test_what_others_are_writing_is_not_swept_up(cache: Path) -> None:
    cache.mkdir()
    with vote_files.writing(cache / "a.votes") as writer:
        writer.append(np.ones((1, 2), np.float32))
        vote_files.sweep(cache)
        assert len(files(cache)) == 1
        writer.finish(2, [(1, 0.5)], np.array([], np.int64), "cpu")

    found = vote_files.load(cache / "a.votes", 2)
    assert found is not None and found.scores.tolist() == [[1, 1]]
    assert len(files(cache)) == 1


def test_a_disk_that_fills_is_one_line_and_earlier_votes_stay(digits: Repository, data: Path, cache: Path) -> None:
    record(changed(digits), data, cache)
    kept = {file: file.read_bytes() for file in files(cache)[1:]}
    files(cache)[0].unlink()
    full = in_a_process_that("resource.setrlimit(resource.RLIMIT_FSIZE, (9999, 9999))", data, cache)

    assert full.returncode == 1
    assert full.stderr.splitlines()[-1] == (
        f"ensembles.recording.RecordingError: {cache}: found File too large, expected a folder to keep votes in"
    )
    assert {file: file.read_bytes() for file in files(cache)} == kept


def test_a_disk_without_room_is_refused_before_anything_runs(digits: Repository, cache: Path) -> None:
    cache.mkdir()
    with pytest.raises(RecordingError, match=r"bytes free on the disk, expected 1,\d{3}(,\d{3}){5} for votes"):
        recording._check_room(cache, 10**18 * 1)


def test_a_cache_that_is_a_file_is_refused(digits: Repository, data: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(b"")

    with pytest.raises(RecordingError, match="cache: found File exists, expected a folder to keep votes in"):
        record(digits, data, tmp_path / "cache")


# ------------------------------------------------------------------------------------------------------- what cannot be read


@pytest.fixture
def damaged(samples: Any, tmp_path: Path) -> Path:
    root = pictures_of(samples[0][:80], samples[1][:80], tmp_path / "digits")
    (root / "3" / "a.png").write_bytes(b"hello")
    (root / "7" / "b.png").write_bytes(b"")
    return root


def test_unreadable_images_are_named_and_refused(digits: Repository, damaged: Path, cache: Path) -> None:
    with pytest.raises(DatasetError) as fault:
        record(digits, damaged, cache)

    assert str(fault.value) == (
        "digits: found 2 unreadable of 82 images (3/a.png, 7/b.png), expected PNG or JPEG; --skip-bad goes on without them"
    )
    assert not files(cache)


def test_unreadable_images_are_left_out_when_asked(
    digits: Repository, samples: Any, damaged: Path, cache: Path
) -> None:
    found = record(digits, damaged, cache, skip_bad=True)

    assert len(found.y) == len(found.index) == len(found.scores[0]) == 80
    assert np.array_equal(found.y, np.sort(samples[1][:80]))
    assert np.array_equal(found.y, found.data.y[found.index])
    with pytest.raises(DatasetError, match="found 2 unreadable of 82"):
        record(digits, damaged, cache)  # also when the votes lie there


def test_a_member_that_gives_no_votes_is_named(digits: Repository, cache: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "few.npz", x=np.zeros((4, 8, 8), np.uint8), y=np.arange(4) % 2)
    six = dataclasses.replace(digits, spec=digits.spec.model_copy(update={"labels": tuple("abcdef")}))

    with pytest.raises(MemberError, match=r"members.mlp: found scores of shape \[4, 10\], expected \[4, 6\]"):
        record(six, tmp_path / "few.npz", cache)
    assert not files(cache)


def test_the_cache_is_where_the_user_keeps_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert recording.default_cache() == tmp_path / "scrutin" / "votes"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert recording.default_cache() == Path(os.environ["HOME"]) / ".cache" / "scrutin" / "votes"
