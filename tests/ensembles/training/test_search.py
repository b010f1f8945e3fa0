"""A search can be killed at any moment; in the end there is the pool that would have been there anyhow."""

import json
import re
import signal
from collections import Counter

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from ensembles import exporting, repository
from ensembles.commands.search import advice, table
from ensembles.estimates import share
from ensembles.training import chance, fleet, images, loop, recipes, search
from ensembles.training.experiment import MODEL, Experiment, HopelessError, Member
from ensembles.training.search import Chosen, Order, Pool, SearchError
from ensembles.votes import Ballot, Rule, vote

SPACE = {
    "architecture": ["linear", "mlp", "convnet"],
    "width": [2, 3],
    "size": [4, 8],
    "epochs": [2],
    "batch_size": [8],
    "learning_rate": [0.01, 0.3],
    "augment": [["flip"], ["flip", "crop"], []],
}


@pytest.fixture
def space(recipe):
    """A recipe's content that has this search space, with changes."""
    return lambda **changes: recipe() | {"search": SPACE | changes}


@pytest.fixture
def in_this_process(monkeypatch):
    """Trains one after another without a process for each, which takes seconds to start; the search is the same."""

    def train(experiments, decoded, jobs, device, told, ended):
        for experiment in experiments:
            try:
                loop.train(
                    experiment,
                    images.load(decoded),
                    device,
                    lambda done, epoch: told(fleet.News(experiment.name, done, epoch)),
                )
            except HopelessError as error:
                ended(experiment, str(error))
            else:
                ended(experiment, "")

    monkeypatch.setattr(fleet, "train", train)


@pytest.fixture
def pool(tmp_path):
    """Searches in a folder, and gives what came of it."""

    def find(content, trials, folder="pool", told=lambda news: None, storage=""):
        wanted = recipes.from_mapping(content)
        return search.search(
            Order(wanted, tmp_path / folder, trials, storage, "cpu", 1), lambda done, total: None, told
        )

    return find


def models(folder):
    return {run.name: (run / MODEL).read_bytes() for run in folder.iterdir() if (run / MODEL).exists()}


def states(folder):
    (name,) = optuna.get_all_study_names(f"sqlite:///{folder / search.DATABASE}")
    study = optuna.load_study(study_name=name, storage=f"sqlite:///{folder / search.DATABASE}")
    return [trial.state for trial in study.get_trials()]


class Killed(BaseException):
    """Stops a search as a signal would."""


def killed_in(trial):
    """Stops soon after the trial of this number has begun."""
    news_of_it = iter(range(9))

    def told(news):
        if news.name.endswith(f"-{trial:04}") and next(news_of_it, None) is None:
            raise Killed

    return told


def test_killed_at_any_moment_it_ends_in_the_same_pool(space, pool, command, tmp_path, in_this_process):
    """SIGKILL to the whole, then in the midst of the second training: no trial is counted twice, none is lost."""
    content = space(epochs=[20], architecture=["mlp", "linear"])
    process = command(content, "--trials", "2", "--jobs", "1", name="search")
    next(line for line in process.stderr if "epoch" in line)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    folder = tmp_path / "runs"
    assert states(folder) == [TrialState.RUNNING]
    with pytest.raises(Killed):
        pool(content, 2, "runs", killed_in(trial=1))
    assert states(folder) == [TrialState.COMPLETE, TrialState.RUNNING]
    found = pool(content, 2, "runs")
    assert states(folder) == [TrialState.COMPLETE] * 2
    whole = pool(content, 2)
    assert models(folder) == models(tmp_path / "pool")
    assert [(each.member.name, each.accuracy, each.weight) for each in found.members] == [
        (each.member.name, each.accuracy, each.weight) for each in whole.members
    ]


def test_a_member_whose_end_the_study_was_not_told_is_not_trained_again(
    space, pool, tmp_path, in_this_process, monkeypatch
):
    tell = optuna.Study.tell

    def killed(*_, **__):
        raise Killed

    monkeypatch.setattr(optuna.Study, "tell", killed)
    with pytest.raises(Killed):
        pool(space(), 1)
    monkeypatch.setattr(optuna.Study, "tell", tell)
    news = []
    found = pool(space(), 1, told=news.append)
    assert not news
    assert [each.member.name for each in found.members] == list(models(tmp_path / "pool"))
    assert states(tmp_path / "pool") == [TrialState.COMPLETE]


def test_more_trials_join_the_pool_and_the_vote_is_what_the_weights_say(space, pool, tmp_path, in_this_process):
    pool(space(), 1)
    (first,) = models(tmp_path / "pool").items()
    found = pool(space(), 2)
    assert first in models(tmp_path / "pool").items()
    assert len(found.members) == 2
    assert [each.accuracy.value for each in found.members] == sorted(
        (each.accuracy.value for each in found.members), reverse=True
    )
    rows = images.load(next((tmp_path / "pool" / images.CACHE).iterdir()))
    calibration = chance.split(rows.y, 12, 0).calibration
    chosen = [each for each in found.members if each.weight]
    weights = np.array([each.weight for each in chosen], float)
    ballot = Ballot(Rule.PROBABILITY_AVERAGE, weights, np.arange(len(chosen)))
    scores = np.stack([each.experiment.scores() for each in chosen], axis=1)
    assert found.vote.value == (vote(scores, ballot).label_index == rows.y[calibration]).mean()
    assert json.loads((tmp_path / "pool" / search.SELECTION).read_text()) == search.as_json(found)
    again = pool(space(), 1)  # there are two
    assert [each.weight for each in again.members] == [each.weight for each in found.members]


def test_a_trial_that_diverges_fails_and_the_others_go_on(space, pool, tmp_path, in_this_process):
    wild = {"epochs": [9], "weight_decay": [0.0005, 1.0], "learning_rate": [100.0, 100.0], "schedule": ["constant"]}
    found = pool(space(architecture=["linear"], seed=1, **wild), 2)
    counted = Counter(states(tmp_path / "pool"))
    assert counted[TrialState.FAIL] == len(found.failed) > 0
    assert counted[TrialState.COMPLETE] == len(found.members) > 0
    assert "found a loss of" in found.failed[0]


def test_if_no_member_could_be_trained_the_first_reason_is_told(space, pool, in_this_process):
    wild = {"epochs": [9], "weight_decay": [1.0], "learning_rate": [100.0, 100.0], "schedule": ["constant"]}
    with pytest.raises(SearchError, match=r"found no member that could be trained: .*: found a loss of"):
        pool(space(architecture=["linear"], **wild), 1)


def test_the_table_has_intervals_and_weights_and_says_what_the_rows_were_used_for(tmp_path):
    def chosen(name, right, weight, seconds):
        member = Member(name, {}, ("a", "b"), "probabilities", {}, 1234, 5.0)
        return Chosen(Experiment(tmp_path / name), member, share(right, 100), weight, seconds)

    members = (chosen("vgg-0001", 80, 2, 0.25), chosen("mlp-0002", 70, 0, None), chosen("mlp-0000", 60, 1, 0.05))
    found = Pool(members, share(85, 100), ("mlp-0003: found a loss of nan",))
    head, first, second, _, last = (re.split("  +", line) for line in table(found).splitlines())
    assert head == ["member", "right, 95% interval", "parameters", "s trained", "s per 1,000 rows", "weight"]
    assert first == ["vgg-0001", "80.0%, 71.1% to 86.7%", "1,234", "5.0", "0.25", "2"]
    assert second == ["mlp-0002", "70.0%, 60.4% to 78.1%", "1,234", "5.0"]
    assert last == ["vote", "85.0%, 76.7% to 90.7%", "2,468", "10.0", "0.3"]
    said = advice(found, tmp_path, "tiny").splitlines()
    assert said[0] == "1 of the trials came to nothing; the first: mlp-0003: found a loss of nan"
    assert said[1].startswith(
        "These 100 calibration rows have chosen the members and their weights, so the vote's figure is too high"
    )
    assert said[-2] == "Weights: vgg-0001 2, mlp-0000 1"
    assert said[-1] == (f"Next, which takes them along: ensembles export {tmp_path} --to models/tiny --data HELD_OUT")


def test_what_was_selected_is_exported_in_one_command_with_its_weights(
    space, pool, pictures, tmp_path, in_this_process
):
    found = pool(space(), 4)
    order = exporting.Order((str(tmp_path / "pool"),), tmp_path / "models" / "tiny", pictures)
    exporting.carry_out(order)
    spec = repository.read(tmp_path / "models" / "tiny").spec

    assert {member.name: member.weight for member in spec.members} == {
        each.member.name: each.weight for each in found.members if each.weight
    }
