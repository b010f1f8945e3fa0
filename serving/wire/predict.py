"""`scrutin.v1.EnsembleService`: the typed way to ask for a vote, one request at a time or many on a stream."""

import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

from grpc import ServicerContext

from scrutin.v1 import ensemble_pb2 as pb
from scrutin.v1 import ensemble_pb2_grpc
from serving.aggregator import Answer, Request
from serving.catalog import Live, Model
from serving.errors import InvalidRequest
from serving.journey import Operation
from serving.receipts import Receipts
from serving.records import OUTCOMES, Outcome
from serving.wire.codec import rows_from_bytes, rows_from_images
from serving.wire.exchange import GRPC, Serving, sooner
from serving.wire.predict_stream import Stream
from serving.wire.protobuf import delimited, tag, varint
from serving.wire.shared import Lasting, PerBatch
from serving.wire.stamp import Stamp

PREDICT = Operation(GRPC, "scrutin.v1.EnsembleService/Predict")
MICROSECONDS = 1e6

OUTCOME_VALUES = {
    Outcome.OK: pb.OUTCOME_OK,
    Outcome.FAILED: pb.OUTCOME_FAILED,
    Outcome.LATE: pb.OUTCOME_LATE,
    Outcome.SKIPPED: pb.OUTCOME_SKIPPED,
}


class EnsembleServicer(ensemble_pb2_grpc.EnsembleServiceServicer):
    """The typed service."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._encoder = Encoder(serving.receipts)

    async def Predict(self, request: pb.PredictRequest, context: ServicerContext) -> bytes:
        """The answer, serialised."""
        remaining = context.time_remaining()
        answer = await self._serving.answer(
            PREDICT, request.ensemble, lambda arrived: self._request(request, arrived, remaining), context.caller
        )
        return self._encoder.encode(request.id, answer)

    def _request(
        self, request: pb.PredictRequest, arrived: float, remaining: float | None
    ) -> Request | Awaitable[Request]:
        model = self._serving.catalog.find(request.ensemble, request.version)
        if request.timeout_microseconds < 0:
            raise InvalidRequest(f"timeout_microseconds: found {request.timeout_microseconds}, expected 0 or more")
        own = request.timeout_microseconds / MICROSECONDS or None
        timeout = remaining if own is None else sooner(own, remaining)
        spec, kind = model.live.spec, request.WhichOneof("input")
        if kind == "tensor":
            tensor = request.tensor
            rows = rows_from_bytes(spec.input, tensor.datatype, tensor.shape, tensor.data)
            return Request(model, rows, arrived, request.policy, timeout, request.id)
        if kind == "images":
            made = partial(Request, model, arrived=arrived, policy=request.policy, timeout=timeout, id=request.id)
            return from_images(made, model, request.images.files)
        raise InvalidRequest("found no input, expected a tensor or images")

    async def PredictStream(self, request_iterator: AsyncIterator[pb.PredictRequest], context: ServicerContext) -> None:
        """Answers as they come. A request that fails is answered with its error; the stream goes on."""

        def decode(request: pb.PredictRequest, arrived: float) -> Request | Awaitable[Request]:
            return self._request(request, arrived, context.time_remaining())

        stream = Stream(self._serving, decode, self._encoder.encode, context.write_soon, context.caller)
        try:
            async for request in request_iterator:
                stream.take(request)
                await stream.room()
                await context.drained()
            await stream.finished()
        finally:
            stream.leave()

    async def Feedback(self, request: pb.FeedbackRequest, context: ServicerContext) -> pb.FeedbackResponse:
        model = self._serving.catalog.find(request.ensemble)
        score = self._serving.feedback.take(model, request.receipt, request.labels)
        return pb.FeedbackResponse(rows=score.rows, right=score.right, members=score.members)

    async def ListEnsembles(
        self, request: pb.ListEnsemblesRequest, context: ServicerContext
    ) -> pb.ListEnsemblesResponse:
        lives = self._serving.catalog.ensembles.values()
        return pb.ListEnsemblesResponse(ensembles=[pb.Ensemble(**describe(live)) for live in lives])

    async def GetEnsemble(self, request: pb.GetEnsembleRequest, context: ServicerContext) -> pb.Ensemble:
        return pb.Ensemble(**describe(self._serving.catalog.find(request.ensemble).live))


def describe(live: Live) -> dict[str, Any]:
    """What is served under this name: the fields of `Ensemble`, and the JSON of `GET /v1/models/{m}`."""
    spec = live.spec
    loaded = {member.name: member for member in live.members}
    return {
        "name": spec.name,
        "version": live.version,
        "labels": list(spec.labels),
        "datatype": spec.input.datatype,
        "shape": list(spec.input.shape),
        "members": [
            {
                "name": member.name,
                "weight": member.weight,
                "backend": member.run_on.backend,
                "device": loaded[member.name].device if loaded else member.run_on.device,
                "provider": loaded[member.name].provider if loaded else "",
            }
            for member in spec.members
        ],
        "rule": spec.vote.rule.value,
        "tie_break": spec.vote.tie_break.value,
        "quorum": spec.vote.quorum,
        "policies": list(spec.policy_names),
        "default_policy": spec.policies.default,
        "digest": live.digest,
        "ready": live.ready,
        "max_batch_size": spec.limits.max_batch_size,
    }


async def from_images(made: Callable[..., Request], model: Model, files: Sequence[bytes]) -> Request:
    """The request with one row a file. Raises NotReady before any is decoded, InvalidRequest or TooLarge."""
    model.live.serving()
    spec = model.live.spec
    return made(rows=await rows_from_images(spec.input, files, spec.limits.max_batch_size))


@dataclass(slots=True)
class _Sheet:
    """What the answers of a batch that are alike have in common. `common` stands before what is each one's own.

    `single`: what stands behind that, by row, where each row is an answer of its own.
    """

    common: bytes
    columns: "TypedColumns"
    single: list[bytes] | None


class Encoder:
    """Answers as serialised PredictResponses; what those of a batch have in common is serialised once (as in `oip.py`)."""

    def __init__(self, receipts: Receipts | None) -> None:
        self._columns: PerBatch[TypedColumns] = PerBatch()
        self._sheets: PerBatch[_Sheet] = PerBatch()
        self._lasting = Lasting()
        self._stamp = Stamp(receipts)

    def encode(self, request_id: str, answer: Answer) -> bytes:
        sheets, alike = self._sheets.of(answer.counted), answer.alike
        sheet = sheets.get(alike)
        if sheet is None:
            sheet = sheets[alike] = self._sheet(answer)
        own_id = delimited(ID, request_id.encode()) if request_id else b""
        latency = LATENCY.pack(LATENCY_TAG, QUEUE, answer.queue_seconds, TOTAL, answer.total_seconds)
        if sheet.single is not None:
            return b"".join([sheet.common, own_id, latency, sheet.single[answer.start]])
        receipt = delimited(RECEIPT, self._stamp.receipt(answer))
        return b"".join([sheet.common, own_id, latency, receipt, *sheet.columns.of(answer.start, answer.stop)])

    def _sheet(self, answer: Answer) -> _Sheet:
        made, counted = self._columns.of(answer.counted), answer.counted
        columns = made.get(None)
        if columns is None:
            columns = made[None] = TypedColumns(answer)
        common = self._lasting.get(answer, None, lambda: _lasting(answer)) + _of_batch(answer)
        if answer.rows != 1 or not counted.spent.alike:
            return _Sheet(common, columns, None)
        fields = columns.fields
        if receipts := self._stamp.of_rows(answer):
            before = RECEIPT + varint(len(receipts[0]))
            fields.append([before + receipt for receipt in receipts])
        return _Sheet(common, columns, list(map(b"".join, zip(*fields, strict=True))))


class TypedColumns:
    """The columns of a whole batch as the bytes of packed fields, from which each request takes its rows."""

    def __init__(self, answer: Answer) -> None:
        counted = answer.counted
        result = counted.result
        self._labels = [delimited(LABEL, label) for label in answer.live.label_bytes[result.label_index].tolist()]
        self._integers = [
            (LABEL_INDEX, [varint(index) for index in result.label_index.tolist()]),
            (VOTES, [b"".join(map(varint, votes)) for votes in result.votes.tolist()]),
        ]
        self._numbers = [
            (before, values.tobytes(), values.nbytes // counted.rows)
            for before, values in (
                (PROBABILITIES, result.probabilities),
                (AGREEMENT, result.agreement),
                (MARGIN, result.margin),
                (EXACT, counted.exact),
            )
        ]

    @property
    def fields(self) -> list[list[bytes]]:
        """By field, that of each row."""
        fields = [self._labels, *[[delimited(before, row) for row in rows] for before, rows in self._integers]]
        for before, raw, size in self._numbers:
            prefix = before + varint(size)
            fields.append([prefix + raw[at : at + size] for at in range(0, len(raw), size)])
        return fields

    def of(self, start: int, stop: int) -> list[bytes]:
        """The fields of these rows."""
        return [
            *self._labels[start:stop],
            *[delimited(before, b"".join(rows[start:stop])) for before, rows in self._integers],
            *[delimited(before, raw[start * size : stop * size]) for before, raw, size in self._numbers],
        ]


def _lasting(answer: Answer) -> bytes:
    lasting = pb.PredictResponse(
        ensemble=answer.live.name,
        version=answer.live.version,
        policy=answer.counted.policy,
        partial=answer.partial,
        digest=answer.live.digest,
        certificate=answer.certificate,
        requested_policy=answer.asked,
        brownout_level=answer.brownout_level,
    )
    return bytes(lasting.SerializeToString())


def _of_batch(answer: Answer) -> bytes:
    """What each member did, put together by hand: as messages it would take four times as long."""
    counted, crew = answer.counted, answer.counted.crew
    spent, rows = counted.spent, (answer.start, answer.stop)
    members = zip(
        crew.names, answer.outcomes, spent.time(*rows), spent.device_time(*rows), crew.usd_per_second, strict=True
    )
    fields = [
        delimited(
            MEMBERS,
            _named(name, outcome) + RUN.pack(SECONDS, seconds, RUN_DEVICE, device, RUN_COST, device * usd_per_second),
        )
        for name, outcome, seconds, device, usd_per_second in members
    ]
    device_seconds, cost_usd = answer.spent
    latency = LATENCY.pack(LATENCY_TAG, COMPUTE, counted.compute_seconds, VOTE, counted.vote_seconds)
    return b"".join([*fields, latency, SPENT.pack(DEVICE_SECONDS, device_seconds, COST_USD, cost_usd)])


@lru_cache(1024)
def _named(member: str, outcome: int) -> bytes:
    """The fields of a MemberResult that are no numbers."""
    return bytes(pb.MemberResult(name=member, outcome=OUTCOME_VALUES[OUTCOMES[outcome]]).SerializeToString())


FIELDS = pb.PredictResponse.DESCRIPTOR.fields_by_name
MEMBER_FIELDS, LATENCY_FIELDS = pb.MemberResult.DESCRIPTOR.fields_by_name, pb.LatencySeconds.DESCRIPTOR.fields_by_name
DOUBLE = 1  # the wire type
ID, RECEIPT, LABEL, LABEL_INDEX, VOTES, PROBABILITIES, AGREEMENT, MARGIN, EXACT = (
    tag(FIELDS[name].number)
    for name in ("id", "receipt", "label", "label_index", "votes", "probabilities", "agreement", "margin", "exact")
)
MEMBERS = tag(FIELDS["members"].number)
RUN = struct.Struct("<cdcdcd")
SECONDS, RUN_DEVICE, RUN_COST = (
    tag(MEMBER_FIELDS[name].number, DOUBLE) for name in ("seconds", "device_seconds", "cost_usd")
)
LATENCY = struct.Struct("<2scdcd")
"""The field `latency_seconds` with two of its times: those of the batch, or those that are a request's own."""
LATENCY_TAG = tag(FIELDS["latency_seconds"].number) + varint(18)
QUEUE, COMPUTE, VOTE, TOTAL = (
    tag(LATENCY_FIELDS[name].number, DOUBLE) for name in ("queue", "compute", "vote", "total")
)
SPENT = struct.Struct("<cdcd")
DEVICE_SECONDS, COST_USD = (tag(FIELDS[name].number, DOUBLE) for name in ("device_seconds", "cost_usd"))
