"""Members freeze, fail, lie and crawl while clients ask over all wires: no answer is wrong, none is lost, none is unmarked."""

import asyncio
import contextlib
import json
import os
import random
import time
from collections import Counter

import aiohttp
import grpc
import numpy as np
import psutil
import pytest
from tritonclient.grpc import service_pb2 as oip

from ensembles import repository
from ensembles.votes import vote
from scrutin.v1 import ensemble_pb2 as v1

MEMBERS = ("a", "b", "c", "d", "e")
LABELS = ("red", "green", "blue", "grey")
ROWS = 1000
QUORUM = 2
TIMEOUT_MS = 400
SLACK_SECONDS = 3.0
"""Beyond its deadline, within which a client that shares two cores with the server hears of it."""

POLICIES = {"full": 5, "early_exit": 5, "cascade": 5, "member:c": 1}
"""Each with the members that it may ask."""

LIES = {
    "too_many_classes": 0.02,
    "too_few_rows": 0.02,
    "not_a_number": 0.03,
    "no_probabilities": 0.03,
    "negative": 0.02,
}
RATES = {"freeze": 0.02, "crawl": 0.05, "fail": 0.04, "breaks": 0.01, **LIES}
REQUESTS, CONCURRENCY = 6_000, 48
BACK_OFF_SECONDS = 0.05
REFUSALS = {503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED", 429: "RESOURCE_EXHAUSTED"}

PREDICT = "/scrutin.v1.EnsembleService/Predict"
STREAM = "/scrutin.v1.EnsembleService/PredictStream"
INFER = "/inference.GRPCInferenceService/ModelInfer"

CANCELS, WARM_UP = (100_000, 20_000) if "SOAK" in os.environ else (15_000, 6_000)
"""All of them with `SOAK=1`, which takes minutes."""
CALLERS = 64
LEAVING_SECONDS = 0.06
GROWTH_MB = 12


@pytest.fixture(scope="module")
def shaky(write_tiny):
    """An ensemble of five."""
    policies = {
        "early_exit": {"stages": [["a", "b", "c"], ["d"], ["e"]]},
        "cascade": {"stages": [["b", "d"], ["a", "c", "e"]], "exit": {"margin": 0.4}},
    }
    limits = {"timeout_ms": TIMEOUT_MS, "max_batch_size": 16, "max_queue_size": 4096}
    vote_by = {"rule": "probability_average", "quorum": QUORUM}
    return repository.read(
        write_tiny("shaky", MEMBERS, labels=list(LABELS), vote=vote_by, limits=limits, policies=policies)
    )


@pytest.fixture(scope="module")
def table():
    """What each member honestly says of each row, [ROWS, M, K]: mostly what the others say. Row 1 is the samples', of class 0."""
    dice = np.random.default_rng(5)
    shared = dice.normal(size=(ROWS, 1, len(LABELS)))
    logits = 2 * shared + dice.normal(size=(ROWS, len(MEMBERS), len(LABELS)))
    logits[1] = [5, 0, 0, 0]
    scores = np.exp(logits)
    return (scores / scores.sum(axis=2, keepdims=True)).astype(np.float32)


@pytest.fixture
def launch_faulty(launch_program, shaky, table, tmp_path):
    """`with launch_faulty(rates, seed=1) as server`."""
    np.save(tmp_path / "table.npy", table)

    def launch(rates, seed: int = 1):
        faults = json.dumps({"seed": seed, "rates": rates, "table": str(tmp_path / "table.npy")})
        return launch_program("faulty_app.py", shaky.path, environment={"FAULTS": faults})

    return launch


class Wrong(AssertionError):
    """An answer that the votes it names do not give, or that hides what went wrong."""


class Checker:
    """Compares answers with the votes that they name."""

    def __init__(self, shaky, table) -> None:
        self.ballot, self.table = shaky.spec.ballot, table
        self.full = vote(table, self.ballot).label_index
        self.seen: Counter[str] = Counter()

    def check(self, numbers, policy, labels, votes, exact, outcomes, partial) -> None:
        """`outcomes`: of each member, for all rows of the request together."""
        scores, votes = self.table[numbers], np.asarray(votes).reshape(len(numbers), len(MEMBERS))
        present = votes >= 0
        said = {name: present[:, index] for index, name in enumerate(MEMBERS)}
        context = f"{policy} of rows {list(numbers)}: labels {labels}, votes {votes.tolist()}, {outcomes}"
        self.must((votes == scores.argmax(axis=2))[present].all(), f"a vote that was not cast; {context}")
        self.must(present.any(axis=1).all(), f"an answer without votes; {context}")
        expected = vote(scores, self.ballot, present).label_index
        self.must(list(labels) == [LABELS[index] for index in expected], f"expected {expected}; {context}")
        surely = np.asarray(exact, np.bool_)
        self.must((expected == self.full[numbers])[surely].all(), f"exact, but not what all would say; {context}")
        missing = {name for name, outcome in outcomes.items() if outcome in ("failed", "late")}
        self.must(partial == bool(missing), f"partial: {partial}; {context}")
        for name, outcome in outcomes.items():
            voted = said[name].any() if len(numbers) > 1 else said[name].all()
            self.must(outcome != "ok" or voted, f"{name} is said to be ok; {context}")
            self.must(outcome != "skipped" or not voted, f"{name} is said to be skipped; {context}")
            self.must(len(numbers) > 1 or outcome not in ("failed", "late") or not voted, f"{name} voted; {context}")
        if policy == "full" and not partial:
            self.must(present.all(), f"whole, with votes missing; {context}")
        asked = POLICIES[policy]
        self.must(asked - len(missing) >= min(QUORUM, asked), f"below quorum; {context}")
        self.seen["partial" if partial else "whole"] += 1
        self.seen.update(outcomes.values())

    def must(self, holds, otherwise: str) -> None:
        if not holds:
            raise Wrong(otherwise)


class Client:
    """Asks for random rows under a random policy, over a random wire. `ended`: how each request did."""

    def __init__(self, server, checker: Checker) -> None:
        self.server, self.checker = server, checker
        self.random = random.Random(11)
        self.ended: Counter[str] = Counter()
        self.slowest = 0.0
        self.ways = [self.predict, self.stream, self.infer, self.http]

    async def __aenter__(self):
        self.channel = grpc.aio.insecure_channel(self.server.grpc)
        self.session = aiohttp.ClientSession(f"http://{self.server.http}")
        return self

    async def __aexit__(self, *failure) -> None:
        await self.session.close()
        await self.channel.close()

    def question(self):
        numbers = self.random.sample(range(ROWS), self.random.choice([1, 1, 1, 2, 5]))
        return numbers, self.random.choice(list(POLICIES))

    async def one(self) -> None:
        numbers, policy = self.question()
        began = time.monotonic()
        try:
            ended = await asyncio.wait_for(
                self.random.choice(self.ways)(numbers, policy), TIMEOUT_MS / 1e3 + SLACK_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            ended = error.code().name
            if ended not in REFUSALS.values() or (ended == "UNAVAILABLE" and "quorum" not in error.details()):
                raise Wrong(f"{ended}: {error.details()}") from None
        except TimeoutError:
            ended = "lost"
        self.slowest = max(self.slowest, time.monotonic() - began)
        self.ended[ended] += 1
        if ended == "RESOURCE_EXHAUSTED":
            await asyncio.sleep(BACK_OFF_SECONDS)

    def rows(self, numbers) -> np.ndarray:
        rows = np.zeros((len(numbers), 4), np.float32)
        rows[:, 0] = numbers
        return rows

    def typed(self, numbers, policy, request_id: str = "") -> v1.PredictRequest:
        rows = self.rows(numbers)
        tensor = v1.Tensor(datatype="FP32", shape=rows.shape, data=rows.tobytes())
        return v1.PredictRequest(ensemble="shaky", id=request_id, policy=policy, tensor=tensor)

    def judge(self, numbers, policy, answer: v1.PredictResponse) -> str:
        if answer.error.code:
            name = next(code.name for code in grpc.StatusCode if code.value[0] == answer.error.code)
            if name not in REFUSALS.values():
                raise Wrong(f"{name}: {answer.error.message}")
            return name
        outcomes = {
            each.name: v1.Outcome.Name(each.outcome).removeprefix("OUTCOME_").lower() for each in answer.members
        }
        self.checker.check(numbers, policy, answer.label, answer.votes, answer.exact, outcomes, answer.partial)
        return "OK"

    async def predict(self, numbers, policy) -> str:
        raw = await self.channel.unary_unary(PREDICT)(self.typed(numbers, policy).SerializeToString())
        return self.judge(numbers, policy, v1.PredictResponse.FromString(raw))

    async def stream(self, numbers, policy) -> str:
        call = self.channel.stream_stream(STREAM)(iter([self.typed(numbers, policy, "1").SerializeToString()]))
        [raw] = [raw async for raw in call]
        return self.judge(numbers, policy, v1.PredictResponse.FromString(raw))

    async def infer(self, numbers, policy) -> str:
        rows, request = self.rows(numbers), oip.ModelInferRequest(model_name="shaky")
        request.inputs.add(name="x", datatype="FP32", shape=rows.shape)
        request.parameters["policy"].string_param = policy
        request.raw_input_contents.append(rows.tobytes())
        answer = oip.ModelInferResponse.FromString(await self.channel.unary_unary(INFER)(request.SerializeToString()))
        found = dict(zip([output.name for output in answer.outputs], answer.raw_output_contents, strict=True))
        labels = [LABELS[index] for index in np.frombuffer(found["label_index"], np.int64)]
        outcomes = {
            member: outcome
            for outcome in ("ok", "failed", "late", "skipped")
            for member in answer.parameters[f"ensemble_members_{outcome}"].string_param.split(",")
            if member
        }
        votes, exact = np.frombuffer(found["votes"], np.int64), np.frombuffer(found["exact"], np.bool_)
        partial = answer.parameters["ensemble_partial"].bool_param
        self.checker.check(numbers, policy, labels, votes, exact, outcomes, partial)
        return "OK"

    async def http(self, numbers, policy) -> str:
        body = {"instances": self.rows(numbers).tolist(), "policy": policy}
        async with self.session.post("/v1/models/shaky:predict", json=body) as reply:
            answer = await reply.json()
        if reply.status in REFUSALS:
            return REFUSALS[reply.status]
        if reply.status != 200:
            raise Wrong(f"{reply.status}: {answer}")
        rows = answer["predictions"]
        votes = [
            [LABELS.index(row["votes"][name]) if row["votes"].get(name) else -1 for name in MEMBERS] for row in rows
        ]
        outcomes = {name: member["outcome"] for name, member in answer["members"].items()}
        labels, exact = [row["label"] for row in rows], [row["exact"] for row in rows]
        self.checker.check(numbers, policy, labels, votes, exact, outcomes, answer["partial"])
        return "OK"


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_no_answer_is_wrong_none_is_lost_none_is_unmarked(launch_faulty, shaky, table) -> None:
    checker = Checker(shaky, table)
    with launch_faulty(RATES) as server:
        async with Client(server, checker) as client:

            async def ask() -> None:
                for _ in range(REQUESTS // CONCURRENCY):
                    await client.one()

            before = server.bill()
            await asyncio.gather(*(ask() for _ in range(CONCURRENCY)))
            after = server.bill()

        print(f"{dict(client.ended)}; {dict(checker.seen)}; slowest {client.slowest:.2f} s of {TIMEOUT_MS} ms")
        assert client.ended["lost"] == 0
        assert sum(client.ended.values()) == REQUESTS // CONCURRENCY * CONCURRENCY
        assert server.metric("ensemble_requests_total", ensemble="shaky") == sum(client.ended.values())
        assert server.metric("ensemble_requests_total", ensemble="shaky", code="OK") == client.ended["OK"]
        assert client.ended["OK"] > REQUESTS / 4
        assert min(checker.seen[kind] for kind in ("partial", "whole", "ok", "failed", "late", "skipped")) > 20
        assert server.metric("ensemble_wasted_device_seconds_total") > 0
        assert after.adds_up(before, usd_per_second=0.10 / 3600)
        assert server.metric("ensemble_in_flight_requests") == server.metric("ensemble_queued_rows") == 0
        assert "the batch broke" not in server.log and "the request broke" not in server.log


async def settled(server) -> tuple[int, int]:
    """Tasks and descriptors, once what was under way has ended."""
    process = psutil.Process(server.pid)
    for _ in range(200):
        found = int(server.get("/tasks").body), process.num_fds()
        await asyncio.sleep(0.05)
        if found == (int(server.get("/tasks").body), process.num_fds()):
            break
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_a_hundred_thousand_cancels_leave_nothing_behind(launch_faulty, shaky, table) -> None:
    """Callers leave at any moment: before they are admitted, in the queue, in the middle of a run, between two stages."""
    with launch_faulty({"crawl": 0.05, "fail": 0.01, "freeze": 0.002}) as server:
        process, before = psutil.Process(server.pid), await settled(server)
        async with Client(server, Checker(shaky, table)) as client:
            left = 0

            async def leave() -> None:
                nonlocal left
                numbers, policy = client.question()
                call = client.channel.unary_unary(PREDICT)(client.typed(numbers, policy).SerializeToString())
                await asyncio.sleep(client.random.random() * LEAVING_SECONDS)
                left += call.cancel()
                with contextlib.suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
                    await call

            async def until(cancels: int) -> None:
                while left < cancels:
                    await leave()

            await asyncio.gather(*(until(WARM_UP) for _ in range(CALLERS)))
            warm_mb = process.memory_info().rss / 2**20
            await asyncio.gather(*(until(CANCELS) for _ in range(CALLERS)))
            grown_mb = process.memory_info().rss / 2**20 - warm_mb
            server.until(lambda: server.metric("ensemble_in_flight_requests") == 0)
            await client.one()
        after = await settled(server)
        cancelled = server.metric("ensemble_requests_total", code="CANCELLED")

        print(
            f"{left} left, {cancelled:.0f} of them under way; memory {warm_mb:.0f} MB, {grown_mb:+.1f}; "
            f"tasks, descriptors {before} then {after}"
        )
        assert left >= CANCELS
        assert cancelled > CANCELS / 4
        assert grown_mb < GROWTH_MB
        assert after[0] == before[0]
        assert after[1] <= before[1]
        assert server.metric("ensemble_queued_rows") == 0
        assert client.ended["OK"] == 1
        assert "bug" not in server.log
