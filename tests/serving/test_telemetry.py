"""`GET /metrics` shows the contract's series, by its names and with its labels, and no others."""

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from itertools import count
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from ensembles.members.scripted import ScriptedMember, Step, always
from ensembles.repository import Repository
from ensembles.spec import MemberSpec
from ensembles.votes import Result
from serving import catalog
from serving.app import Server
from serving.ledger import Ledger
from serving.records import Counted, MemberRun, Outcome
from serving.settings import Settings
from serving.telemetry import Telemetry

CONTRACT = {
    "ensemble_requests_total": {"ensemble", "policy", "protocol", "code"},
    "ensemble_predictions_total": {"ensemble", "policy"},
    "ensemble_request_seconds": {"ensemble", "policy"},
    "ensemble_queue_seconds": {"ensemble"},
    "ensemble_vote_seconds": {"ensemble"},
    "ensemble_batch_rows": {"ensemble"},
    "ensemble_member_seconds": {"ensemble", "member"},
    "ensemble_member_rows_total": {"ensemble", "member", "outcome"},
    "ensemble_device_seconds_total": {"ensemble", "policy", "member", "device"},
    "ensemble_cost_usd_total": {"ensemble", "policy", "member", "device"},
    "ensemble_idle_device_seconds_total": {"device"},
    "ensemble_idle_cost_usd_total": {"device"},
    "ensemble_dissents_total": {"ensemble", "member"},
    "ensemble_queued_rows": {"ensemble"},
    "ensemble_in_flight_requests": {"ensemble"},
    "ensemble_early_exits_total": {"ensemble", "policy", "stage"},
    "ensemble_shed_total": {"ensemble", "reason"},
    "ensemble_info": {"ensemble", "version", "digest", "rule"},
    "ensemble_member_info": {"ensemble", "member", "backend", "device", "provider"},
}
"""Section 6, without the series of what is not built yet: energy, feedback, audits."""

HISTOGRAM_PARTS = ("_bucket", "_count", "_sum")


def series(exposition: bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Values by name and labels, the bound of a bucket left out."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(exposition.decode())
        for sample in family.samples
    }


def value(telemetry: Telemetry, name: str, **labels: str) -> float:
    """The sum over all series of this name that have these labels."""
    return sum(
        number
        for (found, pairs), number in series(telemetry.exposition()).items()
        if found == name and labels.items() <= dict(pairs).items()
    )


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry(Ledger(3600.0))


def run(member: str, outcome: Outcome = Outcome.OK, seconds: float = 0.0, rows: int = 1) -> MemberRun:
    ran = 0 if outcome is Outcome.SKIPPED else rows
    return MemberRun(member, outcome, "cpu", ran, seconds, seconds / 2, seconds / 4)


def counted(votes: list[list[int]], answer: list[int], runs: list[MemberRun]) -> Counted:
    n = len(answer)
    result = Result(
        np.array(answer),
        np.full((n, 2), 0.5, np.float32),
        np.array(votes),
        np.array(votes) == np.array(answer)[:, None],
        np.ones(n, np.float32),
        np.ones(n, np.float32),
    )
    exact = np.ones(n, np.bool_)
    return Counted("e", "full", n, result, runs, exact, None, compute_seconds=0.002, vote_seconds=0.0003)


# ------------------------------------------------------------------------------------------------------- names and labels


@pytest.fixture
def executor() -> Iterator[Executor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


async def test_a_server_shows_the_series_of_the_contract_with_their_labels_and_no_others(
    digits: Repository, samples: Any, executor: Executor
) -> None:
    server = Server(Settings(repositories=(digits.path,)))
    (live,) = server.catalog.ensembles.values()
    await catalog.load(live, catalog.onnx_loader(executor), server.books, 1)
    await live.serving().count(samples[0][:8], "full")
    server.books.telemetry.answered("digits", "full", "grpc", 8, 0.001, 0.004)
    server.books.telemetry.early_exits("digits", "early_exit", 0, 3)
    server.books.telemetry.shed("digits", "queue_full")

    found: dict[str, set[str]] = {}
    for name, pairs in series(server.books.telemetry.exposition()):
        base = next((name.removesuffix(part) for part in HISTOGRAM_PARTS if name.endswith(part)), name)
        found.setdefault(base, set()).update({label for label, _ in pairs} - {"le"})
    assert found == CONTRACT


async def test_what_is_served_and_on_what_is_told(digits: Repository, executor: Executor) -> None:
    server = Server(Settings(repositories=(digits.path,)))
    (live,) = server.catalog.ensembles.values()
    infos = {"ensemble": "digits", "version": "1", "digest": digits.digest, "rule": "probability_average"}
    assert value(server.books.telemetry, "ensemble_info", **infos) == 1
    assert value(server.books.telemetry, "ensemble_member_info") == 0, "before they are loaded"
    assert value(server.books.telemetry, "ensemble_queued_rows", ensemble="digits") == 0

    def load_member(spec: MemberSpec, content: bytes) -> ScriptedMember:
        return ScriptedMember(spec.name, [Step(always(0, 10))], device="cuda:1")

    live.members = [load_member(spec, b"") for spec in digits.spec.members]
    on = {"ensemble": "digits", "backend": "onnxruntime", "device": "cuda:1", "provider": "Scripted"}
    assert value(server.books.telemetry, "ensemble_member_info", **on) == 5


def test_before_any_request_there_is_nothing_but_idle_time() -> None:
    ledger = Ledger(1.0)
    ledger.device("cpu")

    assert {name for name, _ in series(Telemetry(ledger).exposition())} == {
        "ensemble_idle_device_seconds_total",
        "ensemble_idle_cost_usd_total",
    }


def test_two_servers_in_one_process_do_not_share_their_series() -> None:
    one, other = Telemetry(Ledger(1.0)), Telemetry(Ledger(1.0))
    one.shed("e", "queue_full")

    assert value(one, "ensemble_shed_total") == 1
    assert value(other, "ensemble_shed_total") == 0


# ---------------------------------------------------------------------------------------------------------------- requests


def test_requests_are_counted_by_protocol_and_code_and_rows_only_where_they_were_answered(telemetry: Telemetry) -> None:
    for protocol, rows in [("grpc", 3), ("grpc", 4), ("http", 1)]:
        telemetry.answered("e", "full", protocol, rows, 0.002, 0.01)
    telemetry.failed("e", "full", "grpc", "UNAVAILABLE", 0.01)

    requests = "ensemble_requests_total"
    assert value(telemetry, requests, protocol="grpc", code="OK") == 2
    assert value(telemetry, requests, protocol="http", code="OK") == 1
    assert value(telemetry, requests, protocol="grpc", code="UNAVAILABLE") == 1
    assert value(telemetry, "ensemble_predictions_total", ensemble="e", policy="full") == 8
    assert value(telemetry, "ensemble_request_seconds_count", ensemble="e", policy="full") == 4
    assert value(telemetry, "ensemble_queue_seconds_count", ensemble="e") == 3
    assert value(telemetry, "ensemble_queue_seconds_sum", ensemble="e") == pytest.approx(0.006)


@pytest.mark.parametrize(
    ("seconds", "bucket"),
    [
        (0.0, "0.00025"),
        (0.00025, "0.00025"),
        (0.00026, "0.0005"),
        (0.5, "0.5"),
        (8.0, "8.0"),
        (8.1, "+Inf"),
        (1e6, "+Inf"),
    ],
)
def test_a_request_falls_into_its_bucket_and_all_above(telemetry: Telemetry, seconds: float, bucket: str) -> None:
    telemetry.answered("e", "full", "grpc", 1, 0.0, seconds)
    buckets = {
        dict(pairs)["le"]: number
        for (name, pairs), number in series(telemetry.exposition()).items()
        if name == "ensemble_request_seconds_bucket"
    }

    assert min(map(float, buckets)) == 0.00025
    assert {bound for bound, number in buckets.items() if number} == {
        bound for bound in buckets if float(bound) >= float(bucket)
    }


def test_a_request_that_named_nothing_that_exists_makes_no_series_of_its_own(telemetry: Telemetry) -> None:
    telemetry.failed("", "", "http", "NOT_FOUND", 0.001)

    assert value(telemetry, "ensemble_requests_total", ensemble="", policy="", code="NOT_FOUND") == 1


# ----------------------------------------------------------------------------------------------------------------- batches


def test_runs_are_counted_by_outcome_and_what_they_cost(telemetry: Telemetry) -> None:
    four = [run("a", seconds=0.8, rows=4), run("b", Outcome.FAILED, 0.4, rows=4), run("c", Outcome.SKIPPED)]
    telemetry.runs("e", "full", 4, four)
    telemetry.runs("e", "member:a", 1, [run("a", seconds=0.4), run("b", Outcome.SKIPPED), run("c", Outcome.LATE, 1.2)])

    rows = "ensemble_member_rows_total"
    assert value(telemetry, rows, member="a", outcome="ok") == 5
    assert value(telemetry, rows, member="b", outcome="failed") == 4
    assert value(telemetry, rows, member="b", outcome="skipped") == 1
    assert value(telemetry, rows, member="c", outcome="skipped") == 4
    assert value(telemetry, rows, member="c", outcome="late") == 1
    assert value(telemetry, "ensemble_member_seconds_count", member="a") == 2
    assert value(telemetry, "ensemble_member_seconds_count", member="b") == 1, "a skipped member did not run"
    assert value(telemetry, "ensemble_device_seconds_total", policy="full", member="a", device="cpu") == pytest.approx(
        0.4
    )
    assert value(telemetry, "ensemble_device_seconds_total", policy="member:a", member="a") == pytest.approx(0.2)
    assert value(telemetry, "ensemble_cost_usd_total") == pytest.approx(0.7)


def test_who_voted_for_another_class_dissented_and_who_did_not_vote_did_not(telemetry: Telemetry) -> None:
    votes = [[0, 1, -1], [1, 1, -1], [1, 0, -1]]
    runs = [run("a", rows=3), run("b", rows=3), run("c", Outcome.FAILED, rows=3)]
    telemetry.batch(counted(votes, [0, 1, -1], runs))

    assert value(telemetry, "ensemble_dissents_total", member="a") == 1, "an abstention is not what a voted for"
    assert value(telemetry, "ensemble_dissents_total", member="b") == 2
    assert value(telemetry, "ensemble_dissents_total", member="c") == 0


def test_a_batch_is_counted_once_with_its_rows_and_its_vote(telemetry: Telemetry) -> None:
    for rows in (1, 3, 64):
        telemetry.batch(counted([[0]] * rows, [0] * rows, [run("a")]))

    assert value(telemetry, "ensemble_batch_rows_count", ensemble="e") == 3
    assert value(telemetry, "ensemble_batch_rows_sum", ensemble="e") == 68
    assert value(telemetry, "ensemble_batch_rows_bucket", le="4.0") == 2
    assert value(telemetry, "ensemble_vote_seconds_sum", ensemble="e") == pytest.approx(0.0009)


# --------------------------------------------------------------------------------------------------------------- the bill


async def test_what_members_cost_and_what_was_idle_is_the_price_of_the_time_that_passed() -> None:
    """On a clock that is a second later at each reading, at a USD a second."""
    ticks = count()
    ledger = Ledger(3600.0, lambda: float(next(ticks)))
    telemetry = Telemetry(ledger)
    device = ledger.device("cpu")
    for _ in range(5):
        with device.occupation() as one, device.occupation() as other:
            pass
        spent = [
            MemberRun(
                name, Outcome.OK, "cpu", 1, each.seconds, each.device_seconds, ledger.cost_usd(each.device_seconds)
            )
            for name, each in (("a", one), ("b", other))
        ]
        telemetry.runs("e", "full", 1, spent)
    found = series(telemetry.exposition())
    elapsed = next(ticks) - 1

    def total(*names: str) -> float:
        return sum(number for (name, _), number in found.items() if name in names)

    assert total("ensemble_device_seconds_total", "ensemble_idle_device_seconds_total") == pytest.approx(elapsed)
    assert total("ensemble_cost_usd_total", "ensemble_idle_cost_usd_total") == pytest.approx(elapsed)


def test_labels_of_any_kind_survive_the_exposition(telemetry: Telemetry) -> None:
    """No name that the manifest allows needs it; a label that did would not break what Prometheus reads."""
    for reason in ('a "quoted" one', "two\nlines", "back\\slash", "größe"):
        telemetry.shed("e", reason)
        assert value(telemetry, "ensemble_shed_total", reason=reason) == 1
