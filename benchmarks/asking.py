"""A client that asks for rows by their number, as fast as it is answered."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import grpc
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2 as oip

from benchmarks.agreeing import ASKED, images
from benchmarks.ensemble import INPUT, SHAPE
from benchmarks.processes import cpu_seconds
from benchmarks.protocols import CHANNEL_OPTIONS, HOST
from benchmarks.server import Server

METHOD = "/inference.GRPCInferenceService/ModelInfer"
CHANNELS = 4


@dataclass(frozen=True)
class Question:
    """What is asked for again and again."""

    ensemble: str
    policy: str
    rows: int = 1
    timeout_seconds: float = 60.0

    def requests(self) -> list[bytes]:
        """One for each span of rows."""
        pixels, head = images(), oip.ModelInferRequest(model_name=self.ensemble)
        head.inputs.add(name=INPUT, datatype="FP32", shape=[self.rows, *SHAPE])
        for name in ("label_index", "exact"):
            head.outputs.add(name=name)
        head.parameters["policy"].string_param = self.policy
        requests = []
        for start in range(0, ASKED - self.rows + 1, self.rows):
            head.raw_input_contents[:] = [pixels[start : start + self.rows].tobytes()]
            requests.append(head.SerializeToString())
        return requests


@dataclass(slots=True)
class Reply:
    """`number`: of the request; times in seconds; `code`: "OK" or what it was refused with."""

    number: int
    sent: float
    seconds: float
    code: str
    body: bytes = b""


@dataclass
class Asked:
    """What came of a load. `labels` by row, -1 where nobody was asked."""

    question: Question
    replies: list[Reply] = field(default_factory=list)
    wall: float = 0.0
    server_cpu: float = 0.0
    client_cpu: float = 0.0
    runs: float = 0.0  # of members, a row

    def seconds(self, code: str = "OK") -> NDArray[np.float64]:
        return np.array([reply.seconds for reply in self.replies if reply.code == code])

    @property
    def answered(self) -> list[Reply]:
        return [reply for reply in self.replies if reply.code == "OK"]

    @property
    def rows_per_second(self) -> float:
        return len(self.answered) * self.question.rows / self.wall

    @property
    def rows_per_cpu_second(self) -> float:
        """Of the server's: what a rate at saturation would be on a core that nobody else uses."""
        return len(self.answered) * self.question.rows / self.server_cpu

    def labels(self) -> NDArray[np.int64]:
        """Raises AssertionError where one row was answered in two ways."""
        labels = np.full(ASKED, -1)
        for reply in self.answered:
            answer = oip.ModelInferResponse.FromString(reply.body)
            start = reply.number * self.question.rows
            span = slice(start, start + self.question.rows)
            found = np.frombuffer(answer.raw_output_contents[0], np.int64)
            before = labels[span]
            assert ((before == -1) | (before == found)).all(), "one row, two labels"
            labels[span] = found
        return labels

    def without(self, member: str) -> NDArray[np.float64]:
        """Seconds of the answers that `member` took no part in."""
        skipped = [
            reply.seconds
            for reply in self.answered
            if member
            in oip.ModelInferResponse.FromString(reply.body)
            .parameters["ensemble_members_skipped"]
            .string_param.split(",")
        ]
        return np.array(skipped)

    def codes(self) -> Counter[str]:
        return Counter(reply.code for reply in self.replies)


class Client:
    """Asks one server."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.channels = [
            grpc.aio.insecure_channel(f"{HOST}:{server.ports.grpc}", options=CHANNEL_OPTIONS) for _ in range(CHANNELS)
        ]
        self.calls = [channel.unary_unary(METHOD) for channel in self.channels]
        self.next = 0

    async def close(self) -> None:
        for channel in self.channels:
            await channel.close()

    async def ask(self, question: Question, requests: Sequence[bytes]) -> Reply:
        self.next += 1
        turn, sent = self.next, time.perf_counter()
        number = turn % len(requests)
        call = self.calls[turn % CHANNELS]
        try:
            body = await call(requests[number], timeout=question.timeout_seconds)
            code = "OK"
        except grpc.aio.AioRpcError as error:
            body, code = b"", error.code().name
        return Reply(number, sent, time.perf_counter() - sent, code, body)

    async def saturate(self, question: Question, concurrency: int, seconds: float, warmup: float = 0.5) -> Asked:
        """Ask again as soon as there is an answer, so many at once."""
        requests, asked, open_ = question.requests(), Asked(question), True

        async def work() -> None:
            while open_:
                asked.replies.append(await self.ask(question, requests))

        workers = [asyncio.create_task(work()) for _ in range(concurrency)]
        await asyncio.sleep(warmup)
        before = self._used()
        first = len(asked.replies)
        await asyncio.sleep(seconds)
        last, after = len(asked.replies), self._used()
        open_ = False
        await asyncio.gather(*workers)
        asked.replies = asked.replies[first:last]
        return self._between(asked, before, after)

    def _used(self) -> tuple[float, float, float]:
        return time.perf_counter(), cpu_seconds(self.server.pid), time.process_time()

    def _between(self, asked: Asked, before: Sequence[float], after: Sequence[float]) -> Asked:
        asked.wall, asked.server_cpu, asked.client_cpu = (
            later - earlier for later, earlier in zip(after, before, strict=True)
        )
        return asked
