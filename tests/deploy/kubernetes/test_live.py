"""The settings that ship, served by a real process: what probes, Prometheus and callers find, how it ends, and what a bad pod says."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from scrutin.v1 import ensemble_pb2 as pb
from scrutin.v1 import ensemble_pb2_grpc

from .conftest import ROOT
from .laws import Made

DIGITS = ROOT / "exported_models" / "digits"
SERVING = str(Path(sys.executable).with_name("serving"))
PAGE = (ROOT / "docs" / "operations.md").read_text()
SECTION = PAGE.split("\n## Kubernetes\n")[1].split("\n## ")[0]
CALLER = json.dumps({"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}})
START_SECONDS, GRACE_SECONDS = 60, 40
LEAD_SECONDS = 10
"""From the beginning of the pods of a load test to its own; more where that was too early for a busy machine."""
DONE, NOT_VALID = 0, 4
"""Of a load test; the second where this machine was too busy to keep to the plan."""


@pytest.fixture(scope="module")
def made(rendered) -> Made:
    return Made(rendered("overlays/cpu"))


@pytest.fixture(scope="module")
def settings(made, tmp_path_factory) -> Path:
    """The file that is in the ConfigMap."""
    file = tmp_path_factory.mktemp("config") / "settings.yaml"
    file.write_text(made.config_map["data"]["settings.yaml"])
    return file


@dataclass
class Running:
    process: subprocess.Popen
    addresses: dict[str, str]
    """Of the ports by their names in the pod."""

    def status(self, path: str, port: str = "http") -> int:
        try:
            with urllib.request.urlopen(f"http://{self.addresses[port]}{path}", timeout=10) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code


@pytest.fixture(scope="module")
def launch(settings, tmp_path_factory):
    """`launch()`: a server as in the pod, but for its ports."""
    ports = ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0")

    def launch() -> Running:
        folder = tmp_path_factory.mktemp("server")
        out, err = folder / "out", folder / "err"
        command = [SERVING, "run", DIGITS, "--config", settings, *ports]
        with out.open("wb") as output, err.open("wb") as log:
            process = ended.enter_context(subprocess.Popen(command, stdout=output, stderr=log))
        ended.callback(process.kill)
        deadline = time.monotonic() + START_SECONDS
        while "metrics  http" not in out.read_text():
            assert process.poll() is None and time.monotonic() < deadline, err.read_text()
            time.sleep(0.05)
        found = re.findall(r"^(\w+) +\w+://0\.0\.0\.0:(\d+)", out.read_text(), re.MULTILINE)
        return Running(process, {name: f"127.0.0.1:{port}" for name, port in found})

    with contextlib.ExitStack() as ended:
        yield launch


@pytest.fixture(scope="module")
def server(launch) -> Running:
    return launch()


def test_each_probe_finds_what_it_asks_for(made, server) -> None:
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = made.container[kind]["httpGet"]

        assert server.status(asked["path"], asked["port"]) == 200, kind


def test_prometheus_finds_the_series_that_scale(rendered, server, asked_for) -> None:
    [endpoint] = Made(rendered("components/monitoring")).one("PodMonitor")["spec"]["podMetricsEndpoints"]
    triggers = Made(rendered("components/keda")).one("ScaledObject")["spec"]["triggers"]
    asked = {name for each in triggers for name in asked_for(each["metadata"].get("query", ""))}
    with urllib.request.urlopen(f"http://{server.addresses[endpoint['port']]}{endpoint['path']}", timeout=10) as answer:
        text = answer.read().decode()

    assert len(asked) == 2
    assert [name for name in asked if f"\n# TYPE {name} " not in text] == []


def test_a_caller_as_in_the_page_loses_no_request_when_a_pod_ends(launch, server, samples) -> None:
    """Readiness goes at once, calls are still answered until every caller has heard of it, and the process ends well within its grace."""
    assert re.search(r"config = (\{.*\})\n", SECTION)[1] == CALLER
    ending = launch()
    row = samples[0][:1]
    request = pb.PredictRequest(
        ensemble="digits", tensor=pb.Tensor(datatype="UINT8", shape=row.shape, data=row.tobytes())
    )
    pods = f"ipv4:{server.addresses['grpc']},{ending.addresses['grpc']}"
    with grpc.insecure_channel(pods, options=[("grpc.service_config", CALLER)]) as channel:
        stub = ensemble_pb2_grpc.EnsembleServiceStub(channel)
        answered = [stub.Predict(request, timeout=10).label for _ in range(50)]
        ending.process.terminate()
        begin = time.monotonic()
        states = set()
        while ending.process.poll() is None:
            answered.append(stub.Predict(request, timeout=10).label)
            with contextlib.suppress(OSError):
                states.add((ending.status("/v2/health/live"), ending.status("/v2/health/ready")))
            assert time.monotonic() - begin < GRACE_SECONDS
            time.sleep(0.01)
        answered += [stub.Predict(request, timeout=10).label for _ in range(50)]

    assert ending.process.returncode == 0
    assert (200, 503) in states
    assert len(answered) > 100


def run_pods(job: Made, server: Running, logs: list[Path], messages: list[Path], lead: float) -> set[int]:
    """The exit codes of all pods of the load test, which begins in `lead` seconds."""
    [container] = job.containers
    [shell] = container["args"]
    variables = {each["name"]: each.get("value", "") for each in container["env"]} | {
        "PATH": f"{Path(SERVING).parent}{os.pathsep}{os.environ['PATH']}",
        "TARGET": f"grpc://{server.addresses['grpc']}/digits",
        "DURATION": "1s",
        "START_AT": str(time.time() + lead),
    }
    pods = []
    for index, (log, message) in enumerate(zip(logs, messages, strict=True)):
        here = shell.replace("/models/digits", str(DIGITS)).replace("/dev/termination-log", str(message))
        environment = {**variables, "JOB_COMPLETION_INDEX": str(index)}
        with log.open("wb") as file:
            pods.append(subprocess.Popen([*container["command"], here], env=environment, stdout=file))
    return {pod.wait(120) for pod in pods}


def test_the_pods_of_the_load_test_make_one_run(rendered, server, tmp_path: Path) -> None:
    """Each by its own shell; their logs are what `loadtest merge` takes."""
    job = Made(rendered("overlays/loadtest"))
    shards = range(job.one("Job")["spec"]["completions"])
    logs, messages = ([tmp_path / f"{name}-{index}" for index in shards] for name in ("log", "message"))
    codes = run_pods(job, server, logs, messages, LEAD_SECONDS)
    if any("too early" in message.read_text() for message in messages):
        codes = run_pods(job, server, logs, messages, 4 * LEAD_SECONDS)
    command = [Path(SERVING).with_name("loadtest"), "merge", *logs, "--out", tmp_path / "merged", "--json"]
    merged = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert codes == {DONE}, messages[0].read_text()
    assert merged.returncode in (DONE, NOT_VALID), messages[0].read_text() + merged.stderr
    assert sum(arm["requests"] for arm in json.loads(merged.stdout)["arms"]) > 200


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    return shutil.copytree(DIGITS, tmp_path / "ensemble")


@pytest.fixture
def said(settings, tmp_path: Path):
    """`said(repository, *flags, more=…)`: the exit code and the one line, with the pod's paths, of a server that does not start."""

    def said(repository: Path, *flags: str, more: str = "", without: str = " ") -> tuple[int, str]:
        file = tmp_path / "settings.yaml"
        kept = [line for line in settings.read_text().splitlines() if not line.startswith(without)]
        file.write_text("\n".join([*kept, more, ""]))
        command = [SERVING, "run", repository, "--config", file, *flags]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        line = done.stderr.replace(str(file), "/etc/scrutin/settings.yaml")
        line = line.replace(str(tmp_path / "ensemble"), "/models/ensemble").replace(str(tmp_path), "/etc/scrutin-keys")
        assert line.count("\n") == 1, line
        return done.returncode, line.strip()

    return said


def is_in_the_page(line: str) -> bool:
    """As a line of its tables, where … may stand for anything."""
    shown = re.findall(r"`(serving: [^`]+)`", SECTION)
    return any(re.fullmatch(".+".join(map(re.escape, each.split("…"))), line) for each in shown)


def test_no_repository(said, tmp_path: Path) -> None:
    code, line = said(tmp_path / "ensemble")

    assert code == 1
    assert is_in_the_page(line), line


def test_a_file_that_was_changed(said, copied) -> None:
    with (copied / "mlp" / "1" / "model.onnx").open("ab") as file:
        file.write(b"x")
    code, line = said(copied)

    assert code == 1
    assert is_in_the_page(line), line


def test_a_typo_in_the_settings(said) -> None:
    code, line = said(DIGITS, more="drain_delay: 5", without="drain_delay_seconds")

    assert code == 2
    assert is_in_the_page(line), line


def test_an_unknown_flag(said) -> None:
    code, line = said(DIGITS, "--workers=2")

    assert code == 2
    assert is_in_the_page(line), line


@pytest.mark.parametrize("content", [None, b"short"])
def test_a_key_that_is_missing_or_none(said, tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "receipts").write_bytes(content)
    code, line = said(DIGITS, more=f"receipt_key_file: {tmp_path / 'receipts'}", without="receipt_seconds")

    assert code == 2
    assert is_in_the_page(line), line


def test_a_folder_of_ones_own_as_in_the_page(build, tmp_path: Path) -> None:
    (tmp_path / "scrutin").mkdir()
    (tmp_path / "scrutin" / "deploy").symlink_to(ROOT / "deploy")
    [written] = [each for each in re.findall(r"```yaml\n(.*?)```", SECTION, re.DOTALL) if "kind: Kustomization" in each]
    folder = tmp_path / "votes"
    folder.mkdir()
    (folder / "kustomization.yaml").write_text(written)
    (folder / "settings.yaml").write_text("host: 0.0.0.0\nprice_per_hour: 2\n")
    shipped, mine = Made(build(ROOT / "deploy/kubernetes/overlays/cpu")), Made(build(folder))

    assert mine.container["image"] == "registry.example/scrutin:0.1.0"
    assert mine.settings.price_per_hour == 2
    assert str(mine.settings.repositories[0]) == "/models/ensemble"
    assert mine.pod["volumes"][0]["configMap"]["name"] == mine.config_map["metadata"]["name"]
    assert mine.config_map["metadata"]["name"] != shipped.config_map["metadata"]["name"]
    assert {"PodMonitor", "PrometheusRule", "NetworkPolicy"} <= {each["kind"] for each in mine.objects}


@pytest.mark.parametrize(
    ("component", "changed", "expected"),
    [
        (
            "repository-oci",
            lambda made: made.pod["volumes"][3]["image"]["reference"],
            "registry.example/flowers@sha256:…",
        ),
        ("networkpolicy", lambda made: str(made.settings.repositories[0]), "/models/flowers"),
    ],
)
def test_the_patches_of_the_page_change_what_they_say(build, tmp_path: Path, component: str, changed, expected) -> None:
    written = re.findall(r"```yaml\n(patches:.*?)```", SECTION, re.DOTALL)
    [patch] = [each for each in written if expected in each]
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "kustomization.yaml").write_text(
        f"resources: [../deploy/kubernetes/base]\ncomponents: [../deploy/kubernetes/components/{component}]\n{patch}"
    )

    assert changed(Made(build(tmp_path / "mine"))) == expected


def test_the_page_names_every_folder() -> None:
    folders = [
        path.name for kind in ("overlays", "components") for path in (ROOT / "deploy/kubernetes" / kind).iterdir()
    ]

    assert len(folders) > 12
    assert [name for name in folders if f"{name}`" not in SECTION] == []
