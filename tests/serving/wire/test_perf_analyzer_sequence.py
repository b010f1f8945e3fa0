"""The calls that Triton's perf_analyzer makes before, between and after its windows, and what it insists on in the answers.

perf_analyzer is not on the package index, so its sequence is replayed here, over gRPC and over HTTP.
"""

import json
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import MessageToDict
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

DURATIONS = ("success", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss")
TYPE_OF = {"BYTES": "TYPE_STRING"}


@dataclass
class OverGrpc:
    """The calls by gRPC; messages as dictionaries, with the zeros that protobuf leaves out."""

    stub: Any

    def said(self, message) -> dict[str, Any]:
        return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)

    def server_metadata(self) -> dict[str, Any]:
        return self.said(self.stub.ServerMetadata(pb.ServerMetadataRequest()))

    def metadata(self, model: str) -> dict[str, Any]:
        return self.said(self.stub.ModelMetadata(pb.ModelMetadataRequest(name=model)))

    def config(self, model: str) -> dict[str, Any]:
        return self.said(self.stub.ModelConfig(pb.ModelConfigRequest(name=model)).config)

    def stats(self, model: str = "", version: str = "") -> list[dict[str, Any]]:
        request = pb.ModelStatisticsRequest(name=model, version=version)
        return self.said(self.stub.ModelStatistics(request))["model_stats"]

    def infer(self, model: str, rows: bytes, batch: int) -> None:
        tensor = pb.ModelInferRequest.InferInputTensor(name="image", datatype="UINT8", shape=[batch, 8, 8])
        self.stub.ModelInfer(pb.ModelInferRequest(model_name=model, inputs=[tensor], raw_input_contents=[rows]))


@dataclass
class OverHttp:
    """The calls as perf_analyzer's C++ client makes them: always with the header, and an empty Expect."""

    server: Any

    def get(self, path: str) -> Any:
        reply = self.server.get(path)
        assert reply.status == 200
        return reply.json

    def server_metadata(self) -> dict[str, Any]:
        return self.get("/v2")

    def metadata(self, model: str) -> dict[str, Any]:
        return self.get(f"/v2/models/{model}")

    def config(self, model: str) -> dict[str, Any]:
        return self.get(f"/v2/models/{model}/config")

    def stats(self, model: str = "", version: str = "") -> list[dict[str, Any]]:
        path = f"/v2/models/{model}/versions/{version}/stats" if version else f"/v2/models/{model}/stats"
        return self.get(path if model else "/v2/models/stats")["model_stats"]

    def infer(self, model: str, rows: bytes, batch: int) -> None:
        parameters = {"binary_data_size": len(rows)}
        tensor = {"name": "image", "shape": [batch, 8, 8], "datatype": "UINT8", "parameters": parameters}
        head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
        headers = {
            "Inference-Header-Content-Length": str(len(head)),
            "Content-Type": "application/octet-stream",
            "Expect": "",
        }
        reply = self.server.post(f"/v2/models/{model}/infer", head + rows, headers)
        assert reply.status == 200
        length = int(reply.headers["inference-header-content-length"])
        for output in json.loads(reply.body[:length])["outputs"]:
            assert "parameters" not in output or "binary_data_size" in output["parameters"]


@pytest.fixture(params=["grpc", "http"])
def perf_analyzer(request, server):
    if request.param == "http":
        yield OverHttp(server)
    else:
        with grpc.insecure_channel(server.grpc) as channel:
            yield OverGrpc(service_pb2_grpc.GRPCInferenceServiceStub(channel))


MODELS = pytest.mark.parametrize("model", ["digits", "digits.mlp"])


@MODELS
def test_1_metadata_shapes_begin_with_the_batch_which_the_configuration_leaves_out(perf_analyzer, model):
    metadata, config = perf_analyzer.metadata(model), perf_analyzer.config(model)

    assert config["max_batch_size"] > 0
    for tensor in [*metadata["inputs"], *metadata["outputs"]]:
        assert int(tensor["shape"][0]) == -1
        assert all(int(size) > 0 for size in tensor["shape"][1:])
    (given,), (configured,) = metadata["inputs"], config["input"]
    assert [int(size) for size in given["shape"][1:]] == [int(size) for size in configured["dims"]]


@MODELS
def test_2_every_name_of_the_configuration_is_in_the_metadata_with_its_type(perf_analyzer, model):
    metadata, config = perf_analyzer.metadata(model), perf_analyzer.config(model)

    for configured, described in (("input", "inputs"), ("output", "outputs")):
        types = {tensor["name"]: tensor["datatype"] for tensor in metadata[described]}
        for tensor in config[configured]:
            datatype = types[tensor["name"]]
            assert tensor["data_type"] == TYPE_OF.get(datatype, f"TYPE_{datatype}")


@MODELS
def test_3_the_configuration_is_of_no_kind_that_is_read_further(perf_analyzer, model):
    config = perf_analyzer.config(model)

    assert config["platform"] and config["platform"] != "ensemble"
    assert "ensemble_scheduling" not in config
    assert "sequence_batching" not in config
    assert "decoupled" in config.get("model_transaction_policy", {"decoupled": False})
    assert "enable" in config.get("response_cache", {"enable": False})


@MODELS
def test_4_the_version_is_a_number(perf_analyzer, model):
    (version,) = perf_analyzer.metadata(model)["versions"]

    assert int(version) == 1


def test_5_the_server_announces_statistics(perf_analyzer):
    assert "statistics" in perf_analyzer.server_metadata()["extensions"]


@pytest.mark.parametrize("asked", [(), ("digits", "1"), ("digits", ""), ("digits.mlp", "1")])
def test_6_statistics_are_complete(perf_analyzer, asked):
    stats = perf_analyzer.stats(*asked)

    assert stats
    for model in stats:
        assert isinstance(model["version"], str) and int(model["version"]) == 1
        assert int(model["inference_count"]) >= 0 and int(model["execution_count"]) >= 0
        for duration in DURATIONS:
            assert int(model["inference_stats"][duration]["count"]) >= 0
            assert int(model["inference_stats"][duration]["ns"]) >= 0


def test_7_statistics_over_http_are_numbers(server, samples):
    OverHttp(server).infer("digits", samples[0][:2].tobytes(), 2)

    def numbers(value):
        if isinstance(value, dict):
            return [number for key, part in value.items() if key not in ("name", "version") for number in numbers(part)]
        return [number for part in value for number in numbers(part)] if isinstance(value, list) else [value]

    for model in OverHttp(server).stats():
        assert all(type(number) is int for number in numbers(model)), model


@MODELS
def test_8_a_window_is_counted_between_two_calls_for_statistics(perf_analyzer, samples, model):
    (before,) = perf_analyzer.stats(model, "1")
    for _ in range(10):
        perf_analyzer.infer(model, samples[0][:4].tobytes(), 4)
    (after,) = perf_analyzer.stats(model, "1")

    def grown(duration: str, what: str = "count") -> int:
        return int(after["inference_stats"][duration][what]) - int(before["inference_stats"][duration][what])

    assert int(after["inference_count"]) - int(before["inference_count"]) == 40
    assert int(after["execution_count"]) - int(before["execution_count"]) == 10
    assert grown("success") == grown("queue") == grown("compute_infer") == 10
    assert grown("compute_input") == grown("compute_output") == 10
    assert grown("success", "ns") >= grown("queue", "ns") + grown("compute_infer", "ns") > 0
    assert grown("fail") == grown("cache_hit") == grown("cache_miss") == 0


def test_9_the_version_that_was_asked_is_found_by_its_queue_count(perf_analyzer, samples):
    """Without a version and a name, as for an ensemble: the model's one entry whose queue grew is the version."""

    def queued() -> dict[tuple[str, str], int]:
        return {
            (model["name"], model["version"]): int(model["inference_stats"]["queue"]["count"])
            for model in perf_analyzer.stats()
        }

    before = queued()
    perf_analyzer.infer("digits", samples[0][:1].tobytes(), 1)
    after = queued()

    assert after.keys() == before.keys()
    assert after["digits", "1"] == before["digits", "1"] + 1
    assert all(after[f"digits.{member}", "1"] == before[f"digits.{member}", "1"] + 1 for member in ("mlp", "bayes"))


@pytest.mark.parametrize("batch", [1, 64])
def test_batches_of_every_size_up_to_the_largest(perf_analyzer, samples, batch):
    perf_analyzer.infer("digits", samples[0][:batch].tobytes(), batch)
    (stats,) = perf_analyzer.stats("digits", "1")

    assert batch in [int(each["batch_size"]) for each in stats["batch_stats"]]
