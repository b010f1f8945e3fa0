"""What every test may ask for: the ensemble that ships, its labelled rows, and what the vote itself says of them."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from ensembles import repository
from ensembles.repository import Repository
from ensembles.votes import Result, vote

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def digits() -> Repository:
    return repository.read(ROOT / "exported_models" / "digits")


@pytest.fixture(scope="session")
def samples(digits):
    """x [600, 8, 8] uint8 and y [600]."""
    return digits.samples()


@pytest.fixture(scope="session")
def scores(digits, samples):
    """What each member says of each sample, [n, M, K], by ONNX Runtime alone."""
    columns = []
    for member in digits.spec.members:
        session = ort.InferenceSession(digits.model(member), providers=["CPUExecutionProvider"])
        columns.append(session.run(None, {session.get_inputs()[0].name: samples[0]})[0])
    return np.stack(columns, axis=1)


@pytest.fixture(scope="session")
def expected(digits, scores) -> Result:
    """The answers of the ensemble, voted in this process."""
    return vote(scores, digits.spec.ballot)


@pytest.fixture(scope="session")
def expected_of_mlp(digits, scores) -> Result:
    """The answers of the member mlp when it is asked alone."""
    present = np.zeros(scores.shape[:2], np.bool_)
    present[:, [member.name for member in digits.spec.members].index("mlp")] = True
    return vote(scores, digits.spec.ballot, present)
