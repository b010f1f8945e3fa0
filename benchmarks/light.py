"""The light ensemble of the other benchmarks with an early exit, whose rows carry numbers as `agreeing`'s do."""

from pathlib import Path

from benchmarks.models import write_repository
from ensembles import repository


def write(folder: Path) -> None:
    write_repository(folder)
    early_exit = {"stages": [["a", "b"], ["c"]], "exit": "decided"}
    repository.rewrite(repository.read(folder), {"policies": {"early_exit": early_exit}})
