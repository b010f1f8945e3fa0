"""`GET /metrics` shows the contract's series, by its names and with its labels, and no others."""

import time
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from itertools import count
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from ensembles.member_spec import MemberSpec
from ensembles.members.scripted import ScriptedMember, Step, always
from ensembles.repository import Repository
from ensembles.votes import Result
from serving import catalog
from serving.app import Server
from serving.batch import Entry
from serving.ledger import Ledger
from serving.records import Counted, Crew, MemberRun, Outcome, Spent
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
    "ensemble_reloads_total": {"ensemble", "outcome"},
    "ensemble_device_seconds_total": {"ensemble", "policy", "member", "device"},
    "ensemble_cost_usd_total": {"ensemble", "policy", "member", "device"},
    "ensemble_idle_device_seconds_total": {"device"},
    "ensemble_idle_cost_usd_total": {"device"},
    "ensemble_dissents_total": {"ensemble", "member"},
    "ensemble_queued_rows": {"ensemble"},
    "ensemble_in_flight_requests": {"ensemble"},
    "ensemble_brownout_level": {"ensemble"},
    "ensemble_wasted_device_seconds_total": {"ensemble", "member", "device", "reason"},
    "ensemble_early_exits_total": {"ensemble", "policy", "stage"},
    "ensemble_shed_total": {"ensemble", "reason"},
    "ensemble_price_usd_per_hour": {"device", "currency", "as_of"},
    "ensemble_feedback_total": {"ensemble", "policy", "correct"},
    "ensemble_feedback_cost_usd_total": {"ensemble", "policy"},
    "ensemble_member_feedback_total": {"ensemble", "member", "correct"},
    "ensemble_audited_rows_total": {"ensemble", "policy", "same"},
    "ensemble_audit_dropped_rows_total": {"ensemble", "reason"},
    "ensemble_certificate_stale": {"ensemble", "policy"},
    "ensemble_certificate_violated": {"ensemble", "policy"},
    "ensemble_shadow_rows_total": {"ensemble", "member", "changed"},
    "ensemble_shadow_dissents_total": {"ensemble", "member"},
    "ensemble_shadow_dropped_rows_total": {"ensemble", "member", "reason"},
    "ensemble_info": {"ensemble", "version", "digest", "rule"},
    "ensemble_member_info": {"ensemble", "member", "backend", "device", "provider"},
    "ensemble_member_in_rotation": {"ensemble", "member"},
    "ensemble_quorum": {"ensemble"},
}
"""Without energy, whose series is there only where the machine counts it."""

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
    return MemberRun(member, outcome, "cpu", rows, seconds, seconds / 2, seconds / 4)


def crew(members: int) -> Crew:
    return Crew(tuple("abc"[:members]), ("cpu",) * members, (1.0,) * members)


def counted(votes: list[list[int]], answer: list[int]) -> Counted:
    n, members = len(answer), len(votes[0])
    result = Result(
        np.array(answer),
        np.full((n, 2), 0.5, np.float32),
        np.array(votes),
        np.array(votes) == np.array(answer)[:, None],
        np.ones(n, np.float32),
        np.ones(n, np.float32),
    )
    return Counted(
        ensemble="e",
        policy="full",
        rows=n,
        result=result,
        exact=np.ones(n, np.bool_),
        spent=Spent.nothing(n, members),
        crew=crew(members),
        scores=np.zeros((n, members, 2), np.float32),
        compute_seconds=0.002,
        vote_seconds=0.0003,
    )


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
    await catalog.Loader(catalog.onnx_loader(executor), server.books, cores=1, on_rotation=lambda: None).load_first(
        live
    )
    entry = Entry(samples[0][:8], "full", time.perf_counter(), time.perf_counter() + 60)
    live.serving().submit(entry)
    await entry.future
    server.books.telemetry.wasted("digits", run("mlp"), "late")
    server.books.telemetry.answers.add(("digits", "digits", "full", "grpc"), 8, 0.001, 0.002, 0.004)
    server.books.telemetry.early_exits("digits", "early_exit", 0, 3)
    server.books.telemetry.feedback("digits", "full", 8, 7, 1e-6)
    server.books.telemetry.member_feedback("digits", "mlp", 8, 6)
    server.books.telemetry.audited("digits", "early_exit", 3, 0)
    server.books.telemetry.audit_dropped("digits", "no_room", 1)
    server.books.telemetry.shadowed("digits", "newcomer", 2, 1, 1)
    server.books.telemetry.shadow_dropped("digits", "newcomer", "failed", 1)
    server.books.telemetry.shed("digits", "queue_full")
    server.books.telemetry.reloaded("digits", "loaded")

    found: dict[str, set[str]] = {}
    for name, pairs in series(server.books.telemetry.exposition()):
        base = next((name.removesuffix(part) for part in HISTOGRAM_PARTS if name.endswith(part)), name)
        found.setdefault(base, set()).update({label for label, _ in pairs} - {"le"})
    found.pop("ensemble_energy_joules_total", None)
    assert found == CONTRACT


async def test_what_is_served_and_on_what_is_told(digits: Repository, executor: Executor) -> None:
    server = Server(Settings(repositories=(digits.path,)))
    (live,) = server.catalog.ensembles.values()
    infos = {"ensemble": "digits", "version": "1", "digest": digits.digest, "rule": "probability_average"}
    assert value(server.books.telemetry, "ensemble_info", **infos) == 1
    assert value(server.books.telemetry, "ensemble_member_info") == 0, "before they are loaded"
    assert value(server.books.telemetry, "ensemble_queued_rows", ensemble="digits") == 0
    assert value(server.books.telemetry, "ensemble_quorum", ensemble="digits") == 3
    assert value(server.books.telemetry, "ensemble_member_in_rotation", ensemble="digits", member="mlp") == 0

    def load_member(spec: MemberSpec, content: bytes) -> ScriptedMember:
        return ScriptedMember(spec.name, [Step(always(0, 10))], device="cuda:1")

    live.members = [load_member(spec, b"") for spec in digits.spec.members]
    on = {"ensemble": "digits", "backend": "onnxruntime", "device": "cuda:1", "provider": "Scripted"}
    assert value(server.books.telemetry, "ensemble_member_info", **on) == 5


def test_before_any_request_there_is_nothing_but_idle_time_and_its_price() -> None:
    ledger = Ledger(1.0)
    ledger.device("cpu")

    assert {name for name, _ in series(Telemetry(ledger).exposition())} == {
        "ensemble_idle_device_seconds_total",
        "ensemble_idle_cost_usd_total",
        "ensemble_price_usd_per_hour",
    }


def test_two_servers_in_one_process_do_not_share_their_series() -> None:
    one, other = Telemetry(Ledger(1.0)), Telemetry(Ledger(1.0))
    one.shed("e", "queue_full")

    assert value(one, "ensemble_shed_total") == 1
    assert value(other, "ensemble_shed_total") == 0


# ---------------------------------------------------------------------------------------------------------------- requests


def test_requests_are_counted_by_protocol_and_code_and_rows_only_where_they_were_answered(telemetry: Telemetry) -> None:
    for protocol, rows in [("grpc", 3), ("grpc", 4), ("http", 1)]:
        telemetry.answers.add(("e", "e", "full", protocol), rows, 0.002, 0.005, 0.01)
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
        (0.00026, "0.00035"),
        (0.0005, "0.0005"),
        (8.0, "8.0"),
        (8.1, "+Inf"),
        (1e6, "+Inf"),
    ],
)
def test_a_request_falls_into_its_bucket_and_all_above(telemetry: Telemetry, seconds: float, bucket: str) -> None:
    telemetry.answers.add(("e", "e", "full", "grpc"), 1, 0.0, 0.0, seconds)
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


def test_runs_are_counted_with_their_time_and_what_they_cost(telemetry: Telemetry) -> None:
    telemetry.ran("e", "full", run("a", seconds=0.8, rows=4))
    telemetry.ran("e", "full", run("b", Outcome.FAILED, 0.4, rows=4))
    telemetry.ran("e", "member:a", run("a", seconds=0.4))

    assert value(telemetry, "ensemble_member_seconds_count", member="a") == 2
    assert value(telemetry, "ensemble_member_seconds_count", member="b") == 1
    spent = "ensemble_device_seconds_total"
    assert value(telemetry, spent, policy="full", member="a", device="cpu") == pytest.approx(0.4)
    assert value(telemetry, spent, policy="member:a", member="a") == pytest.approx(0.2)
    assert value(telemetry, "ensemble_cost_usd_total") == pytest.approx(0.4)


def test_what_nobody_could_use_is_counted_once_more(telemetry: Telemetry) -> None:
    telemetry.wasted("e", run("a", seconds=0.8), "late")
    telemetry.wasted("e", run("a", seconds=0.2), "failed")

    wasted = "ensemble_wasted_device_seconds_total"
    assert value(telemetry, wasted, member="a", reason="late") == pytest.approx(0.4)
    assert value(telemetry, wasted, device="cpu") == pytest.approx(0.5)


def test_rows_are_counted_by_what_became_of_each_member(telemetry: Telemetry) -> None:
    telemetry.outcomes("e", crew(3), [[0, 4, 0, 0], [1, 0, 3, 0], [4, 0, 0, 0]])
    telemetry.outcomes("e", crew(3), [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]])

    rows = "ensemble_member_rows_total"
    assert value(telemetry, rows, member="a", outcome="ok") == 5
    assert value(telemetry, rows, member="b", outcome="failed") == 3
    assert value(telemetry, rows, member="b", outcome="skipped") == 2
    assert value(telemetry, rows, member="c", outcome="skipped") == 4
    assert value(telemetry, rows, member="c", outcome="late") == 1


def test_who_voted_for_another_class_dissented_and_who_did_not_vote_did_not(telemetry: Telemetry) -> None:
    telemetry.batch(counted([[0, 1, -1], [1, 1, -1], [1, 0, -1]], [0, 1, -1]))

    assert value(telemetry, "ensemble_dissents_total", member="a") == 1, "an abstention is not what a voted for"
    assert value(telemetry, "ensemble_dissents_total", member="b") == 2
    assert value(telemetry, "ensemble_dissents_total", member="c") == 0


def test_a_batch_is_counted_when_it_begins_and_its_vote_when_it_is_counted(telemetry: Telemetry) -> None:
    for rows in (1, 3, 64):
        telemetry.begun("e", rows)
        telemetry.batch(counted([[0]] * rows, [0] * rows))

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
                name, Outcome.OK, "cpu", 1, each.seconds, each.device_seconds, device.cost_usd(each.device_seconds)
            )
            for name, each in (("a", one), ("b", other))
        ]
        for each in spent:
            telemetry.ran("e", "full", each)
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
