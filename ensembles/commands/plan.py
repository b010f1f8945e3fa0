"""`ensembles plan`: what to serve, by accuracy and cost."""

import json
import math
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from rich import box
from rich.table import Table

from ensembles import document, plan_document, repository
from ensembles.commands import DATA, USAGE, Fault
from ensembles.commands.progress import bar
from ensembles.dataset import DatasetError
from ensembles.document import DocumentError
from ensembles.members import MemberError
from ensembles.plan_document import Json
from ensembles.planning import Plan, PlanningError, Recorded, Wishes
from ensembles.planning import plan as planned
from ensembles.price import PRICE_PER_HOUR
from ensembles.recording import RecordingError, default_cache, record
from ensembles.repository import Repository, RepositoryError
from ensembles.tables import console, share_right, time_and_cost
from ensembles.verdict import RULES

EPILOG = "Example: ensembles plan exported_models/digits --data exported_models/digits/samples.npz --disagreement 0.02"


FAULTS = (RepositoryError, DatasetError, RecordingError, MemberError, DocumentError, PlanningError)


LEAST_SHARE = 1e-9
"""Of rows that may disagree: fewer would take billions of rows to certify."""


def plan(
    folder: Annotated[Path, typer.Argument(metavar="REPOSITORY", help="The ensemble's directory.")],
    data: Annotated[str, typer.Option(help=DATA)],
    min_accuracy: Annotated[
        Optional[float], typer.Option(min=0, max=1, metavar="SHARE", help="Pick the cheapest that is right so often.")
    ] = None,
    max_cost: Annotated[
        Optional[float], typer.Option(min=0, metavar="USD", help="Pick nothing dearer; USD per 1,000 rows.")
    ] = None,
    disagreement: Annotated[
        float, typer.Option(metavar="SHARE", help="How many rows a certified exit may answer unlike all members.")
    ] = 0.005,
    confidence: Annotated[float, typer.Option(metavar="SHARE", help="Of the certificate.")] = 0.95,
    price_per_hour: Annotated[
        float, typer.Option(min=0, metavar="USD", help="What an hour of one device costs.")
    ] = PRICE_PER_HOUR,
    cache: Annotated[
        Optional[Path],
        typer.Option(metavar="DIR", help="Where the members' votes are kept. \\[default: ~/.cache/scrutin/votes]"),
    ] = None,
    out: Annotated[Optional[Path], typer.Option(metavar="DIR", help="Where plan.json goes.")] = None,
    write: Annotated[bool, typer.Option("--write", help="Put the policies into ensemble.yaml.")] = False,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out images that cannot be read.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the rows' division.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print plan.json instead of a table.")] = False,
) -> None:
    """Search subsets, rules, orders and exits for what costs least at its accuracy, and judge it on rows apart."""
    wishes = Wishes(min_accuracy, max_cost, disagreement, confidence, price_per_hour, seed)
    _check(wishes)
    try:
        found = repository.read(folder)
        with bar("running the members") as progress:
            recording = record(found, Path(data), cache or default_cache(), skip_bad=skip_bad, progress=progress)
        names = tuple(member.name for member in found.spec.members)
        recorded = Recorded(names, recording.scores, recording.y, recording.seconds, found.spec.ballot)
        with bar("looking at all candidates") as progress:
            made = planned(recorded, wishes, progress)
        data_used = {"name": recording.name, "digest": recording.data_digest}
        content = {**plan_document.document(made), "data": data_used}
        if out is not None:
            document.write(out / plan_document.FILE, document.text(content))
        print(json.dumps(content, allow_nan=False)) if as_json else _show(content)
        _answer(content)
        if write:  # only what is what was asked for
            put(found, made)
    except FAULTS as fault:
        raise Fault(str(fault)) from fault


def _check(wishes: Wishes) -> None:
    """Raises Fault for numbers that mean nothing."""
    for name in ("disagreement", "confidence"):
        value = getattr(wishes, name)
        if not LEAST_SHARE <= value < 1:
            raise Fault(f"--{name}: found {value}, expected a share from {LEAST_SHARE:g} to less than 1", USAGE)
    for name in ("price_per_hour", "max_cost", "min_accuracy"):
        value = getattr(wishes, name)
        if value is not None and not math.isfinite(value):
            raise Fault(f"--{name.replace('_', '-')}: found {value}, expected a finite number", USAGE)


def put(found: Repository, made: Plan) -> Repository:
    """Write the plan's policies into the manifest. Raises RepositoryError, and then leaves it as it was."""
    changes = plan_document.manifest_changes(made, lambda policy: digest(found, made, policy))
    return repository.rewrite(found, changes)


def digest(found: Repository, made: Plan, policy: Json) -> str:
    """Of what the policy's certificate depends on, in the manifest as it will be."""
    from ensembles.policies import PolicySpec

    vote = found.spec.vote.model_copy(update={"temperature": made.ballot.temperature})
    return found.spec.model_copy(update={"vote": vote}).certified_digest(PolicySpec.model_validate(policy))


def _answer(content: Json) -> None:
    """Raises Fault where nothing is what was asked for."""
    asked, chosen = content["asked"], content["chosen"]
    least, most = asked["min_accuracy"], asked["max_cost_usd_per_1000"]
    if chosen is None:
        wanted = [f"right on {least:.1%}"] if least is not None else []
        wanted += [f"at no more than {most:g} USD per 1,000 rows"] if most is not None else []
        raise Fault(f"of {content['candidates']:,} candidates none is {' '.join(wanted)} on the rows that choose")
    if least is not None and chosen["accuracy"]["high"] < least:
        raise Fault(
            f"what was picked is right on {share_right(chosen)} of the rows apart, which is less than {least:.1%}"
        )


LEFT = ("stages", "rule", "exit", "")
RIGHT = ("accuracy", "runs a row", "time / 1,000", "USD / 1,000")


def _show(content: Json) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for column in (*LEFT[:-1], *RIGHT, LEFT[-1]):
        table.add_column(column, justify="left" if column in LEFT else "right", no_wrap=column not in LEFT)
    for each in content["front"]:
        table.add_row(*_row(each), style="bold" if "chosen" in each["known_as"] else None)
    console().print(table)
    for line in (*_said(content), *content["notes"]):
        console().print(line)


def _row(entry: Json) -> list[str]:
    stages = " > ".join(" ".join(stage) for stage in entry["stages"])
    runs = f"{entry['expected_member_runs']['value']:.2f}"
    known = ", ".join(name.replace("_", " ") for name in entry["known_as"])
    return [stages, RULES[entry["rule"]], _exit(entry["exit"]), share_right(entry), runs, *time_and_cost(entry), known]


def _exit(exit_: str | dict[str, float] | None) -> str:
    if isinstance(exit_, dict):
        ((score, value),) = exit_.items()
        return f"{score} {value:.4g}"
    return exit_ or ""


def _said(content: Json) -> list[str]:
    searched = f"{content['candidates']:,} candidates on {content['chosen_on']} rows"
    lines = [f"{searched}; all figures from {content['judged_on']} other rows, with 95% intervals"]
    chosen: Any = content["chosen"]
    if chosen:
        lines.append(
            f"chosen: {', '.join(chosen['members'])}: {share_right(chosen)}; on the rows that chose it "
            f"{chosen['when_choosing']['accuracy']:.1%}, which flatters it"
        )
    return lines
