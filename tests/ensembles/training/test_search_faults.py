"""What a search refuses, each in one line."""

import sys

import pytest

from ensembles.commands import Fault
from ensembles.commands.search import search as command
from ensembles.training import recipes, search
from ensembles.training.experiment import ExperimentError
from ensembles.training.recipes import RecipeError
from ensembles.training.search import Order, SearchError

SPACE = {"architecture": ["linear", "vgg"], "width": [2, 4]}


@pytest.fixture
def begin(recipe, tmp_path, monkeypatch):
    """Searches with trainings that end before they begin."""

    def train(experiments, *rest):
        raise InterruptedError

    monkeypatch.setattr(search.fleet, "train", train)

    def start(storage="", **changes):
        wanted = recipes.from_mapping(recipe() | {"search": SPACE} | changes)
        with pytest.raises(InterruptedError):
            search.search(Order(wanted, tmp_path / "pool", 1, storage, "cpu", 1), lambda done, total: None, print)

    return start


@pytest.mark.parametrize(
    ("space", "fault"),
    [
        ({}, "search.architecture: missing"),
        (SPACE | {"widht": [4]}, "search.widht: unknown key"),
        (SPACE | {"architecture": ["transformer"]}, "search.architecture[0]: found 'transformer', expected"),
        (SPACE | {"width": []}, "search.width: found (), expected"),
        (SPACE | {"width": 4}, "search.width: found 4, expected a valid tuple"),
        (SPACE | {"width": [4, 2, 4]}, "search.width: found 4 twice, expected distinct values"),
        (SPACE | {"size": [8, 3]}, "search.size: found 3, expected a divisor of image_size, 8"),
        (SPACE | {"learning_rate": [0.1]}, "search.learning_rate"),
        (SPACE | {"learning_rate": [0.2, 0.1]}, "learning_rate: found 0.2 to 0.1, expected the lowest first"),
        (SPACE | {"augment": [["flop"]]}, "search.augment[0][0]: found 'flop', expected"),
        (SPACE | {"width": [2, 1024], "depth": [1, 16]}, "channels in the last stage, expected at most 8192"),
    ],
)
def test_a_wrong_search_space_gets_one_line(recipe, space, fault):
    with pytest.raises(RecipeError) as told:
        recipes.from_mapping(recipe() | {"search": space})
    assert fault in str(told.value)
    assert "\n" not in str(told.value)


def test_a_recipe_has_members_or_a_search_space_or_both(recipe):
    alone = recipes.from_mapping(recipe() | {"search": SPACE})
    with pytest.raises(RecipeError, match="members: found none, expected at least 1"):
        alone.only(())
    with pytest.raises(RecipeError, match="tiny: search: missing, expected what members may be drawn from"):
        search.search(Order(recipes.from_mapping(recipe(a={})), None, 1, "", "cpu", 1), lambda done, total: None, print)


def test_a_search_does_not_go_on_under_another_space(begin):
    begin()
    with pytest.raises(
        ExperimentError, match=r"pool: search.width: found \[2\], expected \[2, 4\] as when the run began"
    ):
        begin(search=SPACE | {"width": [2]})


def test_a_damaged_declaration_gets_one_line(begin, tmp_path):
    begin()
    (tmp_path / "pool" / search.DECLARED).write_text("study: 3")
    with pytest.raises(ExperimentError, match=r"search.yaml: expected what a search was begun with, found"):
        begin()


@pytest.mark.parametrize(
    "url",
    ["nonsense", "nonsense://user:secret@host/db", "sqlite:////proc/nowhere/x.db", "oracle://user:secret@host/db"],
)
def test_a_storage_that_is_none_gets_one_line_and_keeps_its_password(begin, url):
    with pytest.raises(SearchError, match="storage: found .*, expected a database that SQLAlchemy can use") as told:
        begin(storage=url)
    assert "secret" not in str(told.value)
    assert "\n" not in str(told.value)


def test_a_database_that_is_none_gets_one_line(begin, tmp_path):
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / search.DATABASE).write_bytes(b"no database" * 100)
    with pytest.raises(SearchError, match="storage: found .*file is not a database"):
        begin()


def test_without_optuna_the_command_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.delitem(sys.modules, "ensembles.training.search")
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(Fault, match=r"found no optuna, expected it installed: pip install 'scrutin\[search\]'"):
        command("cifar10", tmp_path / "pool", 1)
