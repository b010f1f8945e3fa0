"""What asks callers to leave is a nicety: where it cannot be had, the server runs without, and it leaves nothing behind."""

import pytest

from serving import farewell
from serving.door import configuration
from serving.settings import Settings


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_it_leaves_nothing_behind(temporary, monkeypatch) -> None:
    file = farewell.prepared()
    monkeypatch.setenv(farewell.ENVIRONMENT, str(file))
    farewell.say()
    assert file.read_text() == farewell.LEAVE
    farewell.forget()

    assert list(temporary.iterdir()) == []


def test_it_removes_nothing_that_is_not_its_own(temporary) -> None:
    (temporary / "folder").mkdir()
    (temporary / "folder" / "leave").touch()
    (temporary / "folder" / "precious").touch()
    farewell.forget(str(temporary / "folder" / "leave"))

    assert (temporary / "folder" / "precious").exists()


def test_without_a_folder_for_temporary_files_there_is_none(monkeypatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("tempfile._candidate_tempdir_list", lambda: ["/proc/nowhere"])

    assert farewell.prepared() is None


def test_without_watchers_there_is_none_as_envoy_would_not_start(temporary, monkeypatch) -> None:
    monkeypatch.setattr(farewell, "_can_watch", lambda: False)

    assert farewell.prepared() is None
    assert list(temporary.iterdir()) == []


def test_then_the_door_opens_without(digits) -> None:
    assert "overload_manager" not in configuration(Settings(repositories=(digits.path,)), "app", None)
