"""Is it well? Traffic, latency, members, queue and devices."""

from panels import Panel
from queries import BY_MEMBER, DEVICES, OF, p99, rate, ratio

SPARE = f"min by (job, ensemble) (instance:ensemble_members_in_rotation:sum{{{OF}}} - on (job, instance, ensemble) ensemble_quorum)"

OPERATORS = {
    "Now": [
        Panel(
            "Alerts",
            "Alerts that fire; what to do stands in docs/operations.md",
            "none",
            [('count(ALERTS{alertstate="firing", job=~"$job"}) or vector(0)', "firing")],
            "stat",
            4,
        ),
        Panel(
            "Requests", "Over all policies", "reqps", [(f"ensemble:ensemble_requests:rate5m{{{OF}}}", "")], "stat", 4
        ),
        Panel(
            "Without an answer",
            "The share of valid requests, in an hour; objective:availability says how many may be",
            "percentunit",
            [(f"ensemble:ensemble_request_errors:ratio_rate1h{{{OF}}}", "")],
            "stat",
            4,
        ),
        Panel(
            "Too slow",
            "The share of requests over the latency objective, in an hour",
            "percentunit",
            [(f"ensemble:ensemble_request_seconds:slow_ratio_rate1h{{{OF}}}", "")],
            "stat",
            4,
        ),
        Panel(
            "Votes to spare",
            "Members in rotation beyond the quorum, on the server that has fewest; below 0 it is not ready",
            "none",
            [
                (
                    SPARE,
                    "",
                )
            ],
            "stat",
            4,
        ),
        Panel("Servers", "That show what they serve", "none", [(f"count(ensemble_info{{{OF}}})", "")], "stat", 4),
    ],
    "Traffic": [
        Panel(
            "Requests by policy that ran",
            "Requests per second",
            "reqps",
            [(f"policy:ensemble_requests:rate5m{{{OF}}}", "{{ensemble}} {{policy}}")],
        ),
        Panel(
            "Requests without an answer",
            "By status code, callers' own faults included",
            "reqps",
            [
                (
                    rate("ensemble_requests_total", "ensemble, protocol, code", 'code!="OK"'),
                    "{{ensemble}} {{protocol}} {{code}}",
                )
            ],
        ),
        Panel(
            "Refused under load",
            "queue_full, too_late, or overrun, which is before a request was read and names no ensemble",
            "reqps",
            [(f"sum by (ensemble, reason) (rate(ensemble_shed_total{{{DEVICES}}}[5m]))", "{{ensemble}} {{reason}}")],
        ),
    ],
    "Latency": [
        Panel(
            "Requests",
            "From arrival to answer: half, 95% and 99% are faster",
            "s",
            [(f"ensemble:ensemble_request_seconds:quantile5m{{{OF}}}", "{{ensemble}} p{{quantile}}")],
        ),
        Panel(
            "99% by policy",
            "From arrival to answer",
            "s",
            [
                (
                    f'policy:ensemble_request_seconds:quantile5m{{{OF}, quantile="0.99"}}',
                    "{{ensemble}} {{policy}}",
                )
            ],
        ),
        Panel(
            "99% of waiting and of voting",
            "From arrival to the start of the batch; counting the votes of a batch",
            "s",
            [
                (
                    p99(f"ensemble_{what}_seconds", "ensemble"),
                    f"{{{{ensemble}}}} {what}",
                )
                for what in ("queue", "vote")
            ],
        ),
    ],
    "Members": [
        Panel(
            "In rotation, and the quorum",
            "Members that are asked, by server; at the quorum, one more failure ends the answers",
            "none",
            [
                (f"instance:ensemble_members_in_rotation:sum{{{OF}}}", "{{ensemble}} {{instance}}"),
                (f"max by (ensemble) (ensemble_quorum{{{OF}}})", "{{ensemble}} quorum"),
            ],
        ),
        Panel(
            "No vote",
            "The share of rows that a member was asked for and gave none on, failed or late",
            "percentunit",
            [(f"member:ensemble_member_unheard:ratio_rate5m{{{OF}}}", "{{ensemble}}.{{member}}")],
        ),
        Panel(
            "99% of the runs",
            "Seconds of one run of a member",
            "s",
            [
                (
                    p99("ensemble_member_seconds", "ensemble, member"),
                    "{{ensemble}}.{{member}}",
                )
            ],
        ),
        Panel(
            "Where members run",
            "The provider is what executes the graph; a member that should have a GPU and has CPUExecutionProvider fell back",
            "none",
            [(f"ensemble_member_info{{{OF}}}", "")],
            "table",
            16,
        ),
        Panel(
            "Dissent",
            "The share of the rows that a member voted on, where its vote was not the answer",
            "percentunit",
            [
                (
                    ratio(
                        rate("ensemble_dissents_total", BY_MEMBER),
                        rate("ensemble_member_rows_total", BY_MEMBER, 'outcome="ok"'),
                    ),
                    "{{ensemble}}.{{member}}",
                )
            ],
        ),
    ],
    "Batches, queue and devices": [
        Panel(
            "Rows of a batch",
            "Mean; larger ones are cheaper by the row",
            "none",
            [
                (
                    ratio(rate("ensemble_batch_rows_sum", "ensemble"), rate("ensemble_batch_rows_count", "ensemble")),
                    "{{ensemble}}",
                )
            ],
        ),
        Panel(
            "Rows that wait, requests under way",
            "Over all servers",
            "none",
            [
                (f"sum by (ensemble) (ensemble_queued_rows{{{OF}}})", "{{ensemble}} rows wait"),
                (f"sum by (ensemble) (ensemble_in_flight_requests{{{OF}}})", "{{ensemble}} requests"),
            ],
        ),
        Panel(
            "Brown-out",
            "Steps below the policy that was asked for, at the most",
            "none",
            [(f"max by (ensemble) (ensemble_brownout_level{{{OF}}})", "{{ensemble}}")],
        ),
        Panel(
            "Devices at work",
            "The share of the time in which a device runs members, over all servers",
            "percentunit",
            [(f"device:ensemble_device:utilisation5m{{{DEVICES}}}", "{{job}} {{device}}")],
        ),
        Panel(
            "Device time by member",
            "Device seconds a second",
            "percentunit",
            [
                (
                    rate("ensemble_device_seconds_total", BY_MEMBER),
                    "{{ensemble}}.{{member}}",
                )
            ],
        ),
        Panel(
            "Reloads",
            "Wishes for another version in an hour, by what came of them",
            "none",
            [
                (
                    f"sum by (ensemble, outcome) (increase(ensemble_reloads_total{{{OF}}}[1h]))",
                    "{{ensemble}} {{outcome}}",
                )
            ],
        ),
    ],
}
