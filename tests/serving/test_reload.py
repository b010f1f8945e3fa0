"""A newer version of a repository takes over from the one that is served: under load, and not if it is not fit for it."""

import shutil
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
from onnx import TensorProto, helper
from tritonclient.grpc import service_pb2 as oip
from tritonclient.grpc import service_pb2_grpc as oip_grpc

from ensembles import repository
from ensembles.samples import write_npz
from scrutin.v1 import ensemble_pb2 as pb

HIDDEN = 250_000
"""Numbers in the middle of a member, so that each takes 6 MB and one that is not freed shows."""

SWAPS = 20
GROWTH_MB = 90
"""Of the server after all swaps: what checks graphs stays loaded. Twenty versions that are not freed would take 240 MB and more."""


def graph(name: str, says: int, hidden: int) -> bytes:
    """A member that answers class `says` of two to a row [1, 0, 0, 0]."""
    first, second = np.zeros((4, hidden), np.float32), np.zeros((hidden, 2), np.float32)
    first[0, 0], second[0, says] = 1, 4
    made = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "first"], ["hidden"]),
            helper.make_node("MatMul", ["hidden", "second"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["y"], axis=1),
        ],
        name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
        [
            helper.make_tensor(name, TensorProto.FLOAT, values.shape, values.tobytes(), raw=True)
            for name, values in (("first", first), ("second", second))
        ],
    )
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(made, opset_imports=opset, ir_version=8, producer_name=name).SerializeToString()


def write(folder: Path, says: int, members=("a", "b"), hidden: int = 4, **manifest: object):
    """Put the version at `folder` whose every member answers class `says`."""
    x = np.tile(np.float32([1, 0, 0, 0]), (200, 1))
    content = {
        "name": "two",
        "version": says + 1,
        "labels": ["no", "yes"],
        "input": {"name": "x", "datatype": "FP32", "shape": [4]},
        "members": [{"name": member, "emits": "probabilities"} for member in members],
        **manifest,
    }
    models = {member: graph(member, says, hidden) for member in members}
    return repository.write(folder, content, models, (x, np.full(200, says)))


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "two"


ROW = np.float32([[1, 0, 0, 0]])


def typed(ensemble: str = "two") -> pb.PredictRequest:
    return pb.PredictRequest(ensemble=ensemble, tensor=pb.Tensor(datatype="FP32", shape=[1, 4], data=ROW.tobytes()))


def served(server) -> str:
    """The digest of what is served."""
    return server.get("/v1/models/two").json["digest"]


def swap(server, digest: str) -> None:
    """Reload, and wait until it has happened."""
    server.signal(signal.SIGHUP)
    server.until(lambda: served(server) == digest, seconds=30)


def megabytes(server) -> float:
    return psutil.Process(server.pid).memory_info().rss / 2**20


class Load:
    """Clients that ask over each wire until the block ends. `answered`: how often, by wire, digest and label."""

    def __init__(self, server) -> None:
        self.server = server
        self.answered: Counter[tuple[str, str, str]] = Counter()
        self.failed: list[str] = []
        self.ended = threading.Event()
        ways = (self.predict, self.on_a_stream, self.infer, self.predict_http, self.infer_http)
        self.threads = [threading.Thread(target=self.ask, args=(way,)) for way in ways]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *failure) -> None:
        self.ended.set()
        for thread in self.threads:
            thread.join(30)

    def ask(self, way) -> None:
        try:
            way()
        except Exception as error:
            self.failed.append(f"{way.__name__}: {error!r}")

    def note(self, wire: str, digest: str, label: str, members: int) -> None:
        self.answered[wire, digest, label, members] += 1

    def predict(self) -> None:
        with self.server.stub() as stub:
            while not self.ended.is_set():
                answer = stub.Predict(typed())
                self.note("predict", answer.digest, answer.label[0], len(answer.members))

    def on_a_stream(self) -> None:
        def asked():
            while not self.ended.is_set():
                yield typed()
                time.sleep(0.002)

        with self.server.stub() as stub:
            for answer in stub.PredictStream(asked()):
                if answer.error.code:
                    raise AssertionError(answer.error.message)
                self.note("stream", answer.digest, answer.label[0], len(answer.members))

    def infer(self) -> None:
        request = oip.ModelInferRequest(model_name="two")
        request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
        request.raw_input_contents.append(ROW.tobytes())
        with grpc.insecure_channel(self.server.grpc) as channel:
            stub = oip_grpc.GRPCInferenceServiceStub(channel)
            while not self.ended.is_set():
                answer = stub.ModelInfer(request)
                place = [output.name for output in answer.outputs].index("label")
                label = answer.raw_output_contents[place][4:].decode()
                members = answer.outputs[[output.name for output in answer.outputs].index("votes")].shape[1]
                self.note("oip", answer.parameters["ensemble_digest"].string_param, label, members)

    def predict_http(self) -> None:
        while not self.ended.is_set():
            reply = self.server.post("/v1/models/two:predict", {"instances": ROW.tolist()})
            assert reply.status == 200, reply.body
            self.note("http", reply.json["digest"], reply.json["predictions"][0]["label"], len(reply.json["members"]))

    def infer_http(self) -> None:
        body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 0, 0, 0]}]}
        while not self.ended.is_set():
            reply = self.server.post("/v2/models/two/infer", body)
            assert reply.status == 200, reply.body
            outputs = {output["name"]: output for output in reply.json["outputs"]}
            digest = reply.json["parameters"]["ensemble_digest"]
            self.note("oip-http", digest, outputs["label"]["data"][0], outputs["votes"]["shape"][1])


@pytest.mark.slow
def test_under_load_versions_take_turns_and_no_request_fails(launch, folder):
    """Each answer is that of the version whose digest it names, and the memory of those that went is given back."""
    members = (("a", "b"), ("c", "a", "d"))
    digests = [write(folder, says, members[says], HIDDEN).digest for says in (1, 0)][::-1]
    with launch(folder) as server:
        start_mb = megabytes(server)
        with Load(server) as load:
            for number in range(1, SWAPS + 1):
                says = number % 2
                write(folder, says, members[says], HIDDEN)
                swap(server, digests[says])
                time.sleep(0.1)

        most_mb = megabytes(server)
        assert not load.failed
        assert {wire for wire, *_ in load.answered} == {"predict", "stream", "oip", "http", "oip-http"}
        assert {key[1:] for key in load.answered} == {(digests[0], "no", 2), (digests[1], "yes", 3)}
        assert all(
            load.answered[wire, digests[0], "no", 2] > 20 for wire in ("predict", "stream", "oip", "http", "oip-http")
        )
        server.until(lambda: megabytes(server) < start_mb + GROWTH_MB, seconds=40)
        print(f"{sum(load.answered.values())} answers; MB {start_mb:.0f}, {most_mb:.0f}, then {megabytes(server):.0f}")
        assert server.metric("ensemble_reloads_total", ensemble="two", outcome="loaded") == SWAPS
        assert server.metric("ensemble_in_flight_requests") == 0
        assert "bug" not in server.log and "ERROR" not in server.log


# What is not fit for traffic changes nothing.


@pytest.fixture(scope="module")
def steady(launch, tmp_path_factory):
    """A server that callers may manage, and the repository that it serves."""
    folder = tmp_path_factory.mktemp("steady") / "two"
    write(folder, 0)
    with launch(folder, management=True) as server:
        yield server, folder


def flipped(folder: Path) -> None:
    model = folder / "a" / "1" / "model.onnx"
    content = bytearray(model.read_bytes())
    content[-1] ^= 1
    model.write_bytes(content)


def edited(folder: Path, old: str, new: str) -> None:
    manifest = folder / "ensemble.yaml"
    assert old in manifest.read_text()
    manifest.write_text(manifest.read_text().replace(old, new))


def mislabelled(folder: Path) -> None:
    edited(folder, "version: 1", "version: 9")
    samples = np.load(folder / "samples.npz")
    write_npz(folder / "samples.npz", samples["x"], 1 - samples["y"])


def with_another_graph(folder: Path) -> None:
    edited(folder, "shape: [4]", "shape: [5]")


SPOILED = {
    "a model of other bytes": (lambda folder: (edited(folder, "version: 1", "version: 9"), flipped(folder)), "sha256"),
    "a manifest that is none": (lambda folder: (folder / "ensemble.yaml").write_text("name: [two"), "expected YAML"),
    "an unknown key": (lambda folder: edited(folder, "version: 1", "version: 1\ncolour: red"), "colour: unknown key"),
    "another name": (lambda folder: edited(folder, "name: two", "name: three"), "found 'three', expected 'two'"),
    "another shape": (with_another_graph, "expected"),
    "samples that it gets wrong": (mislabelled, "wrong labels"),
    "no samples": (
        lambda folder: (edited(folder, "version: 1", "version: 9"), (folder / "samples.npz").unlink()),
        "samples.npz",
    ),
    "nothing at all": (shutil.rmtree, "expected a model repository directory"),
}


@pytest.mark.parametrize("case", SPOILED)
def test_a_bad_repository_changes_nothing(steady, case):
    server, folder = steady
    spoil, told = SPOILED[case]
    kept = folder.with_name("kept")
    shutil.copytree(folder, kept)
    before, refused = served(server), server.metric("ensemble_reloads_total", outcome="refused")
    try:
        spoil(folder)
        reply = server.post("/v2/repository/models/two/load")
        with grpc.insecure_channel(server.grpc) as channel, pytest.raises(grpc.RpcError) as caught:
            oip_grpc.GRPCInferenceServiceStub(channel).RepositoryModelLoad(
                oip.RepositoryModelLoadRequest(model_name="two")
            )
        lines = server.log.count("not loaded, nothing has changed")
        server.signal(signal.SIGHUP)
        server.until(lambda: server.log.count("not loaded, nothing has changed") == lines + 1)

        assert reply.status == 400 and told in reply.json["error"] and "\n" not in reply.json["error"]
        assert str(folder) not in reply.json["error"], "where it stands is none of the network's business"
        assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.INVALID_ARGUMENT, reply.json["error"])
        assert served(server) == before
        assert server.get("/v2/health/ready").status == 200
        with server.stub() as stub:
            assert list(stub.Predict(typed()).label) == ["no"]
        assert server.metric("ensemble_reloads_total", ensemble="two", outcome="refused") == refused + 3
        assert "Traceback" not in server.log and "bug" not in server.log
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        kept.rename(folder)


def test_the_version_that_is_served_is_not_loaded_again(steady):
    server, _ = steady
    reply = server.post("/v2/repository/models/two/load")

    assert reply.json == {"name": "two", "outcome": "unchanged", "version": "1", "digest": served(server)}
    assert "nothing to load" in server.log
    assert server.metric("ensemble_reloads_total", ensemble="two", outcome="unchanged") >= 1


def test_two_reloads_at_once_take_turns(steady):
    """The second finds what the first has loaded."""
    server, folder = steady
    try:
        digest = write(folder, 1, ("a", "b", "c", "d")).digest
        with ThreadPoolExecutor(4) as pool:
            replies = [pool.submit(server.post, "/v2/repository/models/two/load") for _ in range(4)]
            outcomes = sorted(reply.result().json["outcome"] for reply in replies)

        assert outcomes == ["loaded", "unchanged", "unchanged", "unchanged"]
        assert served(server) == digest
    finally:
        write(folder, 0)
        assert server.post("/v2/repository/models/two/load").json["outcome"] == "loaded"


# What follows the version that is served.


def test_everything_that_names_the_version_follows(steady):
    server, folder = steady
    watched_before = server.metric("ensemble_member_info", ensemble="two")
    try:
        digest = write(folder, 1, ("a", "c", "d"), limits={"max_batch_size": 16384, "max_queue_size": 16384}).digest
        server.post("/v2/repository/models/two/load")

        assert server.get("/v2/models/two").json["versions"] == ["2"]
        assert server.get("/v2/models/two/config").json["max_batch_size"] == 16384
        assert server.get("/v2/models/two.b").status == 404 and server.get("/v2/models/two.d").status == 200
        names = [model["name"] for model in server.get("/v2/models/stats").json["model_stats"]]
        assert names == ["two", "two.a", "two.c", "two.d"]
        assert "/v1/models/two:predict" in server.get("/openapi.json").json["paths"]
        assert (watched_before, server.metric("ensemble_member_info", ensemble="two")) == (2, 3)
        (info,) = server.families()["ensemble_info"].samples
        assert (info.labels["version"], info.labels["digest"]) == ("2", digest)
        with server.stub() as stub:
            many = np.tile(ROW, (16384, 1))
            request = pb.PredictRequest(
                ensemble="two", tensor=pb.Tensor(datatype="FP32", shape=many.shape, data=many.tobytes())
            )
            assert len(stub.Predict(request, timeout=60).label) == 16384, "more bytes than the version before allowed"
    finally:
        write(folder, 0)
        server.post("/v2/repository/models/two/load")


# Signals.


def test_sighup_reloads_also_where_callers_may_not(launch, folder):
    write(folder, 0)
    with launch(folder) as server:
        digest = write(folder, 1).digest
        assert server.post("/v2/repository/models/two/load").status == 501
        swap(server, digest)

        with server.stub() as stub:
            assert list(stub.Predict(typed()).label) == ["yes"]
        assert server.log.count(f"two: version 2 is served, digest {digest}") == 1


def test_sighups_in_a_row_do_not_hurt(launch, folder):
    write(folder, 0)
    with launch(folder) as server:
        for _ in range(50):
            server.signal(signal.SIGHUP)
        server.until(lambda: "nothing to load" in server.log)

        assert server.get("/v2/health/ready").status == 200


def test_an_ensemble_that_was_not_fit_at_the_start_is_served_once_it_is(launch, folder, free_ports):
    write(folder, 0)
    mislabelled(folder)
    with launch(folder, ready=False, **free_ports) as server:
        server.at(free_ports).until(lambda: "not ready" in server.log, seconds=30)
        assert server.get("/v2/health/ready").status == 503
        write(folder, 0)
        server.signal(signal.SIGHUP)
        server.wait()

        assert server.get("/v2/health/ready").status == 200
        assert server.out.read_text().count("metrics  http") == 1


def test_what_is_loading_when_the_server_is_told_to_stop_does_not_keep_it(launch, folder):
    write(folder, 0)
    with launch(folder) as server:
        write(folder, 1, tuple("abcdefgh"))
        server.signal(signal.SIGHUP)
        server.signal(signal.SIGTERM)

        assert server.ended() == 0
        assert "0 requests unanswered" in server.log
