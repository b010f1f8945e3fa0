"""What cannot be done is told in one line, with the right exit code, before any load."""

import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from loadtest import cli


@pytest.fixture
def loadtest(monkeypatch, capsys):
    """The command in this process, which many short ones are quicker in."""

    def loadtest(*arguments: object, **given: object) -> subprocess.CompletedProcess:
        line = ["loadtest", *map(str, arguments)]
        for name, value in given.items():
            for each in value if isinstance(value, list) else [value]:
                line += [f"--{name.replace('_', '-')}", *([] if each is True else [str(each)])]
        monkeypatch.setattr(sys, "argv", line)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return subprocess.CompletedProcess(line, ended.value.code or 0, said.out, said.err)

    return loadtest


def refused(done, code: int, *words: str) -> None:
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("loadtest: ") and done.stderr.count("\n") == 1, done.stderr
    for word in words:
        assert word in done.stderr


@pytest.fixture(scope="module")
def silent():
    """A port that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("scheme", ["grpc", "oip+grpc", "http", "oip+http"])
def test_a_target_that_is_not_there(loadtest, scheme) -> None:
    refused(loadtest("run", f"{scheme}://127.0.0.1:1/digits"), 1, f"{scheme}://127.0.0.1:1", "expected a")


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_a_target_that_says_nothing(loadtest, silent, scheme) -> None:
    refused(loadtest("run", f"{scheme}://{silent}/digits"), 1, "within 5 s")


def test_a_target_that_speaks_another_protocol(loadtest, served) -> None:
    refused(loadtest("run", f"grpc://{served['metrics']}/digits"), 1, "expected")
    refused(loadtest("run", f"http://{served['metrics']}/digits"), 1, "found 404", "expected 200")


@pytest.mark.parametrize("scheme", ["grpc", "oip+grpc", "http", "oip+http"])
def test_an_ensemble_that_is_not_served(loadtest, served, scheme) -> None:
    place = served["grpc" if "grpc" in scheme else "http"]
    refused(loadtest("run", f"{scheme}://{place}/flowers"), 1, "flowers")


def test_a_policy_that_is_not_there(loadtest, served) -> None:
    refused(loadtest("run", f"grpc://{served['grpc']}/digits", policy="quick"), 2, "'quick'", "early_exit")
    refused(loadtest("run", f"oip+grpc://{served['grpc']}/digits", policy="quick"), 1, "INVALID_ARGUMENT", "early_exit")


def write(path, **arrays):
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": np.zeros((4, 7, 7), np.uint8)}, ["uint8 [4, 7, 7]", "expected UINT8 [rows, 8, 8]"]),
        ({"x": np.zeros((4, 8, 8), np.float32)}, ["float32", "expected UINT8"]),
        ({"x": np.zeros((0, 8, 8), np.uint8)}, ["[0, 8, 8]"]),
        ({"x": np.zeros((4, 8, 8), np.uint8), "y": np.zeros(3, np.int64)}, ["found y int64 [3]", "[4]"]),
        ({"x": np.zeros((4, 8, 8), np.uint8), "y": np.full(4, 10)}, ["found classes from 10 to 10", "0 to 9"]),
        ({"x": np.zeros((4, 8, 8), np.uint8), "y": np.zeros(4)}, ["float64"]),
        ({"images": np.zeros((4, 8, 8), np.uint8)}, ["found no x"]),
    ],
)
def test_data_that_does_not_fit(loadtest, served, tmp_path, arrays, words) -> None:
    file = write(tmp_path / "data.npz", **arrays)
    refused(loadtest("run", f"grpc://{served['grpc']}/digits", data=file), 2, str(file), *words)


def test_data_that_is_none(loadtest, served, tmp_path) -> None:
    text = tmp_path / "data.npz"
    text.write_text("x,y\n1,2\n")
    refused(loadtest("run", f"grpc://{served['grpc']}/digits", data=text), 2, str(text), "expected an .npz")
    refused(loadtest("run", f"grpc://{served['grpc']}/digits", data=tmp_path / "no.npz"), 2, "No such file")


def test_more_rows_than_a_request_may_have(loadtest, served) -> None:
    refused(loadtest("run", f"grpc://{served['grpc']}/digits", rows=65), 2, "found 65", "at most 64")


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("slo", "p99<50", ["character 7", "duration"]),
        ("slo", "speed<1", ["character 1", "'speed<1'", "p99.9"]),
        ("rate", 0, ["--rate", "above 0"]),
        ("rate", "nan", ["--rate", "above 0"]),
        ("rate", 1e12, ["requests"]),
        ("duration", "10 parsecs", ["--duration", "'10 parsecs'"]),
        ("duration", "0s", ["--duration", "at least"]),
        ("warm-up", "-1s", ["--warm-up"]),
        ("arrivals", "uniform", ["'uniform'", "poisson"]),
        ("burstiness", -1, ["--burstiness"]),
        ("stages", "10-x:30s", ["--stages", "'10-x:30s'"]),
        ("trace", "/no/such/file", ["/no/such/file"]),
        ("shard", "0/3", ["--shard", "'0/3'"]),
        ("shard", "4/3", ["--shard", "'4/3'"]),
        ("shard", "one", ["--shard", "'one'"]),
        ("start-at", "noon", ["--start-at", "'noon'"]),
        ("start-at", 1, ["--start-at", "too early"]),
        ("tensors", "xml", ["--tensors", "'xml'"]),
        ("deadline", "0s", ["--deadline"]),
        ("concurrency", 0, ["--concurrency"]),
        ("workers", 0, ["--workers"]),
        ("rows", 0, ["--rows"]),
        ("key", "key.pem", ["--key", "--cert"]),
    ],
)
def test_options_out_of_range(loadtest, scripted, option, value, words) -> None:
    refused(loadtest("run", f"grpc://{scripted}", f"--{option}={value}"), 2, *words)


def test_two_ways_to_say_when(loadtest, scripted) -> None:
    refused(loadtest("run", f"grpc://{scripted}", rate=5, concurrency=3), 2, "--rate and --concurrency", "expected one")


def test_a_policy_named_twice(loadtest, scripted) -> None:
    refused(loadtest("run", f"grpc://{scripted}", policy=["full", "full"]), 2, "full twice")


def test_a_stream_over_a_protocol_without_one(loadtest, scripted) -> None:
    refused(loadtest("run", f"oip+grpc://{scripted}", stream=True), 2, "--stream", "grpc://")


def test_a_url_that_is_none(loadtest) -> None:
    refused(loadtest("run", "localhost:8001/digits"), 2, "'localhost:8001/digits'", "expected grpc://")


def test_an_output_folder_that_is_in_use(loadtest, scripted, tmp_path) -> None:
    (tmp_path / "results.json").write_text("{}")
    refused(loadtest("run", f"grpc://{scripted}", out=tmp_path), 2, str(tmp_path), "not there yet")


def test_an_output_folder_that_cannot_be_made(loadtest, scripted, tmp_path) -> None:
    (tmp_path / "file").touch()
    refused(loadtest("run", f"grpc://{scripted}", out=tmp_path / "file" / "out"), 2, "expected a folder to write to")


def test_metrics_that_are_not_there(loadtest, served) -> None:
    done = loadtest("run", f"grpc://{served['grpc']}/digits", prometheus=f"http://{served['http']}/nothing")
    refused(done, 1, "--prometheus", "Prometheus text format")


def test_certificates_that_are_none(loadtest, scripted, tmp_path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    refused(loadtest("run", f"grpcs://{scripted}", ca=tmp_path / "ca.pem"), 1, "TLS")


def test_a_start_that_shards_cannot_reach(loadtest, scripted) -> None:
    refused(loadtest("run", f"grpc://{scripted}", shard="1/2", start_at=time.time() - 5, duration="1s"), 2, "too early")


def test_a_capacity_without_an_objective(loadtest, scripted) -> None:
    refused(loadtest("capacity", f"grpc://{scripted}"), 2, "--slo", "at least one")
