"""One member, from its configuration to its model: the same bytes however often the process is killed on the way (on a CPU).

What is left to chance depends on the member's seed, the epoch and the step alone, so a training that goes on from the
checkpoint of the last epoch needs no other memory.
"""

import math
import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ensembles import export
from ensembles.training import chance, checkpoints, curves, nets, schedules
from ensembles.training.augment import augmented
from ensembles.training.chance import Chance, Ints
from ensembles.training.experiment import CURVES, MODEL, Config, Epoch, Experiment, HopelessError, Member
from ensembles.training.images import Images, served

MOMENTUM = 0.9
ROWS_AT_ONCE = 256
PARITY_ROWS = 64

Told = Callable[[float, Epoch | None], None]
"""Told which share of the training is done, and of each epoch that ended."""


def train(experiment: Experiment, images: Images, device: str, told: Told) -> None:
    """Train the member of this folder from where it stands, export it and say that it is finished.

    Raises ExperimentError when it cannot go on (HopelessError when it never will), ExportError, and OSError where the disk fails.
    """
    run = _Run(experiment, experiment.config(), images, torch.device(device))
    run.train(told)
    run.finish()


class _Run:
    def __init__(self, experiment: Experiment, config: Config, images: Images, device: torch.device) -> None:
        self.experiment, self.config, self.images, self.device = experiment, config, images, device
        self.member = config.member
        self.taken = nets.taken(config.data.image_size)
        rows = chance.split(images.y, config.calibration.rows, config.calibration.seed)
        self.calibration = rows.calibration
        self.bag = chance.bag(rows.training, self.member.bagging, self.member.seed)
        net = nets.build(self.member, config.data.image_size, len(config.labels))
        self.net = net.to(device, memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(
            self.net.parameters(), momentum=MOMENTUM, nesterov=True, weight_decay=self.member.weight_decay
        )
        self.loss = nn.CrossEntropyLoss(label_smoothing=self.member.label_smoothing)
        done = checkpoints.load(experiment.path, self.net, self.optimizer)
        self.epochs = list(experiment.metrics()[:done])

    def train(self, told: Told) -> None:
        """The epochs that are still to do. Metrics go first: a row without its checkpoint is forgotten, not missed."""
        for epoch in range(len(self.epochs), self.member.epochs):
            self.epochs.append(self._epoch(epoch, told))
            self.experiment.write_metrics(self.epochs)
            checkpoints.save(self.experiment.path, self.net, self.optimizer, epoch + 1)
            told((epoch + 1) / self.member.epochs, self.epochs[-1])

    def _epoch(self, epoch: int, told: Told) -> Epoch:
        start = time.perf_counter()
        batches = chance.batches(self.bag, self.member.batch_size, self.member.seed, epoch)
        sums = np.zeros(2)
        self.net.train()
        for step, batch in enumerate(batches):
            progress = (epoch + step / len(batches)) / self.member.epochs
            sums += self._step(batch, chance.chance(self.member.seed, Chance.AUGMENT, epoch, step), progress)
            told(progress, None)
        loss, accuracy = (sums / sum(map(len, batches))).tolist()
        self._refuse_divergence(loss, epoch)
        rate = float(self.optimizer.param_groups[0]["lr"])
        return Epoch(epoch + 1, loss, accuracy, *self._evaluate(), rate, round(time.perf_counter() - start, 3))

    def _step(self, batch: Ints, rng: np.random.Generator, progress: float) -> tuple[float, float]:
        """The sum of the losses, and how many rows were right, before the weights change."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.member.learning_rate * schedules.SCHEDULES[self.member.schedule](progress)
        x = self._tensor(augmented(np.asarray(self.images.x[batch]), self.member.augment, rng))
        y = self._labels(batch)
        self.optimizer.zero_grad()
        logits = self.net(x)
        loss = self.loss(logits, y)
        torch.autograd.backward(loss)
        self.optimizer.step()
        return loss.item() * len(batch), (logits.argmax(dim=1) == y).sum().item()

    def _tensor(self, pixels: NDArray[np.uint8]) -> Tensor:
        return torch.from_numpy(self.taken.prepare(pixels)).to(self.device, memory_format=torch.channels_last)

    def _labels(self, rows: Ints) -> Tensor:
        return torch.from_numpy(self.images.y[rows]).to(self.device)

    def _refuse_divergence(self, loss: float, epoch: int) -> None:
        if not math.isfinite(loss):
            rate = self.member.learning_rate
            raise HopelessError(
                f"{self.experiment.path}: epoch {epoch + 1}: found a loss of {loss}, "
                f"expected a finite one (a learning_rate below {rate:g} may help)"
            )

    def _evaluate(self) -> tuple[float, float]:
        """Loss (nats a row) and accuracy on the calibration rows."""
        self.net.eval()
        with torch.no_grad():
            sums = np.sum([self._judged(rows) for rows in self._parts()], axis=0)
        loss, accuracy = (sums / len(self.calibration)).tolist()
        return loss, accuracy

    def _judged(self, rows: Ints) -> tuple[float, float]:
        y, logits = self._labels(rows), self.net(self._tensor(np.asarray(self.images.x[rows])))
        loss = nn.functional.cross_entropy(logits, y, reduction="sum")
        return loss.item(), (logits.argmax(dim=1) == y).sum().item()

    def _parts(self) -> list[Ints]:
        return [self.calibration[at : at + ROWS_AT_ONCE] for at in range(0, len(self.calibration), ROWS_AT_ONCE)]

    def finish(self) -> None:
        """Export, and judge what was exported: it is the model that will be served."""
        net = self.net.cpu().to(memory_format=torch.contiguous_format)
        model = export.from_torch(net, self.taken, np.asarray(self.images.x[self.calibration[:PARITY_ROWS]]))
        self.experiment.write(MODEL, model)
        self.experiment.write(CURVES, curves.png(self.experiment.metrics(), self.experiment.name))
        scores = np.concatenate([export.run(model, np.asarray(self.images.x[rows])) for rows in self._parts()])
        self.experiment.write_scores(scores)
        right = scores.argmax(axis=1) == self.images.y[self.calibration]
        self.experiment.finish(self._member(float(right.mean())))

    def _member(self, accuracy: float) -> Member:
        return Member(
            name=self.experiment.name,
            input=served(self.config.data.image_size).model_dump(mode="json"),
            labels=self.config.labels,
            emits="probabilities",
            calibration={"accuracy": accuracy, "n": len(self.calibration)},
            parameters=sum(weights.numel() for weights in self.net.parameters()),
            seconds_trained=round(sum(epoch.seconds for epoch in self.epochs), 3),
        )
