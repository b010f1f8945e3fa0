"""A training can be killed at any moment; what comes out in the end is what would have come out anyhow."""

import hashlib
import json
import random
import resource
import signal
import time
from dataclasses import replace

import pytest
import torch

from ensembles.training import images, loop, recipes, runs
from ensembles.training.experiment import CHECKPOINT, METRICS, MODEL, SCORES, Experiment, ExperimentError

BUSY = {
    "epochs": 4,
    "grey": True,
    "size": 4,
    "bagging": 0.8,
    "label_smoothing": 0.1,
    "augment": ["flip", "crop", "colour", "cutout"],
}
"""A member to which everything happens that a recipe may ask for."""


class Killed(BaseException):
    """Stops a training as a signal would, between two steps."""


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def prepared(recipe, tmp_path):
    """A function that prepares the runs of members in a folder."""

    def prepare(folder="runs", resume=False, **members):
        wanted = recipes.from_mapping(recipe(**members))
        return runs.prepare(wanted, tmp_path / folder, resume=resume, progress=lambda done, total: None)

    return prepare


def train(experiment, prepared, calls_until_the_end=None):
    """Train in this process; the `calls_until_the_end`-th report of progress is the last."""
    left = [calls_until_the_end]

    def told(done, epoch):
        if left[0] is not None:
            left[0] -= 1
            if left[0] <= 0:
                raise Killed

    loop.train(experiment, images.load(prepared.images), "cpu", told)


def content(folder):
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir() if file.is_file()}


def finish(process):
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out, err


def test_stopped_between_any_two_steps_the_model_is_the_same_to_the_byte(prepared):
    whole, cut = prepared("whole", a=BUSY), prepared("cut", a=BUSY)
    (one,), (other,) = whole.experiments, cut.experiments
    moments = random.Random(3)
    train(one, whole)
    for _ in range(4):
        with pytest.raises(Killed):
            train(other, cut, moments.randint(1, 9))
    train(other, cut)
    assert (one.path / MODEL).read_bytes() == (other.path / MODEL).read_bytes()
    assert (one.path / CHECKPOINT).read_bytes() == (other.path / CHECKPOINT).read_bytes()
    untimed = [[replace(epoch, seconds=0) for epoch in each.metrics()] for each in (one, other)]
    assert untimed[0] == untimed[1]


def test_a_row_of_metrics_without_its_checkpoint_is_done_again(prepared):
    ready = prepared(a={})
    (experiment,) = ready.experiments
    with pytest.raises(Killed):
        train(experiment, ready, 8)
    first, *_ = experiment.metrics()
    experiment.write_metrics([first, replace(first, epoch=2), replace(first, epoch=3)])
    with pytest.raises(Killed):
        train(experiment, ready, 14)  # six steps and an end, twice
    assert [epoch.epoch for epoch in experiment.metrics()] == [1, 2, 3]
    assert len({epoch.training_loss for epoch in experiment.metrics()}) == 3


def test_killed_processes_leave_nothing_behind_and_end_in_the_same_model(command, recipe, prepared, tmp_path):
    """SIGKILL to the process that asked for the training: its trainers end with it."""
    member = {"epochs": 40, "batch_size": 4}
    run = tmp_path / "runs" / "a"
    process = command(recipe(a=member), "--resume")
    next(line for line in process.stderr if "epoch" in line)
    time.sleep(random.Random(5).random() * 0.2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (run / MODEL).exists()
    (run / ".partial-123-model.onnx").write_bytes(b"half a model")
    finish(command(recipe(a=member), "--resume"))
    assert not list(run.glob(".partial*"))
    whole = prepared("whole", a=member)
    train(whole.experiments[0], whole)
    assert (whole.experiments[0].path / MODEL).read_bytes() == (run / MODEL).read_bytes()
    assert [epoch.epoch for epoch in Experiment(run).metrics()] == list(range(1, 41))


def test_a_finished_member_is_left_alone(command, recipe, prepared, tmp_path):
    ready = prepared(a={"epochs": 1})
    train(ready.experiments[0], ready)
    run = ready.experiments[0].path
    before, written = content(run), {file.name: file.stat().st_mtime_ns for file in run.iterdir()}
    assert set(before) == {"config.yaml", METRICS, CHECKPOINT, "curves.png", MODEL, SCORES, "member.json"}
    out, err = finish(command(recipe(a={"epochs": 1}), "--resume", "--json"))
    assert [member["name"] for member in json.loads(out)] == ["a"]
    assert "epoch" not in err
    assert content(run) == before
    assert {file.name: file.stat().st_mtime_ns for file in run.iterdir()} == written


def fault_with_a_disk_of(size, process):
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, size))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    line = err.splitlines()[-1]
    assert line.startswith("ensembles: ")
    assert line.endswith("found file too large, expected a place to write")


def test_a_disk_too_full_for_the_images_gets_one_line(command, recipe, tmp_path):
    fault_with_a_disk_of(4 << 10, command(recipe(a={})))
    assert [file.name for file in (tmp_path / "runs").rglob("*")] == [images.CACHE]


def test_a_disk_too_full_for_a_checkpoint_gets_one_line_and_leaves_no_half_written_file(command, recipe, prepared):
    wide = {"architecture": "mlp", "width": 256}
    run = prepared(a=wide).experiments[0].path
    fault_with_a_disk_of(64 << 10, command(recipe(a=wide), "--resume"))
    assert {file.name for file in run.iterdir()} == {"config.yaml", METRICS}


def test_an_earlier_run_is_not_overwritten(prepared):
    prepared(a={})
    with pytest.raises(ExperimentError, match=r"runs/a: found an earlier run, expected a new folder, or --resume"):
        prepared(a={})


def test_a_run_does_not_go_on_under_another_configuration(prepared):
    prepared(a={})
    with pytest.raises(ExperimentError, match=r"runs/a: member.epochs: found 4, expected 3 as when the run began"):
        prepared(resume=True, a={"epochs": 4})


def test_a_folder_whose_making_was_cut_short_is_begun_again(prepared, tmp_path):
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (experiment,) = prepared(resume=True, a={}).experiments
    assert experiment.config().member.name == "a"


def test_a_checkpoint_of_another_net_is_refused(prepared):
    ready = prepared(a={}, b={"width": 4})
    a, b = ready.experiments
    with pytest.raises(Killed):
        train(a, ready, 8)
    (b.path / CHECKPOINT).write_bytes((a.path / CHECKPOINT).read_bytes())
    for damaged in (None, b"no checkpoint"):
        if damaged:
            (b.path / CHECKPOINT).write_bytes(damaged)
        with pytest.raises(
            ExperimentError, match=r"checkpoint.safetensors: expected a checkpoint of this member"
        ) as told:
            train(b, ready)
        assert "\n" not in str(told.value)


def test_a_training_that_diverges_says_so(prepared):
    ready = prepared(a={"learning_rate": 100.0, "architecture": "linear", "schedule": "constant", "weight_decay": 1.0})
    with pytest.raises(ExperimentError, match=r"runs/a: epoch \d: found a loss of (nan|inf), expected a finite one"):
        train(ready.experiments[0], ready)


def test_two_processes_do_not_work_in_one_folder(tmp_path):
    from ensembles.training import files

    with files.only_one(tmp_path), pytest.raises(BlockingIOError) as told, files.only_one(tmp_path, patience=0.1):
        pass
    assert files.fault(told.value, tmp_path) == f"{tmp_path}: found another process at work, expected a place to write"


def test_calibration_rows_have_to_be_there(prepared, recipe, tmp_path):
    wanted = recipes.from_mapping(recipe(a={}) | {"calibration": {"rows": 59}})
    with pytest.raises(Exception, match=r"calibration.rows: found 59, expected 3 \(the classes\) to 58"):
        runs.prepare(wanted, tmp_path / "runs", resume=False, progress=lambda done, total: None)
