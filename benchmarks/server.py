"""A server in a process of its own, pinned to one core, and how Scrutin becomes one."""

import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.processes import ROOT, free_port

READY_WITHIN_SECONDS = 90.0
STOPPED_WITHIN_SECONDS = 30.0


class Unavailable(Exception):
    """This server cannot be measured here; the message says why."""


@dataclass
class Ports:
    http: int = field(default_factory=free_port)
    grpc: int = field(default_factory=free_port)
    metrics: int = field(default_factory=free_port)


class Server:
    """Ready once made. `seconds_to_ready` counts from the start of the process."""

    def __init__(self, command: Sequence[str], ports: Ports, log: Path, env: Mapping[str, str] | None = None) -> None:
        self.ports, self.log = ports, log
        started = time.perf_counter()
        with log.open("w") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=output, env=env, cwd=ROOT)
        try:
            self.wait_until_ready(started + READY_WITHIN_SECONDS)
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise
        self.seconds_to_ready = time.perf_counter() - started

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_until_ready(self, deadline: float) -> None:
        while not self.is_ready():
            if self.process.poll() is not None or time.perf_counter() > deadline:
                raise Unavailable(
                    f"not ready, exit code {self.process.poll()}: {self.last_words()} ({self.log.relative_to(ROOT)})"
                )
            time.sleep(0.01)

    def is_ready(self) -> bool:
        url = f"http://127.0.0.1:{self.ports.http}/v2/health/ready"
        with suppress(OSError), urllib.request.urlopen(url, timeout=1) as reply:
            return bool(reply.status == 200)
        return False

    def last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "no output"

    def stop(self) -> int:
        """The exit code after SIGTERM; -9 where only SIGKILL helped."""
        self.process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            return self.process.wait(STOPPED_WITHIN_SECONDS)
        self.process.kill()
        return self.process.wait()


Start = Callable[[Path, str, Path], Server]  # of a repository, on these cores, with this log


def flags(ports: Ports) -> list[str]:
    given = {"--http-port": ports.http, "--grpc-port": ports.grpc, "--metrics-port": ports.metrics}
    return [str(word) for flag in given.items() for word in flag]


def scrutin(repository: Path, cores: str, log: Path, *more: str) -> Server:
    """`more`: words of the command, other repositories or flags."""
    ports, command = Ports(), Path(sys.executable).with_name("serving")
    if not command.exists():
        raise Unavailable(f"{command.name} is not installed beside {sys.executable}")
    return Server(["taskset", "-c", cores, str(command), "run", str(repository), *more, *flags(ports)], ports, log)


def scrutin_on_grpc_aio(repository: Path, cores: str, log: Path) -> Server:
    ports, module = Ports(), [sys.executable, "-m", "benchmarks.other_door"]
    return Server(["taskset", "-c", cores, *module, str(repository), *flags(ports)], ports, log)
