"""Servers to call: the real `serving run` in its own process, and the scripted one for members that are slow or fail."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest
from onnx import TensorProto, helper
from prometheus_client.parser import text_string_to_metric_families

from ensembles import repository
from scrutin.v1 import ensemble_pb2_grpc

ROOT = Path(__file__).parents[2]
SERVING = str(Path(sys.executable).with_name("serving"))
START_SECONDS = 60
STOP_SECONDS = 60


@dataclass
class Reply:
    """An HTTP answer."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)


@dataclass(frozen=True)
class Bill:
    """Attributed and idle device time in USD, at some instant from `asked` to `told`."""

    asked: float
    told: float
    usd: float

    def adds_up(self, before: "Bill", usd_per_second: float, within: float = 0.01) -> bool:
        """The law of the ledger: what was attributed and what was idle is the price of the time between."""
        least, most = self.asked - before.told, self.told - before.asked
        return (1 - within) * least <= (self.usd - before.usd) / usd_per_second <= (1 + within) * most


class Running:
    """A server in its own process. `grpc`, `http`, `metrics`: host:port, known once `wait` has returned."""

    def __init__(self, command, folder: Path, environment=None) -> None:
        self.out, self.err = folder / "stdout", folder / "stderr"
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env={**os.environ, **(environment or {})}
            )
        self.grpc = self.http = self.metrics = ""

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        return self.err.read_text()

    def at(self, ports) -> "Running":
        """Where it was told to listen; for servers that are never ready, and so print nothing."""
        self.grpc, self.http, self.metrics = (
            f"127.0.0.1:{ports[key]}" for key in ("grpc_port", "http_port", "metrics_port")
        )
        return self

    def listening(self, address: str) -> bool:
        host, port = address.rsplit(":", 1)
        with socket.socket() as probe:
            return probe.connect_ex((host, int(port))) == 0

    def wait(self) -> "Running":
        """Until the addresses are printed, which is when the server is ready."""
        self.until(lambda: self.process.poll() is not None or "metrics  http" in self.out.read_text(), START_SECONDS)
        addresses = dict(re.findall(r"^(\w+) +\w+://([^/\n]+)", self.out.read_text(), re.MULTILINE))
        assert addresses.keys() >= {"grpc", "http", "metrics"}, f"not ready; {self.out.read_text()}{self.log}"
        self.grpc, self.http, self.metrics = addresses["grpc"], addresses["http"], addresses["metrics"]
        return self

    def until(self, true, seconds: float = 30.0) -> None:
        """Wait for something to become true."""
        deadline = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < deadline, f"still not so after {seconds} s; the log says: {self.log[-2000:]}"
            time.sleep(0.01)

    def get(self, path: str, **headers: str) -> Reply:
        return self.request("GET", path, headers=headers)

    def post(self, path: str, body=b"", headers=None) -> Reply:
        """`body`: bytes, or what becomes JSON."""
        return self.request("POST", path, body if isinstance(body, bytes) else json.dumps(body).encode(), headers)

    def request(self, method: str, path: str, body=None, headers=None, address: str = "") -> Reply:
        connection = http.client.HTTPConnection(address or self.http, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return Reply(response.status, response.headers, response.read())

    def bill(self) -> "Bill":
        """What device time has cost so far."""
        asked, families = time.perf_counter(), self.families()
        usd = sum(
            sample.value
            for name in ("ensemble_cost_usd", "ensemble_idle_cost_usd")
            for sample in families[name].samples
            if sample.name == f"{name}_total"
        )
        return Bill(asked, time.perf_counter(), usd)

    def families(self):
        """What `GET /metrics` shows, by name."""
        text = self.request("GET", "/metrics", address=self.metrics).body.decode()
        return {family.name: family for family in text_string_to_metric_families(text)}

    def metric(self, name: str, **labels: str) -> float:
        """The sum over all series of this name and these labels."""
        return sum(
            sample.value
            for family in self.families().values()
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    @contextlib.contextmanager
    def stub(self):
        """The typed service on a channel of its own."""
        with grpc.insecure_channel(self.grpc) as channel:
            yield ensemble_pb2_grpc.EnsembleServiceStub(channel)

    @contextlib.contextmanager
    def socket(self):
        """A bare connection to the HTTP port."""
        host, port = self.http.rsplit(":", 1)
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            yield connection

    def signal(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def ended(self, seconds: float = STOP_SECONDS) -> int:
        """The exit code, once there is one."""
        return self.process.wait(seconds)

    def stop(self) -> int:
        if self.process.poll() is None:
            self.signal()
        return self.ended()

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def ending(server: Running, code: int = 0):
    """Stopped by SIGTERM behind the block, unless the block did it, and with this exit code."""
    try:
        yield server
        assert server.stop() == code, server.log
    finally:
        server.kill()


def flags(**given: object) -> list[str]:
    """`price_per_hour=1` becomes `--price-per-hour 1`, `management=True` `--management`; ports are free ones by default."""
    ports = {"http_port": 0, "grpc_port": 0, "metrics_port": 0}
    words = []
    for key, value in {**ports, **given}.items():
        words += ["--" + key.replace("_", "-")] + ([] if value is True else [str(value)])
    return words


@pytest.fixture(scope="session")
def serving():
    """`serving("check", repository)` runs the command to its end."""

    def serving(*arguments: object, seconds: float = 60) -> subprocess.CompletedProcess:
        command = [SERVING, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)

    return serving


@pytest.fixture(scope="session")
def launch(tmp_path_factory):
    """`with launch(repository, …, price_per_hour=1) as server`: the real `serving run`."""

    def launch(*repositories: Path, ready: bool = True, ends_with: int = 0, **given: object):
        server = Running([SERVING, "run", *map(str, repositories), *flags(**given)], tmp_path_factory.mktemp("serving"))
        return ending(server.wait() if ready else server, ends_with)

    return launch


@pytest.fixture(scope="session")
def launch_program(tmp_path_factory):
    """`with launch_program("counting_app.py", repository, …) as server`: a server with an application of the tests' own."""

    def launch(program: str, *repositories: Path, ready: bool = True, environment=None, **given: object):
        ports = {"http_port": 0, "grpc_port": 0, "metrics_port": 0}
        settings = json.dumps({"repositories": list(map(str, repositories)), **ports, **given})
        command = [sys.executable, str(Path(__file__).with_name(program)), settings]
        server = Running(command, tmp_path_factory.mktemp("program"), environment)
        return ending(server.wait() if ready else server)

    return launch


@pytest.fixture(scope="session")
def launch_scripted(launch_program):
    """`with launch_scripted(script, repository, …) as server`: see `scripted_app.py`."""

    def launch(script, *repositories: Path, **given: object):
        return launch_program("scripted_app.py", *repositories, environment={"SCRIPT": json.dumps(script)}, **given)

    return launch


@pytest.fixture(scope="session")
def server(launch):
    """exported_models/digits, served once for all tests that only ask."""
    with launch(ROOT / "exported_models" / "digits") as running:
        yield running


@pytest.fixture(scope="session")
def stub(server):
    with server.stub() as stub:
        yield stub


@pytest.fixture
def free_ports():
    """Three ports that nobody uses right now, as flags."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(contextlib.closing(socket.socket())) for _ in range(3)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        ports = [each.getsockname()[1] for each in sockets]
    return dict(zip(("http_port", "grpc_port", "metrics_port"), ports, strict=True))


def graph(name: str, datatype: str, shape, classes: int) -> bytes:
    """[batch, *shape] to the softmax of the first `classes` numbers of each row."""
    element = getattr(TensorProto, {"FP32": "FLOAT", "FP64": "DOUBLE", "FP16": "FLOAT16"}.get(datatype, datatype))
    weights = np.eye(int(np.prod(shape)), classes, dtype=np.float32)
    made = helper.make_graph(
        [
            helper.make_node("Cast", ["x"], ["numbers"], to=TensorProto.FLOAT),
            helper.make_node("Flatten", ["numbers"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["y"], axis=1),
        ],
        name,
        [helper.make_tensor_value_info("x", element, ["batch", *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", classes])],
        [helper.make_tensor("weights", TensorProto.FLOAT, weights.shape, weights.tobytes(), raw=True)],
    )
    return helper.make_model(
        made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name=name
    ).SerializeToString()


@pytest.fixture(scope="session")
def write_tiny(tmp_path_factory):
    """`write_tiny("name", ["a", "b"], datatype="FP32", shape=[4], limits={…})` writes an ensemble of two classes, and gives its path.

    Every member answers with the softmax of a row's first numbers, one for each class; the samples are all of class 0. No answer is audited, so that
    what runs is what was asked for.
    """

    def write(name: str, members, datatype: str = "FP32", shape=(4,), **manifest: object) -> Path:
        dtype = np.dtype({"FP32": "f4", "FP64": "f8", "FP16": "f2"}.get(datatype, datatype.lower()))
        x = np.zeros((8, *shape), dtype)
        x.reshape(8, -1)[:, 0] = 1
        folder = tmp_path_factory.mktemp("repositories") / name
        content = {
            "name": name,
            "labels": ["no", "yes"],
            "input": {"name": "x", "datatype": datatype, "shape": list(shape)},
            "members": [{"name": member, "emits": "probabilities"} for member in members],
            "audit": {"share": 0.0},
            **manifest,
        }
        classes = len(content["labels"])
        models = {member: graph(f"{name}.{member}", datatype, shape, classes) for member in members}
        repository.write(folder, content, models, (x, np.zeros(8, np.int64)))
        return folder

    return write
