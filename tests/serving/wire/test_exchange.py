"""Each request is counted once and told of, whatever breaks on its way."""

import asyncio
from types import SimpleNamespace

import pytest

from scrutin.v1 import ensemble_pb2 as pb
from serving.aggregator import Aggregator, Request
from serving.catalog import Catalog
from serving.errors import BelowQuorum
from serving.journey import LONGEST_ID, Caller, Operation
from serving.ledger import Ledger
from serving.observer import Observer
from serving.statistics import Statistics
from serving.telemetry import Telemetry
from serving.trace import SpanContext
from serving.wire.exchange import Exchange, Serving
from serving.wire.predict_stream import Stream

PREDICT = Operation("grpc", "scrutin.v1.EnsembleService/Predict")
SPAN = SpanContext("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", sampled=False)
TERMS = SimpleNamespace(default_policy="full", policies=("full",))
MODEL = SimpleNamespace(policy=None, live=SimpleNamespace(name="digits", terms=TERMS))


class Ready(Aggregator):
    """Has every answer at once."""

    def submit(self, request):
        entry = SimpleNamespace(future=asyncio.get_running_loop().create_future())
        entry.future.set_result(None)
        return entry

    def collect(self, request, entry):
        counted = SimpleNamespace(policy="full", ensemble="digits", compute_seconds=0.01)
        return SimpleNamespace(live=MODEL.live, counted=counted, rows=1, queue_seconds=0.01, total_seconds=0.03)


class Broken(Observer):
    def ended(self, journey, bug=None):
        raise ZeroDivisionError


def serving(observer: Observer) -> Serving:
    telemetry = Telemetry(Ledger(1.0))
    catalog = Catalog(models={"digits": MODEL})
    return Serving(catalog, Ready(telemetry), telemetry, Statistics(telemetry.answers), observer=observer)


def encode(request_id: str, answer) -> bytes:
    return b"answer"


def encode_none(request_id: str, answer) -> bytes:
    raise ZeroDivisionError


@pytest.mark.parametrize(("observer", "encode"), [(Observer(), encode_none), (Broken(access_log=True), encode)])
def test_what_breaks_after_a_request_was_counted_is_told_and_not_counted_again(caplog, observer, encode) -> None:
    here, written = serving(observer), []
    request = Request(MODEL, None, 0.0, id="mine")

    async def ask() -> None:
        stream = Stream(here, lambda request_of_wire, arrived: request, encode, written.append, None)
        stream.take(pb.PredictRequest(ensemble="digits", id="mine"))
        await stream.finished()

    asyncio.run(ask())

    (refusal,) = map(pb.PredictResponse.FromString, written)
    assert refusal.error.message == "the request broke; this is a bug"
    counted = [line for line in here.telemetry.exposition().decode().splitlines() if "requests_total{" in line]
    assert counted == ['ensemble_requests_total{code="OK",ensemble="digits",policy="full",protocol="grpc"} 1.0']
    statistics = here.statistics.of("digits")
    assert (statistics.success.count, statistics.fail.count) == (1, 0)
    (record,) = caplog.records
    assert (record.levelname, record.exc_info[0], record.about) == ("ERROR", ZeroDivisionError, {"request_id": "mine"})


@pytest.mark.parametrize(
    ("own", "name"), [("", "header"), ("own", "own"), ("1" * LONGEST_ID, "1" * LONGEST_ID), ("1" * 8_000_000, "header")]
)
def test_a_failure_by_our_doing_is_named_though_nobody_followed_the_request(caplog, own: str, name: str) -> None:
    async def ask() -> None:
        exchange = Exchange(serving(Observer()), PREDICT, "none such", Caller("header", SPAN))
        exchange.submit(Request(MODEL, None, 0.0, id=own))
        exchange.failed(BelowQuorum("why"))

    asyncio.run(ask())

    (record,) = caplog.records
    told = {key: record.about[key] for key in ("request_id", "trace_id", "span_id", "code")}
    assert told == {"request_id": name, "trace_id": SPAN.trace_id, "span_id": SPAN.span_id, "code": "UNAVAILABLE"}
