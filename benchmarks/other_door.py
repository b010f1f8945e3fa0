"""The other front door: the same server and servicers behind grpc.aio, and behind uvicorn for HTTP.

python -m benchmarks.other_door REPOSITORY --http-port P --grpc-port P --metrics-port P
"""

import argparse
import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import grpc
import uvicorn
import uvloop

from serving.app import Server
from serving.errors import Fault
from serving.settings import Settings
from serving.wire.status import status

UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class Adapter:
    """A server to the generated functions: passes handlers on, with faults as statuses and serialised answers as they are."""

    def __init__(self, server: grpc.aio.Server) -> None:
        self.server = server

    def add_generic_rpc_handlers(self, handlers: Iterable[object]) -> None:
        pass

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        adapted = {name: adapt(handler) for name, handler in handlers.items()}
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, adapted),))


def adapt(handler: Any) -> Any:
    makers = {
        (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
        (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
        (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
    }
    kind, make = makers[handler.request_streaming, handler.response_streaming]
    method = getattr(handler, kind)
    if kind == "unary_unary":
        method = refusing(method)
    if kind == "stream_stream":
        method = writing_in_turn(method)
    return make(method, handler.request_deserializer, serialised)


def serialised(message: Any) -> bytes:
    return message if isinstance(message, bytes) else message.SerializeToString()


def refusing(method: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
    async def call(request: Any, context: Any) -> Any:
        try:
            return await method(request, Nameless(context))
        except Fault as fault:
            await context.abort(status(fault).grpc, str(fault))

    return call


class Nameless:
    """grpc.aio's context knows nothing of callers."""

    caller = None

    def __init__(self, context: Any) -> None:
        self.time_remaining, self.abort = context.time_remaining, context.abort


class InTurn:
    """grpc.aio allows one write at a time."""

    caller = None

    def __init__(self, context: Any) -> None:
        self.time_remaining, self.write_now = context.time_remaining, context.write
        self.waiting: asyncio.Queue[bytes] = asyncio.Queue()
        self.writer = asyncio.create_task(self.write())

    def write_soon(self, message: bytes) -> None:
        self.waiting.put_nowait(message)

    async def write(self) -> None:
        while True:
            await self.write_now(await self.waiting.get())
            self.waiting.task_done()

    async def drained(self) -> None:
        pass


def writing_in_turn(method: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    if inspect.isasyncgenfunction(method):
        return method

    async def call(requests: Any, context: Any) -> None:
        turns = InTurn(context)
        try:
            await method(requests, turns)
            await turns.waiting.join()
        finally:
            turns.writer.cancel()

    return call


async def serve(args: argparse.Namespace) -> None:
    settings = Settings(repositories=(args.repository,), metrics_port=args.metrics_port)
    door = grpc.aio.server(options=UNLIMITED)
    server = Server(settings)
    server.mount(Adapter(door))
    door.add_insecure_port(f"127.0.0.1:{args.grpc_port}")
    await door.start()
    await server.load()
    config = uvicorn.Config(
        server.application, port=args.http_port, lifespan="off", log_level="error", access_log=False
    )
    http = asyncio.create_task(uvicorn.Server(config).serve())
    await asyncio.gather(http)
    await door.stop(5)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("repository", type=Path)
    for name in ("http", "grpc", "metrics"):
        parser.add_argument(f"--{name}-port", type=int, required=True)
    uvloop.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
