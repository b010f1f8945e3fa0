"""What holds for the house as a whole: who imports whom, what serving needs, that tables and generated code are complete."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from serving import errors
from serving.errors import Fault
from serving.wire.status import STATUS, status

ROOT = Path(__file__).parents[1]
PACKAGES = ("ensembles", "serving", "loadtest")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

# ----------------------------------------------------------------------------------------------------------------- imports


def test_everybody_imports_only_whom_he_may() -> None:
    """The contracts stand in pyproject.toml, and say why."""
    script = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)

    assert done.returncode == 0, done.stdout + done.stderr


def imported(module: Path) -> set[str]:
    """The top-level names of all that a module imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module or "")
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_that_runs_what_it_reads_is_imported(module: Path) -> None:
    dangerous = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}

    assert not imported(module) & dangerous


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_that_was_read_is_run(module: Path) -> None:
    """No eval or exec, no pickles by the back door, no YAML but the safe kind."""
    tree = ast.parse(module.read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    called = {ast.unparse(call.func) for call in calls}
    allowed_pickles = [
        call
        for call in calls
        for keyword in call.keywords
        if keyword.arg == "allow_pickle"
        and not (isinstance(keyword.value, ast.Constant) and keyword.value.value is False)
    ]

    assert not called & {"eval", "exec", "compile", "__import__", "torch.load", "yaml.unsafe_load", "yaml.full_load"}
    assert not allowed_pickles


SERVED = """
import sys
import serving.app, serving.cli, serving.door, serving.catalog, ensembles.members.onnx
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


@pytest.fixture(scope="module")
def loaded() -> set[str]:
    """What a process has loaded that is about to serve."""
    done = subprocess.run([sys.executable, "-c", SERVED], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "library", ["torch", "sklearn", "skl2onnx", "matplotlib", "onnx", "scipy", "pandas", "opentelemetry"]
)
def test_serving_starts_without_what_only_few_need(loaded: set[str], library: str) -> None:
    assert library not in loaded
    assert "serving" in loaded and "onnxruntime" in loaded


# ------------------------------------------------------------------------------------------------------------------ faults


def leaves(fault: type[Fault]) -> list[type[Fault]]:
    below = fault.__subclasses__()
    return [leaf for child in below for leaf in leaves(child)] if below else [fault]


FAULTS = [
    each
    for _, each in inspect.getmembers(errors, inspect.isclass)
    if issubclass(each, Fault) and not each.__subclasses__()
]


def test_every_fault_is_in_the_table_and_nothing_else() -> None:
    assert set(leaves(Fault)) == set(FAULTS) == set(STATUS)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_every_fault_has_a_name_on_both_wires(fault: type[Fault]) -> None:
    given = fault("why", 1.0) if issubclass(fault, errors.Overloaded) else fault("why")
    found = status(given)

    assert str(given) == "why"
    assert 400 <= found.http <= 599
    assert found.grpc.name != "OK"


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_every_fault_is_drawn_in_the_tree(fault: type[Fault]) -> None:
    assert f"── {fault.__name__} " in (errors.__doc__ or "")


@pytest.mark.parametrize(
    ("fault", "grpc", "http"),
    [
        ("InvalidRequest", "INVALID_ARGUMENT", 400),
        ("Unknown", "NOT_FOUND", 404),
        ("TooLarge", "RESOURCE_EXHAUSTED", 413),
        ("QueueFull", "RESOURCE_EXHAUSTED", 429),
        ("NotReady", "UNAVAILABLE", 503),
        ("BelowQuorum", "UNAVAILABLE", 503),
        ("DeadlinePassed", "DEADLINE_EXCEEDED", 504),
    ],
)
def test_statuses_are_those_of_the_contract(fault: str, grpc: str, http: int) -> None:
    row = STATUS[getattr(errors, fault)]

    assert (row.grpc.name, row.http) == (grpc, http)


# ---------------------------------------------------------------------------------------------------------- generated code


def test_generated_modules_are_what_the_proto_gives(tmp_path: Path) -> None:
    """`make proto` and commit where this fails."""
    pytest.importorskip("grpc_tools")
    command = [sys.executable, "-m", "grpc_tools.protoc", "-Iproto", "proto/scrutin/v1/ensemble.proto"]
    command += [f"--{kind}={tmp_path}" for kind in ("python_out", "pyi_out", "grpc_python_out")]
    subprocess.run(command, cwd=ROOT, check=True)

    fresh = {path.name: path.read_text() for path in (tmp_path / "scrutin" / "v1").iterdir()}
    assert sorted(fresh) == ["ensemble_pb2.py", "ensemble_pb2.pyi", "ensemble_pb2_grpc.py"]
    for name, text in fresh.items():
        assert (ROOT / "proto" / "scrutin" / "v1" / name).read_text() == text, name


def test_nothing_shadows_the_package_of_proto_plus() -> None:
    assert not (ROOT / "proto" / "__init__.py").exists()
