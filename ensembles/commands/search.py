"""`ensembles search`: a pool of members drawn from a recipe's search space, and those of them that should vote."""

import json
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ensembles.commands import Fault
from ensembles.commands.train import check_device, shown, told_in_one_line
from ensembles.members.cores import cores
from ensembles.training import recipes

if TYPE_CHECKING:
    from ensembles.estimates import Estimate
    from ensembles.training.search import Chosen, Pool

USAGE = 2
OPTUNA = ("optuna", "sqlalchemy", "alembic")
EPILOG = "Example: ensembles search cifar10 --data cifar10-images.zip#train --out pool --trials 20"


def search(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="`cifar10`, or a YAML file with `search:`.")],
    out: Annotated[Path, typer.Option("--out", metavar="POOL", help="Where each trial gets a folder.")],
    trials: Annotated[int, typer.Option("--trials", min=1, help="How many in all: those that are there count.")],
    storage: Annotated[
        str, typer.Option("--storage", help="Of the study, as an SQLAlchemy URL; else a file in POOL.")
    ] = "",
    data: Annotated[
        str, typer.Option("--data", help="Images, instead of the recipe's: FOLDER or ZIP, with #PART.")
    ] = "",
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda:N.")] = "auto",
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Trials under way at once.")] = cores(),
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Train a pool of members drawn by Optuna, and select who should vote. Killed, it goes on when it is run again."""
    check_device(device)
    with told_in_one_line(out), _optuna_told():
        from ensembles.training.search import Order
        from ensembles.training.search import as_json as document
        from ensembles.training.search import search as carried_out

        wanted = recipes.read(recipe)
        wanted = wanted.model_copy(update={"data": data or wanted.data})
        with shown(()) as progress:
            pool = carried_out(Order(wanted, out, trials, storage, device, jobs), progress.decoded, progress.tell)
    print(json.dumps(document(pool)) if as_json else f"{table(pool)}\n\n{advice(pool, out, wanted.name)}")


@contextmanager
def _optuna_told() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in OPTUNA:
            raise
        raise Fault(f"found no {error.name}, expected it installed: pip install 'scrutin[search]'") from None


def table(pool: "Pool") -> str:
    """A line a member, the most accurate first, and one for the vote of those that were chosen."""
    heads = ("member", "right, 95% interval", "parameters", "s trained", "s per 1,000 rows", "weight")
    rows = [heads, *map(_row, pool.members), ("vote", _interval(pool.vote), *_sums(pool.members), "")]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(_line(row, widths) for row in rows)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    name, *numbers = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
    return "  ".join([row[0].ljust(len(name)), *numbers]).rstrip()


def _row(chosen: "Chosen") -> tuple[str, ...]:
    member, seconds = chosen.member, chosen.seconds_per_1000
    return (
        member.name,
        _interval(chosen.accuracy),
        f"{member.parameters:,}",
        f"{member.seconds_trained:.1f}",
        "" if seconds is None else f"{seconds:.3g}",
        str(chosen.weight or ""),
    )


def _sums(members: "Sequence[Chosen]") -> tuple[str, str, str]:
    """Parameters and seconds of those that were chosen, together."""
    chosen = [each for each in members if each.seconds_per_1000 is not None]
    return (
        f"{sum(each.member.parameters for each in chosen):,}",
        f"{sum(each.member.seconds_trained for each in chosen):.1f}",
        f"{sum(each.seconds_per_1000 or 0 for each in chosen):.3g}",
    )


def _interval(found: "Estimate") -> str:
    return f"{found.value:.1%}, {found.low:.1%} to {found.high:.1%}"


def advice(pool: "Pool", out: Path, name: str) -> str:
    """What these numbers are worth, and what to type next."""
    chosen = [each for each in pool.members if each.weight]
    weights = ", ".join(f"{each.member.name} {each.weight}" for each in chosen)
    failed = [f"{len(pool.failed)} of the trials came to nothing; the first: {pool.failed[0]}"] if pool.failed else []
    return "\n".join(
        [
            *failed,
            f"These {pool.vote.n:,} calibration rows have chosen the members and their weights, so the vote's figure is too high",
            "by what luck gave it, and so is that of the best member. Judge the ensemble on rows that took no part.",
            f"Weights: {weights}",
            f"Next, which takes them along: ensembles export {shlex.quote(str(out))} --to models/{name} --data HELD_OUT",
        ]
    )
