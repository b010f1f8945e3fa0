"""What scales and watches: every series that is asked for is one that a server shows or a rule records."""

import re

import yaml

from .conftest import KUBERNETES
from .laws import DEPLOYED, Made, World, law, matches, put

ADAPTER = KUBERNETES / "components" / "custom-metrics" / "prometheus-adapter.yaml"
KEDA, METRICS, MONITORING = ["components/keda"], ["components/custom-metrics"], ["components/monitoring"]
SCALED = [name for name in DEPLOYED if name not in KEDA]


def autoscaler(made: Made) -> dict:
    return made.one("HorizontalPodAutoscaler")["spec"]


def scaled(made: Made) -> dict:
    return made.one("ScaledObject")["spec"]


def metric_names(made: Made, kind: str) -> list[str]:
    return [each[kind.lower()]["metric"]["name"] for each in autoscaler(made)["metrics"] if each["type"] == kind]


def adapter(kind: str) -> list[dict]:
    """Its rules: the names under which it tells metrics, and the series that each is made of."""
    return yaml.safe_load(ADAPTER.read_text())["rules"][kind]


@law(
    SCALED,
    put(lambda made: autoscaler(made)["scaleTargetRef"], name="server"),
    put(lambda made: autoscaler(made)["scaleTargetRef"], kind="StatefulSet"),
)
def the_autoscaler_scales_the_deployment(made: Made, world: World) -> None:
    deployment = made.deployment

    assert autoscaler(made)["scaleTargetRef"] == {
        "apiVersion": deployment["apiVersion"], "kind": deployment["kind"], "name": deployment["metadata"]["name"]
    }  # fmt: skip


@law(DEPLOYED, put(lambda made: made.deployment["spec"], replicas=3))
def applying_again_does_not_undo_what_the_autoscaler_did(made: Made, world: World) -> None:
    assert "replicas" not in made.deployment["spec"]


@law(
    SCALED,
    put(lambda made: autoscaler(made), maxReplicas=2),
    put(lambda made: autoscaler(made), metrics=[]),
)
def the_autoscaler_has_something_to_decide(made: Made, world: World) -> None:
    assert 2 <= autoscaler(made)["minReplicas"] < autoscaler(made)["maxReplicas"]
    assert autoscaler(made)["metrics"]


@law(SCALED, put(lambda made: autoscaler(made)["behavior"]["scaleDown"], stabilizationWindowSeconds=60))
def pods_are_added_at_once_and_taken_away_late(made: Made, world: World) -> None:
    behavior = autoscaler(made)["behavior"]

    assert behavior["scaleUp"]["stabilizationWindowSeconds"] == 0
    assert behavior["scaleDown"]["stabilizationWindowSeconds"] >= 300


@law(
    [name for name in SCALED if name not in METRICS],
    lambda made: autoscaler(made)["metrics"].append({"type": "Pods", "pods": {"metric": {"name": "x"}}}),
)
def a_bare_cluster_can_tell_what_the_autoscaler_asks(made: Made, world: World) -> None:
    """A metric that cannot be read keeps an autoscaler from scaling down."""
    assert [each["type"] for each in autoscaler(made)["metrics"]] == ["Resource"]


@law(
    METRICS,
    put(lambda made: autoscaler(made)["metrics"][1]["pods"]["metric"], name="ensemble_queue_rows"),
    put(lambda made: autoscaler(made)["metrics"][2]["external"]["metric"], name="device:ensemble_device:utilisation5m"),
    lambda made: autoscaler(made)["metrics"].pop(),
)
def the_adapter_tells_what_the_autoscaler_asks(made: Made, world: World) -> None:
    assert metric_names(made, "Pods") == [rule["name"]["as"] for rule in adapter("custom")]
    assert metric_names(made, "External") == [rule["name"]["as"] for rule in adapter("external")]


@law(
    METRICS,
    put(lambda made: autoscaler(made)["metrics"][2]["external"]["metric"], selector={"matchLabels": {"job": "votes"}}),
)
def utilisation_is_that_of_the_job_that_is_scraped(made: Made, world: World) -> None:
    selector = autoscaler(made)["metrics"][2]["external"]["metric"]["selector"]

    assert selector == {"matchLabels": {"job": made.deployment["metadata"]["namespace"]}}


@law(
    KEDA,
    lambda made: made.objects.append({"kind": "HorizontalPodAutoscaler", "metadata": {"name": "scrutin"}}),
)
def keda_is_the_only_autoscaler(made: Made, world: World) -> None:
    assert made.all("HorizontalPodAutoscaler") == []
    assert scaled(made)["scaleTargetRef"] == {"name": made.deployment["metadata"]["name"]}


@law(KEDA, put(scaled, maxReplicaCount=20), put(scaled, advanced={}))
def keda_scales_as_the_autoscaler_in_its_place_did(made: Made, world: World) -> None:
    before = yaml.safe_load((KUBERNETES / "base" / "horizontalpodautoscaler.yaml").read_text())["spec"]

    assert (scaled(made)["minReplicaCount"], scaled(made)["maxReplicaCount"]) == (
        before["minReplicas"],
        before["maxReplicas"],
    )
    assert scaled(made)["advanced"].get("horizontalPodAutoscalerConfig", {}).get("behavior") == before["behavior"]


@law(
    KEDA,
    put(lambda made: scaled(made)["triggers"][0]["metadata"], query="sum(ensemble_queue_rows)"),
    put(lambda made: scaled(made)["triggers"][1]["metadata"], query="sum(rate(ensemble_device_seconds[2m]))"),
    put(lambda made: scaled(made)["triggers"][1]["metadata"], query="vector(1)"),
)
def keda_asks_for_series_that_there_are(made: Made, world: World) -> None:
    queries = [each["metadata"]["query"] for each in scaled(made)["triggers"] if each["type"] == "prometheus"]

    assert len(queries) == 2
    for query in queries:
        assert world.asked_for(query)
        assert world.asked_for(query) <= world.shown | world.recorded


@law(KEDA, put(lambda made: scaled(made)["triggers"][0]["metadata"], query="sum(ensemble_queued_rows)"))
def keda_asks_for_our_pods_alone(made: Made, world: World) -> None:
    for each in scaled(made)["triggers"]:
        if each["type"] == "prometheus":
            assert f'namespace="{made.deployment["metadata"]["namespace"]}"' in each["metadata"]["query"]


@law(
    KEDA,
    put(scaled, fallback=None),
    put(lambda made: scaled(made)["triggers"][0], metricType="Value"),
    put(lambda made: scaled(made)["fallback"], behavior="static"),
)
def without_prometheus_keda_takes_no_pod_away(made: Made, world: World) -> None:
    """It can say so of averages alone."""
    kinds = {each["metricType"] for each in scaled(made)["triggers"] if each["type"] == "prometheus"}

    assert scaled(made).get("fallback", {}).get("behavior") == "currentReplicasIfHigher"
    assert kinds == {"AverageValue"}


@law(
    KEDA,
    put(lambda made: scaled(made)["triggers"][0]["metadata"], ignoreNullValues=None),
    put(lambda made: scaled(made)["triggers"][1]["metadata"], ignoreNullValues="true"),
)
def to_keda_a_prometheus_that_does_not_know_our_pods_is_a_fault(made: Made, world: World) -> None:
    """Else it takes no series for a queue of 0."""
    for each in scaled(made)["triggers"]:
        if each["type"] == "prometheus":
            assert each["metadata"].get("ignoreNullValues") == "false"


@law(
    KEDA,
    put(
        lambda made: scaled(made)["triggers"][1]["metadata"],
        query='sum(rate(ensemble_device_seconds_total{namespace="scrutin"}[2m]))',
    ),
)
def to_keda_pods_that_have_not_been_asked_yet_are_no_fault(made: Made, world: World) -> None:
    """They have a queue, and no time on devices."""
    for each in scaled(made)["triggers"]:
        if each["type"] == "prometheus":
            assert "ensemble_queued_rows" in each["metadata"]["query"]


@law(
    MONITORING,
    put(lambda made: made.one("PodMonitor")["spec"]["podMetricsEndpoints"][0], port="http"),
    put(lambda made: made.one("PodMonitor")["spec"]["podMetricsEndpoints"][0], path="/"),
    put(lambda made: made.one("PodMonitor")["spec"], selector={"matchLabels": {"app": "scrutin"}}),
)
def prometheus_reads_what_the_server_shows(made: Made, world: World) -> None:
    monitor = made.one("PodMonitor")["spec"]
    [endpoint] = monitor["podMetricsEndpoints"]
    [port] = [each for each in made.container["ports"] if each["name"] == endpoint["port"]]

    assert matches(monitor["selector"], made.labels)
    assert port["containerPort"] == made.settings.metrics_port
    assert endpoint["path"] == "/metrics"


@law(
    MONITORING,
    put(lambda made: made.one("PodMonitor")["spec"]["podMetricsEndpoints"][0], relabelings=[]),
    put(lambda made: made.one("PodMonitor")["spec"]["podMetricsEndpoints"][0]["relabelings"][0], targetLabel="group"),
)
def all_pods_of_a_namespace_are_one_job(made: Made, world: World) -> None:
    """Those of another one are another deployment, whose series are not to be added to these."""
    [endpoint] = made.one("PodMonitor")["spec"]["podMetricsEndpoints"]

    assert endpoint["relabelings"] == [{"sourceLabels": ["__meta_kubernetes_namespace"], "targetLabel": "job"}]


@law(
    MONITORING,
    put(lambda made: made.one("PrometheusRule")["spec"]["groups"][0]["rules"][0], expr="ensemble_errors > 0"),
)
def alerts_read_series_that_there_are(made: Made, world: World) -> None:
    rules = [rule for group in made.one("PrometheusRule")["spec"]["groups"] for rule in group["rules"]]
    asked = {name for rule in rules for name in world.asked_for(rule["expr"])}

    assert len(asked) > 30
    assert asked - world.shown - {rule["record"] for rule in rules if "record" in rule} == set()


@law(
    MONITORING,
    lambda made: made.one("ConfigMap", "scrutin-dashboards")["data"].update(
        {"worth.json": '{"expr": "ensemble_gain"}'}
    ),
)
def dashboards_read_series_that_there_are(made: Made, world: World) -> None:
    boards = made.one("ConfigMap", "scrutin-dashboards")["data"].values()
    queries = [query for board in boards for query in re.findall(r'"expr": "((?:[^"\\]|\\.)*)"', board)]
    asked = {name for query in queries for name in world.asked_for(query.replace('\\"', '"'))}

    assert len(asked) > 20
    assert asked <= world.shown | world.recorded


@law(MONITORING, put(lambda made: made.one("ConfigMap", "scrutin-dashboards")["metadata"], labels={}))
def grafana_finds_the_dashboards(made: Made, world: World) -> None:
    assert made.one("ConfigMap", "scrutin-dashboards")["metadata"]["labels"].get("grafana_dashboard") == "1"
