"""Everything that refers to something refers to what is there, and to what the server really does."""

import re
from importlib.metadata import version

from .laws import DEPLOYED, PODS, SERVERS, Made, World, law, matches, put


def ports(made: Made) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in made.container["ports"]}


def probes(made: Made) -> dict[str, dict]:
    kinds = ("startupProbe", "readinessProbe", "livenessProbe")
    return {kind: made.container[kind] for kind in kinds if kind in made.container}


@law(SERVERS, put(lambda made: made.labels, **{"app.kubernetes.io/component": "web"}))
def the_deployment_selects_its_own_pods(made: Made, world: World) -> None:
    assert matches(made.deployment["spec"]["selector"], made.labels)


@law(DEPLOYED, put(lambda made: made.one("Service", "scrutin-grpc")["spec"], selector={"app": "scrutin"}))
def services_select_the_servers_pods(made: Made, world: World) -> None:
    for service in made.all("Service"):
        assert matches({"matchLabels": service["spec"]["selector"]}, made.labels), service["metadata"]["name"]


@law(
    DEPLOYED,
    put(lambda made: made.one("Service", "scrutin-grpc")["spec"]["ports"][0], targetPort="rpc"),
    put(lambda made: made.container["ports"][1], name="h2c"),
)
def services_send_to_ports_that_the_container_names(made: Made, world: World) -> None:
    for service in made.all("Service"):
        for port in service["spec"]["ports"]:
            assert port["targetPort"] in ports(made), port


@law(DEPLOYED, put(lambda made: made.one("Service", "scrutin-grpc")["spec"]["ports"][0], port=9000))
def services_have_the_numbers_that_the_server_has(made: Made, world: World) -> None:
    for service in made.all("Service"):
        for port in service["spec"]["ports"]:
            assert port["port"] == ports(made)[port["targetPort"]], port


@law(
    SERVERS,
    put(lambda made: made.container["ports"][2], containerPort=9090),
    lambda made: made.container["args"].extend(["--grpc-port", "9000"]),
    lambda made: made.replace_in_settings("^host: .*", "host: 0.0.0.0\\nhttp_port: 8080"),
)
def the_server_listens_on_the_ports_that_are_named(made: Made, world: World) -> None:
    settings = made.settings

    assert ports(made) == {
        "http": settings.http_port, "grpc": settings.grpc_port, "metrics": settings.metrics_port
    }  # fmt: skip


@law(
    SERVERS,
    put(lambda made: made.container["livenessProbe"]["httpGet"], port="http"),
    put(lambda made: made.container["startupProbe"]["httpGet"], port=8002),
)
def probes_ask_the_port_that_callers_do_not_use(made: Made, world: World) -> None:
    """It stays without TLS when the others have it."""
    for kind, probe in probes(made).items():
        assert probe["httpGet"]["port"] == "metrics", kind


@law(DEPLOYED, put(lambda made: made.one("Service", "scrutin-grpc")["spec"], clusterIP=None))
def grpc_has_a_headless_service_so_that_clients_see_every_pod(made: Made, world: World) -> None:
    [service] = [each for each in made.all("Service") if each["spec"]["ports"][0]["name"] == "grpc"]

    assert service["spec"].get("clusterIP") == "None"


@law(DEPLOYED, put(lambda made: made.one("PodDisruptionBudget")["spec"]["selector"], matchLabels={"app": "scrutin"}))
def the_disruption_budget_is_for_the_servers_pods(made: Made, world: World) -> None:
    assert matches(made.one("PodDisruptionBudget")["spec"]["selector"], made.labels)


@law(
    SERVERS,
    put(lambda made: made.pod["topologySpreadConstraints"][0], labelSelector={"matchLabels": {"app": "scrutin"}}),
    put(lambda made: made.pod["topologySpreadConstraints"][1], labelSelector=None),
)
def pods_are_spread_among_their_like(made: Made, world: World) -> None:
    for constraint in made.pod["topologySpreadConstraints"]:
        assert matches(constraint.get("labelSelector"), made.labels), constraint


@law(SERVERS, put(lambda made: made.pod["topologySpreadConstraints"][1], topologyKey="rack"))
def pods_are_spread_over_zones_and_nodes(made: Made, world: World) -> None:
    keys = {constraint["topologyKey"] for constraint in made.pod["topologySpreadConstraints"]}

    assert keys == {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}


@law(
    SERVERS,
    put(lambda made: made.pod["topologySpreadConstraints"][1], whenUnsatisfiable="DoNotSchedule"),
    put(lambda made: made.pod["topologySpreadConstraints"][1], matchLabelKeys=None),
)
def a_spread_is_preferred_and_keeps_no_pod_waiting(made: Made, world: World) -> None:
    """A node that is full would else stop the autoscaler, and a pod of the version before would count as one of this."""
    for constraint in made.pod["topologySpreadConstraints"]:
        assert constraint["whenUnsatisfiable"] == "ScheduleAnyway"
        assert constraint.get("matchLabelKeys") == ["pod-template-hash"]


@law(
    SERVERS,
    put(lambda made: made.pod["volumes"][0]["configMap"], name="scrutin-settings"),
    lambda made: made.remove("ConfigMap", "scrutin-settings"),
)
def the_settings_that_are_mounted_are_there(made: Made, world: World) -> None:
    names = {each["metadata"]["name"] for each in made.all("ConfigMap")}

    for volume in made.pod["volumes"]:
        assert "configMap" not in volume or volume["configMap"]["name"] in names, volume


@law(SERVERS, put(lambda made: made.config_map["metadata"], name="scrutin-settings"))
def other_settings_are_a_config_map_of_another_name(made: Made, world: World) -> None:
    assert re.fullmatch(r"scrutin-settings-[0-9a-z]{10}", made.config_map["metadata"]["name"])


@law(
    PODS,
    put(lambda made: made.container["volumeMounts"][0], name="config"),
    lambda made: made.pod["volumes"].append({"name": "cache", "emptyDir": {}}),
)
def what_is_mounted_is_a_volume_and_every_volume_is_mounted(made: Made, world: World) -> None:
    for pod in made.pods:
        mounted = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}


@law(
    SERVERS,
    put(lambda made: made.config_map, data={"server.yaml": ""}),
    put(lambda made: made.container["volumeMounts"][0], mountPath="/etc/server"),
)
def the_settings_file_is_where_the_server_looks(made: Made, world: World) -> None:
    arguments = made.container["args"]
    folder, _, file = arguments[arguments.index("--config") + 1].rpartition("/")
    [name] = [mount["name"] for mount in made.container["volumeMounts"] if mount["mountPath"] == folder] or [None]
    sources = [volume["configMap"]["name"] for volume in made.pod["volumes"] if volume["name"] == name]

    assert sources == [made.config_map["metadata"]["name"]]
    assert file in made.config_map["data"]


@law(SERVERS, lambda made: made.container["args"].__setitem__(1, "/srv/digits"))
def the_repository_is_in_the_image_or_mounted(made: Made, world: World) -> None:
    [repository] = made.settings.repositories
    mounts = [mount["mountPath"] for mount in made.container["volumeMounts"] if mount["name"] == "models"]

    assert str(repository) == "/models/digits" if not mounts else f"{repository}/".startswith(f"{mounts[0]}/")


@law(
    ["components/repository-pvc", "components/repository-oci"],
    put(lambda made: made.container["volumeMounts"][3], readOnly=False),
)
def a_repository_is_mounted_for_reading(made: Made, world: World) -> None:
    [mount] = [mount for mount in made.container["volumeMounts"] if mount["name"] == "models"]

    assert mount.get("readOnly") is True


@law(DEPLOYED, put(lambda made: made.pod, serviceAccountName="default"))
def the_service_account_is_one_of_its_own(made: Made, world: World) -> None:
    assert made.pod.get("serviceAccountName") == made.one("ServiceAccount")["metadata"]["name"]


@law(
    [*DEPLOYED, "overlays/loadtest"],
    put(lambda made: made.one("Service", "scrutin-grpc")["metadata"], namespace="default"),
    put(lambda made: made.one("PodDisruptionBudget")["metadata"], namespace=None),
)
def everything_is_in_the_namespace(made: Made, world: World) -> None:
    outside = [
        each for each in made.objects if each["kind"] != "Namespace" and each["metadata"].get("namespace") != "scrutin"
    ]

    assert [each["metadata"] for each in outside] == []


@law(PODS, put(lambda made: made.container, image="scrutin"), put(lambda made: made.container, image="scrutin:latest"))
def images_are_of_this_version(made: Made, world: World) -> None:
    for container in made.containers:
        assert re.search(rf"scrutin:{re.escape(version('scrutin'))}(-gpu)?$", container["image"]), container["image"]


@law(["overlays/ci"], put(lambda made: made.container, image="scrutin:0.1.0"))
def the_ci_overlay_asks_for_an_image_that_was_built_here(made: Made, world: World) -> None:
    assert made.container["image"] == "localhost/scrutin:0.1.0"


@law(
    ["overlays/ci"],
    lambda made: made.objects.append({"kind": "Service", "metadata": {"name": "x"}}),
    put(lambda made: made.deployment["spec"], replicas=2),
)
def the_ci_overlay_is_what_podman_can_run(made: Made, world: World) -> None:
    assert sorted(each["kind"] for each in made.objects) == ["ConfigMap", "Deployment"]
    assert made.deployment["spec"]["replicas"] == 1
