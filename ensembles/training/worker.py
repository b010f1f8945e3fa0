"""The process that trains one member: `python -m ensembles.training.worker RUN IMAGES DEVICE`, started by `fleet`.

It says how far it is in lines of JSON, and ends as soon as its standard input does: no training outlives who asked for it.
"""

import json
import os
import signal
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

import torch

from ensembles.dataset import DatasetError
from ensembles.preprocessing import ExportError
from ensembles.training import files, images, loop
from ensembles.training.experiment import Epoch, Experiment, ExperimentError, HopelessError

SECONDS_BETWEEN_NEWS = 0.5


def main() -> None:
    """Train; in the end say `{"finished": true}`, or `{"fault": "…"}` in one line, `hopeless` if others may still be trained."""
    run, decoded, device = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; who asked for the training decides
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    try:
        _train(Experiment(Path(run)), Path(decoded), device)
    except HopelessError as error:
        _say(fault=str(error), hopeless=True)
    except torch.OutOfMemoryError as error:
        _say(fault=f"{run}: {str(error).splitlines()[0]}", hopeless=True)
    except (DatasetError, ExportError, ExperimentError) as error:
        _say(fault=f"{run}: {error}" if isinstance(error, ExportError) else str(error))
    except OSError as error:
        _say(fault=files.fault(error, Path(run)))
    else:
        _say(finished=True)


def _train(experiment: Experiment, decoded: Path, device: str) -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    with files.only_one(experiment.path):
        files.sweep(experiment.path)
        loop.train(experiment, images.load(decoded), _chosen(device), _News().tell)


def _chosen(device: str) -> str:
    if device == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    if device != "cpu" and int(device.removeprefix("cuda:")) >= torch.cuda.device_count():
        raise ExperimentError(f"--device: found {device}, expected one of {torch.cuda.device_count()} GPUs, or cpu")
    return device


class _News:
    def __init__(self) -> None:
        self._last = time.monotonic()

    def tell(self, done: float, epoch: Epoch | None) -> None:
        if epoch is None and time.monotonic() - self._last < SECONDS_BETWEEN_NEWS:
            return
        self._last = time.monotonic()
        _say(done=done, epoch=epoch and asdict(epoch))


def _say(**news: object) -> None:
    print(json.dumps(news), flush=True)


def _end_with_the_parent() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
