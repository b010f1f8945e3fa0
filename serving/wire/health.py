"""`grpc.health.v1.Health`: Check and Watch, for the server as a whole ("") and for each ensemble.

grpcio's own asynchronous servicer forgets the other watchers of a service when one of them leaves, so this one is ours.
"""

import asyncio

from grpc import ServicerContext, StatusCode
from grpc_health.v1 import health_pb2 as pb
from grpc_health.v1 import health_pb2_grpc

SERVICE = pb.DESCRIPTOR.services_by_name["Health"].full_name
Status = pb.HealthCheckResponse


class HealthServicer(health_pb2_grpc.HealthServicer):
    """Tells what it was last told."""

    def __init__(self) -> None:
        self._serving: dict[str, bool] = {}
        self._changed = asyncio.Condition()

    async def tell(self, serving: dict[str, bool]) -> None:
        """Whether each service takes requests."""
        async with self._changed:
            self._serving.update(serving)
            self._changed.notify_all()

    def _status(self, service: str) -> int:
        serving = self._serving.get(service)
        if serving is None:
            return int(Status.SERVICE_UNKNOWN)
        return int(Status.SERVING if serving else Status.NOT_SERVING)

    async def Check(self, request: pb.HealthCheckRequest, context: ServicerContext) -> pb.HealthCheckResponse:
        if request.service not in self._serving:
            await context.abort(StatusCode.NOT_FOUND, f"unknown service {request.service[:64]!r}")
        return Status(status=self._status(request.service))

    async def Watch(self, request: pb.HealthCheckRequest, context: ServicerContext) -> None:
        """The status now, and again each time that it changes."""
        told = None
        while True:
            async with self._changed:
                while self._status(request.service) == told:
                    await self._changed.wait()
                told = self._status(request.service)
            context.write_soon(Status(status=told).SerializeToString())
            await context.drained()
