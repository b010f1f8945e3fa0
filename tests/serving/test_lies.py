"""What a member says of another number of rows than it was given is no vote, whoever has left the batch meanwhile."""

import asyncio

import numpy as np
import pytest

from ensembles import repository
from ensembles.tally import Tally
from serving.batch import Batch, Entry
from serving.course import courses
from serving.records import MemberRun, Outcome, Spent


@pytest.fixture
def spec(write_tiny):
    policies = {"early_exit": {"stages": [["a", "b"], ["c"]]}}
    return repository.read(write_tiny("three", ["a", "b", "c"], vote={"rule": "majority"}, policies=policies)).spec


def saying(*classes: int) -> np.ndarray:
    return np.float32([[0.9, 0.1] if each == 0 else [0.1, 0.9] for each in classes])


async def test_too_few_rows_do_not_become_the_votes_of_others_when_as_many_have_left(spec):
    """The first row is decided by two; the third member, which ran on all three, answers for two."""
    rows, ids = np.zeros((3, 4), np.float32), np.arange(3)
    now = asyncio.get_running_loop().time()
    tally = Tally(spec.ballot, 3, 2)
    batch = Batch(
        courses(spec)["early_exit"], [Entry(rows, "early_exit", now, now + 9)], rows, tally, Spent.nothing(3, 3)
    )
    batch.begin(2, [0, 1, 2], {})
    for member, scores in enumerate([saying(0, 0, 1), saying(0, 1, 0), saying(1, 1)]):
        batch.put(member, ids, MemberRun(spec.members[member].name, Outcome.OK, "cpu", 3), scores)

    assert batch.enter_stage() == {}
    assert batch.leave() == 1
    batch.stage += 1
    assert batch.enter_stage() == {2: "found scores of shape [2, 2], expected [3, 2]"}
    votes = batch.tally.answer()[0].votes
    assert (votes >= 0).tolist() == [[True, True, False]] * 3
