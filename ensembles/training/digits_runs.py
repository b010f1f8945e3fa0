"""The recipe `digits` as experiment folders: the five experts of the ensemble that ships, each fitted in one go."""

import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import yaml
from onnx import numpy_helper

from ensembles import export
from ensembles.training import curves, digits, files
from ensembles.training.digits import Expert, Rows
from ensembles.training.experiment import CONFIG, CURVES, MODEL, Epoch, Experiment, ExperimentError, Member
from ensembles.training.recipes import RecipeError

NAME = "digits"


def names(only: tuple[str, ...]) -> tuple[str, ...]:
    """The experts of these names, or all when none is given. Raises RecipeError."""
    known = tuple(expert.name for expert in digits.experts())
    unknown = next((name for name in only if name not in known), None)
    if unknown is not None:
        raise RecipeError(f"found no member {unknown!r} in {NAME}, expected one of {', '.join(known)}")
    return tuple(name for name in known if not only or name in only)


def train(runs: Path, wanted: tuple[str, ...], told: Callable[[str, Epoch], None]) -> tuple[Experiment, ...]:
    """The folders of these experts; those that are not finished are fitted now.

    Raises ExperimentError, ExportError and OSError.
    """
    parts = digits.split()
    experts = [expert for expert in digits.experts() if expert.name in wanted]
    for expert in experts:
        experiment = Experiment(runs / expert.name)
        config = yaml.safe_dump(_config(expert, parts), sort_keys=False).encode()
        _refuse_another(experiment, config)
        if not experiment.finished:
            told(expert.name, _fit(experiment, expert, parts, config))
    return tuple(Experiment(runs / expert.name) for expert in experts)


def _config(expert: Expert, parts: digits.Split) -> dict[str, Any]:
    digest = hashlib.sha256()
    for part in (parts.training, parts.calibration):
        digest.update(part.x.tobytes() + part.y.tobytes())
    return {
        "recipe": NAME,
        "data": {"name": "scikit-learn's digits", "sha256": digest.hexdigest(), "rows": len(parts.training.y)},
        "labels": [str(digit) for digit in range(digits.CLASSES)],
        "calibration": {"rows": len(parts.calibration.y), "seed": digits.SEED},
        "member": {"name": expert.name, "window": [list(ends) for ends in expert.window], "seed": digits.SEED},
    }


def _refuse_another(experiment: Experiment, config: bytes) -> None:
    file = experiment.path / CONFIG
    if file.exists() and file.read_bytes() != config:
        raise ExperimentError(f"{file}: found another configuration, expected that of {NAME} (or a new folder)")


def _fit(experiment: Experiment, expert: Expert, parts: digits.Split, config: bytes) -> Epoch:
    experiment.path.mkdir(parents=True, exist_ok=True)
    with files.only_one(experiment.path):
        files.sweep(experiment.path)
        experiment.write(CONFIG, config)
        start = time.perf_counter()
        with digits.reproducible():
            model = expert.learn(parts.training)
        seconds = round(time.perf_counter() - start, 3)
        epoch = Epoch(1, *_judged(model, parts.training), *_judged(model, parts.calibration), 0.0, seconds)
        experiment.write_metrics([epoch])
        experiment.write(MODEL, model)
        experiment.write(CURVES, curves.png(experiment.metrics(), experiment.name))
        experiment.finish(_member(experiment.name, model, epoch, parts))
    return epoch


def _judged(model: bytes, rows: Rows) -> tuple[float, float]:
    """Loss in nats a row, and accuracy."""
    probabilities = export.run(model, rows.x).astype(np.float64)
    given = np.clip(probabilities[np.arange(len(rows.y)), rows.y], 1e-15, 1)
    return float(-np.log(given).mean()), float((probabilities.argmax(axis=1) == rows.y).mean())


def _member(name: str, model: bytes, epoch: Epoch, parts: digits.Split) -> Member:
    manifest = digits.manifest({name: model}, parts.calibration)
    return Member(
        name=name,
        input=manifest["input"],
        labels=tuple(manifest["labels"]),
        emits="probabilities",
        calibration={"accuracy": epoch.calibration_accuracy, "n": len(parts.calibration.y)},
        parameters=sum(_numbers(onnx.load_model_from_string(model))),
        seconds_trained=epoch.seconds,
    )


def _numbers(model: onnx.ModelProto) -> Iterator[int]:
    """How many floating-point numbers each part of the graph holds: weights, thresholds, support vectors."""
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        yield array.size if array.dtype.kind == "f" else 0
    for node in model.graph.node:
        yield sum(len(attribute.floats) for attribute in node.attribute)
