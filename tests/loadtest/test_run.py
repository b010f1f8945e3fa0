"""`loadtest run` as it is used: the command, against a server in a process of its own."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest

SAMPLES = Path(__file__).parents[2] / "exported_models" / "digits" / "samples.npz"

QUICK = {"duration": "2s", "warm_up": "200ms", "rate": 100}


def measured(done) -> dict:
    """What `--json` printed."""
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def total(run: dict, key: str) -> int:
    return sum(arm[key] for arm in run["arms"])


def test_a_frozen_server_is_not_kind_to_the_p99(loadtest, launch_scripted) -> None:
    """100 requests/s for 10 s against 2 s of standstill: a fifth of the requests waits evenly between 0 and 2 s, so that the
    p99 of all is what 5% of those exceed, 1.9 s. Without the planned instants it would be some milliseconds."""
    with launch_scripted(freeze="4:2") as place:
        done = loadtest(
            "run", f"grpc://{place}", rate=100, duration="10s", warm_up="0s", arrivals="constant", json=True
        )
    (arm,) = measured(done)["arms"]

    assert arm["latency_seconds"]["p99"] == pytest.approx(1.9, rel=0.05)
    assert arm["latency_seconds"]["p90"] == pytest.approx(1.0, rel=0.05)
    assert arm["latency_seconds"]["p50"] < 0.1
    assert (arm["requests"], arm["censored"], arm["errors"]) == (1000, 0, {})


@pytest.mark.parametrize(
    ("scheme", "options"),
    [
        ("grpc", {}),
        ("grpc", {"stream": True}),
        ("oip+grpc", {}),
        ("http", {}),
        ("oip+http", {}),
        ("oip+http", {"tensors": "json"}),
    ],
    ids=str,
)
def test_every_way_to_ask_gets_the_answers_of_the_ensemble(
    loadtest, served, expected, samples, scheme, options
) -> None:
    place = served["grpc" if "grpc" in scheme else "http"]
    done = loadtest("run", f"{scheme}://{place}/digits", data=SAMPLES, rows=3, json=True, **QUICK, **options)
    run = measured(done)
    (arm,) = run["arms"]
    labels = expected.label_index.tolist()

    assert (arm["policy"], arm["errors"], arm["requests"]) == ("full", {}, arm["answered"])
    assert arm["rows"] == 3 * arm["requests"] > 0
    assert given(arm) <= set(enumerate(labels))
    assert arm["device_seconds_per_1000"]["value"] > 0
    right = np.mean([labels[row] == samples[1][row] for row in {row for row, _ in given(arm)}])
    assert arm["accuracy"]["value"] == pytest.approx(right)


def given(arm: dict) -> set[tuple[int, int]]:
    """Row of the data and class index of the answers."""
    return {(row, label) for row, label, _ in arm["record"]["answers"]}


def test_policies_side_by_side_are_asked_for_the_same_rows(loadtest, served) -> None:
    policies = ["full", "early_exit", "member:cnn"]
    done = loadtest("run", f"grpc://{served['grpc']}/digits", policy=policies, data=SAMPLES, json=True, **QUICK)
    run = measured(done)

    assert [arm["policy"] for arm in run["arms"]] == policies
    requests = [arm["requests"] for arm in run["arms"]]
    assert max(requests) - min(requests) <= 1
    rows = [{row for row, _ in given(arm)} for arm in run["arms"]]
    assert len(set.union(*rows) - set.intersection(*rows)) <= 2  # the last block may be cut
    assert run["arms"][1]["agreement_with_full"]["value"] == 1.0  # an early exit is exact
    assert "cnn" in run["verdict"]["text"]


def test_the_same_seed_sends_the_same_at_the_same_instants(loadtest, scripted) -> None:
    runs = [
        measured(loadtest("run", f"grpc://{scripted}", seed=seed, json=True, **{**QUICK, "duration": "500ms"}))
        for seed in (7, 7, 8)
    ]
    hashes = [run["schedule_sha256"] for run in runs]

    assert hashes[0] == hashes[1] != hashes[2]


def test_all_files_are_there(loadtest, scripted, tmp_path) -> None:
    out = tmp_path / "new" / "folder"
    done = loadtest("run", f"grpc://{scripted}", out=out, slo="error_rate<1%", **QUICK)

    assert done.returncode in {0, 4}, done.stderr  # 4: this machine was too busy to be on time
    assert {path.name for path in out.iterdir()} == {"results.json", "results.csv", "latency.hlog", "report.html"}
    assert "error_rate<1% met" in done.stdout
    assert json.loads((out / "results.json").read_text())["plan"]["arrivals"] == "poisson"


def test_an_objective_that_is_missed_is_exit_code_3(loadtest, launch_scripted) -> None:
    with launch_scripted(error=2) as place:
        done = loadtest("run", f"oip+http://{place}", slo=["error_rate<1%", "p90<10s"], json=True, **QUICK)
    run = measured(done)

    assert done.returncode == (3 if run["valid"] else 4)
    assert run["arms"][0]["errors"].keys() == {"429"}
    assert [each["met"] for each in run["arms"][0]["slos"]] == [False, False]  # half of all never had an answer
    assert "429, as first said" in done.stderr


def test_errors_are_counted_by_code_on_every_way(loadtest, launch_scripted) -> None:
    for scheme, options, code in [
        ("grpc", {}, "RESOURCE_EXHAUSTED"),
        ("grpc", {"stream": True}, "RESOURCE_EXHAUSTED"),
        ("oip+grpc", {}, "RESOURCE_EXHAUSTED"),
        ("http", {}, "429"),
    ]:
        with launch_scripted(error=4) as place:
            (arm,) = measured(loadtest("run", f"{scheme}://{place}", json=True, **QUICK, **options))["arms"]

        assert arm["errors"].keys() == {code}
        assert arm["errors"][code] == pytest.approx(arm["requests"] / 4, abs=2)
        assert arm["answered"] + arm["errors"][code] == arm["requests"]


def test_what_is_unfinished_at_the_end_is_counted_with_its_age(loadtest, launch_scripted) -> None:
    with launch_scripted(freeze="1:20") as place:
        done = loadtest(
            "run",
            f"grpc://{place}",
            rate=100,
            arrivals="constant",
            duration="2s",
            warm_up="0s",
            drain="500ms",
            json=True,
        )
    (arm,) = measured(done)["arms"]

    assert arm["requests"] == 200
    assert arm["censored"] == 200 - arm["answered"] > 50
    assert arm["errors"] == {}
    assert arm["latency_seconds"]["max"] > 1.0


def test_a_deadline_makes_errors_of_what_takes_longer(loadtest, launch_scripted) -> None:
    for scheme, options in [("grpc", {}), ("grpc", {"stream": True}), ("oip+http", {})]:
        with launch_scripted(freeze="0.5:1") as place:
            done = loadtest(
                "run",
                f"{scheme}://{place}",
                rate=100,
                duration="3s",
                warm_up="0s",
                deadline="200ms",
                json=True,
                **options,
            )
        (arm,) = measured(done)["arms"]

        assert arm["errors"].keys() == {"DEADLINE_EXCEEDED"}
        assert arm["censored"] == 0
        assert arm["answered"] + arm["errors"]["DEADLINE_EXCEEDED"] == arm["requests"]


def test_a_closed_loop_says_that_it_is_closed(loadtest, launch_scripted) -> None:
    with launch_scripted(service=0.01) as place:
        done = loadtest("run", f"grpc://{place}", concurrency=3, duration="2s", warm_up="0s")

    assert done.returncode == 0, done.stderr
    assert "closed loop" in done.stdout


def test_workers_share_one_schedule(loadtest, scripted) -> None:
    one, two = (
        measured(loadtest("run", f"grpc://{scripted}", workers=workers, json=True, **QUICK)) for workers in (1, 2)
    )

    assert one["schedule_sha256"] == two["schedule_sha256"]
    assert total(one, "requests") == total(two, "requests")
    assert two["plan"]["workers"] == 2


def test_shards_that_start_together_merge_to_the_whole(loadtest, start_loadtest, scripted, tmp_path) -> None:
    import time

    begin = f"{time.time() + 12:.2f}"
    shards = [
        start_loadtest(
            "run", f"grpc://{scripted}", shard=f"{place}/2", start_at=begin, out=tmp_path / str(place), **QUICK
        )
        for place in (1, 2)
    ]
    for shard in shards:
        _, said = shard.communicate(timeout=60)
        assert shard.returncode in {0, 4}, said
    merged = measured(loadtest("merge", tmp_path / "1", tmp_path / "2", out=tmp_path / "both", json=True))
    whole = measured(loadtest("run", f"grpc://{scripted}", json=True, **QUICK))

    assert merged["schedule_sha256"] == whole["schedule_sha256"]
    assert total(merged, "requests") == total(whole, "requests")
    assert merged["started_at"] == pytest.approx(float(begin))


def test_stages_and_traces_send_what_they_say(loadtest, scripted, tmp_path) -> None:
    ramp = measured(
        loadtest("run", f"grpc://{scripted}", stages="0-100:1s,100:1s", arrivals="constant", warm_up="0s", json=True)
    )
    assert total(ramp, "requests") == 150

    trace = tmp_path / "trace.txt"
    trace.write_text("# seconds\n10.0\n10.5\n10.5\n11.2\n")
    run = measured(loadtest("run", f"grpc://{scripted}", trace=trace, warm_up="0s", json=True))
    assert total(run, "requests") == 4
    assert run["plan"]["arrivals"] == "trace"


def test_ctrl_c_keeps_what_was_measured(start_loadtest, scripted, tmp_path) -> None:
    import time

    out = tmp_path / "out"
    run = start_loadtest("run", f"grpc://{scripted}", rate=200, duration="60s", warm_up="0s", out=out)
    while "answered" not in run.stderr.readline():  # the line of the fifth second
        pass
    run.send_signal(signal.SIGINT)
    stdout, _ = run.communicate(timeout=30)
    found = json.loads((out / "results.json").read_text())

    assert run.returncode == 130
    assert "interrupted after" in found["stopped"]
    assert total(found, "requests") > 500
    assert total(found, "answered") == total(found, "requests")
    assert (out / "report.html").exists()
    assert "interrupted after" in stdout
    assert time.time() - found["started_at"] < 60


def test_a_server_that_dies_is_told_in_a_line_and_what_was_measured_is_kept(
    loadtest, launch_scripted, tmp_path
) -> None:
    for scheme, options in [("grpc", {}), ("grpc", {"stream": True}), ("oip+http", {})]:
        out = tmp_path / f"{scheme}{len(options)}"
        with launch_scripted(end=1.0) as place:
            done = loadtest(
                "run", f"{scheme}://{place}", rate=100, duration="30s", warm_up="0s", give_up="1s", out=out, **options
            )
        found = json.loads((out / "results.json").read_text())
        (arm,) = found["arms"]

        assert done.returncode == 1
        assert "the target went away" in done.stderr.splitlines()[-1]
        assert arm["answered"] > 50
        assert arm["errors"].keys() == {"UNAVAILABLE"}
        assert arm["answered"] + arm["errors"]["UNAVAILABLE"] + arm["censored"] == arm["requests"]


def test_the_metrics_of_the_server_are_laid_beside(loadtest, served) -> None:
    done = loadtest(
        "run",
        f"grpc://{served['grpc']}/digits",
        policy=["full", "member:mlp"],
        prometheus=f"http://{served['metrics']}/metrics",
        json=True,
        **QUICK,
    )
    run = measured(done)
    key = 'ensemble_requests_total{code="OK",ensemble="digits",policy="full",protocol="grpc"}'

    warm_up_and_probe = run["server"][key] - run["arms"][0]["requests"]
    assert 0 < warm_up_and_probe < 30
    assert run["server"]['ensemble_request_seconds{ensemble="digits",policy="full",quantile="0.99"}'] > 0
