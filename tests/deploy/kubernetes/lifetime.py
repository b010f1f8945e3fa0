"""Settings that the server takes, and how a pod starts, is replaced and ends."""

from pathlib import Path

from serving.app import FLUSH_SECONDS
from serving.settings import Settings

from .laws import DEPLOYED, GPUS, SERVERS, Made, World, law, put

SLACK_SECONDS = 5


def patience(probe: dict) -> float:
    """Seconds of failure after which a probe has failed."""
    return probe["periodSeconds"] * probe["failureThreshold"]


@law(
    SERVERS,
    lambda made: made.container["args"].append("--workers=2"),
    lambda made: made.replace_in_settings("^drain_delay_seconds", "drain_delay"),
    lambda made: made.replace_in_settings("^drain_timeout_seconds: 20", "drain_timeout_seconds: soon"),
    lambda made: made.replace_in_settings("^host:.*", "host"),
)
def the_server_takes_its_flags_and_settings(made: Made, world: World) -> None:
    assert made.settings.repositories


@law(SERVERS, lambda made: made.replace_in_settings("^host: .*\n", ""))
def the_server_listens_to_the_network(made: Made, world: World) -> None:
    assert made.settings.host == "0.0.0.0"


@law(SERVERS, lambda made: made.replace_in_settings("^receipt_seconds: 0", "receipt_seconds: 60"))
def receipts_are_signed_with_a_shared_key_or_not_at_all(made: Made, world: World) -> None:
    settings = made.settings

    assert settings.receipt_seconds == 0 or settings.receipt_key_file


@law(
    SERVERS,
    lambda made: made.replace_in_settings("^# receipt_key_file: .*", "# receipt_key_file: /etc/scrutin/key"),
    lambda made: made.replace_in_settings("^# receipt_key_file: .*", "# key_file: /etc/scrutin-keys/receipts"),
)
def the_lines_that_turn_receipts_on_are_right(made: Made, world: World) -> None:
    """They stand in the file as a comment."""
    made.replace_in_settings("^receipt_seconds: 0", "")
    made.replace_in_settings("^# receipt", "receipt")
    settings = made.settings
    [keys] = [mount["mountPath"] for mount in made.container["volumeMounts"] if mount["name"] == "keys"]

    assert settings.receipt_seconds == Settings(repositories=(Path("any"),)).receipt_seconds
    assert str(settings.receipt_key_file) == f"{keys}/receipts"


@law(
    SERVERS,
    lambda made: made.replace_in_settings("^max_connection_age_seconds.*", ""),
    lambda made: made.replace_in_settings("^max_connection_age_seconds: 300", "max_connection_age_seconds: 86400"),
)
def callers_come_back_soon_enough_to_find_new_pods(made: Made, world: World) -> None:
    assert (made.settings.max_connection_age_seconds or 1e9) <= 600


@law(SERVERS, lambda made: made.replace_in_settings("^host:", "management: true\nhost:"))
def callers_may_not_load_and_unload(made: Made, world: World) -> None:
    assert not made.settings.management


@law(
    SERVERS,
    put(lambda made: made.pod, terminationGracePeriodSeconds=30),
    lambda made: made.replace_in_settings("^drain_timeout_seconds: 20", "drain_timeout_seconds: 30"),
    put(lambda made: made.container["lifecycle"]["preStop"]["sleep"], seconds=20),
)
def the_pod_is_not_killed_before_it_has_drained(made: Made, world: World) -> None:
    settings = made.settings
    sleep = made.container["lifecycle"]["preStop"]["sleep"]["seconds"]
    needed = sleep + settings.drain_delay_seconds + settings.drain_timeout_seconds + FLUSH_SECONDS + SLACK_SECONDS

    assert needed <= made.pod["terminationGracePeriodSeconds"], f"{needed} s are needed"


@law(
    SERVERS,
    put(lambda made: made.container["lifecycle"]["preStop"], sleep={"seconds": 0}),
    put(lambda made: made.container, lifecycle={"preStop": {"exec": {"command": ["sleep", "5"]}}}),
)
def load_balancers_hear_of_it_before_the_server_does(made: Made, world: World) -> None:
    """By `sleep` of the kubelet, as the image need not have one."""
    assert made.container["lifecycle"]["preStop"].get("sleep", {}).get("seconds", 0) >= 5


@law(SERVERS, lambda made: made.replace_in_settings("^drain_delay_seconds: 5", "drain_delay_seconds: 0"))
def requests_are_still_taken_while_readiness_is_gone(made: Made, world: World) -> None:
    assert made.settings.drain_delay_seconds >= 5


@law(
    SERVERS,
    put(lambda made: made.container["readinessProbe"]["httpGet"], path="/v2/health/live"),
    put(lambda made: made.container, readinessProbe=None),
)
def readiness_is_a_quorum_of_warm_members(made: Made, world: World) -> None:
    assert made.container.get("readinessProbe", {}).get("httpGet", {}).get("path") == "/v2/health/ready"


@law(
    SERVERS,
    put(lambda made: made.container["livenessProbe"]["httpGet"], path="/v2/health/ready"),
    put(lambda made: made.container, livenessProbe=None),
)
def liveness_asks_nothing_of_members(made: Made, world: World) -> None:
    assert made.container.get("livenessProbe", {}).get("httpGet", {}).get("path") == "/v2/health/live"


@law(
    SERVERS,
    put(lambda made: made.container["startupProbe"]["httpGet"], path="/v2/health/live"),
    put(lambda made: made.container["startupProbe"], failureThreshold=3),
)
def a_start_has_five_minutes_to_become_ready_and_then_fails(made: Made, world: World) -> None:
    probe = made.container["startupProbe"]

    assert probe["httpGet"]["path"] == "/v2/health/ready"
    assert patience(probe) == 300


@law(SERVERS, put(lambda made: made.container["livenessProbe"], failureThreshold=1))
def a_pod_leaves_the_load_balancers_long_before_it_is_restarted(made: Made, world: World) -> None:
    assert patience(made.container["livenessProbe"]) >= 4 * patience(made.container["readinessProbe"])


@law(SERVERS, put(lambda made: made.deployment["spec"], progressDeadlineSeconds=60))
def a_roll_out_is_not_given_up_while_a_pod_may_still_start(made: Made, world: World) -> None:
    assert made.deployment["spec"]["progressDeadlineSeconds"] > patience(made.container["startupProbe"])


@law(
    [name for name in SERVERS if name not in GPUS],
    put(lambda made: made.deployment["spec"]["strategy"]["rollingUpdate"], maxUnavailable=1),
    put(lambda made: made.deployment["spec"], strategy={"type": "Recreate"}),
)
def a_roll_out_takes_no_pod_away_before_another_one_is_ready(made: Made, world: World) -> None:
    assert made.deployment["spec"]["strategy"].get("rollingUpdate") == {"maxUnavailable": 0, "maxSurge": 1}


@law(GPUS, put(lambda made: made.deployment["spec"]["strategy"]["rollingUpdate"], maxSurge=1))
def a_roll_out_on_gpus_needs_none_that_nobody_has(made: Made, world: World) -> None:
    strategy = made.deployment["spec"]["strategy"]["rollingUpdate"]
    least = made.one("HorizontalPodAutoscaler")["spec"]["minReplicas"]

    assert strategy["maxSurge"] == 0
    assert 1 <= strategy["maxUnavailable"] < least


@law(SERVERS, put(lambda made: made.container, terminationMessagePolicy=None))
def the_line_that_says_what_is_wrong_becomes_the_termination_message(made: Made, world: World) -> None:
    assert made.container.get("terminationMessagePolicy") == "FallbackToLogsOnError"


@law(SERVERS, put(lambda made: made.pod, restartPolicy="Never"))
def a_server_that_ends_is_started_again(made: Made, world: World) -> None:
    assert made.pod.get("restartPolicy", "Always") == "Always"


@law(
    [name for name in DEPLOYED if name != "components/keda"],
    put(lambda made: made.one("PodDisruptionBudget")["spec"], maxUnavailable=2),
    put(lambda made: made.one("PodDisruptionBudget")["spec"], maxUnavailable=0),
    put(lambda made: made.one("HorizontalPodAutoscaler")["spec"], minReplicas=1),
)
def draining_a_node_leaves_a_pod_and_is_possible(made: Made, world: World) -> None:
    budget = made.one("PodDisruptionBudget")["spec"]["maxUnavailable"]

    assert 1 <= budget < made.one("HorizontalPodAutoscaler")["spec"]["minReplicas"]


@law(DEPLOYED, put(lambda made: made.one("PodDisruptionBudget")["spec"], unhealthyPodEvictionPolicy=None))
def pods_that_are_not_ready_do_not_keep_a_node_from_being_drained(made: Made, world: World) -> None:
    assert made.one("PodDisruptionBudget")["spec"].get("unhealthyPodEvictionPolicy") == "AlwaysAllow"
