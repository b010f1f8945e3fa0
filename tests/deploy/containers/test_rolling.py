"""The manifests, executed: two pods of the `ci` overlay behind Envoy are replaced one after the other, and no caller notices."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.timeout(900)  # the image may have to be built first

ROOT = Path(__file__).parents[3]
LOADTEST = Path(sys.executable).with_name("loadtest")
RATE, FEWEST_REQUESTS = 500, 10_000
SECRET = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "scrutin-keys"}, "data": {"receipts": "MDEy" * 11}}
"""The manifests can do without it; this podman cannot."""
FROM = "type.googleapis.com/envoy.extensions"


@pytest.fixture(scope="module")
def manifests(cache) -> list[dict]:
    """Of the overlay, as kubectl renders it."""
    kubectl = shutil.which("kubectl", path=cache / "bin") or shutil.which("kubectl")
    if kubectl is None and "CI" not in os.environ:
        pytest.skip("kubectl is not installed")
    overlay = ROOT / "deploy" / "kubernetes" / "overlays" / "ci"
    done = subprocess.run([kubectl, "kustomize", overlay], capture_output=True, text=True, timeout=60, check=True)
    return [SECRET, *yaml.safe_load_all(done.stdout)]


class Pod:
    """One replica of the Deployment. podman publishes its ports on the host, where they stay when it is replaced."""

    def __init__(self, podman, file: Path, manifests: list[dict], name: str, ports: list[int]) -> None:
        self._podman, self._file = podman, file
        self._container = f"{name}-pod-0-scrutin"
        self.http, self.grpc, self.metrics = ports
        self._write(manifests, name)

    def _write(self, manifests: list[dict], name: str) -> None:
        made = json.loads(json.dumps(manifests))
        [deployment] = [each for each in made if each["kind"] == "Deployment"]
        deployment["metadata"]["name"] = name
        [container] = deployment["spec"]["template"]["spec"]["containers"]
        for port in container["ports"]:
            port["hostPort"] = getattr(self, port["name"])
        self._file.write_text(yaml.safe_dump_all(made))

    def start(self) -> None:
        """Returns when it is ready."""
        self._podman("play", "kube", "--replace", self._file)
        end = time.monotonic() + 60
        while not self._ready():
            assert time.monotonic() < end, self.log()
            time.sleep(0.1)

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/v2/health/ready", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    def log(self) -> str:
        done = self._podman.run("logs", self._container)
        return done.stdout + done.stderr

    def stop(self) -> int:
        """As the kubelet does after `preStop`: SIGTERM, and then it waits. The exit code."""
        self._podman("stop", "--time", 40, self._container)
        return int(self._podman("inspect", "--format", "{{.State.ExitCode}}", self._container))

    def remove(self) -> None:
        self._podman("play", "kube", "--down", self._file)


@pytest.fixture(scope="module")
def pods(podman, image, manifests, free_ports, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pods")
    ports = free_ports(6)
    pods = [
        Pod(podman, folder / "one.yaml", manifests, "one", ports[:3]),
        Pod(podman, folder / "two.yaml", manifests, "two", ports[3:]),
    ]
    with contextlib.ExitStack() as ended:
        for pod in pods:
            ended.callback(pod.remove)
            pod.start()
        yield pods


def by_request() -> dict:
    """A filter that gives each request to one of the servers, and tries none a second time."""
    router = {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{FROM}.filters.http.router.v3.Router"}}
    route = {"match": {"prefix": "/"}, "route": {"cluster": "servers", "timeout": "0s"}}
    manager = {
        "@type": f"{FROM}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "balancer",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [router],
    }
    return {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}


def speaking_http2() -> dict:
    options = {"@type": f"{FROM}.upstreams.http.v3.HttpProtocolOptions"}
    options["explicit_http_config"] = {"http2_protocol_options": {}}
    return {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options}


def served(port: int) -> float:
    """How many requests the server with these metrics has answered."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("ensemble_requests_total{"))


@contextlib.contextmanager
def load(port: int, folder: Path, rate: int):
    """Load through this port while the block runs, or until what it yields is called; `folder` has the result then."""
    command = [LOADTEST, "run", f"grpc://127.0.0.1:{port}/digits", "--rate", rate, "--duration", "10m", "--out", folder]
    process = subprocess.Popen(
        [*map(str, command), "--warm-up", "0s"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )

    def stop() -> None:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            print(process.communicate(timeout=60)[0])

    with contextlib.ExitStack() as ended:
        ended.callback(process.wait)
        ended.callback(process.kill)
        ended.callback(stop)
        yield stop


def test_two_pods_are_replaced_one_after_the_other_and_no_request_fails(pods, balancer, tmp_path) -> None:
    addresses = [pod.grpc for pod in pods]
    http2 = {"typed_extension_protocol_options": speaking_http2()}
    with (
        balancer(by_request(), addresses, {"grpc_health_check": {}}, **http2) as port,
        load(port, tmp_path / "load", RATE),
    ):
        end = time.monotonic() + FEWEST_REQUESTS * 1.2 / RATE
        for pod in pods:
            time.sleep(2)
            assert pod.stop() == 0
            assert "stopped: 0 requests unanswered" in pod.log()
            pod.start()
        time.sleep(max(2.0, end - time.monotonic()))
        shares = [served(pod.metrics) for pod in pods]
    [arm] = json.loads((tmp_path / "load" / "results.json").read_text())["arms"]

    assert arm["errors"] == {}
    assert arm["requests"] >= FEWEST_REQUESTS
    assert arm["partial"] == arm["censored"] == 0
    assert min(shares) > 100, "one of the two was replaced, and then asked nothing"


def test_a_server_that_is_added_gets_its_share_as_connections_are_renewed(
    container, balancer, free_ports, tmp_path
) -> None:
    """Behind a balancer of connections, as a Service is one, callers would else stay with the server that they found first."""
    settings = tmp_path / "settings.yaml"
    settings.write_text("max_connection_age_seconds: 2\n")
    first, second = free_ports(2)
    told = ("/models/digits", "--config", "/settings.yaml")
    by_connection = {
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": {
            "@type": f"{FROM}.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": "c",
            "cluster": "servers",
        },
    }
    volumes = [f"{settings}:/settings.yaml:ro"]
    with (
        container(*told, "--grpc-port", first, volumes=volumes) as old,
        balancer(by_connection, [first, second], {"http_health_check": {"path": "/v2/health/ready"}}) as port,
    ):
        counted = [old.ports()["metrics"]]
        with load(port, tmp_path / "load", 100) as stop:
            while served(counted[0]) < 100:
                time.sleep(0.1)
            with container(*told, "--grpc-port", second, volumes=volumes) as new:
                counted.append(new.ports()["metrics"])
                time.sleep(2 * 2.2 + 0.5)  # twice the age, and until the balancer has noticed
                before = [served(each) for each in counted]
                time.sleep(4)
                of_old, of_new = (served(each) - earlier for each, earlier in zip(counted, before, strict=True))
                stop()
    [arm] = json.loads((tmp_path / "load" / "results.json").read_text())["arms"]

    assert of_new / (of_old + of_new) >= 0.8 * 0.5
    assert arm["errors"] == {}
