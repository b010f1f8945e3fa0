"""A real Prometheus reads a real server under a real load: the rules give numbers, dashboards answer, and no alert fires."""

import contextlib
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
BOARDS = sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"))
SERVING = str(Path(sys.executable).with_name("serving"))

NEVER_HERE = {
    "instance:ensemble_ledger:ratio15m": "the server is no quarter of an hour old",
    "ensemble:ensemble_wasted_device_seconds:ratio1h": "nothing is wasted while all is well",
}
EMPTY_HERE = {"The bill over price x time", "Computed for nobody", "Refused under load"} | {
    "Shadows: answers that their vote would change"
}


@contextlib.contextmanager
def running(command: list[str], log: Path):
    """A process, ended by SIGTERM."""
    with log.open("wb") as out, subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.wait(60)


def until(true, log: Path, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"still not so after {seconds} s; the log says: {log.read_text()[-2000:]}"
        time.sleep(0.1)


def post(address: str, path: str, body: object) -> dict:
    url = f"http://{address}/v1/models/digits:{path}"
    with urllib.request.urlopen(url, json.dumps(body).encode(), timeout=30) as answer:
        return json.load(answer)


def ask_and_tell(address: str, samples, stop: threading.Event) -> None:
    """Ask under every policy until stopped, and tell of full answers what was true."""
    x, y = samples
    for row in range(10**9):
        if stop.wait(0.02):
            return
        row %= len(x)
        policy = ("full", "early_exit", "cascade", "member:mlp")[row % 4]
        answer = post(address, "predict", {"instances": x[row : row + 1].tolist(), "policy": policy})
        if policy == "full":
            post(address, "feedback", {"receipt": answer["receipt"], "labels": [str(y[row])]})
        elif row % 4 == 1:
            with contextlib.suppress(urllib.error.HTTPError):
                post(address, "predict", {"instances": []})


class Prometheus:
    def __init__(self, port: int, log: Path) -> None:
        self.address, self.log = f"http://127.0.0.1:{port}", log

    @property
    def listens(self) -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.address}/-/ready", timeout=5) as answer:
            return answer.status == 200
        return False

    def ask(self, query: str) -> list[float]:
        """The values of all series, those that are no numbers left out."""
        url = f"{self.address}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            found = [float(series["value"][1]) for series in json.load(answer)["data"]["result"]]
        return [value for value in found if math.isfinite(value)]


@pytest.fixture(scope="module")
def repository(digits, tmp_path_factory) -> Path:
    """All cheap answers are audited, since one in a hundred would be none in a short test."""
    copy = tmp_path_factory.mktemp("repository") / "digits"
    shutil.copytree(digits.path, copy)
    with (copy / "ensemble.yaml").open("a") as manifest:
        manifest.write("audit: {share: 1.0, budget: 10}\n")
    return copy


@pytest.fixture(scope="module")
def watched(repository, samples, tmp_path_factory):
    """Prometheus with the rules, that reads a server which is asked all the time."""
    if shutil.which("prometheus") is None and "CI" not in os.environ:
        pytest.skip("prometheus is not installed; on Debian it is a package")
    folder, stop = tmp_path_factory.mktemp("watched"), threading.Event()
    log = folder / "serving"
    ports = [word for kind in ("http", "grpc", "metrics") for word in (f"--{kind}-port", "0")]
    with running([SERVING, "run", str(repository), *ports], log) as server:
        until(lambda: "metrics  http" in log.read_text(), log)
        at = dict(re.findall(r"^(\w+) +\w+://([^/\n]+)", log.read_text(), re.MULTILINE))
        caller = threading.Thread(target=ask_and_tell, args=(at["http"], samples, stop))
        caller.start()
        server.send_signal(signal.SIGHUP)
        try:
            with prometheus(folder, at["metrics"]) as found:
                yield found
        finally:
            stop.set()
            caller.join()


@contextlib.contextmanager
def prometheus(folder: Path, target: str):
    """As it is shipped, but that it looks each second."""
    shipped = yaml.safe_load((PROMETHEUS / "prometheus.yaml").read_text())
    shipped["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    shipped["rule_files"] = [str(PROMETHEUS / "rules" / "*.yaml")]
    shipped["scrape_configs"][0]["static_configs"][0]["targets"] = [target]
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(shipped))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["prometheus", f"--config.file={folder / 'prometheus.yaml'}", f"--storage.tsdb.path={folder / 'data'}"]
    found = Prometheus(port, folder / "log")
    with running([*command, f"--web.listen-address=127.0.0.1:{port}"], found.log):
        until(lambda: found.listens, found.log)
        yield found


@pytest.mark.slow
def test_each_recording_rule_gives_numbers(watched: Prometheus, recorded) -> None:
    missing = recorded - NEVER_HERE.keys()
    until(lambda: not [name for name in missing if not watched.ask(name)], watched.log)

    assert watched.ask("instance:ensemble_members_in_rotation:sum") == [5]
    assert 0 < watched.ask("device:ensemble_device:utilisation5m")[0] < 1
    assert watched.ask("ensemble:ensemble_request_errors:ratio_rate5m") == [0], "what callers do wrong is not counted"


@pytest.mark.slow
@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.stem)
def test_each_query_of_a_dashboard_has_an_answer(watched: Prometheus, board: Path) -> None:
    for panel in json.loads(board.read_text())["panels"]:
        for target in panel.get("targets", []):
            query = target["expr"].replace("$job", ".*").replace("$ensemble", ".*")
            if panel["title"] not in EMPTY_HERE:
                until(lambda query=query: watched.ask(query), watched.log)


@pytest.mark.slow
def test_no_alert_fires_while_all_is_well(watched: Prometheus) -> None:
    until(lambda: watched.ask("count_over_time(up[1m]) > 10"), watched.log)

    assert watched.ask('ALERTS{alertstate="firing"}') == []
    assert watched.ask("up") == [1]
