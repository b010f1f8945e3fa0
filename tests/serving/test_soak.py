"""100,000 requests of all kinds, a tenth of them malformed or cancelled, and what they leave behind."""

import asyncio
import contextlib
import json
import os
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from io import BytesIO

import aiohttp
import grpc
import numpy as np
import psutil
import pytest
from PIL import Image
from tritonclient.grpc import service_pb2 as oip

from scrutin.v1 import ensemble_pb2 as v1

REQUESTS, WARM_UP = (100_000, 20_000) if "SOAK" in os.environ else (32_000, 12_800)
CONCURRENCY = 32
MALFORMED, CANCELLED = 0.06, 0.04
GROWTH_MB = 12

INFER = "/inference.GRPCInferenceService/ModelInfer"
PREDICT = "/scrutin.v1.EnsembleService/Predict"
STREAM = "/scrutin.v1.EnsembleService/PredictStream"


class Wrong(AssertionError):
    """An answer that is not the vote's, or a status that is not the fault's."""


class Client:
    """Asks for random rows in every way there is, and compares with what an in-process vote said of them."""

    def __init__(self, server, x, labels) -> None:
        self.server, self.x, self.labels = server, x, labels
        self.random = random.Random(7)
        self.done: Counter[str] = Counter()
        self.ways = [
            self.infer,
            self.predict,
            self.stream,
            self.http_binary,
            self.http_json,
            self.v1_json,
            self.picture,
        ]

    async def __aenter__(self):
        self.channel = grpc.aio.insecure_channel(self.server.grpc)
        self.session = aiohttp.ClientSession(f"http://{self.server.http}")
        return self

    async def __aexit__(self, *failure) -> None:
        await self.session.close()
        await self.channel.close()

    async def one(self) -> None:
        lot = self.random.random()
        if lot < MALFORMED:
            await self.random.choice([self.malformed_grpc, self.malformed_http])()
            self.done["malformed"] += 1
        elif lot < MALFORMED + CANCELLED:
            await self.cancelled(self.random.choice(self.ways[:6]))
            self.done["cancelled"] += 1
        else:
            await self.random.choice(self.ways)()
            self.done["answered"] += 1

    def rows(self, most: int = 8):
        start = self.random.randrange(len(self.x) - most)
        part = slice(start, start + self.random.randint(1, most))
        return self.x[part], self.labels[part]

    def check(self, found, labels) -> None:
        if list(found) != list(labels):
            raise Wrong(f"found {list(found)}, expected {list(labels)}")

    def oip_request(self, x):
        request = oip.ModelInferRequest(model_name="digits")
        request.inputs.add(name="image", datatype="UINT8", shape=x.shape)
        request.raw_input_contents.append(x.tobytes())
        return request

    async def call(self, method: str, request: bytes) -> bytes:
        return await self.channel.unary_unary(method)(request)

    async def infer(self) -> None:
        x, labels = self.rows()
        answer = oip.ModelInferResponse.FromString(await self.call(INFER, self.oip_request(x).SerializeToString()))
        self.check(np.frombuffer(answer.raw_output_contents[1], np.int64), labels)

    def typed(self, x, request_id: str = "") -> v1.PredictRequest:
        tensor = v1.Tensor(datatype="UINT8", shape=x.shape, data=x.tobytes())
        return v1.PredictRequest(ensemble="digits", id=request_id, tensor=tensor)

    async def predict(self) -> None:
        x, labels = self.rows()
        answer = v1.PredictResponse.FromString(await self.call(PREDICT, self.typed(x).SerializeToString()))
        self.check(answer.label_index, labels)

    async def stream(self) -> None:
        asked = {str(number): self.rows() for number in range(3)}
        call = self.channel.stream_stream(STREAM)(
            iter([self.typed(x, number).SerializeToString() for number, (x, _) in asked.items()])
        )
        async for raw in call:
            answer = v1.PredictResponse.FromString(raw)
            self.check(answer.label_index, asked.pop(answer.id)[1])
        if asked:
            raise Wrong(f"no answers to {list(asked)}")

    async def post(self, path: str, body, headers=None, status: int = 200) -> bytes:
        async with self.session.post(path, data=body, headers=headers) as reply:
            content = await reply.read()
            if reply.status != status:
                raise Wrong(f"{path}: found {reply.status} {content[:200]!r}, expected {status}")
            return content

    async def http_binary(self) -> None:
        x, labels = self.rows()
        tensor = {"name": "image", "datatype": "UINT8", "shape": x.shape, "parameters": {"binary_data_size": x.nbytes}}
        head = json.dumps({"inputs": [tensor], "outputs": [{"name": "label_index"}]}).encode()
        headers = {"Inference-Header-Content-Length": str(len(head))}
        answer = json.loads(await self.post("/v2/models/digits/infer", head + x.tobytes(), headers))
        self.check(answer["outputs"][0]["data"], labels)

    async def http_json(self) -> None:
        x, labels = self.rows()
        tensor = {"name": "image", "datatype": "UINT8", "shape": x.shape, "data": x.ravel().tolist()}
        answer = json.loads(await self.post("/v2/models/digits/infer", json.dumps({"inputs": [tensor]})))
        self.check(answer["outputs"][1]["data"], labels)

    async def v1_json(self) -> None:
        x, labels = self.rows()
        answer = json.loads(await self.post("/v1/models/digits:predict", json.dumps({"instances": x.tolist()})))
        self.check([int(each["label"]) for each in answer["predictions"]], labels)

    async def picture(self) -> None:
        x, labels = self.rows(1)
        file = BytesIO()
        Image.fromarray(np.rint(x[0] / 16 * 255).astype(np.uint8)).save(file, "PNG")
        answer = json.loads(
            await self.post("/v1/models/digits:predict", file.getvalue(), {"Content-Type": "image/png"})
        )
        self.check([int(answer["predictions"][0]["label"])], labels)

    async def malformed_grpc(self) -> None:
        x, _ = self.rows()
        short, foreign, reshaped = self.oip_request(x), self.oip_request(x), self.typed(x)
        short.raw_input_contents[0] = x.tobytes()[:-1]
        foreign.model_name = "letters"
        reshaped.tensor.shape[1] = 9
        method, request, code = self.random.choice(
            [
                (INFER, short.SerializeToString(), grpc.StatusCode.INVALID_ARGUMENT),
                (INFER, foreign.SerializeToString(), grpc.StatusCode.NOT_FOUND),
                (PREDICT, reshaped.SerializeToString(), grpc.StatusCode.INVALID_ARGUMENT),
                (PREDICT, b"\xff\xff\xff", grpc.StatusCode.INVALID_ARGUMENT),
            ]
        )
        try:
            await self.call(method, request)
        except grpc.aio.AioRpcError as error:
            if error.code() != code:
                raise Wrong(f"found {error.code()} {error.details()}, expected {code}") from None
        else:
            raise Wrong(f"a malformed request was answered, expected {code}")

    async def malformed_http(self) -> None:
        path, body, status = self.random.choice(
            [
                ("/v1/models/digits:predict", b"{", 400),
                ("/v1/models/digits:predict", b'{"instances": [[1, 2], [3]]}', 400),
                ("/v1/models/letters:predict", b'{"instances": []}', 404),
                ("/v2/models/digits/infer", b'{"inputs": []}', 400),
                ("/v2/models/digits/infer", b"[" * 10_000, 400),
            ]
        )
        await self.post(path, body, status=status)

    async def cancelled(self, way: Callable[[], Awaitable[None]]) -> None:
        task = asyncio.ensure_future(way())
        await asyncio.sleep(self.random.random() * 0.003)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def ask(server, client: Client, requests: int) -> None:
    async def worker() -> None:
        for _ in range(requests // CONCURRENCY):
            await client.one()

    await asyncio.gather(*(worker() for _ in range(CONCURRENCY)))


def tasks(server) -> int:
    return int(server.get("/tasks").body)


def descriptors(server) -> int:
    return psutil.Process(server.pid).num_fds()


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_a_hundred_thousand_requests_leave_nothing_behind(launch_program, digits, samples, expected) -> None:
    with launch_program("counting_app.py", digits.path) as server:
        tasks_before = tasks(server)
        time.sleep(1)  # until the connection that asked is closed, on which nobody waits
        descriptors_before = descriptors(server)
        async with Client(server, samples[0], expected.label_index) as client:
            await ask(server, client, WARM_UP)
            warm_mb = psutil.Process(server.pid).memory_info().rss / 2**20
            await ask(server, client, REQUESTS - WARM_UP)
            grown_mb = psutil.Process(server.pid).memory_info().rss / 2**20 - warm_mb

        print(f"{dict(client.done)}; memory {warm_mb:.0f} MB, {grown_mb:+.1f}")
        assert sum(client.done.values()) == REQUESTS
        assert grown_mb < GROWTH_MB
        server.until(lambda: tasks(server) == tasks_before)
        server.until(lambda: descriptors(server) <= descriptors_before)
        assert server.metric("ensemble_in_flight_requests") == 0
        assert server.metric("ensemble_queued_rows") == 0
        assert "bug" not in server.log
