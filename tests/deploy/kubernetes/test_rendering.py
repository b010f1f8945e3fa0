"""Everything renders, fits the schemas of all Kubernetes that are in use, and what is made by scripts is what they make."""

import json
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from . import conftest
from .conftest import COMPONENTS, KUBERNETES, OVERLAYS, TOOLS

NAMES = [*OVERLAYS, *COMPONENTS, "kserve"]
MINORS = range(30, 38)
CUSTOM = ("monitoring.coreos.com", "keda.sh", "serving.kserve.io")
HERE = Path(__file__).parent
ADDED = ("components/networkpolicy", "components/gpu", "components/loadtest-job")
"""What overlays have in any case."""
NEWER = {"components/repository-oci": 31}
"""Whose fields came with that version."""


def objects(rendered, custom: bool, minor: int = 99) -> list[dict]:
    """All different ones, of the API or of others' definitions, that Kubernetes 1.MINOR should take."""
    names = [name for name in NAMES if NEWER.get(name, 0) <= minor]
    each = [made for name in names for made in rendered(name) if made["apiVersion"].startswith(CUSTOM) == custom]
    return list({json.dumps(made, sort_keys=True): made for made in each}.values())


@pytest.mark.parametrize("name", NAMES)
def test_it_renders(rendered, name: str) -> None:
    assert rendered(name)


def fault(made: dict, minor: int) -> str:
    """What the schema of Kubernetes 1.MINOR says of an object; a kind that it does not know is a fault too."""
    try:
        kubernetes_validate.validate(made, f"1.{minor}", strict=True)
    except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
        return f"1.{minor}: {made['kind']} {made['metadata']['name']}: {error}"
    return ""


@pytest.mark.parametrize("minor", MINORS)
def test_objects_fit_the_schema_of_kubernetes_1(rendered, minor: int) -> None:
    made = objects(rendered, custom=False, minor=minor)

    assert len(made) > 15
    assert [found for each in made if (found := fault(each, minor))] == []


def test_the_schema_finds_a_misspelt_key_a_wrong_type_and_a_kind_that_is_gone(rendered) -> None:
    [deployment] = [made for made in rendered("overlays/cpu") if made["kind"] == "Deployment"]
    misspelt = json.loads(json.dumps(deployment).replace("readinessProbe", "readynessProbe"))
    wrong = json.loads(json.dumps(deployment).replace('"minReadySeconds": 5', '"minReadySeconds": "soon"'))
    gone = {"apiVersion": "autoscaling/v2beta2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "x"}}

    assert "readynessProbe" in fault(misspelt, 37)
    assert "soon" in fault(wrong, 37)
    assert "1.37" in fault(gone, 37)


def pod_of_kserve(rendered) -> dict:
    """As KServe puts it together."""
    made = {each["kind"]: each["spec"] for each in rendered("kserve")}
    runtime, predictor = made["ServingRuntime"], made["InferenceService"]["predictor"]
    spec = {key: runtime[key] for key in ("containers", "volumes")}
    spec |= {key: predictor[key] for key in ("automountServiceAccountToken", "securityContext")}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "digits", "namespace": "scrutin"}, "spec": spec}


def test_the_containers_of_the_runtime_for_kserve_are_those_of_a_pod(rendered) -> None:
    assert [found for minor in MINORS if (found := fault(pod_of_kserve(rendered), minor))] == []


@pytest.fixture(scope="session")
def schemas() -> Path:
    """The folder with the packages of package-lock.json, kept from run to run."""
    npm = conftest.found("npm", "it comes with Node.js, and .ci/kubernetes-tools fetches it")
    lock = (HERE / "package-lock.json").read_bytes()
    folder = TOOLS / f"custom-resources-{sha256(lock).hexdigest()[:16]}"
    if not (folder / "done").exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package-lock.json").write_bytes(lock)
        (folder / "package.json").write_bytes((HERE / "package.json").read_bytes())
        subprocess.run([npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts"], cwd=folder, check=True, timeout=240)
        (folder / "done").touch()
    return folder


@pytest.fixture(scope="session")
def faults(schemas):
    """`faults(objects)`: what their definitions say, one list for each."""
    node = conftest.found("node", "it is called nodejs in Debian")

    def faults(objects: list[dict]) -> list[list[str]]:
        command = [node, HERE / "custom_resources.mjs", schemas]
        done = subprocess.run(
            command, input=json.dumps(objects), capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return faults


def test_custom_resources_fit_their_definitions(rendered, faults) -> None:
    made = [each for each in objects(rendered, custom=True) if "kserve" not in each["apiVersion"]]

    assert sorted(each["kind"] for each in made) == ["PodMonitor", "PrometheusRule", "ScaledObject"]
    assert faults(made) == [[], [], []]


def test_the_definitions_find_a_misspelt_key_a_wrong_interval_and_a_missing_target(rendered, faults) -> None:
    [monitor] = [made for made in rendered("components/monitoring") if made["kind"] == "PodMonitor"]
    [scaled] = [made for made in rendered("components/keda") if made["kind"] == "ScaledObject"]
    misspelt = json.loads(json.dumps(scaled).replace("maxReplicaCount", "maxReplicas"))
    wrong = json.loads(json.dumps(monitor).replace('"15s"', '"15 sec"'))
    aimless = {**scaled, "spec": {key: value for key, value in scaled["spec"].items() if key != "scaleTargetRef"}}

    assert faults([misspelt]) == [["unknown key maxReplicas"]]
    assert "interval" in faults([wrong])[0][0]
    assert "scaleTargetRef" in faults([aimless])[0][0]


def test_the_rules_for_the_operator_are_those_for_prometheus(tmp_path: Path, rules) -> None:
    script, made = KUBERNETES / "build.py", KUBERNETES / "components" / "monitoring" / "rules.yaml"
    subprocess.run([sys.executable, script, tmp_path / "rules.yaml"], check=True, timeout=60)

    assert (tmp_path / "rules.yaml").read_text() == made.read_text(), f"run python {script}"
    groups = yaml.safe_load(made.read_text())["spec"]["groups"]
    assert sorted(map(str, (rule for group in groups for rule in group["rules"]))) == sorted(map(str, rules))


def test_all_dashboards_become_a_config_map(rendered) -> None:
    [board] = [made for made in rendered("components/monitoring") if made["metadata"]["name"] == "scrutin-dashboards"]
    files = {file.name: file.read_text() for file in (KUBERNETES.parent / "grafana" / "dashboards").glob("*.json")}

    assert board["data"] == files
    assert board["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_no_policy_of_checkov_is_broken_but_those_that_its_file_explains(rendered, tmp_path: Path) -> None:
    checkov = conftest.found("checkov", "pip install checkov in an environment of its own, or run .ci/kubernetes-tools")
    spoilt = json.dumps(rendered("overlays/cpu")).replace('"readOnlyRootFilesystem": true', '"privileged": true')
    policies = [each for each in rendered("overlays/cpu") if each["kind"] == "NetworkPolicy"]
    made = {name: [*rendered(f"overlays/{name}"), *rendered("overlays/loadtest")] for name in ("cpu", "gpu")}
    made |= {Path(name).name: [*rendered(name), *policies] for name in COMPONENTS if name not in ADDED}
    made["kserve"] = [pod_of_kserve(rendered), *policies]
    files = [tmp_path / f"{name}.yaml" for name in (*made, "spoilt")]
    for file, objects in zip(files, (*made.values(), json.loads(spoilt)), strict=True):
        file.write_text(yaml.safe_dump_all(objects))
    command = [
        checkov,
        "--config-file",
        KUBERNETES / "checkov.yaml",
        "--output",
        "json",
        *(w for f in files for w in ("-f", f)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    results = json.loads(done.stdout)["results"]
    failed = {(each["check_id"], Path(each["file_path"]).name) for each in results["failed_checks"]}

    assert len(results["passed_checks"]) > 250
    assert failed == {("CKV_K8S_16", "spoilt.yaml"), ("CKV_K8S_22", "spoilt.yaml")}
