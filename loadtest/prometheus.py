"""The server's own metrics over the span of a run, from two looks at its /metrics."""

import math
import urllib.error
import urllib.request
from collections.abc import Iterable
from itertools import pairwise

from prometheus_client.parser import text_string_to_metric_families

Labels = frozenset[tuple[str, str]]
Series = dict[tuple[str, Labels], float]

TIMEOUT_SECONDS = 5.0
QUANTILES = (0.5, 0.9, 0.99)
BUCKET, BOUND = "_bucket", "le"
NOT_ABOUT_REQUESTS = ("python_", "process_")


class ScrapeError(Exception):
    """No metrics there; one line."""


def scrape(url: str) -> Series:
    """All series of a page in the Prometheus text format. Raises ScrapeError."""
    expected = "expected a page in the Prometheus text format, such as http://localhost:8002/metrics"
    if not url.startswith(("http://", "https://")):
        raise ScrapeError(f"{url}: {expected}")
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as page:  # noqa: S310 (http, as checked)
            text = page.read().decode()
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
    except (OSError, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise ScrapeError(f"{url}: found {reason}, {expected}") from None


def increase(before: Series, after: Series, ensemble: str) -> dict[str, float]:
    """By series as Prometheus writes it, how much it grew, where it did; of histograms also their quantiles in the span.

    Series of other ensembles, and of the process itself, are left out.
    """
    grown = {
        key: after[key] - before.get(key, 0.0)
        for key in after
        if _concerns(key[1], ensemble) and not key[0].startswith(NOT_ABOUT_REQUESTS) and not key[0].endswith("_created")
    }
    counted = {
        written(name, labels): value for (name, labels), value in grown.items() if value and not name.endswith(BUCKET)
    }
    return dict(sorted((counted | quantiles(grown)).items()))


def _concerns(labels: Labels, ensemble: str) -> bool:
    return dict(labels).get("ensemble", ensemble) == ensemble


def quantiles(grown: Series) -> dict[str, float]:
    """Of each histogram that grew: `name{…,quantile="0.99"}`, interpolated within buckets as Prometheus' histogram_quantile does."""
    buckets: dict[tuple[str, Labels], list[tuple[float, float]]] = {}
    for (name, labels), value in grown.items():
        if name.endswith(BUCKET):
            others = frozenset(pair for pair in labels if pair[0] != BOUND)
            bound = float(dict(labels)[BOUND])
            buckets.setdefault((name.removesuffix(BUCKET), others), []).append((bound, value))
    return {
        written(name, labels | {("quantile", str(q))}): quantile(q, sorted(found))
        for (name, labels), found in buckets.items()
        for q in QUANTILES
        if max(value for _, value in found) > 0
    }


def quantile(q: float, buckets: Iterable[tuple[float, float]]) -> float:
    """Of cumulative counts by upper bound, in order."""
    found = [(0.0, 0.0), *buckets]
    rank = q * found[-1][1]
    for (low, below), (high, reached) in pairwise(found):
        if reached >= rank and reached > below:
            return low if math.isinf(high) else low + (high - low) * (rank - below) / (reached - below)
    return math.nan


def written(name: str, labels: Iterable[tuple[str, str]]) -> str:
    inner = ",".join(f'{key}="{value}"' for key, value in sorted(labels))
    return f"{name}{{{inner}}}" if inner else name
