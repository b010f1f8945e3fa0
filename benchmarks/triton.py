"""NVIDIA Triton, as the nvidia-pytriton wheel brings it: one python-backend model that holds the three sessions."""

import os
import shutil
import subprocess
import sys
import sysconfig
from functools import cache
from pathlib import Path

import onnxruntime

from benchmarks.ensemble import CLASSES, INPUT, MAX_BATCH, MEMBERS, NAME, SHAPE
from benchmarks.processes import ROOT
from benchmarks.server import Ports, Server, Unavailable

WHEEL = "nvidia-pytriton==0.7.0"
HOME = ROOT / ".bench" / "triton"
PYTHON = HOME / "venv" / "bin" / "python"
SITE = HOME / "venv" / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
BUNDLED = SITE / "pytriton" / "tritonserver"
CONFIG = f"""
name: "{NAME}"
backend: "python"
max_batch_size: {MAX_BATCH}
input [{{name: "{INPUT}" data_type: TYPE_FP32 dims: {list(SHAPE)}}}]
output [
  {{name: "label_index" data_type: TYPE_INT64 dims: [1] reshape: {{shape: []}}}},
  {{name: "probabilities" data_type: TYPE_FP32 dims: [{CLASSES}]}},
  {{name: "votes" data_type: TYPE_INT64 dims: [{len(MEMBERS)}]}}
]
dynamic_batching {{}}
instance_group [{{kind: KIND_CPU count: 1}}]
"""


@cache
def install() -> None:
    """Once a machine: its own environment, because the wheel wants an older numpy than Scrutin's."""
    finished = HOME / f"{WHEEL}-onnxruntime-{onnxruntime.__version__}"
    if finished.exists():
        return
    shutil.rmtree(HOME, ignore_errors=True)
    commands = [
        [sys.executable, "-m", "venv", str(PYTHON.parent.parent)],
        [str(PYTHON), "-m", "pip", "install", "--quiet", WHEEL, f"onnxruntime=={onnxruntime.__version__}"],
    ]
    for command in commands:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            reasons = [line for line in done.stderr.splitlines() if "ERROR" in line]
            raise Unavailable(f"{WHEEL} could not be installed: {' '.join(reasons[-1:])}")
    finished.touch()


def write_backend(backends: Path) -> None:
    """The python backend wants the stub of this Python's version beside it."""
    stub = (
        BUNDLED
        / "python_backend_stubs"
        / f"{sys.version_info.major}.{sys.version_info.minor}"
        / "triton_python_backend_stub"
    )
    shutil.copytree(BUNDLED / "backends", backends, dirs_exist_ok=True)
    shutil.copy2(stub, backends / "python")


def write_model(models: Path) -> None:
    code = models / NAME / "1"
    code.mkdir(parents=True, exist_ok=True)
    shutil.copy2(Path(__file__).with_name("triton_model.py"), code / "model.py")
    (models / NAME / "config.pbtxt").write_text(CONFIG)


def environment() -> dict[str, str]:
    # the stub runs the Python that comes first in PATH; copied, it no longer finds the libraries of its wheel by itself
    return os.environ | {
        "PATH": f"{PYTHON.parent}:{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}:{SITE}",
        "LD_LIBRARY_PATH": f"{sysconfig.get_config_var('LIBDIR')}:{SITE / 'nvidia_pytriton.libs'}",
    }


def triton(repository: Path, cores: str, log: Path) -> Server:
    install()
    ports, work = Ports(), log.parent / "triton"
    write_backend(work / "backends")
    write_model(work / "models")
    shutil.copytree(repository, work / "members", dirs_exist_ok=True)
    command = [
        str(BUNDLED / "bin" / "tritonserver"),
        f"--model-repository={work / 'models'}",
        f"--backend-directory={work / 'backends'}",
        f"--http-port={ports.http}",
        f"--grpc-port={ports.grpc}",
        f"--metrics-port={ports.metrics}",
        "--http-address=127.0.0.1",
        "--grpc-address=127.0.0.1",
    ]
    return Server(["taskset", "-c", cores, *command], ports, log, environment())
