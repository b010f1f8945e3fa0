"""The ways to ask a server for a vote. Requests are serialised before the load, and replies stay bytes."""

import asyncio
import json
from typing import Any, Protocol

import grpc
import numpy as np
from tritonclient.grpc import service_pb2 as oip

from benchmarks.ensemble import INPUT, NAME, Rows, Vote
from benchmarks.server import Ports
from scrutin.v1 import ensemble_pb2 as scrutin

HOST = "127.0.0.1"
CHANNELS = 4
CHANNEL_OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
TIMEOUT_SECONDS = 60
FAULTS = (RuntimeError, OSError, EOFError, grpc.RpcError)  # what a request can end in
DTYPES: dict[str, np.dtype[Any]] = {"FP32": np.dtype("<f4"), "INT64": np.dtype("<i8")}


class Way(Protocol):
    """One worker has one request in flight; its number is the request's id."""

    async def open(self, ports: Ports, workers: int) -> None: ...
    def encode(self, rows: Rows, worker: int) -> bytes: ...
    async def send(self, worker: int, request: bytes) -> bytes: ...
    def decode(self, reply: bytes) -> Vote: ...
    async def close(self) -> None: ...


def channels(ports: Ports, workers: int) -> list[grpc.aio.Channel]:
    count = min(workers, CHANNELS)
    return [grpc.aio.insecure_channel(f"{HOST}:{ports.grpc}", options=CHANNEL_OPTIONS) for _ in range(count)]


def typed_request(rows: Rows, worker: int) -> bytes:
    tensor = scrutin.Tensor(datatype="FP32", shape=rows.shape, data=rows.tobytes())
    return scrutin.PredictRequest(ensemble=NAME, id=str(worker), tensor=tensor).SerializeToString()


def typed_vote(reply: bytes) -> Vote:
    answer = scrutin.PredictResponse.FromString(reply)
    probabilities = np.array(answer.probabilities, np.float32).reshape(len(answer.label_index), -1)
    votes = np.array(answer.votes).reshape(len(answer.label_index), -1)
    return Vote(np.array(answer.label_index), probabilities, votes)


class Unary:
    """One gRPC call a request."""

    METHOD: str

    async def open(self, ports: Ports, workers: int) -> None:
        self.channels = channels(ports, workers)
        self.calls = [channel.unary_unary(self.METHOD) for channel in self.channels]

    async def send(self, worker: int, request: bytes) -> bytes:
        reply: bytes = await self.calls[worker % len(self.calls)](request, timeout=TIMEOUT_SECONDS)
        return reply

    async def close(self) -> None:
        for channel in self.channels:
            await channel.close()


class ModelInfer(Unary):
    """The Open Inference Protocol, raw contents, with the outputs that both servers have."""

    METHOD = "/inference.GRPCInferenceService/ModelInfer"

    def encode(self, rows: Rows, worker: int) -> bytes:
        request = oip.ModelInferRequest(model_name=NAME, id=str(worker), raw_input_contents=[rows.tobytes()])
        request.inputs.add(name=INPUT, datatype="FP32", shape=rows.shape)
        for name in Vote._fields:
            request.outputs.add(name=name)
        return bytes(request.SerializeToString())

    def decode(self, reply: bytes) -> Vote:
        answer = oip.ModelInferResponse.FromString(reply)
        raw = zip(answer.outputs, answer.raw_output_contents, strict=True)
        return Vote(**{out.name: np.frombuffer(data, DTYPES[out.datatype]).reshape(out.shape) for out, data in raw})


class Predict(Unary):
    METHOD = "/scrutin.v1.EnsembleService/Predict"
    encode = staticmethod(typed_request)
    decode = staticmethod(typed_vote)


class PredictStream:
    """A few streams, each shared by its workers; answers come back in any order."""

    METHOD = "/scrutin.v1.EnsembleService/PredictStream"
    encode = staticmethod(typed_request)
    decode = staticmethod(typed_vote)

    async def open(self, ports: Ports, workers: int) -> None:
        self.channels = channels(ports, workers)
        self.streams = [channel.stream_stream(self.METHOD)() for channel in self.channels]
        self.turns = [asyncio.Lock() for _ in self.streams]  # grpc.aio takes one write at a time
        self.waiting: dict[str, asyncio.Future[bytes]] = {}
        self.readers = [asyncio.create_task(self.read(stream)) for stream in self.streams]

    async def read(self, stream: grpc.aio.StreamStreamCall) -> None:
        try:
            async for reply in stream:
                answer = scrutin.PredictResponse.FromString(reply)
                waiter = self.waiting.pop(answer.id)
                if answer.HasField("error"):
                    waiter.set_exception(RuntimeError(answer.error.message))
                else:
                    waiter.set_result(reply)
            raise RuntimeError("the server ended the stream")
        except (grpc.RpcError, RuntimeError, KeyError) as fault:
            self.fail_all(fault)

    def fail_all(self, fault: Exception) -> None:
        for waiter in self.waiting.values():
            if not waiter.done():
                waiter.set_exception(fault)
        self.waiting.clear()

    async def send(self, worker: int, request: bytes) -> bytes:
        answer = self.waiting[str(worker)] = asyncio.get_running_loop().create_future()
        turn = worker % len(self.streams)
        async with self.turns[turn]:
            await self.streams[turn].write(request)
        return await asyncio.wait_for(answer, TIMEOUT_SECONDS)

    async def close(self) -> None:
        for stream in self.streams:
            await stream.done_writing()
        await asyncio.gather(*self.readers)
        for channel in self.channels:
            await channel.close()


class HttpBinary:
    """OIP over HTTP/1.1 with binary tensors; one kept-alive connection a worker."""

    PATH = f"/v2/models/{NAME}/infer"

    async def open(self, ports: Ports, workers: int) -> None:
        self.connections = [await asyncio.open_connection(HOST, ports.http) for _ in range(workers)]

    def encode(self, rows: Rows, worker: int) -> bytes:
        tensor = {
            "name": INPUT,
            "datatype": "FP32",
            "shape": rows.shape,
            "parameters": {"binary_data_size": rows.nbytes},
        }
        outputs = [{"name": name, "parameters": {"binary_data": True}} for name in Vote._fields]
        header = json.dumps({"id": str(worker), "inputs": [tensor], "outputs": outputs}).encode()
        lines = (
            f"POST {self.PATH} HTTP/1.1",
            f"Host: {HOST}",
            "Content-Type: application/octet-stream",
            f"Inference-Header-Content-Length: {len(header)}",
            f"Content-Length: {len(header) + rows.nbytes}",
        )
        return "\r\n".join((*lines, "", "")).encode() + header + rows.tobytes()

    async def send(self, worker: int, request: bytes) -> bytes:
        reader, writer = self.connections[worker]
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.readexactly(int(header_value(head, b"content-length")))
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"{head.splitlines()[0].decode()}: {body[:200].decode(errors='replace')}")
        return head + body

    def decode(self, reply: bytes) -> Vote:
        head, body = reply.split(b"\r\n\r\n", 1)
        at = int(header_value(head, b"inference-header-content-length"))
        arrays = {}
        for output in json.loads(body[:at])["outputs"]:
            end = at + output["parameters"]["binary_data_size"]
            arrays[output["name"]] = np.frombuffer(body[at:end], DTYPES[output["datatype"]]).reshape(output["shape"])
            at = end
        return Vote(**arrays)

    async def close(self) -> None:
        for _, writer in self.connections:
            writer.close()


def header_value(head: bytes, name: bytes) -> bytes:
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.lower() == name:
            return value
    raise RuntimeError(f"the reply has no {name.decode()}")


WAYS: dict[str, type[Way]] = {
    "oip-grpc": ModelInfer,
    "oip-http": HttpBinary,
    "predict": Predict,
    "stream": PredictStream,
}
