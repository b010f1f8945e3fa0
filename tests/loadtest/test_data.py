import numpy as np
import pytest

from loadtest import data
from loadtest.data import DataError
from loadtest.targets.answers import Description


def model(datatype: str, *shape: int) -> Description:
    return Description("m", "x", datatype, shape, labels=("a", "b"))


def test_labelled_rows_are_those_of_the_file(tmp_path) -> None:
    np.savez(tmp_path / "d.npz", x=np.arange(8, dtype=np.uint8).reshape(2, 4), y=np.array([1, 0]))
    found = data.load(tmp_path / "d.npz", model("UINT8", 4), seed=0)

    assert found.x.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert found.truth == {0: 1, 1: 0}
    assert found.name.startswith("d.npz, 2 rows, sha256 ")


def test_numbers_that_lose_nothing_become_what_the_model_takes(tmp_path) -> None:
    np.savez(tmp_path / "d.npz", x=np.ones((2, 4), np.uint8))
    found = data.load(tmp_path / "d.npz", model("FP32", 4), seed=0)

    assert (found.x.dtype, found.y, found.truth) == (np.float32, None, {})


def test_a_dimension_of_any_size_takes_any(tmp_path) -> None:
    np.savez(tmp_path / "d.npz", x=np.ones((2, 7, 3), np.float32))

    assert data.load(tmp_path / "d.npz", model("FP32", -1, 3), seed=0).x.shape == (2, 7, 3)


@pytest.mark.parametrize("datatype", ["BOOL", "UINT8", "INT64", "FP16", "FP32", "FP64"])
def test_without_a_file_the_rows_depend_on_the_seed_alone(datatype) -> None:
    first, second, other = (data.load(None, model(datatype, 5), seed).x for seed in (1, 1, 2))

    assert (first == second).all()
    assert (first != other).any()
    assert first.shape == (data.RANDOM_ROWS, 5)


@pytest.mark.parametrize(
    ("found", "words"), [(model("BYTES", 4), "datatype BYTES"), (model("FP32", -1), "--data FILE")]
)
def test_rows_that_chance_cannot_make(found, words) -> None:
    with pytest.raises(DataError, match=words):
        data.load(None, found, seed=0)
