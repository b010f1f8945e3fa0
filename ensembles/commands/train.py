"""`ensembles train`: from a recipe to a folder of experiments."""

import json
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ensembles.commands import USAGE, Fault
from ensembles.dataset import DatasetError
from ensembles.members.cores import cores
from ensembles.preprocessing import ExportError
from ensembles.training import files, fleet, recipes, runs
from ensembles.training.experiment import Experiment, ExperimentError

DIGITS = "digits"
EPILOG = "Example: ensembles train cifar10 --data cifar10-images.zip#train --out runs"


def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="`digits`, `cifar10`, or a YAML file.")],
    out: Annotated[Path, typer.Option("--out", metavar="RUNS", help="Where each member gets a folder.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what is there.")] = False,
    data: Annotated[
        str, typer.Option("--data", help="Images, instead of the recipe's: FOLDER or ZIP, with #PART.")
    ] = "",
    member: Annotated[list[str], typer.Option("--member", help="Only this one; may be repeated.")] = [],  # noqa: B006
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda:N.")] = "auto",
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Members trained at once.")] = cores(),
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Train the members of a recipe, each in a folder of its own. Can be killed and resumed at any moment."""
    check_device(device)
    with told_in_one_line(out):
        only = tuple(member)
        if recipe == DIGITS:
            experiments = _digits(out, only, resume=resume)
        else:
            wanted = recipes.read(recipe).only(only)
            experiments = _images(wanted.model_copy(update={"data": data or wanted.data}), out, resume, device, jobs)
        _print(experiments, as_json=as_json)


def check_device(device: str) -> None:
    """Raises Fault."""
    if not re.fullmatch(r"auto|cpu|cuda:\d{1,3}", device):
        raise Fault(f"--device: found {device!r}, expected auto, cpu or cuda:N", USAGE)


def _images(recipe: recipes.Recipe, out: Path, resume: bool, device: str, jobs: int) -> tuple[Experiment, ...]:
    with shown(recipe.member_names) as progress:
        prepared = runs.prepare(recipe, out, resume=resume, progress=progress.decoded)
        fleet.train(prepared.unfinished, prepared.images, jobs, device, progress.tell)
    return prepared.experiments


def _digits(out: Path, only: tuple[str, ...], *, resume: bool) -> tuple[Experiment, ...]:
    from ensembles.training import digits_runs  # scikit-learn and torch, in this process, for this recipe alone

    names = digits_runs.names(only)
    runs.refuse_existing(out, names, resume=resume)
    with shown(names) as progress:
        return digits_runs.train(out, names, lambda name, epoch: progress.tell(fleet.News(name, 1.0, epoch)))


@contextmanager
def told_in_one_line(out: Path) -> Iterator[None]:
    """Turns what users can do something about into Fault."""
    try:
        yield
    except (recipes.RecipeError, DatasetError, ExperimentError, ExportError, fleet.TrainingError) as error:
        raise Fault(str(error)) from error
    except ModuleNotFoundError as error:
        raise Fault(f"found no {error.name}, expected it installed: pip install 'scrutin[train,report]'") from error
    except OSError as error:
        raise Fault(files.fault(error, out)) from error


class _Lines:
    """News as plain lines on stderr."""

    def decoded(self, done: int, total: int) -> None:
        if done == total:
            print(f"{total} images", file=sys.stderr)

    def tell(self, news: fleet.News) -> None:
        if news.epoch is not None:
            print(f"{news.name}: {described(news)}", file=sys.stderr, flush=True)


class _Bars:
    """News as a bar for each member; those that were not named before vanish when they are done."""

    def __init__(self, bars: Progress, names: Sequence[str]) -> None:
        self._bars, self._named = bars, names
        self._images = bars.add_task("images", total=1, visible=False)
        self._tasks = {name: bars.add_task(name, total=1, start=False, what="") for name in names}

    def decoded(self, done: int, total: int) -> None:
        self._bars.update(self._images, completed=done, total=total, visible=done < total, what="decoded")

    def tell(self, news: fleet.News) -> None:
        if news.name not in self._tasks:
            self._tasks[news.name] = self._bars.add_task(news.name, total=1, start=False, what="")
        task = self._tasks[news.name]
        self._bars.start_task(task)
        self._bars.update(task, completed=news.done, visible=news.done < 1 or news.name in self._named)
        if news.epoch is not None:
            self._bars.update(task, what=described(news))


def described(news: fleet.News) -> str:
    """An epoch in words."""
    epoch = news.epoch
    assert epoch is not None  # noqa: S101  asked by callers
    return (
        f"epoch {epoch.epoch}, loss {epoch.training_loss:.3f}, training {epoch.training_accuracy:.1%}, "
        f"calibration {epoch.calibration_accuracy:.1%}, {epoch.seconds:.1f} s"
    )


@contextmanager
def shown(names: Sequence[str]) -> Iterator[Any]:
    """Bars if stderr is a terminal, lines if not."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), TextColumn("{task.fields[what]}"))
    with Progress(*columns, console=console) as bars:
        yield _Bars(bars, names)


def _print(experiments: Sequence[Experiment], *, as_json: bool) -> None:
    """What came out, a line each."""
    members = [experiment.member() for experiment in experiments]
    if as_json:
        print(json.dumps([asdict(member) for member in members]))
        return
    print(f"{'member':20}  {'right':>6}  {'parameters':>10}  {'trained':>9}")
    for member in members:
        accuracy = member.calibration["accuracy"]
        print(f"{member.name:20}  {accuracy:6.1%}  {member.parameters:10,}  {member.seconds_trained:7.1f} s")
