"""`loadtest size`, as typed."""

import json
import math
import re
from pathlib import Path

import pytest

from loadtest.commands import USAGE, Fault, capacity
from loadtest.commands.size import size
from loadtest.sizing import Terms, replicas


@pytest.fixture
def found(tmp_path: Path) -> Path:
    """What a search has found: of `full`, of a policy that the generator could not fill, and of one that kept its objective at no rate."""
    content = {
        "schema": capacity.SCHEMA,
        "target": "grpc://localhost:8001/digits",
        "slos": ["p99<20ms"],
        "rows_per_request": 1,
        "policies": [
            {
                "policy": "full",
                "requests_per_second": {"value": 1200.0, "low": 1100.0, "high": 1300.0, "n": 9},
                "limited_by_generator": False,
                "probes": [],
            },
            {
                "policy": "member:cnn",
                "requests_per_second": {"value": 6000.0, "low": 5500.0, "high": None, "n": 5},
                "limited_by_generator": True,
                "probes": [],
            },
            {"policy": "cascade", "requests_per_second": None, "limited_by_generator": False, "probes": []},
        ],
    }
    (tmp_path / capacity.FILE).write_text(json.dumps(content))
    return tmp_path


def test_a_fleet_is_sized_from_what_a_search_found(loadtest, found: Path) -> None:
    done = loadtest(
        "size", found, policy="full", rate=[5000, 50_000], zones=3, price_per_hour=0.12, mean="50%", json=True
    )
    content = json.loads(done.stdout)
    (only,) = content["policies"]
    small, large = only["fleets"]

    assert (done.returncode, done.stderr) == (0, "")
    assert (content["slos"], content["headroom"], content["spare"]) == (["p99<20ms"], 0.3, 1)
    assert [fleet["replicas"]["value"] for fleet in only["fleets"]] == [
        replicas(rate, 1200, Terms(zones=3)) for rate in (5000, 50_000)
    ]
    assert small["replicas"] == {"value": 9, "low": 9, "high": 12, "n": 9}
    assert small["cost_usd_per_hour"]["value"] == pytest.approx(9 * 0.12)
    assert small["cost_usd_per_1000_requests"]["value"] == pytest.approx(9 * 0.12 / 3600 / 2500 * 1000)
    assert large["utilisation_degraded"] <= 0.7


def test_what_the_generator_could_not_fill_is_a_bound_and_no_rate_is_exit_code_1(loadtest, found: Path) -> None:
    done = loadtest("size", found / capacity.FILE, rate=5000)

    assert done.returncode == 1
    assert "at least 5,500" in done.stdout
    assert "at most 3" in done.stdout
    assert "none kept it" in done.stdout
    assert "even with 1 missing (then), at least 30% of the capacity is free, within p99<20ms" in " ".join(
        done.stdout.split()
    )


def test_a_capacity_may_be_typed(loadtest) -> None:
    done = loadtest("size", per_replica=1200, rate=5000, json=True)
    (only,) = json.loads(done.stdout)["policies"]

    assert done.returncode == 0
    assert only["fleets"][0]["replicas"]["value"] == 7


def test_faults_are_told_in_a_line_with_exit_code_2(loadtest, found: Path) -> None:
    done = loadtest("size", found, rate=5, policy="early_exit")

    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "--policy: found 'early_exit', expected one of full, member:cnn, cascade as in" in done.stderr


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"per_replica": 100}, "--rate: found none, expected the requests/s at the peak, such as --rate 5000"),
        ({"rates": [5]}, "found neither, expected a capacity.json or --per-replica RATE"),
        ({"rates": [5], "per_replica": 9, "file": Path()}, "found both, expected a capacity.json or --per-replica"),
        ({"rates": [5], "per_replica": 0}, "--per-replica: found 0, expected a number above 0"),
        ({"rates": [5, math.nan], "per_replica": 9}, "--rate: found nan, expected a number above 0"),
        (
            {"rates": [5], "per_replica": 9, "headroom": "lots"},
            "--headroom: found 'lots', expected a share such as 30%",
        ),
        (
            {"rates": [5], "per_replica": 9, "headroom": "100%"},
            "--headroom: found 1, expected a share from 0 to below 1",
        ),
        ({"rates": [5], "per_replica": 9, "mean": "0"}, "--mean: found 0, expected a share of the peak above 0"),
        (
            {"rates": [5], "per_replica": 9, "price_per_hour": math.inf},
            "--price-per-hour: found inf, expected at least",
        ),
        ({"rates": [5], "file": Path("nowhere.json")}, "nowhere.json: found No such file or directory, expected what"),
    ],
)
def test_wrong_usage_is_refused(given: dict, told: str) -> None:
    with pytest.raises(Fault, match=re.escape(told)) as fault:
        size(**given)

    assert fault.value.code == USAGE


UNORDERED = {"value": 1, "low": 2, "high": 3, "n": 1}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "found JSONDecodeError"),
        ("[]", "found TypeError"),
        ('{"schema": 7}', "found ValueError schema 7"),
        ('{"schema": 1, "slos": [], "policies": []}', "found ValueError no policies"),
        ('{"schema": 1, "slos": [], "policies": [{"policy": "full"}]}', "found KeyError 'requests_per_second'"),
        (
            json.dumps({"schema": 1, "slos": [], "policies": [{"policy": "a", "requests_per_second": UNORDERED}]}),
            "found ValueError a capacity of 1 from 2 to 3",
        ),
    ],
)
def test_a_file_that_no_search_wrote_is_refused(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / capacity.FILE
    file.write_text(text)

    with pytest.raises(Fault, match=re.escape(f"{file}: {told}")) as fault:
        size(file, rates=[5])

    assert str(fault.value).endswith("expected what `loadtest capacity --out` writes")
