"""Who may talk to whom, by the network policies: what needs to, and nothing else."""

from typing import Any

from .laws import GUARDED, Made, World, law, matches, put

HERE = {"kubernetes.io/metadata.name": "scrutin"}
MONITORING = {"kubernetes.io/metadata.name": "monitoring"}
KUBE_SYSTEM = {"kubernetes.io/metadata.name": "kube-system"}
GATEWAYS = {"kubernetes.io/metadata.name": "gateways", "scrutin-client": "true"}
ELSEWHERE = {"kubernetes.io/metadata.name": "elsewhere"}
DNS_PORT, HTTPS_PORT = 53, 443

SERVER = (HERE, {"app.kubernetes.io/name": "scrutin", "app.kubernetes.io/component": "server"})
CLIENT = (HERE, {"scrutin-client": "true"})
LOADTEST = (
    HERE,
    {"app.kubernetes.io/name": "scrutin", "app.kubernetes.io/component": "loadtest", "scrutin-client": "true"},
)
STRANGER = (HERE, {"app": "stranger"})
GATEWAY = (GATEWAYS, {"app": "envoy"})
PRETENDER = (ELSEWHERE, {"scrutin-client": "true"})
PROMETHEUS = (MONITORING, {"app.kubernetes.io/name": "prometheus"})
GRAFANA = (MONITORING, {"app.kubernetes.io/name": "grafana"})
DNS = (KUBE_SYSTEM, {"k8s-app": "kube-dns"})
INTERNET = ({}, {})

Pod = tuple[dict, dict]


def is_peer(peer: dict, pod: Pod) -> bool:
    namespace, labels = pod
    near = matches(peer["namespaceSelector"], namespace) if "namespaceSelector" in peer else namespace == HERE
    return near and matches(peer.get("podSelector", {}), labels)


def lets(made: Made, way: str, pod: Pod, other: Pod, port: int, protocol: str) -> bool:
    """Whether the policies of our namespace let a pod of it have this traffic, `way` being Ingress or Egress."""
    if pod[0] != HERE:
        return True
    policies = [each["spec"] for each in made.all("NetworkPolicy")]
    concerned = [each for each in policies if way in each["policyTypes"] and matches(each["podSelector"], pod[1])]
    side = "from" if way == "Ingress" else "to"
    numbers: dict[Any, int] = {each["name"]: each["containerPort"] for each in made.container["ports"]}

    def number_and_protocol(each: dict) -> tuple[int, str]:
        return numbers.get(each["port"], each["port"]), each.get("protocol", "TCP")

    return not concerned or any(
        ("ports" not in rule or (port, protocol) in [number_and_protocol(each) for each in rule["ports"]])
        and (side not in rule or any(is_peer(peer, other) for peer in rule[side]))
        for policy in concerned
        for rule in policy.get(way.lower(), [])
    )


def admitted(made: Made, source: Pod, target: Pod, port: int, protocol: str = "TCP") -> bool:
    leaves = lets(made, "Egress", source, target, port, protocol)
    return leaves and lets(made, "Ingress", target, source, port, protocol)


def policy(name: str):
    return lambda made: made.one("NetworkPolicy", name)["spec"]


@law(
    GUARDED,
    lambda made: made.remove("NetworkPolicy", "default-deny"),
    put(policy("default-deny"), podSelector={"matchLabels": {"app": "x"}}),
    put(policy("default-deny"), policyTypes=["Ingress"]),
)
def nothing_enters_or_leaves_that_is_not_named(made: Made, world: World) -> None:
    for target in (STRANGER, GATEWAY, PROMETHEUS, DNS, INTERNET):
        assert not admitted(made, STRANGER, target, HTTPS_PORT)
        assert not admitted(made, target, STRANGER, HTTPS_PORT)


@law(
    GUARDED,
    lambda made: made.remove("NetworkPolicy", "clients"),
    lambda made: made.remove("NetworkPolicy", "scrutin"),
    lambda made: policy("scrutin")(made)["ingress"][0]["ports"].pop(),
    lambda made: policy("scrutin")(made)["ingress"][0]["from"].pop(),
)
def callers_reach_both_protocols(made: Made, world: World) -> None:
    settings = made.settings

    for caller in (CLIENT, LOADTEST, GATEWAY):
        for port in (settings.http_port, settings.grpc_port):
            assert admitted(made, caller, SERVER, port)


@law(
    GUARDED,
    lambda made: policy("scrutin")(made)["ingress"][0]["from"].append({"podSelector": {}}),
    lambda made: policy("scrutin")(made)["ingress"][0].pop("from"),
    lambda made: policy("scrutin")(made)["ingress"][0]["from"].append({"namespaceSelector": {}}),
)
def others_reach_nothing(made: Made, world: World) -> None:
    """Nor does a pod elsewhere that gives itself the label."""
    for port in (8000, 8001, 8002):
        for caller in (PRETENDER, GRAFANA, INTERNET, (ELSEWHERE, {})):
            assert not admitted(made, caller, SERVER, port)
        assert not lets(made, "Ingress", SERVER, STRANGER, port, "TCP")


@law(
    GUARDED,
    put(lambda made: policy("scrutin")(made)["ingress"][1]["ports"][0], port="http"),
    put(lambda made: policy("scrutin")(made)["ingress"][1]["ports"][0], protocol="UDP"),
    lambda made: policy("scrutin")(made)["ingress"].pop(),
)
def prometheus_reads_the_metrics(made: Made, world: World) -> None:
    assert admitted(made, PROMETHEUS, SERVER, made.settings.metrics_port)


@law(
    GUARDED,
    lambda made: policy("scrutin")(made)["ingress"][1].pop("ports"),
    lambda made: policy("scrutin")(made)["ingress"][0].pop("ports"),
)
def prometheus_asks_nothing_else_and_callers_do_not_read_metrics(made: Made, world: World) -> None:
    settings = made.settings

    assert not admitted(made, PROMETHEUS, SERVER, settings.http_port)
    assert not admitted(made, PROMETHEUS, SERVER, settings.grpc_port)
    assert not admitted(made, CLIENT, SERVER, settings.metrics_port)
    assert not admitted(made, GATEWAY, SERVER, settings.metrics_port)


@law(
    GUARDED,
    put(policy("scrutin"), policyTypes=["Ingress", "Egress"], egress=[{}]),
    put(policy("clients"), podSelector={}),
)
def the_server_calls_nobody(made: Made, world: World) -> None:
    for target in (INTERNET, CLIENT, PROMETHEUS):
        assert not admitted(made, SERVER, target, HTTPS_PORT)
    assert not admitted(made, SERVER, DNS, DNS_PORT)


@law(
    GUARDED,
    lambda made: policy("clients")(made)["egress"].pop(),
    lambda made: policy("clients")(made)["egress"][1]["ports"].pop(),
    put(lambda made: policy("clients")(made)["egress"][1]["ports"][0], protocol="TCP"),
    lambda made: policy("clients")(made)["egress"][1].pop("to"),
    lambda made: policy("clients")(made)["egress"].append({}),
)
def callers_of_the_namespace_find_the_server_by_name_and_nobody_else(made: Made, world: World) -> None:
    """DNS answers over TCP what is too long for UDP, such as the addresses of many pods."""
    for protocol in ("UDP", "TCP"):
        assert admitted(made, CLIENT, DNS, DNS_PORT, protocol)
        assert not admitted(made, CLIENT, INTERNET, DNS_PORT, protocol)
    assert not admitted(made, CLIENT, INTERNET, HTTPS_PORT)
    assert not admitted(made, LOADTEST, PROMETHEUS, HTTPS_PORT)
