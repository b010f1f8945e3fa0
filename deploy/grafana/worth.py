"""What the product is for: accuracy gained against cost, by policy and member."""

from panels import Panel
from queries import BY_MEMBER, DEVICES, OF, rate, ratio

WORTH = {
    "Is it worth its members?": [
        Panel(
            "Gain over the best member",
            "In accuracy, by a day of feedback on answers of all members; below 0 the best member alone is better",
            "percentunit",
            [(f"ensemble:ensemble_feedback:gain1d{{{OF}}}", "")],
            "stat",
            6,
        ),
        Panel(
            "Known to within",
            "Half of the 95% interval of the accuracy, by a day of feedback",
            "percentunit",
            [(f"ensemble:ensemble_feedback:accuracy_halfwidth1d{{{OF}}}", "")],
            "stat",
            6,
        ),
        Panel(
            "A million right answers under full",
            "USD of what members computed for them",
            "currencyUSD",
            [(f'1e6 * policy:ensemble_feedback_cost_usd:per_right_answer1h{{{OF}, policy="full"}}', "")],
            "stat",
            6,
        ),
        Panel(
            "An hour of all servers costs",
            "USD, used and idle",
            "currencyUSD",
            [(f"job:ensemble_cost_usd:rate5m_per_hour{{{DEVICES}}}", "")],
            "stat",
            6,
        ),
        Panel(
            "Policies: right, and for how much",
            "By feedback, audits and the ledger of the last hour; 1 million rows or right answers, in USD",
            "none",
            [
                (f"policy:ensemble_feedback:accuracy1h{{{OF}}}", "right"),
                (f"policy:ensemble_audited_rows:disagreement1h{{{OF}}}", "other label than full"),
                (f"1000 * policy:ensemble_cost_usd:per_1000_rows1h{{{OF}}}", "USD, 1 million rows"),
                (f"1e6 * policy:ensemble_feedback_cost_usd:per_right_answer1h{{{OF}}}", "USD, 1 million right answers"),
                (f"policy:ensemble_predictions:rate5m{{{OF}}}", "rows a second"),
            ],
            "table",
            24,
        ),
    ],
    "Right": [
        Panel(
            "Right answers by policy",
            "The share of right answers among those whose truth was told",
            "percentunit",
            [(f"policy:ensemble_feedback:accuracy1h{{{OF}}}", "{{ensemble}} {{policy}}")],
            from_zero=False,
        ),
        Panel(
            "Right answers by member, and of the vote",
            "Comparable only where all members voted on every row, which full does",
            "percentunit",
            [
                (f"member:ensemble_member_feedback:accuracy1h{{{OF}}}", "{{ensemble}}.{{member}}"),
                (f'policy:ensemble_feedback:accuracy1h{{{OF}, policy="full"}}', "{{ensemble}} vote"),
            ],
            from_zero=False,
        ),
        Panel(
            "Another label than the full ensemble",
            "The share of audited rows, by policy",
            "percentunit",
            [(f"policy:ensemble_audited_rows:disagreement1h{{{OF}}}", "{{ensemble}} {{policy}}")],
        ),
    ],
    "Cost": [
        Panel(
            "1000 rows cost",
            "USD of what members computed, by policy",
            "currencyUSD",
            [(f"policy:ensemble_cost_usd:per_1000_rows1h{{{OF}}}", "{{ensemble}} {{policy}}")],
        ),
        Panel(
            "A right answer costs",
            "USD of what members computed, by policy",
            "currencyUSD",
            [(f"policy:ensemble_feedback_cost_usd:per_right_answer1h{{{OF}}}", "{{ensemble}} {{policy}}")],
        ),
        Panel(
            "An hour costs, by member",
            "USD, answers, audits and shadows",
            "currencyUSD",
            [
                (
                    rate("ensemble_cost_usd_total", BY_MEMBER) + " * 3600",
                    "{{ensemble}}.{{member}}",
                )
            ],
        ),
        Panel(
            "An hour costs, used and idle",
            "USD, by device",
            "currencyUSD",
            [
                (rate("ensemble_cost_usd_total", "device") + " * 3600", "{{device}} used"),
                (f"sum by (device) (rate(ensemble_idle_cost_usd_total{{{DEVICES}}}[5m])) * 3600", "{{device}} idle"),
            ],
        ),
        Panel(
            "Computed for nobody",
            "The share of the device time whose votes nobody could use",
            "percentunit",
            [(f"ensemble:ensemble_wasted_device_seconds:ratio1h{{{OF}}}", "{{ensemble}} {{reason}}")],
        ),
        Panel(
            "The bill over price x time",
            "1 within 1%, once a server is a quarter of an hour old",
            "none",
            [(f"instance:ensemble_ledger:ratio15m{{{DEVICES}}}", "{{instance}} {{device}}")],
            from_zero=False,
        ),
    ],
    "Policies": [
        Panel(
            "Rows that left early",
            "The share of a policy's rows, by the stage after which they left",
            "percentunit",
            [
                (
                    ratio(
                        rate("ensemble_early_exits_total", "ensemble, policy, stage"),
                        "on (ensemble, policy) group_left " + rate("ensemble_predictions_total", "ensemble, policy"),
                    ),
                    "{{ensemble}} {{policy}} {{stage}}",
                )
            ],
        ),
        Panel(
            "Certificates",
            "1: stale, made for another manifest; or violated, audits found that it does not hold",
            "none",
            [
                (f"max by (ensemble, policy) (ensemble_certificate_{state}{{{OF}}})", f"{{{{policy}}}} {state}")
                for state in ("stale", "violated")
            ],
        ),
        Panel(
            "Shadows: answers that their vote would change",
            "The share of the rows that a shadow member ran",
            "percentunit",
            [
                (
                    ratio(
                        rate("ensemble_shadow_rows_total", BY_MEMBER, 'changed="true"', "1h"),
                        rate("ensemble_shadow_rows_total", BY_MEMBER, "", "1h"),
                    ),
                    "{{ensemble}}.{{member}}",
                )
            ],
        ),
    ],
}
