"""`evaluation.json`: an evaluation as plain values, from which every table and picture is made.

Numbers are SI units and USD, shares are fractions, and an estimate is `{"value", "low", "high", "n"}` at 95%.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ensembles import atomic
from ensembles.accuracy import Reliability, Selective
from ensembles.diversity import Mistakes, Pair
from ensembles.estimates import Estimate, proportion
from ensembles.evaluation import Diversity, Evaluation, Gain, Kept, Marginal, evaluate
from ensembles.gallery import Sample, gallery
from ensembles.recording import Recording
from ensembles.standing import Calibration, Standing, Table, cost
from ensembles.wording import one_line, shown

SCHEMA = 1
FILE = "evaluation.json"

Json = dict[str, Any]


class DocumentError(ValueError):
    """The file is no evaluation, or cannot be written. One line."""


def evaluated(recording: Recording, price_per_hour: float, seed: int = 0, with_pictures: bool = True) -> Json:
    """The content of `evaluation.json` for what was recorded; a device costs `price_per_hour` USD. Raises DatasetError.

    Without pictures none of the data's images is in it.
    """
    spec = recording.repository.spec
    names = tuple(member.name for member in spec.members)
    table = Table(names, recording.scores, recording.y, spec.ballot, recording.runs)
    calibration = [member.calibration.accuracy if member.calibration else None for member in spec.members]
    found = evaluate(table, calibration, seed)
    return document(found, recording, gallery(recording, found.shown, with_pictures), price_per_hour)


def document(found: Evaluation, recording: Recording, samples: Sequence[Sample], price_per_hour: float) -> Json:
    """The same from an evaluation that is there already."""
    spec = recording.repository.spec
    names = found.table.names
    rules = [standing.way.rule.value for standing in found.ensembles]
    return {
        "schema": SCHEMA,
        "ensemble": {
            "name": spec.name,
            "version": spec.version,
            "digest": recording.repository.digest,
            "rule": spec.vote.rule.value,
            "tie_break": spec.vote.tie_break.value,
            "labels": list(spec.labels),
        },
        "data": {
            "name": recording.name,
            "digest": recording.data_digest,
            "unreadable": len(recording.data.y) - len(recording.y),
            "rows_per_class": np.bincount(recording.y, minlength=len(spec.labels)).tolist(),
        },
        "rows": len(recording.y),
        "measured": {
            "machine": recording.machine,
            "devices": dict(zip(names, recording.devices, strict=True)),
            "threads": {member.name: member.run_on.threads for member in spec.members},
            "batch_rows": recording.batch_rows,
            "price_per_hour_usd": price_per_hour,
        },
        "members": [
            {"name": name, **_standing(standing, price_per_hour)}
            for name, standing in zip(names, found.members, strict=True)
        ],
        "ensembles": [
            {"rule": rule, **_standing(standing, price_per_hour), "gain": _gain(gain)}
            for rule, standing, gain in zip(rules, found.ensembles, found.gains, strict=True)
        ],
        "gain": _gain(found.gain),
        "promise": _promise(found.promise),
        "diversity": _diversity(found.diversity),
        "errors": _errors(found.mistakes),
        "samples": [asdict(sample) for sample in samples],
        "selective": {"ensemble": _selective(found.selective), "best_member": _selective(found.selective_best)},
        "marginal": [_marginal(marginal, price_per_hour) for marginal in found.marginal],
    }


def _standing(standing: Standing, price_per_hour: float) -> Json:
    return {
        "accuracy": standing.accuracy.as_json(),
        **_calibration(standing.plain),
        "temperature": standing.temperature,
        "calibrated": _calibration(standing.calibrated),
        "seconds_per_1000": standing.seconds_per_1000.as_json(),
        "cost_usd_per_1000": cost(standing.seconds_per_1000, price_per_hour).as_json(),
    }


def _calibration(found: Calibration) -> Json:
    return {
        "nll": found.nll.as_json(),
        "brier": found.brier.as_json(),
        "ece": found.ece.as_json(),
        "reliability": _reliability(found.reliability),
    }


def _reliability(bins: Reliability) -> list[Json]:
    """Bins that hold rows, in order of confidence."""
    return [
        {
            "confidence": float(bins.confidence[place] / bins.count[place]),
            "accuracy": float(bins.right[place] / bins.count[place]),
            "rows": int(bins.count[place]),
        }
        for place in np.flatnonzero(bins.count)
    ]


def _gain(gain: Gain) -> Json:
    return {**asdict(gain), "over_best_member": gain.over_best_member.as_json()}


def _promise(kept: Kept) -> Json:
    return {
        "independent_error": kept.independent_error.as_json(),
        "measured_error": kept.measured_error.as_json(),
        "best_error": kept.best_error.as_json(),
        "mean_correlation": _optional(kept.mean_correlation),
        "correlated_error": kept.correlated_error,
        "bracket": list(kept.bracket) if kept.bracket else None,
        "efficiency": _optional(kept.efficiency),
    }


def _optional(estimate: Estimate | None) -> Json | None:
    return None if estimate is None else estimate.as_json()


def _diversity(found: Diversity) -> Json:
    return {
        "der": found.der.as_json(),
        "kappa": _optional(found.kappa),
        "effective_votes": _optional(found.effective_votes),
        "pairs": [_pair(pair) for pair in found.pairs],
        "twins": [[pair.a, pair.b] for pair in found.twins],
    }


def _pair(pair: Pair) -> Json:
    measures = {name: getattr(pair, name).as_json() for name in MEASURES}
    return {"a": pair.a, "b": pair.b, **measures}


MEASURES = ("disagreement", "double_fault", "q", "kappa", "correlation")


def _errors(mistakes: Mistakes) -> Json:
    return {
        "rule": "majority",
        "all_wrong": proportion(mistakes.all_wrong).as_json(),
        "wrong_majority": proportion(mistakes.wrong_majority).as_json(),
        "lost_ties": proportion(mistakes.lost_ties).as_json(),
        "no_member_right": proportion(mistakes.hopeless).as_json(),
    }


def _selective(curve: Selective) -> Json:
    return {
        "score": "margin",
        "coverage": curve.coverage.tolist(),
        "accuracy": curve.accuracy.tolist(),
        "threshold": curve.threshold.tolist(),
        "aurc": curve.aurc,
        "augrc": curve.augrc,
    }


def _marginal(marginal: Marginal, price_per_hour: float) -> Json:
    return {
        "member": marginal.member,
        "accuracy_lost": marginal.accuracy_lost.as_json(),
        "mcnemar_p": marginal.mcnemar_p,
        "seconds_saved_per_1000": marginal.seconds_saved_per_1000.as_json(),
        "cost_saved_usd_per_1000": cost(marginal.seconds_saved_per_1000, price_per_hour).as_json(),
    }


def write(file: Path, text: str) -> None:
    """Put the text in the file, whole or not at all. Raises DocumentError."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        atomic.write(file, text.encode(errors="backslashreplace"))  # names of files need not be valid Unicode
    except OSError as error:
        raise DocumentError(f"{file}: found {error.strerror or error}, expected a place to write to") from None


def read(folder: Path, name: str = FILE) -> Json:
    """What stands in the folder's file of that name. Raises DocumentError."""
    file = folder / name
    try:
        content = json.loads(file.read_text())
    except OSError as error:
        raise DocumentError(f"{file}: found {error.strerror or error}, expected what `ensembles` wrote") from None
    except (ValueError, RecursionError) as error:
        raise DocumentError(f"{file}: expected JSON, found {one_line(error)}") from None
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        found = content.get("schema") if isinstance(content, dict) else type(content).__name__
        raise DocumentError(f"{file}: found schema {shown(found)}, expected {SCHEMA}")
    return content


def text(content: Json) -> str:
    """As it stands in the file: the same content gives the same bytes."""
    return json.dumps(content, indent=1, allow_nan=False) + "\n"
