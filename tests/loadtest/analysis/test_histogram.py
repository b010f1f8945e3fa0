"""Histograms: quantiles within 0.1%, exact merges, and HdrHistogram's own format."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest import hdr
from loadtest.hdr import HdrError
from loadtest.histogram import Histogram

DURATIONS = st.lists(st.floats(0, 1e5), min_size=1, max_size=60)

THEIRS = "HISTFAAAADh4nJNpmSzMwMAgzgABzFCaEYhfXFkqwGD/ASrAdJqfabUAE9NBYabfVUwL5zOyXGxmZAIAFtQLiQ=="
"""What version 0.10.8 of the Python library `hdrhistogram` makes of these values, with 3 digits."""
THEIR_VALUES = (1, 1000, 2047, 2048, 5000, 10**6, 10**9, 10**9, 3 * 10**11)


@pytest.mark.parametrize("q", [0.0, 0.01, 0.5, 0.9, 0.99, 0.999, 0.9999, 1.0])
@pytest.mark.parametrize("draw", ["exponential", "lognormal", "pareto"])
def test_a_quantile_is_within_a_thousandth_of_the_samples_own(draw: str, q: float) -> None:
    rng = np.random.default_rng(1)
    values = {"exponential": rng.exponential(0.01, 50_000), "lognormal": rng.lognormal(-5, 2, 50_000)}.get(draw)
    values = rng.pareto(1.5, 50_000) * 1e-3 if values is None else values

    assert Histogram.of(values).quantile(q) == pytest.approx(
        np.quantile(values, q, method="inverted_cdf"), rel=1e-3, abs=1e-9
    )


@given(DURATIONS, st.floats(0, 1))
def test_whatever_is_recorded_comes_back_within_a_thousandth(durations: list[float], q: float) -> None:
    expected = np.quantile(durations, q, method="inverted_cdf")

    assert Histogram.of(durations).quantile(q) == pytest.approx(expected, rel=1e-3, abs=1e-9)


@given(DURATIONS, DURATIONS, DURATIONS)
def test_merging_is_exact_in_any_order(a: list[float], b: list[float], c: list[float]) -> None:
    one, other = Histogram.of(c), Histogram()
    for part in (b, a):
        one.merge(Histogram.of(part))
    for part in (a, b, c):
        other.merge(Histogram.of(part))

    assert one == other == Histogram.of(a + b + c)


@given(DURATIONS)
def test_many_at_once_is_one_by_one(durations: list[float]) -> None:
    singly = Histogram()
    for duration in durations:
        singly.record(duration)

    assert singly == Histogram.of(durations)


def test_a_count_stands_for_so_many() -> None:
    found = Histogram()
    found.record(0.25, 3)

    assert found == Histogram.of([0.25, 0.25, 0.25])
    assert (found.count, found.mean, found.within(0.25), found.within(0.2)) == (3, 0.25, 3, 0)


def test_a_clocks_grain_below_zero_is_zero() -> None:
    assert Histogram.of([-1e-7]).quantile(1.0) == 0.0


def test_an_empty_one_says_that_it_does_not_know() -> None:
    assert np.isnan(Histogram().quantile(0.5)) and np.isnan(Histogram().mean)


def test_memory_does_not_grow_with_the_number_of_requests() -> None:
    found, rng = Histogram(), np.random.default_rng(0)
    for _ in range(10):
        found.record_all(rng.exponential(0.01, 1_000_000))

    assert found.count == 10_000_000
    assert len(found.counts) < 20_000


@given(DURATIONS, st.sampled_from([2, 3]))
def test_a_histogram_survives_hdrhistograms_format(durations: list[float], digits: int) -> None:
    found = Histogram.of(durations, digits)

    assert hdr.decode(hdr.encode(found), (found.smallest, found.largest, found.total)) == found


def test_hdrhistograms_own_library_writes_what_is_read_here() -> None:
    found = hdr.decode(THEIRS)

    assert found.counts == Histogram.of([value / 1e9 for value in THEIR_VALUES]).counts
    assert found.quantile(1.0) == pytest.approx(300, rel=1e-3)


@pytest.mark.parametrize("text", ["", "HISTF", "AAAA", THEIRS[:-20], "HISTFAAAAAA=", "ü"])
def test_what_is_no_histogram_is_told(text: str) -> None:
    with pytest.raises(HdrError, match="found no histogram of HdrHistogram's format V2"):
        hdr.decode(text)


def test_a_log_has_a_line_for_each_histogram() -> None:
    *_, line = hdr.log([("member:cnn", 0.0, 10.0, Histogram.of([0.25]))], 1.8e9).splitlines()

    assert line.startswith("Tag=member:cnn,0.000,10.000,250.000,HISTF")
