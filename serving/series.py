"""Counters and histograms as plain numbers, handed to the Prometheus library when it asks.

The library's own take a lock and check their arguments at each step, which for the dozen numbers of a request costs as much as
decoding it. Everything here is written by the event loop's thread alone.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from prometheus_client.core import CounterMetricFamily, Exemplar, HistogramMetricFamily, Metric

Labels = tuple[str, ...]


class Count:
    """One number that only grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def add(self, amount: float) -> None:
        self.value += amount


class Distribution:
    """One histogram: how many observations fell at or below each bound, and their sum. Some are known by the trace that they are of."""

    __slots__ = ("_bounds", "_exemplars", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        self._exemplars: dict[int, Exemplar] = {}

    def add(self, value: float) -> None:
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def add_all(self, values: Sequence[float]) -> None:
        """The same for many at once, at a fifth of the price."""
        places = np.searchsorted(self._bounds, values)
        for place, number in enumerate(np.bincount(places).tolist()):
            self.counts[place] += number
        self.total += math.fsum(values)

    def exemplify(self, value: float, trace_id: str, at: float) -> None:
        """An observation that was added is of this trace, `at` seconds since 1970: the last such one of each bucket is told."""
        exemplar = Exemplar({"trace_id": trace_id}, value, at)
        self._exemplars[bisect_left(self._bounds, value)] = exemplar

    def cumulative(self) -> list[tuple[str, float] | tuple[str, float, Exemplar]]:
        """Bound, the number of observations at or below it, and one of its own, as the exposition wants them."""
        rows: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
        seen = 0
        for place, (bound, count) in enumerate(zip([*map(str, self._bounds), "+Inf"], self.counts, strict=True)):
            seen += count
            exemplar = self._exemplars.get(place)
            rows.append((bound, float(seen), exemplar) if exemplar else (bound, float(seen)))
        return rows


class Counter:
    """A family of counts by labels. Its name is without `_total`."""

    def __init__(self, name: str, help_text: str, labels: Sequence[str]) -> None:
        self.name, self.help, self.labels = name, help_text, labels
        self._children: dict[Labels, Count] = {}

    def of(self, *labels: str) -> Count:
        return self._children.setdefault(labels, Count())

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(self.name, self.help, labels=self.labels)
        for labels, count in self._children.items():
            family.add_metric(labels, count.value)
        yield family


class Histogram:
    """A family of distributions by labels."""

    def __init__(self, name: str, help_text: str, labels: Sequence[str], bounds: Sequence[float]) -> None:
        self.name, self.help, self.labels = name, help_text, labels
        self._bounds = tuple(map(float, bounds))
        self._children: dict[Labels, Distribution] = {}

    def of(self, *labels: str) -> Distribution:
        return self._children.setdefault(labels, Distribution(self._bounds))

    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily(self.name, self.help, labels=self.labels)
        for labels, distribution in self._children.items():
            family.add_metric(labels, buckets=distribution.cumulative(), sum_value=distribution.total)
        yield family


class Read:
    """Numbers that others keep. `family`: without samples; they are asked for each time."""

    def __init__(self, family: Metric, samples: Callable[[], Iterable[tuple[dict[str, str], float]]]) -> None:
        self._family, self._samples = family, samples
        self._name = family.name + ("_total" if family.type == "counter" else "")

    def collect(self) -> Iterator[Metric]:
        self._family.samples = []
        for labels, value in self._samples():
            self._family.add_sample(self._name, labels, value)
        yield self._family
