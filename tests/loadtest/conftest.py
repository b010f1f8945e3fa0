"""The real command, the scripted server, and the real server, each a process of its own."""

import contextlib
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
START_SECONDS = 60


@pytest.fixture(scope="session")
def loadtest():
    """`loadtest("run", url, rate=50)` runs the command to its end; a list gives an option several times."""

    def loadtest(*arguments: object, seconds: float = 120, **given: object) -> subprocess.CompletedProcess:
        return subprocess.run(
            command(*arguments, **given), capture_output=True, text=True, timeout=seconds, check=False
        )

    return loadtest


def command(*arguments: object, **given: object) -> list[str]:
    line = [str(BIN / "loadtest"), *map(str, arguments)]
    for name, value in given.items():
        option = "--" + name.replace("_", "-")
        for each in value if isinstance(value, list) else [value]:
            line += [option] if each is True else [option, str(each)]
    return line


def _interruptible() -> None:
    """As in a terminal; what a script starts in the background ignores interrupts, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def start_loadtest():
    """The same, under way."""

    def start(*arguments: object, **given: object) -> subprocess.Popen:
        return subprocess.Popen(
            command(*arguments, **given),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=_interruptible,
        )

    return start


@contextlib.contextmanager
def scripted_server(**script: object):
    """Its place, `127.0.0.1:PORT/scripted`, to put a scheme before."""
    flags = [str(part) for name, value in script.items() for part in ("--" + name, value)]
    with subprocess.Popen(
        [sys.executable, "-m", "loadtest.scripted", *flags], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        try:
            yield process.stdout.readline().strip().partition("://")[2]
        finally:
            process.terminate()


@pytest.fixture(scope="session")
def launch_scripted():
    """`with launch_scripted(freeze="1:2") as place`."""
    return scripted_server


@pytest.fixture(scope="session")
def scripted():
    """One that answers at once, for all tests that only ask."""
    with scripted_server() as place:
        yield place


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    """exported_models/digits on the real server: its addresses by `grpc`, `http` and `metrics`."""
    folder = tmp_path_factory.mktemp("served")
    out, err = folder / "out", folder / "err"
    flags = [part for name in ("http", "grpc", "metrics") for part in (f"--{name}-port", "0")]
    with out.open("wb") as stdout, err.open("wb") as stderr:
        process = subprocess.Popen(
            [BIN / "serving", "run", ROOT / "exported_models" / "digits", *flags], stdout=stdout, stderr=stderr
        )
    deadline = time.monotonic() + START_SECONDS
    while "metrics  http" not in out.read_text():
        assert process.poll() is None and time.monotonic() < deadline, out.read_text() + err.read_text()
        time.sleep(0.05)
    try:
        yield dict(re.findall(r"^(\w+) +\w+://([^/\n]+)", out.read_text(), re.MULTILINE))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
