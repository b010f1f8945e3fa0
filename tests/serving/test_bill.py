"""The bill adds up: what is attributed and what is idle are price x time on every device, and shares of a batch are the batch."""

import threading
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from ensembles.votes import Result
from scrutin.v1 import ensemble_pb2 as pb
from serving.ledger import Account, Ledger, Occupation, Price
from serving.records import FAILED, LATE, OK, Counted, Crew, MemberRun, Outcome, Spent
from serving.telemetry import Telemetry

PRICES = {"cpu": Price(0.10), "cuda:0": Price(2.5), "cuda:1": Price(3600.0)}
COSTS = ("ensemble_cost_usd_total", "ensemble_idle_cost_usd_total")

# ------------------------------------------------------------------------------------- any span, any load, several devices


class Clock:
    """Says what it was set to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def costs(exposition: bytes) -> dict[str, float]:
    """USD by device."""
    found = dict.fromkeys(PRICES, 0.0)
    for family in text_string_to_metric_families(exposition.decode()):
        for sample in family.samples:
            if sample.name in COSTS:
                found[sample.labels["device"]] += sample.value
    return found


steps = st.lists(
    st.tuples(st.sampled_from([*PRICES]), st.integers(0, 2), st.floats(0, 1e3), st.booleans()), max_size=25
)


@given(steps)
@settings(max_examples=50, deadline=None)
def test_between_any_two_readings_the_bill_grows_by_price_times_time(steps: list[tuple[str, int, float, bool]]) -> None:
    """Each step lets some time pass; then a run begins on a device, or ends if it was under way; after some, somebody reads."""
    clock = Clock()
    ledger = Ledger(1.0, clock, PRICES)
    telemetry = Telemetry(ledger)
    devices = {name: ledger.device(name) for name in PRICES}
    under_way: dict[tuple[str, int], Occupation] = {}
    read_at, read = clock.now, costs(telemetry.exposition())
    for name, slot, passed, reads in [*steps, ("cpu", 0, 1.0, True)]:
        clock.now += passed
        device, place = devices[name], (name, slot)
        if place in under_way:
            run = under_way.pop(place)
            run.__exit__(None, None, None)
            spent = (run.seconds, run.device_seconds, device.cost_usd(run.device_seconds), run.charged)
            telemetry.ran("e", "full", MemberRun(f"m{slot}", Outcome.OK, name, 1, *spent))
        else:
            under_way[place] = device.occupation(Account("e", "full", f"m{slot}")).__enter__()
        if reads:
            now = costs(telemetry.exposition())
            for each, price in PRICES.items():
                expected = price.usd_per_hour * (clock.now - read_at) / 3600
                assert now[each] - read[each] == pytest.approx(expected, rel=1e-9, abs=1e-9)
            read_at, read = clock.now, now


# --------------------------------------------------------------------------------------------------------------- its shares


def counted(spent: Spent, crew: Crew) -> Counted:
    """A batch of which only the time that its members took is looked at."""
    n, m = spent.rows, len(crew.names)
    votes, nothing = np.zeros((n, m), np.int64), np.zeros(n, np.float32)
    result = Result(votes[:, 0], np.zeros((n, 2), np.float32), votes, votes == 0, nothing, nothing)
    scores = np.zeros((n, m, 2), np.float32)
    return Counted("e", "full", n, result, np.ones(n, np.bool_), spent, crew, scores, 0.0, 0.0)


@given(st.data())
@settings(deadline=None)
def test_what_the_requests_of_a_batch_pay_is_what_its_runs_cost(data: st.DataObject) -> None:
    """Whoever ran which rows, and however the rows belong to requests: by member, to 1e-9 of the cost."""
    rows, members = data.draw(st.integers(1, 64)), data.draw(st.integers(1, 6))
    prices = data.draw(st.lists(st.floats(1e-9, 300), min_size=members, max_size=members))
    crew = Crew(tuple(f"m{i}" for i in range(members)), ("cpu",) * members, tuple(prices))
    spent, bill = Spent.nothing(rows, members), np.zeros(members)
    for member in range(members):
        ran: Any = data.draw(st.one_of(st.none(), st.sets(st.integers(0, rows - 1))))
        seconds = data.draw(st.floats(0, 1e3))
        where = None if ran is None else np.array(sorted(ran), np.int64)
        number = rows if where is None else len(where)
        if number:
            spent.spend(where, member, seconds, seconds / number)
            spent.end(where, member, data.draw(st.sampled_from([OK, FAILED, LATE])))
            bill[member] = seconds * prices[member]
    cuts = sorted(data.draw(st.sets(st.integers(1, rows - 1))) if rows > 1 else [])
    batch = counted(spent, crew)
    parts = [batch.part(start, stop) for start, stop in zip([0, *cuts], [*cuts, rows], strict=True)]

    paid = [sum(part[member].cost_usd for part in parts) for member in range(members)]
    assert paid == pytest.approx(bill.tolist(), rel=1e-9, abs=1e-12)
    assert sum(sum(run.cost_usd for run in part) for part in parts) == pytest.approx(bill.sum(), rel=1e-9, abs=1e-12)


# ----------------------------------------------------------------------------------------------------------- a real server


def request(model: str, policy: str = "") -> pb.PredictRequest:
    rows = np.zeros((1 + len(policy) % 3, 4), np.float32)
    tensor = pb.Tensor(datatype="FP32", shape=rows.shape, data=rows.tobytes())
    return pb.PredictRequest(ensemble=model, policy=policy, tensor=tensor)


def test_a_server_with_three_devices_at_three_prices_under_mixed_load(launch_scripted, write_tiny):
    """Members at once and one after the other, quick and slow, on shared devices and alone, some of them failing."""
    staged = {"default": "full", "staged": {"stages": [["a"], ["b"], ["c"]], "exit": {"margin": 0.999}}}
    limits = {"timeout_ms": 20_000}
    repositories = [
        write_tiny("staged", ["a", "b", "c"], limits=limits, policies=staged),
        write_tiny("failing", ["a", "b", "c"], limits=limits),
    ]
    devices = {"a": "cpu", "b": "cuda:0", "c": "cuda:1"}
    script = {
        "staged": {"a": [{"delay": 0.01}], "b": [{"delay": 0.02}, {}], "c": [{"delay": 0.15}], "devices": devices},
        "failing": {"a": [{"delay": 0.03, "fault": "no"}, {}], "b": [{}], "c": [{"delay": 0.05}], "devices": devices},
    }
    prices = {name: {"usd_per_hour": price.usd_per_hour, "as_of": "2026-11-24"} for name, price in PRICES.items()}
    stop = threading.Event()

    def load(model: str, policy: str) -> None:
        with server.stub() as stub:
            while not stop.is_set():
                stub.Predict(request(model, policy))

    with launch_scripted(script, *repositories, prices=prices) as server:
        asked = [("staged", "full"), ("staged", "staged"), ("failing", "full"), ("staged", "member:b")]
        threads = [threading.Thread(target=load, args=pair) for pair in asked]
        for thread in threads:
            thread.start()
        readings = []
        for _ in range(5):
            before = time.perf_counter()
            text = server.request("GET", "/metrics", address=server.metrics).body
            readings.append((before, time.perf_counter(), costs(text)))
            time.sleep(1.5)
        stop.set()
        for thread in threads:
            thread.join()
        attributed = {name: server.metric("ensemble_cost_usd_total", device=name) for name in PRICES}

    assert min(attributed.values()) > 0
    for began, ended in [(0, 4), (0, 2), (1, 3), (2, 4)]:
        (before_first, behind_first, first), (before_last, behind_last, last) = readings[began], readings[ended]
        for name, price in PRICES.items():
            passed = (last[name] - first[name]) * 3600 / price.usd_per_hour
            assert 0.99 * (before_last - behind_first) < passed < 1.01 * (behind_last - before_first), (name, began)
