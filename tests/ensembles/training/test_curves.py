"""Curves come from metrics.csv and from nothing else."""

import io

import pytest
from PIL import Image

from ensembles.training import curves
from ensembles.training.experiment import Epoch, Experiment, ExperimentError, read_metrics

EPOCHS = [Epoch(n, 2 / n, 1 - 0.5 / n, 2.2 / n, 1 - 0.6 / n, 0.1, 1.5) for n in (1, 2, 3)]


@pytest.fixture
def csv(tmp_path):
    Experiment(tmp_path).write_metrics(EPOCHS)
    return tmp_path / "metrics.csv"


def test_what_is_written_is_read_again(csv):
    assert list(read_metrics(csv)) == EPOCHS


def test_the_csv_alone_gives_the_same_picture_again(csv):
    first, again = (curves.png(read_metrics(csv), "a") for _ in range(2))
    assert first == again
    assert Image.open(io.BytesIO(first)).size == (900, 360)


def test_other_numbers_give_another_picture(csv):
    assert curves.png(EPOCHS[:2], "a") != curves.png(EPOCHS, "a")


@pytest.mark.parametrize("content", ["", "epoch,loss\n1,2\n", "no,csv", b"\xff\xfe", None])
def test_what_is_no_metrics_file_gets_one_line(csv, content):
    if content is None:
        csv.unlink()
    else:
        csv.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(
        ExperimentError, match=r"metrics\.csv: found .*, expected the columns epoch, training_loss"
    ) as told:
        read_metrics(csv)
    assert "\n" not in str(told.value)
