"""Processes that train: asked for when there is room, and one hopeless member does not end the others."""

import pytest

from ensembles.training import fleet, recipes, runs
from ensembles.training.fleet import TrainingError


def test_the_next_member_is_asked_for_when_there_is_room_and_a_hopeless_one_is_told(recipe, tmp_path):
    wild = {"architecture": "linear", "weight_decay": 1.0, "learning_rate": 100.0, "schedule": "constant", "epochs": 9}
    wanted = recipes.from_mapping(recipe(wild=wild, tame={"architecture": "linear", "epochs": 1}))
    prepared = runs.prepare(wanted, tmp_path / "runs", resume=False, progress=lambda done, total: None)
    seen = []

    def asked():
        for experiment in prepared.experiments:
            seen.append(("asked", experiment.name))
            yield experiment

    def ended(experiment, fault):
        seen.append((fault.partition(": found ")[2][:6] or "finished", experiment.name))

    fleet.train(asked(), prepared.images, 1, "cpu", lambda news: None, ended)

    assert seen == [("asked", "wild"), ("a loss", "wild"), ("asked", "tame"), ("finished", "tame")]
    assert [experiment.finished for experiment in prepared.experiments] == [False, True]


def test_where_all_are_wanted_a_hopeless_member_is_a_fault(tmp_path):
    with pytest.raises(TrainingError, match="a: found a loss of nan"):
        fleet.refuse(None, "a: found a loss of nan")
    fleet.refuse(None, "")
