"""The load test as a job, and the runtime for KServe: their commands are read by the real command lines."""

import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

import typer

from ensembles.command_line import WrongUsage
from ensembles.repository import read
from loadtest import cli
from loadtest.commands import Fault, timing
from serving.app import FLUSH_SECONDS

from .conftest import KUBERNETES, ROOT
from .laws import LOADTEST, Made, World, law, parsed, put
from .lifetime import SLACK_SECONDS, patience

KSERVE = ["kserve"]
START = "2026-01-31T12:00:00Z"


def job(made: Made) -> dict:
    return made.one("Job")["spec"]


def container(made: Made) -> dict:
    return made.containers[0]


@functools.cache
def said_to(
    command: tuple[str, ...], environment: tuple[tuple[str, str], ...], code: int
) -> tuple[list[str], str, int]:
    """The arguments that `loadtest` gets of a pod's shell, what of its errors is where the kubelet looks, and the pod's exit code for its own."""
    with tempfile.TemporaryDirectory() as folder:
        program, message = Path(folder) / "loadtest", Path(folder) / "message"
        program.write_text(
            f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n"
            f"print('wrong', file=sys.stderr)\nsys.exit({code})"
        )
        program.chmod(0o755)
        given = [word.replace("/dev/termination-log", str(message)) for word in command]
        variables = {**dict(environment), "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
        done = subprocess.run(given, env=variables, capture_output=True, text=True, check=False, timeout=60)
        text = message.read_text() if message.exists() else ""
        return json.loads(done.stdout), text, done.returncode


def run_by(made: Made, index: int, code: int = 0) -> tuple[list[str], str, int]:
    values = {each["name"]: each.get("value", START) for each in container(made)["env"]}
    variables = tuple({**values, "JOB_COMPLETION_INDEX": str(index)}.items())
    return said_to((*container(made)["command"], *container(made)["args"]), variables, code)


def loadtest(made: Made, index: int) -> dict:
    """What the real command line makes of the arguments of a pod."""
    arguments, _, _ = run_by(made, index)
    command = typer.main.get_command(cli.app).commands[arguments[0]]
    try:
        return command.make_context("run", arguments[1:]).params
    except WrongUsage as error:
        raise AssertionError(error.format_message()) from None


def replace(text: str, other: str):
    def change(made: Made) -> None:
        [shell] = container(made)["args"]
        assert text in shell
        container(made)["args"] = [shell.replace(text, other)]

    return change


@law(LOADTEST, replace("--rate", "--rps"), replace("--duration", "--for"))
def the_load_test_takes_its_flags(made: Made, world: World) -> None:
    assert loadtest(made, 0)["as_json"]


@law(LOADTEST, put(job, completions=4), put(job, parallelism=1), replace("/3", "/4"), replace("+ 1", ""))
def each_pod_is_one_shard_of_all(made: Made, world: World) -> None:
    pods = job(made)["completions"]
    try:
        shards = [timing.shard_of(loadtest(made, index)["shard"]) for index in range(pods)]
    except Fault as fault:
        raise AssertionError(fault) from None

    assert job(made)["parallelism"] == pods
    assert shards == [(index + 1, pods) for index in range(pods)]


@law(LOADTEST, put(job, completionMode="NonIndexed"))
def pods_know_which_they_are(made: Made, world: World) -> None:
    assert job(made)["completionMode"] == "Indexed"


@law(
    LOADTEST,
    replace('"$START_AT"', '"soon"'),
    put(lambda made: container(made)["env"][3], valueFrom={"configMapKeyRef": {"name": "loadtest", "key": "start"}}),
)
def all_shards_begin_at_the_instant_that_the_config_map_says(made: Made, world: World) -> None:
    [reference] = [each["valueFrom"]["configMapKeyRef"] for each in container(made)["env"] if "valueFrom" in each]
    try:
        begin = timing.instant(loadtest(made, 2)["start_at"])
    except Fault as fault:
        raise AssertionError(fault) from None

    assert reference == {"name": "loadtest", "key": "start-at"}
    assert begin == timing.instant(START)


@law(
    LOADTEST,
    put(lambda made: container(made)["env"][0], value="grpc://scrutin:8001/digits"),
    put(lambda made: container(made)["env"][0], value="grpc://scrutin-grpc:8000/digits"),
    put(lambda made: container(made)["env"][0], value="grpc://scrutin-grpc:8001/flowers"),
)
def the_load_goes_to_the_service_for_grpc(made: Made, world: World) -> None:
    target = urlsplit(loadtest(made, 0)["url"])
    services = (KUBERNETES / "base" / "services.yaml").read_text()

    assert target.scheme == "grpc"
    assert f"metadata: {{name: {target.hostname}}}\nspec:\n  clusterIP: None" in services
    assert f"name: grpc, port: {target.port}," in services
    assert target.path == "/" + read(ROOT / "exported_models" / "digits").spec.name


@law(
    LOADTEST,
    put(job, backoffLimitPerIndex=3),
    put(job, backoffLimitPerIndex=None),
    put(lambda made: made.pods[0], restartPolicy="OnFailure"),
)
def a_shard_that_failed_does_not_begin_again(made: Made, world: World) -> None:
    """Nor does it end the others: that is what a limit for each of them is for."""
    assert job(made).get("backoffLimitPerIndex") == 0
    assert "backoffLimit" not in job(made)
    assert made.pods[0]["restartPolicy"] == "Never"


@law(
    LOADTEST,
    replace("|| test $? -eq 3 -o $? -eq 4", ""),
    replace("test $? -eq 3 -o $? -eq 4", "true"),
    replace("-eq 4", "-eq 137"),
)
def a_shard_with_a_result_is_done_whatever_it_found(made: Made, world: World) -> None:
    """loadtest ends with 3 where an objective was missed and with 4 where the run is not valid; the result is written all the same."""
    codes = {code: run_by(made, 0, code)[2] for code in (0, 1, 2, 3, 4, 137)}

    assert [code for code, found in codes.items() if found == 0] == [0, 3, 4]


@law(LOADTEST, replace("2> /dev/termination-log", ""), replace("--json", ""))
def the_log_is_the_result_and_faults_are_the_termination_message(made: Made, world: World) -> None:
    arguments, message, _ = run_by(made, 0)

    assert "--json" in arguments
    assert message == "wrong\n"


@law(LOADTEST, put(job, ttlSecondsAfterFinished=60), put(job, ttlSecondsAfterFinished=None))
def results_can_be_fetched_for_a_while_and_do_not_stay_for_ever(made: Made, world: World) -> None:
    assert 3600 <= job(made).get("ttlSecondsAfterFinished", 0) <= 7 * 86400


def runtime(made: Made) -> dict:
    return made.one("ServingRuntime")["spec"]


def predictor(made: Made) -> dict:
    return made.one("InferenceService")["spec"]["predictor"]


def server(made: Made) -> dict:
    return runtime(made)["containers"][0]


@law(
    KSERVE,
    lambda made: server(made)["args"].append("--workers=2"),
    put(lambda made: server(made)["ports"][0], containerPort=8000),
    put(lambda made: server(made)["livenessProbe"]["httpGet"], port=9000),
    lambda made: server(made)["args"].__setitem__(1, "/models"),
)
def the_runtime_serves_what_kserve_has_fetched_where_it_asks(made: Made, world: World) -> None:
    settings = parsed(tuple(server(made)["args"]))
    asked = {server(made)[f"{kind}Probe"]["httpGet"]["port"] for kind in ("startup", "readiness", "liveness")}

    assert [str(path) for path in settings.repositories] == ["/mnt/models"]
    assert settings.host == "0.0.0.0"
    assert {settings.http_port} == {port["containerPort"] for port in server(made)["ports"]} == asked


@law(
    KSERVE, put(lambda made: made.one("ServingRuntime")["spec"]["annotations"], **{"prometheus.kserve.io/port": "8000"})
)
def kserve_reads_the_metrics_where_they_are(made: Made, world: World) -> None:
    annotations = runtime(made)["annotations"]

    assert annotations["prometheus.kserve.io/port"] == str(parsed(tuple(server(made)["args"])).metrics_port)
    assert annotations["prometheus.kserve.io/path"] == "/metrics"


@law(
    KSERVE,
    put(lambda made: predictor(made)["model"], runtime="triton"),
    put(lambda made: predictor(made)["model"], protocolVersion="v1"),
    put(lambda made: predictor(made)["model"]["modelFormat"], version="2"),
)
def the_service_uses_the_runtime(made: Made, world: World) -> None:
    model, formats = predictor(made)["model"], runtime(made)["supportedModelFormats"]

    assert model["runtime"] == made.one("ServingRuntime")["metadata"]["name"]
    assert model["protocolVersion"] in runtime(made)["protocolVersions"]
    assert model["modelFormat"] in [{key: each[key] for key in ("name", "version")} for each in formats]


@law(KSERVE, put(predictor, terminationGracePeriodSeconds=20))
def a_pod_of_kserve_is_not_killed_before_it_has_drained(made: Made, world: World) -> None:
    settings = parsed(tuple(server(made)["args"]))
    needed = settings.drain_delay_seconds + settings.drain_timeout_seconds + FLUSH_SECONDS + SLACK_SECONDS

    assert needed <= predictor(made)["terminationGracePeriodSeconds"]


@law(
    KSERVE,
    put(lambda made: server(made)["securityContext"], seccompProfile=None),
    put(lambda made: server(made)["securityContext"], capabilities={}),
    put(lambda made: server(made)["securityContext"], runAsNonRoot=False),
    put(predictor, automountServiceAccountToken=True),
)
def a_pod_of_kserve_is_restricted_too(made: Made, world: World) -> None:
    assert server(made)["securityContext"] == {
        "runAsNonRoot": True, "runAsUser": 10001, "runAsGroup": 10001, "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
    }  # fmt: skip
    assert predictor(made).get("automountServiceAccountToken") is False


@law(
    KSERVE,
    put(lambda made: server(made)["startupProbe"]["httpGet"], path="/v2/health/live"),
    put(lambda made: server(made)["livenessProbe"]["httpGet"], path="/v2/health/ready"),
    put(lambda made: server(made)["startupProbe"], failureThreshold=3),
)
def a_pod_of_kserve_is_probed_like_ours(made: Made, world: World) -> None:
    paths = {kind: server(made)[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness", "liveness")}

    assert paths == {"startup": "/v2/health/ready", "readiness": "/v2/health/ready", "liveness": "/v2/health/live"}
    assert patience(server(made)["startupProbe"]) == 300
