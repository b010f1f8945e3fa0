"""What ships in `exported_models/digits` is what `ensembles.training.digits` makes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

pytest.importorskip("torch")
pytest.importorskip("sklearn")
pytest.importorskip("skl2onnx")

from ensembles import export, repository, votes
from ensembles.judging import Certificate, Policy, Replay, Threshold, replay
from ensembles.policies import Exit
from ensembles.repository import Repository
from ensembles.stopping import Score
from ensembles.training import digits
from ensembles.votes import vote

ROOT = Path(__file__).parents[2]
MEMBERS = ("mlp", "cnn", "forest", "logistic", "bayes")


@pytest.fixture(scope="module")
def parts() -> digits.Split:
    return digits.split()


@pytest.fixture(scope="module")
def committed() -> Repository:
    return repository.read(ROOT / "exported_models" / "digits")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    directory = tmp_path_factory.mktemp("models") / "digits"
    digits.build(directory)
    return repository.read(directory)


def scores(ensemble: Repository, rows: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What each member says of each row, [n, M, K]."""
    return np.stack([export.run(ensemble.model(member), rows) for member in ensemble.spec.members], axis=1)


def test_the_parts_share_no_row(parts: digits.Split) -> None:
    everything = np.concatenate([parts.training.index, parts.calibration.index, parts.samples.index])

    assert sorted(everything) == list(range(1797))
    assert [len(part.y) for part in (parts.training, parts.calibration, parts.samples)] == [897, 300, 600]


def test_every_digit_has_its_share_of_every_part(parts: digits.Split) -> None:
    for part in (parts.training, parts.calibration, parts.samples):
        assert np.bincount(part.y) / len(part.y) == pytest.approx(0.1, abs=0.01)


def test_the_samples_are_those_of_the_recipe(committed: Repository, parts: digits.Split) -> None:
    x, y = committed.samples()

    assert np.array_equal(x, parts.samples.x) and x.dtype == np.uint8
    assert np.array_equal(y, parts.samples.y)


def test_the_committed_repository_is_whole_and_small(committed: Repository) -> None:
    repository.verify(committed)

    assert tuple(member.name for member in committed.spec.members) == MEMBERS
    assert sum(file.stat().st_size for file in committed.path.rglob("*")) < 700_000


def test_the_recipe_gives_what_is_committed(committed: Repository, trained: Repository) -> None:
    x, _ = committed.samples()
    theirs, ours = scores(committed, x), scores(trained, x)

    assert np.array_equal(theirs.argmax(axis=2), ours.argmax(axis=2))
    assert ours == pytest.approx(theirs, abs=1e-3)
    assert np.array_equal(vote(theirs, committed.spec.ballot).label_index, vote(ours, trained.spec.ballot).label_index)


def test_the_manifests_differ_in_hashes_and_in_what_was_planned_at_most(
    committed: Repository, trained: Repository
) -> None:
    theirs, ours = committed.spec.model_dump(), trained.spec.model_dump()
    for member in (*theirs["members"], *ours["members"]):
        del member["sha256"]
    for manifest in (theirs, ours):
        del manifest["policies"], manifest["vote"]["temperature"]

    assert theirs == ours


def replayed(committed: Repository, policy: str) -> Replay:
    """What the policy answers on the samples, and what that takes; every member costing a second a row."""
    x, _ = committed.samples()
    spec = committed.spec
    named, place = spec.policies.named[policy], [member.name for member in spec.members].index
    exit_ = named.exit
    if isinstance(exit_, Exit):
        exit_ = Threshold(Score(exit_.score), exit_.threshold, Certificate(0.05, 0.95, 90))
    stages = tuple(tuple(map(place, stage)) for stage in named.stages)
    judged = Policy(named.rule or spec.vote.rule, stages, exit_)
    return replay(judged, scores(committed, x), spec.ballot, np.ones(len(spec.members)))


def test_the_exact_policy_gives_every_label_of_the_full_vote_for_less(committed: Repository) -> None:
    x, _ = committed.samples()
    full = vote(scores(committed, x), committed.spec.ballot).label_index
    early = replayed(committed, "early_exit")

    assert np.array_equal(early.label_index, full)
    assert early.runs.mean() < 3.5


@pytest.mark.parametrize("policy", ["cascade", "planned"])
def test_certified_policies_keep_their_certificate_on_rows_that_chose_nothing(
    committed: Repository, policy: str
) -> None:
    x, _ = committed.samples()
    named = committed.spec.policies.named[policy]
    some = [index for index, member in enumerate(committed.spec.members) if member.name in named.members]
    ballot = replace(committed.spec.ballot, rule=named.rule or committed.spec.vote.rule)
    whole = vote(scores(committed, x)[:, some], votes.part(ballot, np.array(some))).label_index

    assert named.certificate is not None and not committed.spec.stale(named)
    assert (replayed(committed, policy).label_index != whole).mean() <= named.certificate.disagreement


def test_training_twice_gives_the_same_bytes(trained: Repository, parts: digits.Split) -> None:
    again = digits.train(parts.training)

    assert again == {member.name: trained.model(member) for member in trained.spec.members}


def test_calibration_is_measured_on_the_calibration_rows(committed: Repository, parts: digits.Split) -> None:
    right = scores(committed, parts.calibration.x).argmax(axis=2) == parts.calibration.y[:, None]

    found = [member.calibration.accuracy for member in committed.spec.members if member.calibration]
    assert found == pytest.approx(right.mean(axis=0), abs=1e-4)


def test_each_member_alone_is_right_often_but_not_always(committed: Repository) -> None:
    x, y = committed.samples()
    accuracy = (scores(committed, x).argmax(axis=2) == y[:, None]).mean(axis=0)

    assert ((accuracy >= 0.85) & (accuracy <= 0.97)).all(), dict(zip(MEMBERS, accuracy, strict=True))


def test_the_vote_beats_every_member(committed: Repository) -> None:
    x, y = committed.samples()
    table = scores(committed, x)
    alone = (table.argmax(axis=2) == y[:, None]).mean(axis=0)

    assert (vote(table, committed.spec.ballot).label_index == y).mean() > alone.max() + 0.01


def test_the_table_names_every_member_and_rule(trained: Repository, parts: digits.Split) -> None:
    models = {member.name: trained.model(member) for member in trained.spec.members}
    printed = digits.table(models, parts)

    assert [line.split()[0] for line in printed.splitlines()[1:11]] == [
        *MEMBERS,
        *("majority", "probability_average", "log_average", "median", "borda"),
    ]
    assert "points over cnn" in printed, "the best on the calibration rows, whatever the samples say"


def test_the_picture_in_the_documents_is_a_sample_on_which_the_vote_is_wiser_than_two_members(
    committed: Repository,
) -> None:
    picture = Image.open(ROOT / "docs" / "seven.png").convert("L").resize((8, 8), Image.Resampling.BOX)
    row = np.rint(np.asarray(picture) / 255 * 16).astype(np.uint8)
    x, y = committed.samples()

    assert any(np.array_equal(row, sample) for sample in x[y == 7])
    table = scores(committed, row[None])
    assert table.argmax(axis=2).tolist() == [[3, 7, 7, 7, 8]]
    assert vote(table, committed.spec.ballot).label_index == [7]
