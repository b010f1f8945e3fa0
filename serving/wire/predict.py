"""`scrutin.v1.EnsembleService`: the typed way to ask for a vote, one request at a time or many on a stream."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from grpc import ServicerContext

from scrutin.v1 import ensemble_pb2 as pb
from scrutin.v1 import ensemble_pb2_grpc
from serving.aggregator import Answer, Request
from serving.catalog import Live, Model
from serving.errors import Fault, InvalidRequest
from serving.records import Outcome
from serving.wire.codec import rows_from_bytes, rows_from_images
from serving.wire.columns import PerBatch
from serving.wire.exchange import GRPC, Serving, sooner
from serving.wire.status import status

MICROSECONDS = 1e6

IN_FLIGHT = 256
"""Requests of one stream that are worked on at once; the next ones are read when an answer has gone out."""

OUTCOMES = {
    Outcome.OK: pb.OUTCOME_OK,
    Outcome.FAILED: pb.OUTCOME_FAILED,
    Outcome.LATE: pb.OUTCOME_LATE,
    Outcome.SKIPPED: pb.OUTCOME_SKIPPED,
}


class EnsembleServicer(ensemble_pb2_grpc.EnsembleServiceServicer):
    """The typed service."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._encoder = Encoder()

    async def Predict(self, request: pb.PredictRequest, context: ServicerContext) -> bytes:
        """The answer, serialised."""
        return await self._predict(request, context.time_remaining())

    async def _predict(self, request: pb.PredictRequest, remaining: float | None) -> bytes:
        answer = await self._serving.answer(
            GRPC, request.ensemble, lambda arrived: self._request(request, arrived, remaining)
        )
        return self._encoder.encode(request.id, answer)

    def _request(
        self, request: pb.PredictRequest, arrived: float, remaining: float | None
    ) -> Request | Awaitable[Request]:
        model = self._serving.catalog.find(request.ensemble, request.version)
        if request.timeout_microseconds < 0:
            raise InvalidRequest(f"timeout_microseconds: found {request.timeout_microseconds}, expected 0 or more")
        own = request.timeout_microseconds / MICROSECONDS or None
        made = partial(Request, model, arrived=arrived, policy=request.policy, timeout=sooner(own, remaining))
        spec, kind = model.live.spec, request.WhichOneof("input")
        if kind == "tensor":
            tensor = request.tensor
            return made(rows=rows_from_bytes(spec.input, tensor.datatype, tensor.shape, tensor.data))
        if kind == "images":
            return from_images(made, model, request.images.files)
        raise InvalidRequest("found no input, expected a tensor or images")

    async def PredictStream(self, request_iterator: AsyncIterator[pb.PredictRequest], context: ServicerContext) -> None:
        """Answers as they come. A request that fails is answered with its error; the stream goes on."""
        room = asyncio.Semaphore(IN_FLIGHT)
        under_way: set[asyncio.Task[None]] = set()

        def done(task: asyncio.Task[None]) -> None:
            under_way.discard(task)
            room.release()

        try:
            async for request in request_iterator:
                await room.acquire()
                task = asyncio.get_running_loop().create_task(self._predict_on_stream(request, context))
                under_way.add(task)
                task.add_done_callback(done)
            await asyncio.gather(*under_way)
        finally:
            for task in under_way:
                task.cancel()

    async def _predict_on_stream(self, request: pb.PredictRequest, context: ServicerContext) -> None:
        try:
            answer = await self._predict(request, context.time_remaining())
        except Fault as fault:
            error = pb.Error(code=status(fault).grpc.value[0], message=str(fault))
            answer = pb.PredictResponse(ensemble=request.ensemble, id=request.id, error=error).SerializeToString()
        await context.write(answer)

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


class Encoder:
    """Answers as serialised PredictResponses; what those of a batch have in common is serialised once (as in `oip.py`)."""

    def __init__(self) -> None:
        self._common: PerBatch[bytes] = PerBatch()

    def encode(self, request_id: str, answer: Answer) -> bytes:
        own = pb.PredictResponse(
            id=request_id,
            label=answer.labels,
            label_index=answer.label_index.tolist(),
            probabilities=answer.probabilities.ravel().tolist(),
            agreement=answer.agreement.tolist(),
            margin=answer.margin.tolist(),
            exact=[answer.counted.exact] * answer.rows,
            votes=answer.votes.ravel().tolist(),
            latency_seconds=pb.LatencySeconds(queue=answer.queue_seconds, total=answer.total_seconds),
        )
        common = self._common.get(answer, answer.rows, lambda: _common(answer).SerializeToString())
        return common + own.SerializeToString()


def _common(answer: Answer) -> pb.PredictResponse:
    counted, share = answer.counted, answer.share
    return pb.PredictResponse(
        ensemble=answer.live.name,
        version=answer.live.version,
        policy=counted.policy,
        partial=counted.partial,
        members=[
            pb.MemberResult(
                name=run.member,
                outcome=OUTCOMES[run.outcome],
                seconds=run.seconds,
                device_seconds=run.device_seconds * share,
                cost_usd=run.cost_usd * share,
            )
            for run in counted.runs
        ],
        latency_seconds=pb.LatencySeconds(compute=counted.compute_seconds, vote=counted.vote_seconds),
        device_seconds=answer.device_seconds,
        cost_usd=answer.cost_usd,
        digest=answer.live.digest,
    )
