"""The manifests as kubectl renders them: every overlay, and every component on the base."""

import functools
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
KUBERNETES = ROOT / "deploy" / "kubernetes"
OVERLAYS = sorted(f"overlays/{path.name}" for path in (KUBERNETES / "overlays").iterdir())
COMPONENTS = sorted(f"components/{path.name}" for path in (KUBERNETES / "components").iterdir())
OLDEST_KUBECTL = 30
TOOLS = Path(os.environ.get("SCRUTIN_CACHE", Path.home() / ".cache" / "scrutin"))


def found(command: str, where: str) -> str:
    """A command, from what .ci/kubernetes-tools has fetched or from PATH. On a developer's machine it may be missing; in CI it may not."""
    path = shutil.which(command, path=TOOLS / "bin") or shutil.which(command)
    if path is None and "CI" not in os.environ:
        pytest.skip(f"{command} is not installed; {where}")
    assert path is not None, f"{command} is not installed; {where}"
    return path


@pytest.fixture(scope="session")
def kubectl() -> str:
    """Of a version that understands the manifests: an older one is a fault and no reason to skip."""
    command = found("kubectl", "Debian 13 has it, and .ci/kubernetes-tools fetches it from there")
    done = subprocess.run([command, "version", "--client"], capture_output=True, text=True, timeout=60, check=False)
    version = re.search(r"v1\.(\d+)\.", done.stdout)
    assert version, f"expected `kubectl version --client` to name a version, found {done.stdout + done.stderr!r}"
    assert int(version[1]) >= OLDEST_KUBECTL, f"found kubectl 1.{version[1]}, expected 1.{OLDEST_KUBECTL} or newer"
    return command


@pytest.fixture(scope="session")
def build(kubectl):
    """`build(folder)`: its objects."""

    def build(folder: Path) -> list[dict]:
        done = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"{folder}: {done.stderr}"
        assert not done.stderr, f"{folder}: {done.stderr}"  # a deprecated key
        return list(yaml.safe_load_all(done.stdout))

    return build


@pytest.fixture(scope="session")
def rendered(build, tmp_path_factory):
    """`rendered("overlays/cpu")`: the objects of that folder; those of a component on the base."""

    @functools.cache
    def rendered(name: str) -> list[dict]:
        if name not in COMPONENTS:
            return build(KUBERNETES / name)
        folder = tmp_path_factory.mktemp("overlay")
        content = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [os.path.relpath(KUBERNETES / "base", folder)],
            "components": [os.path.relpath(KUBERNETES / name, folder)],
        }
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(content))
        return build(folder)

    return rendered
