"""Restricted pod security, no token, no key, and resources that neither starve nor throttle."""

import re

from .laws import DEPLOYED, GPUS, PODS, SERVERS, Made, World, law, put

UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
MOST_OF_AN_ANNOTATION = 256 * 2**10
"""Bytes; `kubectl apply` keeps what it has applied in one."""


def size(text: str) -> int:
    """Bytes."""
    number, unit = re.fullmatch(r"(\d+)([KMG]i)", text).groups()
    return int(number) * UNITS[unit]


def pod_security(made: Made) -> dict:
    return made.pod["securityContext"]


def container_security(made: Made) -> dict:
    return made.container["securityContext"]


@law(
    DEPLOYED,
    put(lambda made: made.one("Namespace")["metadata"]["labels"], **{"pod-security.kubernetes.io/enforce": "baseline"}),
    put(lambda made: made.one("Namespace")["metadata"]["labels"], **{"pod-security.kubernetes.io/warn": None}),
)
def the_namespace_takes_restricted_pods_only(made: Made, world: World) -> None:
    labels = made.one("Namespace")["metadata"]["labels"]

    assert [labels.get(f"pod-security.kubernetes.io/{mode}") for mode in ("enforce", "audit", "warn")] == [
        "restricted"
    ] * 3


@law(
    PODS,
    put(pod_security, runAsNonRoot=None),
    put(pod_security, runAsUser=0),
    put(container_security, runAsUser=0),
)
def nobody_is_root(made: Made, world: World) -> None:
    for pod in made.pods:
        assert pod["securityContext"].get("runAsNonRoot") is True
        assert pod["securityContext"]["runAsUser"] == 10001
        assert not any(key.startswith("runAs") for each in pod["containers"] for key in each["securityContext"])


@law(
    PODS,
    put(container_security, capabilities={"drop": ["NET_RAW"]}),
    put(container_security, capabilities={"drop": ["ALL"], "add": ["SYS_NICE"]}),
)
def all_capabilities_are_dropped(made: Made, world: World) -> None:
    for container in made.containers:
        assert container["securityContext"].get("capabilities") == {"drop": ["ALL"]}


@law(
    PODS,
    put(container_security, allowPrivilegeEscalation=None),
    put(container_security, privileged=True),
)
def nobody_gains_privileges(made: Made, world: World) -> None:
    for container in made.containers:
        assert container["securityContext"].get("allowPrivilegeEscalation") is False
        assert not container["securityContext"].get("privileged")


@law(PODS, put(pod_security, seccompProfile={"type": "Unconfined"}), put(pod_security, seccompProfile=None))
def system_calls_are_filtered(made: Made, world: World) -> None:
    for pod in made.pods:
        assert pod["securityContext"].get("seccompProfile") == {"type": "RuntimeDefault"}


@law(PODS, put(container_security, readOnlyRootFilesystem=None))
def the_root_is_read_only(made: Made, world: World) -> None:
    for container in made.containers:
        assert container["securityContext"].get("readOnlyRootFilesystem") is True


@law(
    PODS,
    put(lambda made: made.pod["volumes"][2], emptyDir={}),
    put(lambda made: made.container["volumeMounts"][2], mountPath="/var/tmp"),
)
def there_is_a_place_for_temporary_files_with_an_end(made: Made, world: World) -> None:
    for pod in made.pods:
        [places] = [[m["name"] for m in each["volumeMounts"] if m["mountPath"] == "/tmp"] for each in pod["containers"]]
        assert [volume["emptyDir"].get("sizeLimit") for volume in pod["volumes"] if volume["name"] in places] == [
            "64Mi"
        ]


@law(
    PODS,
    put(lambda made: made.pod, hostNetwork=True),
    put(lambda made: made.pod, hostPID=True),
    put(lambda made: made.container["ports"][0], hostPort=8000),
)
def the_node_is_left_alone(made: Made, world: World) -> None:
    for pod in made.pods:
        assert not any(pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC"))
        assert not any("hostPort" in port for each in pod["containers"] for port in each.get("ports", []))


@law(
    PODS,
    lambda made: made.pod["volumes"].append({"name": "logs", "hostPath": {"path": "/var/log"}}),
)
def volumes_are_of_kinds_that_restricted_pods_may_have(made: Made, world: World) -> None:
    kinds = {kind for pod in made.pods for volume in pod["volumes"] for kind in volume if kind != "name"}

    assert kinds <= {"configMap", "secret", "emptyDir", "persistentVolumeClaim", "image"}


@law(
    DEPLOYED,
    put(lambda made: made.pod, automountServiceAccountToken=None),
    put(lambda made: made.one("ServiceAccount"), automountServiceAccountToken=None),
)
def no_pod_has_a_token_for_the_api_server(made: Made, world: World) -> None:
    for each in (*made.pods, *made.all("ServiceAccount")):
        assert each.get("automountServiceAccountToken") is False


@law(PODS, put(lambda made: made.pod, enableServiceLinks=None))
def the_environment_does_not_list_the_services_of_the_namespace(made: Made, world: World) -> None:
    for pod in made.pods:
        assert pod.get("enableServiceLinks") is False


@law(
    [*PODS, "kserve"],
    lambda made: made.objects.append({"kind": "Secret", "metadata": {"name": "keys"}, "data": {}}),
    put(lambda made: made.config_map["data"], key="c2VjcmV0"),
)
def no_key_is_shipped(made: Made, world: World) -> None:
    assert made.all("Secret") == []
    assert {key for each in made.all("ConfigMap") for key in each["data"]} <= {
        "settings.yaml",
        "operators.json",
        "worth.json",
    }


@law(
    SERVERS,
    put(lambda made: made.pod["volumes"][1]["secret"], defaultMode=0o444),
    put(pod_security, fsGroup=None),
    put(lambda made: made.container["volumeMounts"][1], readOnly=None),
)
def keys_can_be_read_by_the_server_alone(made: Made, world: World) -> None:
    [keys] = [volume["secret"] for volume in made.pod["volumes"] if "secret" in volume]
    [mount] = [mount for mount in made.container["volumeMounts"] if mount["name"] == "keys"]

    assert keys["defaultMode"] == 0o440
    assert pod_security(made).get("fsGroup") == pod_security(made)["runAsGroup"]
    assert mount.get("readOnly") is True


@law(SERVERS, put(lambda made: made.pod["volumes"][1]["secret"], optional=None))
def a_server_without_keys_starts(made: Made, world: World) -> None:
    [keys] = [volume["secret"] for volume in made.pod["volumes"] if "secret" in volume]

    assert keys.get("optional") is True


@law(
    PODS,
    put(lambda made: made.container["resources"]["requests"], memory="256Mi"),
    put(lambda made: made.container["resources"]["limits"], memory=None),
)
def memory_is_guaranteed(made: Made, world: World) -> None:
    for container in made.containers:
        assert container["resources"]["requests"]["memory"] == container["resources"]["limits"].get("memory")


@law(PODS, put(lambda made: made.container["resources"]["limits"], cpu="1"))
def the_cpu_is_not_throttled(made: Made, world: World) -> None:
    for container in made.containers:
        assert "cpu" not in container["resources"]["limits"]


@law(PODS, put(lambda made: made.container["resources"]["requests"], cpu=None))
def a_share_of_the_cpu_is_asked_for(made: Made, world: World) -> None:
    """Without it an autoscaler by CPU has nothing to divide by."""
    for container in made.containers:
        assert "cpu" in container["resources"]["requests"]


@law(PODS, put(lambda made: made.pod["volumes"][2]["emptyDir"], sizeLimit="1Gi"))
def temporary_files_fit_into_the_storage_that_the_pod_may_take(made: Made, world: World) -> None:
    for pod in made.pods:
        limit = sum(size(each["resources"]["limits"]["ephemeral-storage"]) for each in pod["containers"])
        assert sum(size(volume["emptyDir"]["sizeLimit"]) for volume in pod["volumes"] if "emptyDir" in volume) <= limit


@law(DEPLOYED, lambda made: made.config_map["data"].update({"settings.yaml": "#" * MOST_OF_AN_ANNOTATION}))
def config_maps_are_small_enough_to_be_applied(made: Made, world: World) -> None:
    for each in made.objects:
        assert len(str(each)) < MOST_OF_AN_ANNOTATION, each["metadata"]["name"]


def devices(made: Made) -> dict:
    limits = made.container["resources"]["limits"]
    return {key: value for key, value in limits.items() if key.startswith("nvidia.com/")}


@law(
    GPUS,
    put(lambda made: made.container["resources"]["limits"], **{"nvidia.com/gpu": None}),
    put(lambda made: made.container["resources"]["limits"], **{"nvidia.com/mig-1g.10gb": "1"}),
)
def a_pod_has_one_device_of_one_kind(made: Made, world: World) -> None:
    assert list(devices(made).values()) == ["1"]


@law(
    ["components/mig", "components/timeslicing"],
    put(lambda made: made.container["resources"], limits={"nvidia.com/gpu": "1"}),
)
def a_slice_is_not_a_whole_gpu(made: Made, world: World) -> None:
    assert list(devices(made)) != ["nvidia.com/gpu"]


@law(GPUS, put(lambda made: made.pod, tolerations=None))
def pods_with_a_gpu_may_run_on_its_nodes(made: Made, world: World) -> None:
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in made.pod.get("tolerations", [])


@law(GPUS, put(lambda made: made.pod, affinity=None))
def pods_with_a_gpu_run_on_no_other_nodes(made: Made, world: World) -> None:
    nodes = (
        made.pod.get("affinity", {}).get("nodeAffinity", {}).get("requiredDuringSchedulingIgnoredDuringExecution", {})
    )
    terms = [each["matchExpressions"] for each in nodes.get("nodeSelectorTerms", [])]

    assert terms == [[{"key": "nvidia.com/gpu.present", "operator": "In", "values": ["true"]}]]


@law(GPUS, put(lambda made: made.container, image="scrutin:0.1.0"))
def pods_with_a_gpu_have_the_image_that_can_use_it(made: Made, world: World) -> None:
    assert made.container["image"].endswith("-gpu")
