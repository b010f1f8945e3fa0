"""What the numbers were measured on."""

import os
import platform
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.processes import ROOT
from benchmarks.triton import WHEEL

PACKAGES = ("numpy", "onnxruntime", "grpcio", "protobuf", "tritonclient", "pyvoy", "uvloop")


def cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "triton": WHEEL}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], check=False, cwd=ROOT, capture_output=True, text=True
    )
    return done.stdout.strip() or "none"


def describe(module: str = "benchmarks.run") -> dict[str, object]:
    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "versions": versions(),
        "commit": commit(),
        "command": shlex.join(["python", "-m", module, *sys.argv[1:]]),
    }


def text(described: dict[str, object]) -> str:
    found = versions()
    lines = [
        f"{described['cpu']}, {described['cores']} cores, kernel {described['kernel']}, commit {described['commit']}"
    ]
    lines.append(", ".join(f"{name} {number}" for name, number in found.items()))
    return "\n".join([*lines, f"$ {described['command']}"])
