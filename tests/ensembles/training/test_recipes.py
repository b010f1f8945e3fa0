"""What a recipe may say, and the one line that a wrong one gets."""

import pytest
import yaml

from ensembles.training import recipes
from ensembles.training.nets import ARCHITECTURES
from ensembles.training.recipes import RecipeError

MEMBER = {"name": "a", "architecture": "vgg"}
RECIPE = {"name": "r", "data": "photos", "image_size": 32, "calibration": {"rows": 100}, "members": [MEMBER]}


def parse(content):
    return recipes.parse(yaml.safe_dump(content).encode())


def with_member(**changes):
    return RECIPE | {"members": [MEMBER | changes]}


def test_what_a_recipe_leaves_out_has_a_default():
    member = parse(RECIPE).members[0]
    assert (member.width, member.epochs, member.augment, member.size) == (16, 10, ("flip", "crop"), None)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (RECIPE | {"colour": 1}, "colour: unknown key"),
        (with_member(widht=4), "members[0].widht: unknown key"),
        ({key: RECIPE[key] for key in RECIPE if key != "data"}, "data: missing"),
        (RECIPE | {"members": []}, "members: found none, expected at least 1"),
        (RECIPE | {"members": [MEMBER, dict(MEMBER)]}, "members: found 'a' twice, expected distinct names"),
        (RECIPE | {"members": 3}, "members: found 3, expected a valid tuple"),
        (with_member(architecture="transformer"), "members[0].architecture: found 'transformer', expected"),
        (with_member(name="../a"), "members[0].name: found '../a', expected"),
        (with_member(epochs=0), "members[0].epochs: found 0, expected greater than or equal to 1"),
        (with_member(epochs="3"), "members[0].epochs: found '3', expected a valid integer"),
        (with_member(learning_rate=float("nan")), "members[0].learning_rate: found nan, expected"),
        (with_member(augment=["flop"]), "members[0].augment[0]: found 'flop', expected"),
        (with_member(bagging=1.5), "members[0].bagging: found 1.5, expected less than or equal to 1"),
        (with_member(size=24), "members.a.size: found 24, expected a divisor of image_size, 32"),
        (with_member(width=1024, depth=16), "found 33554432 channels in the last stage, expected at most 8192"),
        ([1, 2], "expected a mapping, found list"),
    ],
)
def test_a_wrong_recipe_gets_one_line_with_key_found_and_expected(content, fault):
    with pytest.raises(RecipeError) as told:
        parse(content)
    assert fault in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "content", [b"\xff", b"a: [", b"a: &x 1\nb: *x", b"a: 1\na: 2", b"[" * 10_000, b" " * (2 << 20)]
)
def test_what_is_no_plain_yaml_gets_one_line(content):
    with pytest.raises(RecipeError, match="found|expected") as told:
        recipes.parse(content)
    assert "\n" not in str(told.value)


def test_a_recipe_is_a_built_in_name_or_a_file(tmp_path):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(RECIPE))
    assert recipes.read(str(tmp_path / "mine.yaml")) == parse(RECIPE)
    assert recipes.read("cifar10").name == "cifar10"


@pytest.mark.parametrize("name", ["nonesuch", "/", "no\0path", "x" * 5000])
def test_what_is_neither_is_refused_with_the_names_there_are(name):
    with pytest.raises(RecipeError, match="expected a YAML file or one of digits, cifar10"):
        recipes.read(name)


def test_a_fault_in_a_file_names_the_file(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("name: r")
    with pytest.raises(RecipeError, match=r"mine\.yaml: data: missing"):
        recipes.read(str(file))


def test_members_are_chosen_by_name():
    chosen = recipes.read("cifar10").only(("grey", "large"))
    assert chosen.member_names == ("large", "grey")
    with pytest.raises(RecipeError, match="found no member 'gray' in cifar10, expected one of large, vgg"):
        recipes.read("cifar10").only(("gray",))


def test_the_built_in_recipe_has_unlike_members_and_twins():
    members = recipes.read("cifar10").members
    assert len({member.architecture for member in members}) >= 4
    assert len({member.size for member in members}) >= 2
    plain = [member.model_dump(exclude={"name", "seed"}) for member in members]
    assert sum(plain.count(each) == 2 for each in plain) == 2


def test_every_architecture_that_a_recipe_may_name_exists():
    for name in ARCHITECTURES:
        assert parse(with_member(architecture=name))
