"""A recipe and a folder of runs: what is there, what is still to be trained, and what may not be mixed."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ensembles.dataset import Dataset, DatasetError
from ensembles.training import images
from ensembles.training.experiment import Config, Data, Experiment, ExperimentError
from ensembles.training.images import Progress
from ensembles.training.recipes import MemberRecipe, Recipe


@dataclass(frozen=True, slots=True)
class Source:
    """What all members of a recipe have in common: rows, classes, and which rows are held out."""

    recipe: Recipe
    images: Dataset
    labels: tuple[str, ...]

    @property
    def data(self) -> Data:
        size = self.recipe.image_size
        return Data(name=self.images.name, sha256=self.images.digest, rows=len(self.images.y), image_size=size)

    def config(self, member: MemberRecipe) -> Config:
        """All that the member depends on."""
        return Config(
            recipe=self.recipe.name,
            data=self.data,
            labels=self.labels,
            calibration=self.recipe.calibration,
            member=member,
        )

    def decode(self, runs: Path, progress: Progress) -> Path:
        """The folder of decoded images, in that of the runs. Raises DatasetError and OSError."""
        return images.decode(self.images, self.recipe.image_size, runs / images.CACHE, progress)


@dataclass(frozen=True, slots=True)
class Prepared:
    """Decoded images, and the folder of each member."""

    images: Path
    experiments: tuple[Experiment, ...]

    @property
    def unfinished(self) -> tuple[Experiment, ...]:
        return tuple(experiment for experiment in self.experiments if not experiment.finished)


def read(recipe: Recipe) -> Source:
    """Raises DatasetError."""
    data, labels = images.read(recipe.data, recipe.image_size)
    _refuse_too_few(recipe, len(data.y), len(labels))
    return Source(recipe, data, labels)


def prepare(recipe: Recipe, runs: Path, *, resume: bool, progress: Progress) -> Prepared:
    """Read the images and begin a folder for each member; go on with those that are there if `resume`.

    No member's folder is touched before all was checked. Raises DatasetError, ExperimentError and OSError.
    """
    refuse_existing(runs, recipe.member_names, resume=resume)
    source = read(recipe)
    configs = tuple((Experiment(runs / member.name), source.config(member)) for member in recipe.members)
    for experiment, config in configs:
        experiment.refuse_another(config)
    decoded = source.decode(runs, progress)
    for experiment, config in configs:
        experiment.begin(config)
    return Prepared(decoded, tuple(experiment for experiment, _ in configs))


def _refuse_too_few(recipe: Recipe, rows: int, classes: int) -> None:
    wanted = recipe.calibration.rows
    if not classes <= wanted <= rows - 2:
        raise DatasetError(
            f"{recipe.data}: calibration.rows: found {wanted}, "
            f"expected {classes} (the classes) to {rows - 2} (two less than there are images)"
        )


def refuse_existing(runs: Path, names: Iterable[str], *, resume: bool) -> None:
    """Raises ExperimentError when a member's folder is there already, unless it is to be resumed."""
    if runs.exists() and not runs.is_dir():
        raise ExperimentError(f"{runs}: found a file, expected a folder for the runs")
    there = next((name for name in names if (runs / name).exists()), None)
    if there is not None and not resume:
        raise ExperimentError(
            f"{runs / there}: found an earlier run, expected a new folder, or --resume to go on with it"
        )
