"""The image: what is in it, what is not, and that it serves with all that Kubernetes takes from it."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path

import grpc
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from scrutin.v1 import ensemble_pb2, ensemble_pb2_grpc

pytestmark = pytest.mark.timeout(900)  # the image may have to be built first

ROOT = Path(__file__).parents[3]
HADOLINT = Path(sys.executable).with_name("hadolint")
DOCKERFILE = ROOT / "deploy" / "image" / "Dockerfile"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
MOST_BYTES = 730e6
"""docs/operations.md says what takes them."""

COMPILED = """
import sys, serving.app, ensembles.members.onnx
files = [module.__cached__ for module in list(sys.modules.values()) if getattr(module, "__cached__", None)]
print(len(files), sorted({open(file, "rb").read(8)[4] for file in files}))
"""
INSTALLED = (
    "from importlib.metadata import distributions as d; print(*(f'{x.name}=={x.version}' for x in d()), sep='\\n')"
)


@pytest.fixture(scope="module")
def served(container):
    with container("/models/digits") as running:
        running.ports()
        yield running


@pytest.fixture(scope="module")
def inspected(podman, image) -> dict:
    return json.loads(podman("inspect", image))[0]


def post(port: int, content: object) -> dict:
    url = f"http://127.0.0.1:{port}/v1/models/digits:predict"
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(content).encode()), timeout=10) as answer:
        return json.load(answer)


def test_it_answers_over_http(served, samples, expected) -> None:
    answer = post(served.ports()["http"], {"instances": samples[0][:5].tolist()})

    assert [int(row["label"]) for row in answer["predictions"]] == expected.label_index[:5].tolist()


def test_it_answers_over_grpc(served, samples, expected) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{served.ports()['grpc']}") as channel:
        stub = ensemble_pb2_grpc.EnsembleServiceStub(channel)
        request = ensemble_pb2.PredictRequest(
            ensemble="digits",
            tensor=ensemble_pb2.Tensor(datatype="UINT8", shape=[5, 8, 8], data=samples[0][:5].tobytes()),
        )
        answer = stub.Predict(request, timeout=10)

    assert list(answer.label_index) == expected.label_index[:5].tolist()


def test_it_has_no_rights_and_writes_nowhere(served) -> None:
    status = dict(line.split(":\t", 1) for line in served.execute("cat", "/proc/1/status").splitlines())

    assert status["Uid"].split() == status["Gid"].split() == ["10001"] * 4
    assert {int(status[f"Cap{kind}"], 16) for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {0}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    written = "touch /here /tmp/here /models/digits/here /opt/scrutin/here 2>&1 | grep -c 'Read-only file system'"
    assert served.execute("sh", "-c", written).strip() == "4"


def test_it_has_neither_compiler_nor_pip(served) -> None:
    tools = "for each in pip pip3 gcc cc c++ ld make git curl wget; do command -v $each; done; true"

    assert served.execute("sh", "-c", tools) == ""
    assert served.execute("sh", "-c", "python -c 'import pip' 2>&1 || true").endswith("No module named 'pip'\n")
    assert served.execute("sh", "-c", "ls -d /src /pip 2> /dev/null || true") == ""


def test_it_need_not_compile_what_it_imports(served) -> None:
    """Bytecode bound to its source's time would be stale in a layer, and made anew at each start."""
    count, flags = served.execute("python", "-c", COMPILED).split(maxsplit=1)

    assert int(count) > 500
    assert flags.strip() == "[1]"


def test_its_bill_of_materials_is_valid_and_lists_all_that_is_installed(served) -> None:
    text = served.execute("cat", "/opt/scrutin/sbom.cdx.json")
    bill = json.loads(text)
    listed = {(each["name"], each["version"]) for each in [bill["metadata"]["component"], *bill["components"]]}
    packages = served.execute("dpkg-query", "--show", "--showformat=${Package}==${Version}\\n")
    installed = {tuple(line.split("==")) for line in (served.execute("python", "-c", INSTALLED) + packages).split()}

    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    assert len(installed) > 100
    assert listed == installed


def test_its_python_is_what_the_tests_ran_with(served) -> None:
    pinned = set((ROOT / "constraints.txt").read_text().lower().replace("_", "-").split())
    installed = set(served.execute("python", "-c", INSTALLED).lower().replace("_", "-").split())

    assert installed - pinned == {f"scrutin=={VERSION}"}


def test_onnx_runtime_is_told_to_tell_nobody(inspected) -> None:
    assert "ORT_DISABLE_TELEMETRY=1" in inspected["Config"]["Env"]


def test_its_labels_ports_and_commands(inspected) -> None:
    config = inspected["Config"]

    assert config["User"] == "10001:10001"
    assert set(config["ExposedPorts"]) == {"8000/tcp", "8001/tcp", "8002/tcp"}
    assert config["StopSignal"] == "SIGTERM"
    assert config["Entrypoint"] == ["serving", "run", "--host", "0.0.0.0"]
    assert config["Cmd"] == ["/models/digits"]
    assert config["Labels"]["org.opencontainers.image.version"] == VERSION


def test_its_size_is_what_the_documents_say(inspected) -> None:
    assert inspected["Size"] < MOST_BYTES


@pytest.fixture(scope="module")
def wrong(tmp_path_factory) -> Path:
    """Repositories that no server takes."""
    folder = tmp_path_factory.mktemp("wrong")
    for name in ("changed", "gpu"):
        shutil.copytree(ROOT / "exported_models" / "digits", folder / name)
    with (folder / "changed" / "mlp" / "1" / "model.onnx").open("ab") as file:
        file.write(b"\0")
    manifest = folder / "gpu" / "ensemble.yaml"
    manifest.write_text(manifest.read_text().replace("device: auto", "device: cuda:0", 1))
    (folder / "key").write_bytes(bytes(32))
    (folder / "key").chmod(0o600)
    (folder / "settings.yaml").write_text("receipt_key_file: /wrong/key\n")
    folder.chmod(0o755)
    return folder


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["/models/none"], 1, "/models/none: found nothing, expected a model repository directory"),
        (["/wrong/changed"], 1, r"/wrong/changed.*sha256.*found \w+, expected \w+"),
        (["/models/digits", "--grpc-prot", 1], 2, "No such option: --grpc-prot"),
        (["/models/digits", "--http-port", 99999], 2, "http_port: found 99999, expected"),
        (["/models/digits", "--config", "/etc/scrutin/none.yaml"], 2, "/etc/scrutin/none.yaml: No such file"),
        (["/models/digits", "--config", "/wrong/settings.yaml"], 2, "/wrong/key.*Permission denied"),
    ],
    ids=["missing repository", "wrong hash", "unknown flag", "bad flag", "missing settings", "unreadable key"],
)
def test_what_keeps_it_from_starting_is_told_in_one_line(
    podman, image, restricted, wrong, arguments, code, said
) -> None:
    done = podman.run("run", "--rm", *restricted, f"--volume={wrong}:/wrong:ro", image, *arguments)

    assert done.returncode == code
    assert re.fullmatch(f"serving: .*{said}.*\n", done.stderr)


def test_a_taken_port_is_told_in_one_line(podman, image, restricted) -> None:
    with closing(socket.create_server(("0.0.0.0", 0))) as taken:
        port = taken.getsockname()[1]
        done = podman.run("run", "--rm", *restricted, image, "/models/digits", "--http-port", port)

    assert done.returncode == 1
    assert done.stderr == f"serving: cannot listen on 0.0.0.0:{port}: Address already in use\n"


def test_without_the_gpu_that_a_member_asks_for_it_says_so_and_is_not_ready(container, podman, wrong) -> None:
    """It stays, since whoever mends the repository may have it loaded anew; its startup probe fails meanwhile."""
    with container("/wrong/gpu", volumes=[f"{wrong}:/wrong:ro"]) as running:
        end = time.monotonic() + 60
        while "not ready" not in running.logs():
            assert time.monotonic() < end, running.logs()
            time.sleep(0.1)
        [line] = [line for line in running.logs().splitlines() if "not ready" in line]

        assert re.search(r"run_on\.device: found cuda:0, expected cpu or auto", line)
        assert running.state("Running") == "true"
        podman("kill", "--signal", "TERM", running.name)
        assert podman("wait", running.name).strip() == "1"
        assert "never ready" in running.logs().splitlines()[-1]


def test_after_sigterm_it_answers_until_it_has_drained_and_exits_with_0(container, podman, samples) -> None:
    with container("/models/digits", "--drain-delay-seconds", "10") as running:
        port = running.ports()["http"]
        podman("kill", "--signal", "TERM", running.name)
        answer = post(port, {"instances": samples[0][:1].tolist()})
        with pytest.raises(urllib.error.HTTPError, match="503"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=10)

        assert len(answer["predictions"]) == 1
        assert podman("wait", running.name).strip() == "0"
        assert "stopped: 0 requests unanswered" in running.logs()


def test_hadolint_finds_nothing() -> None:
    done = subprocess.run([HADOLINT, DOCKERFILE], capture_output=True, text=True, timeout=60)

    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.skipif("REBUILD" not in os.environ, reason="minutes for the same again; REBUILD=1 asks for it")
def test_built_again_its_layers_are_the_same(podman, build, inspected) -> None:
    again = json.loads(podman("inspect", build("localhost/scrutin:again")))[0]
    podman("untag", "localhost/scrutin:again")

    assert again["RootFS"]["Layers"] == inspected["RootFS"]["Layers"]
