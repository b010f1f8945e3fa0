"""What a scrape brings: clean by Prometheus' own linter, and not too much of it."""

import os
import shutil
import subprocess

import grpc
import numpy as np
import pytest

from scrutin.v1 import ensemble_pb2 as pb

MOST_SERIES = 2000
MEMBERS = list("abcdefghij")
POLICIES = {"early_exit": {"stages": [MEMBERS[:6], MEMBERS[6:]]}, "single": {"stages": [["a"]]}}


@pytest.fixture(scope="module")
def scraped(launch, write_tiny):
    """Of ten members, after every policy was asked for on both wires, and refused on both."""
    x = np.float32([[1, 0, 0, 0]])
    with launch(write_tiny("ten", MEMBERS, policies=POLICIES)) as server, server.stub() as stub:
        tensor = pb.Tensor(datatype="FP32", shape=x.shape, data=x.tobytes())
        for policy in ("full", *POLICIES, *(f"member:{name}" for name in MEMBERS)):
            assert stub.Predict(pb.PredictRequest(ensemble="ten", policy=policy, tensor=tensor)).label
            assert server.post("/v1/models/ten:predict", {"instances": x.tolist(), "policy": policy}).status == 200
        with pytest.raises(grpc.RpcError):
            stub.Predict(pb.PredictRequest(ensemble="ten", policy="none", tensor=tensor))
        assert server.post("/v1/models/ten:predict", {"instances": []}).status == 400
        return server.request("GET", "/metrics", address=server.metrics).body.decode()


def test_promtool_finds_nothing(scraped):
    if shutil.which("promtool") is None and "CI" not in os.environ:
        pytest.skip("promtool is not installed; on Debian it is in the package prometheus")
    done = subprocess.run(["promtool", "check", "metrics"], input=scraped, capture_output=True, text=True, timeout=60)

    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_ten_members_are_fewer_than_two_thousand_series(scraped):
    series = [line for line in scraped.splitlines() if line and not line.startswith("#")]

    assert 500 < len(series) < MOST_SERIES
