"""A pool of members that an Optuna study draws, each trained as any other; then the few of them that should vote.

The study knows which trials there are and how good they were, the folder of each trial how far it is. A trial that was under
way when the process was killed is still under way to the study: it goes on from its checkpoint, under the same number.
"""

import json
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import yaml
from numpy.typing import NDArray
from optuna.trial import TrialState
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError

from ensembles import measuring
from ensembles.estimates import Estimate, proportion
from ensembles.frozen import Frozen
from ensembles.member_spec import Name
from ensembles.selection import select
from ensembles.training import chance, files, fleet, images, runs
from ensembles.training.experiment import MODEL, Data, Experiment, ExperimentError, Member, refuse_changed
from ensembles.training.recipes import (
    CalibrationRows,
    MemberRecipe,
    Recipe,
    RecipeError,
    SearchSpace,
    mapping,
)
from ensembles.votes import Ballot, Ints, Rule, vote

DECLARED, DATABASE, SELECTION = "search.yaml", "search.db", "selection.json"


class SearchError(fleet.TrainingError):
    """The search cannot go on. One line: what was found and what was expected."""


class Declared(Frozen):
    """All that a search depends on, and the name of its study, which no other folder has."""

    study: str
    recipe: Name
    data: Data
    labels: tuple[str, ...]
    calibration: CalibrationRows
    search: SearchSpace


@dataclass(frozen=True, slots=True)
class Chosen:
    """A member of the pool, how often it is right on the calibration rows, and the weight of its vote: 0 if it has none.

    `seconds_per_1000`: what 1,000 rows take on one core, measured for those that have a vote.
    """

    experiment: Experiment
    member: Member
    accuracy: Estimate
    weight: int
    seconds_per_1000: float | None


@dataclass(frozen=True, slots=True)
class Pool:
    """What a search has come to: members, the most accurate first; how often the chosen ones are right together; what failed.

    The rows that `vote` was counted on have chosen: it is too high by what luck gave them.
    """

    members: tuple[Chosen, ...]
    vote: Estimate
    failed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Order:
    """A search as asked for: `trials` in all, whatever is there counts. `storage`: SQLAlchemy's URL; "" for a file in `pool`."""

    recipe: Recipe
    pool: Path
    trials: int
    storage: str
    device: str
    jobs: int


def search(order: Order, decoded: images.Progress, told: Callable[[fleet.News], None]) -> Pool:
    """Train what is missing, and select. Leaves `selection.json`.

    Raises RecipeError, DatasetError, ExperimentError, SearchError, fleet.TrainingError and OSError.
    """
    if order.recipe.search is None:
        raise RecipeError(f"{order.recipe.name}: search: missing, expected what members may be drawn from")
    if order.pool.exists() and not order.pool.is_dir():
        raise ExperimentError(f"{order.pool}: found a file, expected a folder for the pool")
    source = runs.read(order.recipe)
    order.pool.mkdir(parents=True, exist_ok=True)
    with files.only_one(order.pool):
        files.sweep(order.pool)
        declared = _declare(order.pool, source, order.recipe.search)
        rows = source.decode(order.pool, decoded)
        with _storage_faults():
            trials = _Trials(order, source, _study(order, declared.study))
            fleet.train(trials.experiments(), rows, order.jobs, order.device, told, trials.ended)
            pool = _selected(trials, images.load(rows))
        files.write(order.pool / SELECTION, json.dumps(as_json(pool), indent=2).encode() + b"\n")
    return pool


def _declare(pool: Path, source: runs.Source, space: SearchSpace) -> Declared:
    """Write down what the search depends on, or find the same written. Raises ExperimentError."""
    file = pool / DECLARED
    before = _read(file) if file.exists() else None
    name = before.study if before else f"{source.recipe.name}-{secrets.token_hex(4)}"
    now = Declared(
        study=name,
        recipe=source.recipe.name,
        data=source.data,
        labels=source.labels,
        calibration=source.recipe.calibration,
        search=space,
    )
    if before is None:
        files.write(file, yaml.safe_dump(now.model_dump(mode="json"), sort_keys=False, allow_unicode=True).encode())
    else:
        refuse_changed(pool, before, now)
    return now


def _read(file: Path) -> Declared:
    try:
        content = mapping(file.read_bytes())
        return Declared.model_validate(content | {"labels": tuple(content.get("labels", ()))})
    except (RecipeError, ValidationError, TypeError) as error:
        first = str(error).splitlines()[0]
        raise ExperimentError(f"{file}: expected what a search was begun with, found {first}") from None


def _study(order: Order, name: str) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(
        storage=order.storage or f"sqlite:///{order.pool / DATABASE}",
        study_name=name,
        direction="maximize",
        load_if_exists=True,
    )


@contextmanager
def _storage_faults() -> Iterator[None]:
    """What the storage says in one line, without its URL: a password may stand in it."""
    try:
        yield
    except (optuna.exceptions.OptunaError, SQLAlchemyError, ImportError) as error:  # the last: no driver
        first = str(error.__cause__ or error).splitlines()[0][:200]
        raise SearchError(f"storage: found {first!r}, expected a database that SQLAlchemy can use") from None


@dataclass(frozen=True, slots=True)
class _Trials:
    order: Order
    source: runs.Source
    study: optuna.Study
    under_way: dict[str, optuna.Trial] = field(default_factory=dict)

    def experiments(self) -> Iterator[Experiment]:
        """Those that a killed process left first, then new ones as they are asked for."""
        left = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        for trial in left:
            self._sample_for(trial.number)
            # optuna has no public way to go on with a trial that another process asked for
            yield from self._begun(optuna.Trial(self.study, trial._trial_id))  # noqa: SLF001
        while (number := self._asked()) < self.order.trials:
            self._sample_for(number)
            yield from self._begun(self.study.ask())

    def _asked(self) -> int:
        trials = self.study.get_trials(deepcopy=False)
        return sum(
            trial.state != TrialState.WAITING for trial in trials
        )  # waiting: enqueued by the user, to be drawn next

    def _sample_for(self, number: int) -> None:
        """What is drawn depends on the seed, the number and the trials before: not on how often the process was killed."""
        seed = np.random.SeedSequence((self._space.seed, number)).generate_state(1)
        self.study.sampler = optuna.samplers.TPESampler(seed=int(seed[0]))

    @property
    def _space(self) -> SearchSpace:
        assert self.order.recipe.search is not None  # noqa: S101  asked in `search`
        return self.order.recipe.search

    def _begun(self, trial: optuna.Trial) -> Iterator[Experiment]:
        config = self.source.config(drawn(trial, self._space))
        experiment = Experiment(self.order.pool / config.member.name)
        experiment.refuse_another(config)
        experiment.begin(config)
        self.under_way[experiment.name] = trial
        if experiment.finished:  # killed before the study was told
            self.ended(experiment, "")
        else:
            yield experiment

    def ended(self, experiment: Experiment, fault: str) -> None:
        """Tell the study."""
        trial = self.under_way.pop(experiment.name)
        if fault:
            trial.set_user_attr("fault", fault)
            self.study.tell(trial, state=TrialState.FAIL)
            return
        member = experiment.member()
        trial.set_user_attr("member", member.name)
        trial.set_user_attr("seconds_trained", member.seconds_trained)
        self.study.tell(trial, member.calibration["accuracy"])

    def finished(self) -> tuple[Experiment, ...]:
        """Raises SearchError when there is none."""
        trials = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if not trials:
            raise SearchError(f"{self.order.pool}: found no member that could be trained: {self.failed()[0]}")
        return tuple(Experiment(self.order.pool / trial.user_attrs["member"]) for trial in trials)

    def failed(self) -> tuple[str, ...]:
        trials = self.study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
        return tuple(trial.user_attrs.get("fault", "no reason told") for trial in trials)


def drawn(trial: optuna.Trial, space: SearchSpace) -> MemberRecipe:
    """The member that this trial stands for. Its seed is the trial's number."""
    low, high = space.learning_rate
    values = {key: _choice(trial, key, choices) for key, choices in space if key not in {"seed", "learning_rate"}}
    rate = trial.suggest_float("learning_rate", low, high, log=True)
    name = f"{values['architecture']}-{trial.number:04}"
    return MemberRecipe(name=name, seed=trial.number, learning_rate=rate, **values)


def _choice(trial: optuna.Trial, key: str, choices: Sequence[Any]) -> Any:
    """Optuna stores no tuples: it is given names."""
    named = {_named(choice): choice for choice in choices}
    return named[trial.suggest_categorical(key, list(named))]


def _named(choice: Any) -> Any:
    return "+".join(choice) if isinstance(choice, tuple) else choice


def _selected(trials: _Trials, rows: images.Images) -> Pool:
    experiments = trials.finished()
    held_out = trials.order.recipe.calibration
    calibration = chance.split(rows.y, held_out.rows, held_out.seed).calibration
    y = rows.y[calibration]
    scores = np.stack([experiment.scores() for experiment in experiments], axis=1)
    weights = select(scores, y)
    seconds = _seconds(experiments, weights, np.asarray(rows.x[calibration[: measuring.BATCH]]))
    members = [
        Chosen(
            experiment,
            experiment.member(),
            proportion(scores[:, place].argmax(axis=1) == y),
            weight,
            seconds.get(place),
        )
        for place, (experiment, weight) in enumerate(zip(experiments, weights.tolist(), strict=True))
    ]
    ranked = sorted(members, key=lambda chosen: -chosen.accuracy.value)
    return Pool(tuple(ranked), proportion(_voted(scores, weights) == y), trials.failed())


def _voted(scores: NDArray[np.float32], weights: Ints) -> Ints:
    """The vote of the chosen, as it is counted when it is served."""
    chosen = np.flatnonzero(weights)
    ballot = Ballot(Rule.PROBABILITY_AVERAGE, weights[chosen].astype(np.float64), np.arange(len(chosen)))
    return vote(scores[:, chosen], ballot).label_index


def _seconds(experiments: Sequence[Experiment], weights: Ints, rows: NDArray[np.uint8]) -> dict[int, float]:
    """Seconds that each of the chosen takes for 1,000 rows, by its place."""
    chosen = np.flatnonzero(weights).tolist()
    models = [(experiments[place].path / MODEL).read_bytes() for place in chosen]
    return {place: 1000 * each for place, each in zip(chosen, measuring.seconds_per_row(models, rows), strict=True)}


def as_json(pool: Pool) -> dict[str, Any]:
    """`selection.json`. Times in seconds; `seconds_per_1000` rows on one core, null for members that have no vote."""
    return {
        "members": [
            {
                "name": each.member.name,
                "accuracy": each.accuracy.as_json(),
                "parameters": each.member.parameters,
                "seconds_trained": each.member.seconds_trained,
                "seconds_per_1000": each.seconds_per_1000,
                "weight": each.weight,
            }
            for each in pool.members
        ],
        "vote": pool.vote.as_json(),
        "chosen_on": "the same rows",
        "failed": list(pool.failed),
    }
