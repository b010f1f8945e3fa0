import json


def test_the_capacity_of_a_queue_with_one_server_is_found(loadtest, launch_scripted, tmp_path) -> None:
    with launch_scripted(service=0.01) as place:  # 100 requests/s at most
        done = loadtest(
            "capacity",
            f"grpc://{place}",
            slo="p50<100ms",
            start=20,
            probe="1s",
            probes=8,
            warm_up="0s",
            out=tmp_path,
            json=True,
        )
    found = json.loads(done.stdout)
    (only,) = found["policies"]

    assert done.returncode in {0, 4}, done.stderr  # 4: this machine was too busy to send at such a rate
    assert found == json.loads((tmp_path / "capacity.json").read_text())
    assert only["policy"] == "full"
    assert only["requests_per_second"]["value"] <= 160, "a slow machine finds less, and none finds more"
    assert len(only["probes"]) <= 8


def test_objectives_that_no_rate_keeps_are_exit_code_1(loadtest, launch_scripted) -> None:
    with launch_scripted(service=0.01) as place:
        done = loadtest("capacity", f"grpc://{place}", slo="p50<1ms", start=20, probe="1s", probes=3, warm_up="0s")

    assert done.returncode == 1
    assert "none kept it" in done.stdout
    assert "missed: p50<1ms (found 1" in done.stderr


def test_a_server_that_dies_ends_the_search_in_a_line(loadtest, launch_scripted) -> None:
    with launch_scripted(end=1.5) as place:
        done = loadtest("capacity", f"grpc://{place}", slo="p50<1s", start=50, probe="30s", probes=3, warm_up="0s")

    assert done.returncode == 1
    assert "the target went away" in done.stderr.splitlines()[-1]
