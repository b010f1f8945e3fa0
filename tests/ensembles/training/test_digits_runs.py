"""The recipe `digits` makes the members that ship, each in a folder like any other's."""

import json

import pytest

from ensembles.training import digits, digits_runs
from ensembles.training.experiment import ExperimentError, read_metrics
from ensembles.training.recipes import RecipeError


def test_a_folder_holds_the_expert_that_the_ensemble_ships(tmp_path):
    (experiment,) = digits_runs.train(tmp_path, ("bayes",), lambda name, epoch: None)
    (expert,) = (expert for expert in digits.experts() if expert.name == "bayes")
    assert (experiment.path / "model.onnx").read_bytes() == expert.learn(digits.split().training)
    member = json.loads((tmp_path / "bayes" / "member.json").read_text())
    assert member["input"] == {
        "name": "image",
        "datatype": "UINT8",
        "shape": [8, 8],
        "image": {"mode": "L", "width": 8, "height": 8, "range": [0, 16]},
    }
    (row,) = read_metrics(tmp_path / "bayes" / "metrics.csv")
    assert member["calibration"] == {"accuracy": row.calibration_accuracy, "n": 300}


def test_a_finished_expert_is_not_fitted_again(tmp_path):
    fitted = []
    for _ in range(2):
        digits_runs.train(tmp_path, ("bayes",), lambda name, epoch: fitted.append(name))
    assert fitted == ["bayes"]


def test_a_folder_of_another_recipe_is_refused(tmp_path):
    (tmp_path / "bayes").mkdir()
    (tmp_path / "bayes" / "config.yaml").write_text("recipe: other")
    with pytest.raises(ExperimentError, match=r"config.yaml: found another configuration, expected that of digits"):
        digits_runs.train(tmp_path, ("bayes",), lambda name, epoch: None)


def test_experts_are_chosen_by_name():
    assert digits_runs.names(("bayes", "cnn")) == ("cnn", "bayes")
    with pytest.raises(RecipeError, match="found no member 'svm' in digits, expected one of mlp, cnn, forest"):
        digits_runs.names(("svm",))
