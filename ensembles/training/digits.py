"""The recipe of the ensemble that ships: five cheap classifiers of scikit-learn's 8x8 digits, each seeing a part of the image.

Experts that see the same thing err together, and then a vote of them is worth little. So each is another kind of model and
sees another window: one the top, one the bottom, one the left, one the right, one the centre. Each alone is limited on
purpose; that the vote beats the best of them shows what a vote does, not the state of the art: one support vector machine
that sees the whole image does better than all five, and the last line of the printed table says by how much.

Windows and settings were chosen by cross-validation on the training and calibration rows. The samples that ship chose
nothing. Training is in float64: on another CPU, which rounds otherwise, the weights then differ by a millionth at most and
every label stays what it is.
"""

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.naive_bayes import GaussianNB
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits
from torch import nn

from ensembles import export, repository
from ensembles.export import Input
from ensembles.samples import write_npz
from ensembles.votes import Ballot, Rule, vote

Right = NDArray[np.bool_]

SEED = 2018
CLASSES = 10
BRIGHTEST = 16
TRAINING_ROWS, CALIBRATION_ROWS = 897, 300


@dataclass(frozen=True, slots=True)
class Rows:
    """x uint8 [n, 8, 8] from 0 to 16, y int64 [n], and `index` int64 [n]: their places in scikit-learn's data."""

    x: NDArray[np.uint8]
    y: NDArray[np.int64]
    index: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Split:
    """Disjoint rows, each part with every digit in its share: to train on, to choose by, and to be shipped as samples."""

    training: Rows
    calibration: Rows
    samples: Rows


@dataclass(frozen=True, slots=True)
class Expert:
    """A kind of classifier, the window of the image (rows, columns) that it sees, and how it is trained on it."""

    name: str
    window: tuple[tuple[int, int], tuple[int, int]]
    train: Callable[[Input, Rows], bytes]

    def learn(self, rows: Rows) -> bytes:
        """The trained expert as an ONNX model of the whole image."""
        (top, bottom), (left, right) = self.window
        pixels = (bottom - top) * (right - left)
        return self.train(Input("image", "UINT8", (8, 8), self.window, 1 / BRIGHTEST, (pixels,)), rows)


def split() -> Split:
    """The 1,797 digits in three parts, always the same: 897 to train on, 300 to calibrate, 600 samples."""
    digits = load_digits()
    x, y = digits.images.astype(np.uint8), digits.target.astype(np.int64)
    training, rest = train_test_split(np.arange(len(y)), train_size=TRAINING_ROWS, stratify=y, random_state=SEED)
    calibration, samples = train_test_split(rest, train_size=CALIBRATION_ROWS, stratify=y[rest], random_state=SEED)
    return Split(*(Rows(x[part], y[part], part) for part in (training, calibration, samples)))


def experts() -> tuple[Expert, ...]:
    """The five, in the order of the manifest."""
    top, bottom, left, right = (0, 5), (3, 8), (0, 5), (3, 8)
    everything = (0, 8)
    forest = partial(RandomForestClassifier, n_estimators=20, max_depth=8, min_samples_leaf=2, random_state=SEED)
    return (
        Expert("mlp", (top, everything), partial(_train_net, _mlp, epochs=40)),
        Expert("cnn", (bottom, everything), partial(_train_net, _cnn, epochs=25)),
        Expert("forest", (everything, left), partial(_fit, forest)),
        Expert("logistic", (everything, right), partial(_fit, partial(LogisticRegression, C=10, max_iter=500))),
        Expert("bayes", ((1, 7), (1, 7)), partial(_fit, partial(GaussianNB, var_smoothing=0.2))),
    )


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(5 * 8, 32), nn.ReLU(), nn.Linear(32, CLASSES))


def _cnn() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 5, 8)),
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 3 * 6, CLASSES),
    )


def _train_net(build: Callable[[], nn.Module], seen: Input, rows: Rows, epochs: int) -> bytes:
    torch.manual_seed(SEED)
    net = build().double()
    x, y = torch.from_numpy(seen.prepare(rows.x)).double(), torch.from_numpy(rows.y)
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    for _ in range(epochs):
        for batch in torch.utils.data.BatchSampler(torch.randperm(len(y)).tolist(), 32, drop_last=False):
            optimizer.zero_grad()
            torch.autograd.backward(nn.functional.cross_entropy(net(x[batch]), y[batch]))
            optimizer.step()
    return export.from_torch(net, seen, rows.x)


def _fit(build: Callable[[], Any], seen: Input, rows: Rows) -> bytes:
    estimator = build().fit(seen.prepare(rows.x).astype(np.float64), rows.y)
    return export.from_sklearn(estimator, seen, rows.x)


def train(rows: Rows) -> dict[str, bytes]:
    """ONNX models by name, each trained on all of `rows`; the same bytes every time on the same machine."""
    with reproducible():
        return {expert.name: expert.learn(rows) for expert in experts()}


@contextmanager
def reproducible() -> Iterator[None]:
    """One thread, so that sums are always added up in the same order."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    with threadpool_limits(1):
        yield


def build(directory: Path) -> dict[str, bytes]:
    """Train the experts and write the model repository. Returns the ONNX models by name."""
    parts = split()
    models = train(parts.training)
    repository.write(directory, manifest(models, parts.calibration), models, (parts.samples.x, parts.samples.y))
    return models


def manifest(models: Mapping[str, bytes], calibration: Rows) -> dict[str, Any]:
    """The content of `ensemble.yaml`, with each member's accuracy on the calibration rows."""
    return {
        "name": "digits",
        "version": 1,
        "labels": [str(digit) for digit in range(CLASSES)],
        "input": {
            "name": "image",
            "datatype": "UINT8",
            "shape": [8, 8],
            "image": {"mode": "L", "width": 8, "height": 8, "range": [0, BRIGHTEST]},
        },
        "members": [_member(name, model, calibration) for name, model in models.items()],
        "vote": {"rule": "probability_average", "tie_break": "probability", "temperature": 1.0, "quorum": 3},
        "policies": {"default": "full"},
        "limits": {"max_batch_size": 64, "max_queue_size": 1024, "timeout_ms": 1000},
    }


def _member(name: str, model: bytes, calibration: Rows) -> dict[str, Any]:
    accuracy = (export.run(model, calibration.x).argmax(axis=1) == calibration.y).mean()
    return {
        "name": name,
        "model": f"{name}/1/model.onnx",
        "emits": "probabilities",
        "weight": 1,
        "calibration": {"accuracy": round(float(accuracy), 4), "n": len(calibration.y)},
        "run_on": {"backend": "onnxruntime", "device": "auto", "threads": 1},
    }


def judge(models: Mapping[str, bytes], rows: Rows) -> dict[str, Right]:
    """Which rows each member and each voting rule gets right, [n] bool by name."""
    scores = np.stack([export.run(model, rows.x) for model in models.values()], axis=1)
    members = dict(zip(models, (scores.argmax(axis=2) == rows.y[:, None]).T, strict=True))
    weights, priority = np.ones(len(models)), np.arange(len(models))
    answers = {rule.value: vote(scores, Ballot(rule, weights, priority)).label_index for rule in Rule}
    return members | {rule: answer == rows.y for rule, answer in answers.items()}


def table(models: Mapping[str, bytes], parts: Split) -> str:
    """Accuracy of members and rules on the samples, and each rule's gain over the member that was best in calibration.

    Whoever had to choose one member would have chosen that one. Which was best on the samples is known in hindsight only;
    the gain over it has a line of its own.
    """
    calibration, samples = judge(models, parts.calibration), judge(models, parts.samples)
    best, hindsight = _best(models, calibration), _best(models, samples)
    gains = {rule.value: _gain(samples[rule], samples[best]) for rule in Rule}
    shipped = Rule.PROBABILITY_AVERAGE
    lines = [
        ("", " right  95% interval  ", f"points over {best}, 95%, McNemar"),
        *((name, _accuracy(right), gains.get(name, "")) for name, right in samples.items()),
        (f"{shipped} over {hindsight}", "best in hindsight", _gain(samples[shipped], samples[hindsight])),
        ("one SVM, not shipped", _accuracy(_one_model(parts)), ""),
    ]
    return "\n".join(f"{name:33}  {accuracy:22}  {gain}".rstrip() for name, accuracy, gain in lines)


def _best(models: Iterable[str], right: Mapping[str, Right]) -> str:
    return max(models, key=lambda name: right[name].mean())


def _one_model(parts: Split) -> Right:
    """What one good model does that sees the whole image and the same rows."""
    machine = SVC().fit(parts.training.x.reshape(-1, 64), parts.training.y)
    right: Right = machine.predict(parts.samples.x.reshape(-1, 64)) == parts.samples.y
    return right


def _accuracy(right: Right) -> str:
    interval = binomtest(int(right.sum()), len(right)).proportion_ci(method="wilson")
    return f" {right.mean():.1%}  {interval.low:.1%} to {interval.high:.1%}"


def _gain(right: Right, other: Right, draws: int = 10_000) -> str:
    """The gain in points with its interval (paired bootstrap), and the exact McNemar p."""
    differences = right.astype(np.int64) - other
    rng = np.random.default_rng(SEED)
    counts = rng.multinomial(len(right), [np.mean(differences == d) for d in (-1, 0, 1)], size=draws)
    low, high = np.percentile((counts[:, 2] - counts[:, 0]) / len(right) * 100, [2.5, 97.5])
    wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
    p = binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    return f"{differences.mean() * 100:+.1f}  {low:+.1f} to {high:+.1f}  p {p:.2g}"


def main() -> None:
    """Train, write the repository and print what it is worth."""
    parser = argparse.ArgumentParser(
        prog="python -m ensembles.training.digits",
        description="Train the digits ensemble and write its model repository.",
        epilog="example: python -m ensembles.training.digits --to exported_models/digits",
    )
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="where the model repository is written")
    parser.add_argument(
        "--calibration", type=Path, metavar="FILE", help="where the calibration rows go, to plan on (.npz)"
    )
    given, parts = parser.parse_args(), split()
    models = build(given.to)
    if given.calibration:
        write_npz(given.calibration, parts.calibration.x, parts.calibration.y)
    print(table(models, parts))


if __name__ == "__main__":
    main()
