"""From the command line to the exit code: what starts, what does not and says why, and how it ends."""

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.grpc import service_pb2 as oip
from tritonclient.grpc import service_pb2_grpc as oip_grpc

from ensembles.samples import write_npz
from scrutin.v1 import ensemble_pb2 as pb

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def request(ensemble: str, **more: object) -> pb.PredictRequest:
    data = np.float32([1, 0, 0, 0]).tobytes()
    return pb.PredictRequest(ensemble=ensemble, tensor=pb.Tensor(datatype="FP32", shape=[1, 4], data=data), **more)


def digit(rows, **more: object) -> pb.PredictRequest:
    tensor = pb.Tensor(datatype="UINT8", shape=rows.shape, data=rows.tobytes())
    return pb.PredictRequest(ensemble="digits", tensor=tensor, **more)


def code(call) -> str:
    try:
        call()
    except grpc.RpcError as error:
        return error.code().name
    return "OK"


def check_one_line(text: str) -> None:
    assert text.count("\n") == 1 and text.endswith("\n"), text
    assert text.startswith("serving: ")
    assert "Traceback" not in text


# It starts.


def test_the_addresses_are_printed_as_one_line_each(server):
    first, *addresses = server.out.read_text().splitlines()

    assert first.startswith("scrutin ") and "digits 1" in first and "mlp on cpu" in first
    assert [line.split() for line in addresses] == [
        ["grpc", f"grpc://{server.grpc}"],
        ["http", f"http://{server.http}"],
        ["metrics", f"http://{server.metrics}/metrics"],
    ]


def test_the_server_is_one_process(server):
    assert psutil.Process(server.pid).children(recursive=True) == []


def test_several_repositories_in_one_server(launch, digits, write_tiny):
    with launch(digits.path, write_tiny("one", ["a"]), write_tiny("two", ["a", "b"])) as server:
        with server.stub() as stub:
            named = [ensemble.name for ensemble in stub.ListEnsembles(pb.ListEnsemblesRequest()).ensembles]
            answers = [list(stub.Predict(request(name)).label) for name in ("one", "two", "two.b")]
        models = [model["name"] for model in server.get("/v2/models/stats").json["model_stats"]]

        assert named == ["digits", "one", "two"]
        assert answers == [["no"]] * 3
        assert models[-5:] == ["one", "one.a", "two", "two.a", "two.b"]
        assert [line.split()[3] for line in server.out.read_text().splitlines()[:3]] == ["digits", "one", "two"]
        assert server.metric("ensemble_info") == 3


STARTER = """
import pathlib, subprocess, sys, time
log = pathlib.Path(sys.argv[1])
server = subprocess.Popen(sys.argv[2:], stdout=log.open("wb"), stderr=subprocess.STDOUT)
while b"metrics" not in log.read_bytes() and server.poll() is None:
    time.sleep(0.05)
print(server.pid)
"""


def test_a_server_outlives_whoever_started_it(digits, free_ports, tmp_path):
    """A shell that runs it in the background and ends, `nohup`, `docker exec --detach`."""
    flags = [f"--{key.replace('_', '-')}={port}" for key, port in free_ports.items()]
    command = [str(Path(sys.executable).with_name("serving")), "run", str(digits.path), *flags]
    log = tmp_path / "log"
    starter = subprocess.run([sys.executable, "-c", STARTER, str(log), *command], capture_output=True, check=True)
    server = psutil.Process(int(starter.stdout))
    try:
        time.sleep(1)

        assert "draining" not in log.read_text()
        assert server.is_running() and server.status() != psutil.STATUS_ZOMBIE
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            server.terminate()
            server.wait(30)


# It does not start, and says why.


@pytest.fixture
def copied(digits, tmp_path):
    """A copy of the digits to spoil."""
    return shutil.copytree(digits.path, tmp_path / "digits")


@pytest.mark.parametrize("port", ["http_port", "grpc_port", "metrics_port"])
def test_a_port_that_is_taken(serving, digits, free_ports, port):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_ports[port]))
        taken.listen()
        flags = [f"--{key.replace('_', '-')}={number}" for key, number in free_ports.items()]
        done = serving("run", digits.path, *flags)

    assert done.returncode == 1
    check_one_line(done.stderr)
    assert f"127.0.0.1:{free_ports[port]}" in done.stderr and "in use" in done.stderr


def test_one_port_for_two_things(serving, digits, free_ports):
    port = free_ports["http_port"]
    done = serving("run", digits.path, f"--http-port={port}", f"--grpc-port={port}", "--metrics-port=0", seconds=10)

    assert done.returncode in (1, 2)
    check_one_line(done.stderr)
    assert str(port) in done.stderr


def test_a_second_server_on_the_ports_of_a_running_one(server, serving, digits):
    ports = {"http": server.http, "grpc": server.grpc, "metrics": server.metrics}
    flags = [f"--{name}-port={address.rsplit(':', 1)[1]}" for name, address in ports.items()]
    done = serving("run", digits.path, *flags)

    assert done.returncode == 1
    check_one_line(done.stderr)
    assert server.get("/v2/health/ready").status == 200


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def edited(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


CORRUPT = {
    "a model of other bytes": (lambda path: flipped(path / "cnn/1/model.onnx"), ["cnn/1/model.onnx", "sha256"]),
    "a model that is missing": (lambda path: (path / "cnn/1/model.onnx").unlink(), ["cnn/1/model.onnx"]),
    "no manifest": (lambda path: (path / "ensemble.yaml").unlink(), ["ensemble.yaml"]),
    "a manifest that is no YAML": (lambda path: (path / "ensemble.yaml").write_text("name: [digits"), ["ensemble.yaml"]),
    "an unknown key": (
        lambda path: edited(path / "ensemble.yaml", "version: 1", "version: 1\nspeed: 2"),
        ["ensemble.yaml", "speed"],
    ),
    "a class too few": (lambda path: edited(path / "ensemble.yaml", ", '9'", ""), ["model.onnx", "10", "9"]),
    "no samples": (lambda path: (path / "samples.npz").unlink(), ["samples.npz"]),
    "samples that are cut off": (lambda path: os.truncate(path / "samples.npz", 1000), ["samples.npz"]),
    "nothing there": (shutil.rmtree, ["digits", "nothing"]),
}  # fmt: skip


@pytest.mark.parametrize("case", CORRUPT)
def test_a_corrupt_repository_is_not_served_and_not_passed_by_check(serving, copied, free_ports, case):
    spoil, words = CORRUPT[case]
    spoil(copied)
    flags = [f"--{key.replace('_', '-')}={port}" for key, port in free_ports.items()]
    ran, checked = serving("run", copied, *flags), serving("check", copied)

    assert (ran.returncode, checked.returncode) == (1, 1)
    assert ran.stderr == checked.stderr
    check_one_line(ran.stderr)
    assert all(word in ran.stderr for word in words), ran.stderr
    for port in free_ports.values():
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_two_ensembles_of_one_name(serving, digits, copied):
    done = serving("run", digits.path, copied, "--http-port=0", "--grpc-port=0", "--metrics-port=0")

    assert done.returncode == 1
    check_one_line(done.stderr)
    assert "'digits'" in done.stderr


@pytest.mark.parametrize(
    "flags",
    [
        ["--http-port=99999"],
        ["--metrics-port=-1"],
        ["--price-per-hour=-1"],
        ["--price-per-hour=nan"],
        ["--drain-delay-seconds=-1"],
        ["--config=nowhere.yaml"],
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_wrong_usage(serving, digits, flags):
    done = serving("run", digits.path, *flags)

    assert done.returncode == 2
    check_one_line(done.stderr)


@pytest.mark.parametrize(
    "arguments", [["run", "--nonsense"], ["run", "--http-port=no"], ["run"], ["check"], ["nonsense"]], ids=str
)
def test_flags_that_do_not_exist_are_wrong_usage(serving, arguments):
    done = serving(*arguments)

    assert done.returncode == 2
    assert done.stdout == "" and done.stderr
    assert "Traceback" not in done.stderr


def test_a_host_that_is_no_address(serving, digits):
    done = serving("run", digits.path, "--host=nowhere.invalid", "--http-port=0", "--grpc-port=0", "--metrics-port=0")

    assert done.returncode in (1, 2)
    check_one_line(done.stderr)
    assert "nowhere.invalid" in done.stderr


# It starts, and is not fit for traffic.


@pytest.fixture
def mislabelled(copied, digits):
    """Samples whose labels are all one off."""
    x, y = digits.samples()
    write_npz(copied / "samples.npz", x, (y + 1) % 10)
    return copied


def test_an_ensemble_that_fails_its_replay_stays_out_while_the_others_serve(
    launch, mislabelled, write_tiny, free_ports
):
    with launch(mislabelled, write_tiny("fit", ["a"]), ready=False, ends_with=1, **free_ports) as server:
        server.at(free_ports)
        server.until(lambda: "not ready: " in server.log, seconds=60)
        server.until(lambda: server.get("/v2/models/fit/ready").status == 200, seconds=60)

        (line,) = [line for line in server.log.splitlines() if "not ready: " in line]
        assert "digits: member mlp: wrong labels: right on" in line and "expected about its calibration's" in line
        assert "metrics" not in server.out.read_text()

        assert server.get("/v2/health/live").json == {"live": True}
        assert server.get("/v2/health/ready").json == {"ready": False}
        assert server.get("/v2/health/ready").status == 503
        assert server.get("/v2/models/digits/ready").status == 503
        refused = server.post("/v1/models/digits:predict", {"instances": [np.zeros((8, 8), int).tolist()]})
        assert refused.status == 503
        assert "wrong labels" in refused.json["error"] and "/" not in refused.json["error"]
        assert server.get("/v1/models/digits").json["ready"] is False

        with server.stub() as stub, grpc.insecure_channel(server.grpc) as channel:
            assert code(lambda: stub.Predict(digit(np.zeros((1, 8, 8), np.uint8)))) == "UNAVAILABLE"
            assert list(stub.Predict(request("fit")).label) == ["no"]
            check = health_pb2_grpc.HealthStub(channel).Check
            statuses = [check(health_pb2.HealthCheckRequest(service=name)).status for name in ("", "digits", "fit")]
            assert statuses == [NOT_SERVING, NOT_SERVING, SERVING]
            triton = oip_grpc.GRPCInferenceServiceStub(channel)
            assert triton.ServerLive(oip.ServerLiveRequest()).live is True
            assert triton.ServerReady(oip.ServerReadyRequest()).ready is False
            assert triton.ModelReady(oip.ModelReadyRequest(name="digits")).ready is False
            assert triton.ModelReady(oip.ModelReadyRequest(name="fit")).ready is True
        server.stop()
        assert server.log.splitlines()[-1] == line.replace("not ready", "never ready").replace(
            "serving.catalog", "serving"
        )


def test_while_it_loads_a_server_is_live_and_not_ready(launch_scripted, write_tiny, free_ports, tmp_path):
    gate = tmp_path / "gate"  # not there, so that the replay waits
    script = {"loading": {"gate": str(gate)}}
    with launch_scripted(script, write_tiny("loading", ["a"]), ready=False, **free_ports) as server:
        server.at(free_ports)
        server.until(lambda: server.listening(server.http), seconds=60)

        assert server.get("/v2/health/live").status == 200
        assert server.get("/v2/health/ready").status == 503
        with server.stub() as stub:
            assert code(lambda: stub.Predict(request("loading"))) == "UNAVAILABLE"
        assert "loading is not ready: loading" in server.post("/v1/models/loading:predict", {"instances": [[1, 0, 0, 0]]}).json["error"]  # fmt: skip
        gate.touch()
        server.wait()

        assert server.get("/v2/health/ready").status == 200


def test_sigterm_while_it_loads_ends_it(launch_scripted, write_tiny, free_ports, tmp_path):
    script = {"loading": {"gate": str(tmp_path / "gate")}}
    with launch_scripted(script, write_tiny("loading", ["a"]), ready=False, **free_ports) as server:
        server.at(free_ports)
        server.until(lambda: server.listening(server.http), seconds=60)

        assert server.stop() == 0


# `serving check`


def test_check_passes_what_is_sound(serving, digits, write_tiny):
    tiny = write_tiny("tiny", ["a", "b"])
    done = serving("check", digits.path, tiny)

    assert done.returncode == 0
    assert done.stdout.splitlines() == [f"{digits.path}: ok", f"{tiny}: ok"]
    assert done.stderr == ""


def test_check_passes_a_stale_certificate_with_a_warning(serving, digits, tmp_path):
    copy = shutil.copytree(digits.path, tmp_path / "digits")
    manifest = copy / "ensemble.yaml"
    manifest.write_text(manifest.read_text().replace("exit: {margin: 0.91", "exit: {margin: 0.81"))
    done = serving("check", copy)

    assert done.returncode == 0
    assert done.stderr == (
        f"serving: {copy}: policies.cascade: its certificate was made for another manifest; run `ensembles plan`\n"
    )


def test_check_says_one_line_a_fault_and_goes_on(serving, digits, mislabelled, tmp_path):
    done = serving("check", mislabelled, tmp_path / "nowhere", digits.path)

    assert done.returncode == 1
    first, second = done.stderr.splitlines()
    assert first.startswith("serving: digits: member mlp: wrong labels: right on")
    assert "nowhere" in second
    assert done.stdout == f"{digits.path}: ok\n"


def test_check_for_machines(serving, digits, mislabelled):
    done = serving("check", "--json", digits.path, mislabelled)
    good, bad = json.loads(done.stdout)

    assert done.returncode == 1
    assert good == {"repository": str(digits.path), "ok": True, "fault": None, "warnings": []}
    assert (bad["repository"], bad["ok"]) == (str(mislabelled), False)
    assert bad["fault"].startswith("digits: member mlp: wrong labels")


# It ends.


@pytest.fixture
def held(launch_scripted, write_tiny, tmp_path):
    """`with held(drain_delay_seconds=2) as (server, gate)`: `slow` runs only while the gate is there, `quick` at once."""

    @contextlib.contextmanager
    def held(**settings: object):
        gate = tmp_path / "gate"
        gate.touch()
        limits = {"timeout_ms": 60_000, "max_batch_size": 1}
        repositories = [write_tiny("slow", ["a"], limits=limits), write_tiny("quick", ["a"])]
        with launch_scripted({"slow": {"gate": str(gate)}}, *repositories, **settings) as server:
            gate.unlink()
            yield server, gate

    return held


def test_on_sigterm_readiness_goes_first_then_new_requests_then_the_process(held):
    with held(drain_delay_seconds=3) as (server, gate), server.stub() as stub, grpc.insecure_channel(server.grpc) as ch:
        health, triton = health_pb2_grpc.HealthStub(ch), oip_grpc.GRPCInferenceServiceStub(ch)
        watched = health.Watch(health_pb2.HealthCheckRequest(service=""))
        assert next(watched).status == SERVING
        admitted = [stub.Predict.future(request("slow")) for _ in range(3)]
        server.until(lambda: server.metric("ensemble_in_flight_requests", ensemble="slow") == 3)
        server.signal()

        # Readiness is gone, and requests are still taken.
        server.until(lambda: server.get("/v2/health/ready").status == 503)
        assert server.get("/v2/health/live").status == 200
        assert triton.ServerReady(oip.ServerReadyRequest()).ready is False
        assert health.Check(health_pb2.HealthCheckRequest(service="quick")).status == NOT_SERVING
        assert next(watched).status == NOT_SERVING
        assert list(stub.Predict(request("quick")).label) == ["no"]
        assert server.post("/v1/models/quick:predict", {"instances": [[1, 0, 0, 0]]}).status == 200
        admitted.append(stub.Predict.future(request("slow")))

        # New ones are refused, and the process stays for those that were admitted. A second signal changes nothing.
        server.until(lambda: code(lambda: stub.Predict(request("quick"))) == "UNAVAILABLE")
        server.signal()
        assert server.post("/v1/models/quick:predict", {"instances": [[1, 0, 0, 0]]}).status == 503
        assert "draining" in server.post("/v1/models/quick:predict", {"instances": [[1, 0, 0, 0]]}).json["error"]
        assert server.process.poll() is None
        assert not any(call.done() for call in admitted)

        gate.touch()
        assert [list(call.result(30).label) for call in admitted] == [["no"]] * 4
        watched.cancel()
        assert server.ended() == 0
        assert "0 requests unanswered" in server.log


def test_a_watcher_hears_of_the_end_also_where_another_one_has_left(held):
    with held(drain_delay_seconds=2) as (server, gate), grpc.insecure_channel(server.grpc) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch
        leaves, stays = (watch(health_pb2.HealthCheckRequest(service="quick"), timeout=20) for _ in range(2))
        assert next(leaves).status == next(stays).status == SERVING
        leaves.cancel()
        time.sleep(0.5)
        server.signal()
        heard = []
        with contextlib.suppress(grpc.RpcError):  # at the end of the process
            heard.extend(answer.status for answer in stays)

        assert NOT_SERVING in heard


def test_who_is_not_done_in_time_is_cut_off(held):
    with held(drain_timeout_seconds=0.5) as (server, _), server.stub() as stub:
        call = stub.Predict.future(request("slow"))
        server.until(lambda: server.metric("ensemble_in_flight_requests", ensemble="slow") == 1)
        server.signal()

        assert code(call.result) == "UNAVAILABLE"
        assert server.ended() == 0
        assert "1 requests unanswered" in server.log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_under_load_every_request_is_answered_or_refused(launch, digits, samples, expected, number):
    """Over gRPC, on a stream and over HTTP, while the signal comes."""
    wrong: list[object] = []
    answered = {"grpc": 0, "stream": 0, "http": 0}

    def over_grpc() -> None:
        with server.stub() as stub:
            while True:
                try:
                    label = stub.Predict(digit(samples[0][:1])).label_index[0]
                except grpc.RpcError as error:
                    if error.code() is not grpc.StatusCode.UNAVAILABLE:
                        wrong.append(error)
                    return
                answered["grpc"] += 1
                if label != expected.label_index[0]:
                    wrong.append(label)

    def on_a_stream() -> None:
        ended = threading.Event()

        def asked():
            while not ended.is_set():
                yield digit(samples[0][:1])
                time.sleep(0.001)

        with server.stub() as stub:
            try:
                for answer in stub.PredictStream(asked()):
                    if answer.error.code == grpc.StatusCode.UNAVAILABLE.value[0]:
                        ended.set()
                    elif answer.label_index != expected.label_index[:1].tolist():
                        wrong.append(answer)
                    else:
                        answered["stream"] += 1
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    wrong.append(error)
            ended.set()

    def over_http() -> None:
        body = {"instances": samples[0][:1].tolist()}
        while True:
            try:
                reply = server.post("/v1/models/digits:predict", body)
            except (OSError, http.client.HTTPException):
                return
            if reply.status == 503:
                return
            if reply.status != 200 or reply.json["predictions"][0]["label"] != str(expected.label_index[0]):
                wrong.append(reply)
            answered["http"] += 1

    with launch(digits.path) as server:
        threads = [threading.Thread(target=target) for target in (over_grpc, on_a_stream, over_http) * 2]
        for thread in threads:
            thread.start()
        server.until(lambda: min(answered.values()) > 20, seconds=30)
        server.signal(number)
        status = server.ended()
        for thread in threads:
            thread.join(30)

        assert status == 0
        assert not wrong
        assert "stopped: 0 requests unanswered" in server.log
        assert "ERROR" not in server.log and "Traceback" not in server.log


def test_no_process_and_no_port_is_left_behind(launch, digits):
    with launch(digits.path) as server:
        addresses = (server.grpc, server.http, server.metrics)
        server.stop()

        assert not any(server.listening(address) for address in addresses)
        assert not [process for process in psutil.process_iter(["ppid"]) if process.info["ppid"] == server.pid]


def test_no_shared_memory_is_left_behind(launch, digits):
    with launch(digits.path) as server:
        maps = Path(f"/proc/{server.pid}/maps").read_text()
        shared = {word for word in maps.split() if word.startswith("/dev/shm/")}
        server.stop()

    assert not [path for path in shared if Path(path).exists()]


# What it cost.


def test_the_law_of_the_ledger_under_mixed_load(launch, digits, samples):
    """What was attributed and what was idle add up to the price of the time: here one USD a second."""

    def over_grpc() -> None:
        with server.stub() as stub:
            for turn in range(300):
                stub.Predict(digit(samples[0][: 1 + turn % 64], policy="member:mlp" if turn % 3 else "full"))

    def on_a_stream() -> None:
        with server.stub() as stub:
            answers = stub.PredictStream(digit(samples[0][turn % 600][None]) for turn in range(600))
            assert sum(1 for _ in answers) == 600

    def over_http() -> None:
        for turn in range(100):
            server.post("/v1/models/digits:predict", {"instances": samples[0][:turn].tolist()})

    with launch(digits.path, price_per_hour=3600) as server:
        before = server.bill()
        threads = [threading.Thread(target=target) for target in (over_grpc, on_a_stream, over_http)]
        for thread in threads:
            thread.start()
            time.sleep(0.2)
        for thread in threads:
            thread.join()
        time.sleep(max(0.0, before.told + 3 - time.perf_counter()))
        after = server.bill()
        busy = server.metric("ensemble_cost_usd_total", ensemble="digits")

    assert after.adds_up(before, usd_per_second=1.0)
    assert 0 < busy < after.usd - before.usd


@pytest.fixture(scope="module")
def priced(launch_scripted, write_tiny):
    repositories = [
        write_tiny("pair", ["a", "b"], limits={"timeout_ms": 20_000}),
        write_tiny("apart", ["a", "b"], limits={"timeout_ms": 20_000}),
        write_tiny("failing", ["a", "b"], limits={"timeout_ms": 20_000}),
    ]
    script = {
        "pair": {"a": [{"delay": 0.5}], "b": [{"delay": 0.5}], "devices": {"a": "cuda:0", "b": "cuda:0"}},
        "apart": {"a": [{"delay": 0.5}], "b": [{"delay": 0.5}], "devices": {"b": "cuda:0"}},
        "failing": {"a": [{"delay": 0.5, "fault": "no"}], "b": [{"delay": 0.5}]},
    }
    with launch_scripted(script, *repositories, price_per_hour=3600) as server:
        yield server


def test_members_that_run_at_once_share_the_time_of_their_device(priced):
    with priced.stub() as stub:
        answer = stub.Predict(request("pair"))

    assert [member.seconds for member in answer.members] == pytest.approx([0.5, 0.5], abs=0.2)
    longest, both = (add(member.seconds for member in answer.members) for add in (max, sum))
    assert 0.99 * longest <= answer.device_seconds < 0.75 * both
    assert answer.cost_usd == pytest.approx(answer.device_seconds)


def test_members_on_different_devices_cost_both(priced):
    with priced.stub() as stub:
        answer = stub.Predict(request("apart"))

    assert answer.device_seconds == pytest.approx(sum(member.seconds for member in answer.members), rel=0.1)


@pytest.mark.parametrize("ensemble", ["pair", "apart", "failing"])
def test_the_law_of_the_ledger_for_slow_members_for_two_devices_and_for_failures(priced, ensemble):
    before = priced.bill()
    with priced.stub() as stub:
        calls = [stub.Predict.future(request(ensemble)) for _ in range(3)]
        assert [code(call.result) for call in calls] == ["OK"] * 3

    assert priced.bill().adds_up(before, usd_per_second=2.0), "two devices at one USD a second"


def test_the_law_of_the_ledger_holds_in_the_middle_of_a_run(priced):
    with priced.stub() as stub:
        before = priced.bill()
        call = stub.Predict.future(request("pair"))
        time.sleep(0.4)
        after = priced.bill()
        call.result()

    assert after.adds_up(before, usd_per_second=2.0)
