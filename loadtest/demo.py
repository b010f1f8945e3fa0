"""`make demo`: serve the digits, compare full, early exit, cascade and the best member for 20 s, say what that shows, and stop."""

import contextlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import yaml

from loadtest.commands import DONE, INVALID

REPOSITORY = Path("exported_models/digits")
BIN = Path(sys.executable).parent
START_SECONDS = 60
ADDRESS = re.compile(r"^(grpc|metrics) +(\S+)", re.MULTILINE)


def best_member() -> str:
    """By the accuracy that its export was calibrated with."""
    members = yaml.safe_load((REPOSITORY / "ensemble.yaml").read_text())["members"]
    return str(max(members, key=lambda member: member["calibration"]["accuracy"])["name"])


@contextlib.contextmanager
def served(folder: Path) -> Iterator[dict[str, str]]:
    """The addresses of a server on free ports, which is stopped behind the block."""
    log = folder / "server.log"
    flags = [part for door in ("http", "grpc", "metrics") for part in (f"--{door}-port", "0")]
    with log.open("wb") as output:
        server = subprocess.Popen(
            [BIN / "serving", "run", str(REPOSITORY), *flags], stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while len(found := dict(ADDRESS.findall(log.read_text()))) < 2:
            if server.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"demo: the server did not become ready, see {log}")
            time.sleep(0.1)
        yield found
    finally:
        server.terminate()
        server.wait()


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="scrutin-demo-"))
    report = folder / "report"
    policies = ("full", "early_exit", "cascade", f"member:{best_member()}")
    with served(folder) as addresses:
        print(f"digits are served at {addresses['grpc']}; 200 requests/s for 20 s, shared by {', '.join(policies)}")
        command = [
            *(str(BIN / "loadtest"), "run", f"{addresses['grpc']}/digits", "--rate", "200", "--duration", "20s"),
            *(part for policy in policies for part in ("--policy", policy)),
            *("--data", str(REPOSITORY / "samples.npz"), "--prometheus", addresses["metrics"], "--out", str(report)),
        ]
        code = subprocess.call(command)
    print(f"the server is stopped; the report is {report / 'report.html'}")
    if code == INVALID:
        print(
            "Something else kept this machine busy, so do not rely on the latencies; what is right and what it costs hardly "
            f"depends on them. In a script, `loadtest run` ends with exit code {INVALID} then."
        )
    sys.exit(DONE if code == INVALID else code)


if __name__ == "__main__":
    main()
