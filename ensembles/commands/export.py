"""`ensembles export`: trained members into a model repository."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from ensembles.commands import USAGE, Fault
from ensembles.commands.progress import bar

if TYPE_CHECKING:
    from ensembles.exporting import Report
    from ensembles.sources import Pixels

KINDS = ("int8", "fp16")
JUDGING_ROWS = 10_000

EPILOG = (
    "Example: ensembles export runs/cnn runs/mlp tree=tree.onnx --to models/digits --data heldout.npz --variant int8\n\n"
    "A scikit-learn estimator comes as a pickle, which runs whatever stands in it: none is opened here. "
    "In Python, ensembles.export.from_sklearn makes an .onnx file of it, from_torch one of a torch module, and from_onnx puts "
    "the preprocessing before a graph that expects it done."
)


def export(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            help="An experiment folder, a search's pool, an .onnx file, timm:NAME or torchvision:NAME (?pretrained=false, "
            "?weights=FILE.safetensors, &classes=N); NAME=SOURCE names the member.",
        ),
    ],
    to: Annotated[Path, typer.Option("--to", metavar="REPOSITORY", help="New, or one that the members join.")],
    data: Annotated[
        Optional[Path],
        typer.Option(help="Labelled rows that took no part in training: .npz, class folders or a zip of them."),
    ] = None,
    samples: Annotated[
        Optional[Path], typer.Option(help="Rows for a new repository's samples.npz, else a quarter of --data.")
    ] = None,
    name: Annotated[Optional[str], typer.Option(help="A new ensemble's name, else that of the directory.")] = None,
    labels: Annotated[
        Optional[str], typer.Option(help="Classes in the order of the outputs: A,B,C, or a file with one a line.")
    ] = None,
    image: Annotated[
        Optional[str],
        typer.Option(
            metavar="MODE[:BLACK:WHITE]",
            help="How an .onnx file sees pictures: L, or RGB:0:1; without numbers 0 to 255.",
        ),
    ] = None,
    variant: Annotated[
        Optional[list[str]], typer.Option(help="A cheaper copy of each member as well: int8 or fp16; may be repeated.")
    ] = None,
    tolerance: Annotated[
        float, typer.Option(min=0, max=1, help="The worst difference of a probability from the source's.")
    ] = 1e-4,
    rows: Annotated[int, typer.Option(min=1, help="So many rows of --data measure accuracy, at most.")] = JUDGING_ROWS,
    replace: Annotated[bool, typer.Option("--replace", help="Members of the same name make way.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Draws which rows of --data do what.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Make members of trained models: checked on real rows, preprocessing inside, written whole or not at all."""
    from ensembles import exporting  # torch and ONNX Runtime's quantiser come with it; --help needs neither

    kinds = _kinds(variant or [])
    if kinds and data is None:
        raise Fault(f"--variant {kinds[0]}: found no --data, expected labelled rows that tell what it loses", USAGE)
    order = exporting.Order(
        tuple(sources), to, data, samples, name, _labels(labels), _pixels(image), kinds, tolerance, rows, replace, seed
    )
    try:
        with bar("exporting") as update:
            found = exporting.carry_out(order, update)
    except exporting.FAULTS as error:
        raise Fault(str(error)) from None
    except OSError as error:
        raise Fault(f"{error.filename or to}: found {error.strerror}, expected a place to write") from None
    print(json.dumps([each.as_json() for each in found]) if as_json else table(found))


def table(found: Sequence["Report"]) -> str:
    """A line a member, and below it what its copies lost and won."""
    heads = ("member", "source", "emits", "bytes", "worst difference", "accuracy, 95% interval", "s per 1,000 rows")
    rows = [heads, *map(_row, found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, *(_won(each) for each in found if each.copy)])


def _row(found: "Report") -> tuple[str, ...]:
    member, right = found.member, found.accuracy
    told = (
        f"{member.calibration.accuracy:.1%} of {member.calibration.n:,} rows, as told"
        if member.calibration
        else "not measured"
    )
    measured = f"{right.value:.1%}, {right.low:.1%} to {right.high:.1%}, {right.n:,} rows" if right else told
    size, worst, seconds = f"{len(member.model):,}", f"{found.worst_difference:.2g}", f"{found.seconds_per_1000:.3g}"
    return member.name, found.source, member.emits, size, worst, measured, seconds


def _won(found: "Report") -> str:
    assert found.copy is not None  # noqa: S101  those without were left out
    lost, speed = found.copy.lost, found.copy.speed
    points = f"{100 * lost.value:+.2f} points, {100 * lost.low:+.2f} to {100 * lost.high:+.2f}, {lost.n:,} rows"
    return f"{found.member.name}: lost {points}; {speed:.2f} times as fast on this machine, on one core"


def _kinds(variants: list[str]) -> tuple[str, ...]:
    for kind in variants:
        if kind not in KINDS:
            raise Fault(f"--variant: found {kind!r}, expected {' or '.join(KINDS)}", USAGE)
    return tuple(dict.fromkeys(variants))


def _labels(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    file = Path(text)
    try:
        names = file.read_text().splitlines() if file.is_file() else text.split(",")
    except (OSError, UnicodeDecodeError):
        raise Fault(f"--labels: {text}: found no readable text, expected a class a line", USAGE) from None
    return tuple(name.strip() for name in names if name.strip())


def _pixels(text: str | None) -> "Pixels | None":
    from ensembles.sources import Pixels

    if text is None:
        return None
    mode, *ends = text.split(":")
    try:
        low, high = map(float, ends or (0, 255))
    except ValueError:
        raise Fault(f"--image: found {text!r}, expected L or RGB, or RGB:BLACK:WHITE", USAGE) from None
    if mode not in {"L", "RGB"}:
        raise Fault(f"--image: found {text!r}, expected L or RGB, or RGB:BLACK:WHITE", USAGE)
    return Pixels("L" if mode == "L" else "RGB", (low, high))
