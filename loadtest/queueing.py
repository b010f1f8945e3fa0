"""One replica as a queue: what it makes of arrivals, from what its work takes. Pure.

A replica on one core reads what has arrived, runs all of it as one batch, answers, and reads again. It never waits for a batch to
fill, and never rests while anybody waits, so that batches grow with the load. That is a queue with bulk service (Bailey, "On
queueing processes with bulk service", Journal of the Royal Statistical Society B 1954), where reading and answering take the
same server's time. With batches of one it is the M/G/1 queue for Poisson arrivals (Pollaczek and Khinchine).
"""

from dataclasses import dataclass

import numpy as np

from loadtest.schedule import Ints
from loadtest.stages import Floats


@dataclass(frozen=True, slots=True)
class Replica:
    """What one core's work takes, in seconds. Requests are all alike: of `rows_per_request` rows and one policy."""

    request_seconds: float
    """Of a request: half for reading it, before its batch runs, and half for its answer."""
    batch_seconds: float
    """Of a batch, whatever is in it."""
    row_seconds: float
    """Of each row of a batch."""
    max_batch_size: int = 64
    """Rows."""
    rows_per_request: int = 1

    @property
    def most(self) -> int:
        """Requests of a full batch."""
        return max(1, self.max_batch_size // self.rows_per_request)

    def seconds(self, requests: float) -> float:
        """All the time that a batch of so many requests takes."""
        return self.batch_seconds + requests * (self.request_seconds + self.rows_per_request * self.row_seconds)

    @property
    def capacity(self) -> float:
        """Requests/s in full batches. At a higher rate the queue grows without end."""
        return self.most / self.seconds(self.most)


@dataclass(frozen=True, slots=True)
class Served:
    """What became of n requests in m batches. `arrived`, `left` [n]; `requests` of each batch, `began`, `ended` [m]; in seconds.

    A batch begins with the reading of its first request, and ends with its answers.
    """

    arrived: Floats
    left: Floats
    requests: Ints
    began: Floats
    ended: Floats

    @property
    def latency(self) -> Floats:
        """[n]"""
        return self.left - self.arrived

    @property
    def busy(self) -> float:
        """The share of the time, from the first arrival to the last answer, in which the core worked."""
        return float((self.ended - self.began).sum() / (self.ended[-1] - self.arrived[0]))


def serve(arrivals: Floats, replica: Replica, work: Floats | None = None, pauses: Floats | None = None) -> Served:
    """Let requests arrive at these instants [n], in order; n is at least 1.

    `work`: what each takes instead of `request_seconds`, [n]. `pauses`: what the k-th batch takes beside its work, [≥ m].
    """
    n, most = len(arrivals), replica.most
    instants = arrivals.tolist()
    halves = (np.full(n, replica.request_seconds / 2) if work is None else work / 2).tolist()
    extra = [0.0] * n if pauses is None else pauses.tolist()
    a_request = replica.rows_per_request * replica.row_seconds
    firsts: list[int] = []
    began: list[float] = []
    ended: list[float] = []
    now, read = 0.0, 0
    while read < n:
        first = read
        now = max(now, instants[first])
        began.append(now)
        while read < n and read - first < most and instants[read] <= now:
            now += halves[read]
            read += 1
        now += replica.batch_seconds + (read - first) * a_request + sum(halves[first:read]) + extra[len(firsts)]
        firsts.append(first)
        ended.append(now)
    requests = np.diff([*firsts, n])
    return Served(arrivals, np.repeat(ended, requests), requests, np.array(began), np.array(ended))


def dealt(arrivals: Floats, replica: Replica, replicas: int) -> Floats:
    """The latencies [n] of requests that go to each of some replicas in turn, as `round_robin` deals them out."""
    latency = np.empty(len(arrivals))
    for number in range(min(replicas, len(arrivals))):
        latency[number::replicas] = serve(arrivals[number::replicas], replica).latency
    return latency


def highest_rate(
    replica: Replica, quantile: float, limit: float, arrivals: Floats, pauses: Floats | None = None
) -> float:
    """The highest rate, in requests/s, at which this quantile of latency stays within `limit` seconds; 0 where none does.

    `arrivals` [n] at a rate of 1: they are sped up, so that all rates meet the same pattern. `pauses`: as for `serve`.
    By bisection, to a thousandth of the capacity.
    """
    low, high = 0.0, replica.capacity
    while high - low > replica.capacity / 1000:
        rate = (low + high) / 2
        kept = np.quantile(serve(arrivals / rate, replica, pauses=pauses).latency, quantile) <= limit
        low, high = (rate, high) if kept else (low, rate)
    return low
