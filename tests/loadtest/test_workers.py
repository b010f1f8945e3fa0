import asyncio
import pickle

from loadtest import measuring, workers
from loadtest.jobs import Course
from loadtest.measuring import Load
from loadtest.schedule import Arrivals, steady
from loadtest.target import prepare
from loadtest.targets.opening import TargetOptions

SOCKET_BUFFER_BYTES = 212_992  # Linux's default


def test_what_a_long_run_measured_arrives_whole(scripted, monkeypatch) -> None:
    """It is more than fits between two processes at once."""
    monkeypatch.setattr(measuring, "slot_seconds", lambda duration: 0.001)
    target = asyncio.run(prepare(f"grpc://{scripted}", TargetOptions(), (), None, 1))
    load = Load(Course(Arrivals.CONSTANT, steady(1000, 2.0)), 2.0)

    (outcome,) = workers.run(measuring.shared(target, load), lambda elapsed, beats: None).outcomes

    assert len(pickle.dumps(outcome)) > SOCKET_BUFFER_BYTES
    assert outcome.arms[0].requests == 2000
