"""The unmodified clients of Triton: every call of the Open Inference Protocol that is served, over gRPC and HTTP."""

import asyncio
import contextlib
import shutil
import threading
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as over_grpc
import tritonclient.grpc.aio as over_grpc_aio
import tritonclient.http as over_http
import tritonclient.http.aio as over_http_aio
from tritonclient.utils import InferenceServerException

MODELS = ["digits", "digits.mlp", "digits.cnn", "digits.forest", "digits.logistic", "digits.bayes"]

OUTPUTS = {
    "label": ("BYTES", []),
    "label_index": ("INT64", []),
    "probabilities": ("FP32", [10]),
    "agreement": ("FP32", []),
    "margin": ("FP32", []),
    "votes": ("INT64", [5]),
    "exact": ("BOOL", []),
}

PARAMETERS = {
    "ensemble_policy": str,
    "ensemble_partial": bool,
    "ensemble_members_ok": str,
    "ensemble_members_failed": str,
    "ensemble_members_late": str,
    "ensemble_members_skipped": str,
    "ensemble_queue_us": int,
    "ensemble_compute_us": int,
    "ensemble_vote_us": int,
    "ensemble_device_seconds": float,
    "ensemble_cost_usd": float,
    "ensemble_digest": str,
    "ensemble_certificate": str,
    "ensemble_requested_policy": str,
    "ensemble_brownout_level": int,
    "ensemble_receipt": str,
}


@dataclass
class Triton:
    """One of the two clients, and what differs between them: gRPC gives messages, HTTP gives dictionaries."""

    protocol: str
    module: ModuleType
    client: Any

    def said(self, call: str, *arguments: object) -> dict[str, Any]:
        """The JSON of an answer."""
        more = {"as_json": True} if self.protocol == "grpc" else {}
        return getattr(self.client, call)(*arguments, **more)

    def tensor(self, rows, **how: object):
        tensor = self.module.InferInput("image", list(rows.shape), "UINT8")
        tensor.set_data_from_numpy(rows, **how)
        return tensor

    def infer(self, rows, model: str = "digits", **more: object):
        return self.client.infer(model, [self.tensor(rows)], **more)

    def parameters(self, result) -> dict[str, Any]:
        """Of a response, as plain values."""
        response = result.get_response()
        if self.protocol == "http":
            return response["parameters"]
        return {
            name: getattr(parameter, parameter.WhichOneof("parameter_choice"))
            for name, parameter in response.parameters.items()
        }

    def described(self, result) -> list[tuple[str, str, list[int]]]:
        """Name, datatype and shape of each output, in order."""
        response = result.get_response()
        if self.protocol == "http":
            return [(output["name"], output["datatype"], output["shape"]) for output in response["outputs"]]
        return [(output.name, output.datatype, list(output.shape)) for output in response.outputs]


@pytest.fixture(params=["grpc", "http"])
def triton(request, server):
    module = {"grpc": over_grpc, "http": over_http}[request.param]
    with module.InferenceServerClient(getattr(server, request.param)) as client:
        yield Triton(request.param, module, client)


@pytest.fixture
def http(server):
    with over_http.InferenceServerClient(server.http) as client:
        yield Triton("http", over_http, client)


@pytest.fixture
def grpc(server):
    with over_grpc.InferenceServerClient(server.grpc) as client:
        yield Triton("grpc", over_grpc, client)


def numbers(values: list[Any]) -> list[int]:
    """JSON made from protobuf writes 64-bit integers as strings."""
    return [int(value) for value in values]


def batches(x, size: int = 64):
    return [x[start : start + size] for start in range(0, len(x), size)]


def joined(results, output: str):
    return np.concatenate([result.as_numpy(output) for result in results])


def check_equal(results, expected, labels) -> None:
    """All outputs of all batches are those of a vote in this process."""
    assert joined(results, "label_index").tolist() == expected.label_index.tolist()
    assert [label.decode() for label in joined(results, "label")] == [labels[index] for index in expected.label_index]
    assert np.array_equal(joined(results, "votes"), expected.votes)
    assert joined(results, "probabilities") == pytest.approx(expected.probabilities, abs=1e-6)
    assert joined(results, "agreement") == pytest.approx(expected.agreement, abs=1e-6)
    assert joined(results, "margin") == pytest.approx(expected.margin, abs=1e-6)


# Is it there?


def test_the_server_is_live_and_ready(triton):
    assert triton.client.is_server_live() is True
    assert triton.client.is_server_ready() is True


@pytest.mark.parametrize("model", MODELS)
def test_the_ensemble_and_each_member_are_ready(triton, model):
    assert triton.client.is_model_ready(model) is True
    assert triton.client.is_model_ready(model, "1") is True


def test_headers_of_ones_own_are_taken(triton, samples):
    headers = {"x-request-id": "17", "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}

    assert triton.client.is_server_live(headers=headers)
    assert triton.infer(samples[0][:1], headers=headers).as_numpy("label_index").shape == (1,)


# What is it?


def test_the_server_announces_what_it_implements(triton):
    said = triton.said("get_server_metadata")

    assert said["name"] == "scrutin"
    assert said["version"]
    assert set(said["extensions"]) == {"statistics", "model_configuration", "parameters", "binary_tensor_data"}


@pytest.mark.parametrize("model", ["digits", "digits.mlp"])
def test_metadata_names_the_tensors_with_their_batch_dimension(triton, model):
    said = triton.said("get_model_metadata", model)

    assert (said["name"], said["versions"]) == (model, ["1"])
    (given,) = said["inputs"]
    assert (given["name"], given["datatype"], numbers(given["shape"])) == ("image", "UINT8", [-1, 8, 8])
    outputs = {output["name"]: (output["datatype"], numbers(output["shape"])) for output in said["outputs"]}
    assert outputs == {name: (datatype, [-1, *dims]) for name, (datatype, dims) in OUTPUTS.items()}


@pytest.mark.parametrize("model", ["digits", "digits.mlp"])
def test_the_configuration_is_one_of_triton(triton, model):
    said = triton.said("get_model_config", model)
    config = said.get("config", said)

    assert (config["name"], config["max_batch_size"]) == (model, 64)
    (given,) = config["input"]
    assert (given["name"], given["data_type"], numbers(given["dims"])) == ("image", "TYPE_UINT8", [8, 8])
    types = {output["name"]: output["data_type"] for output in config["output"]}
    wire_names = {"TYPE_STRING": "BYTES"}
    assert {name: wire_names.get(kind, kind.removeprefix("TYPE_")) for name, kind in types.items()} == {
        name: datatype for name, (datatype, _) in OUTPUTS.items()
    }


def test_metadata_and_configuration_take_the_version_that_is_served(triton):
    assert triton.said("get_model_metadata", "digits", "1") == triton.said("get_model_metadata", "digits")
    assert triton.said("get_model_config", "digits", "1") == triton.said("get_model_config", "digits")


UNKNOWN = [("nobody",), ("digits", "2"), ("digits.nobody",)]


@pytest.mark.parametrize("call", ["get_model_metadata", "get_model_config", "get_inference_statistics"])
@pytest.mark.parametrize("asked", UNKNOWN)
def test_an_unknown_model_or_version_is_not_found(triton, call, asked):
    with pytest.raises(InferenceServerException, match=r"^[^\n]*unknown (model|version) [^\n]*$") as caught:
        getattr(triton.client, call)(*asked)

    assert caught.value.status() in ("StatusCode.NOT_FOUND", "404")


@pytest.mark.parametrize("asked", UNKNOWN)
def test_an_unknown_model_or_version_is_not_ready(triton, asked):
    if triton.protocol == "http":  # whose client makes False of every error
        assert triton.client.is_model_ready(*asked) is False
    else:
        with pytest.raises(InferenceServerException, match=r"NOT_FOUND.* unknown (model|version)"):
            triton.client.is_model_ready(*asked)


def test_statistics_count_requests_rows_and_time(triton, samples):
    def statistics():
        (one,) = triton.said("get_inference_statistics", "digits", "1")["model_stats"]
        return one

    before = statistics()
    for _ in range(3):
        triton.infer(samples[0][:5])
    after = statistics()

    def grown(*keys: str) -> int:
        old, new = before, after
        for key in keys:
            old, new = old.get(key, {}), new[key]
        return int(new) - int(old or 0)

    assert (after["name"], after["version"]) == ("digits", "1")
    assert grown("inference_count") == 15
    assert grown("execution_count") == 3
    assert grown("last_inference") >= 0
    assert grown("inference_stats", "success", "count") == 3
    assert grown("inference_stats", "queue", "count") == 3
    assert grown("inference_stats", "compute_infer", "count") == 3
    assert 0 < grown("inference_stats", "compute_infer", "ns") < grown("inference_stats", "success", "ns")


def test_statistics_count_what_was_refused(triton, samples):
    def failed() -> int:
        (one,) = triton.said("get_inference_statistics", "digits")["model_stats"]
        return int(one["inference_stats"].get("fail", {}).get("count", 0))

    before = failed()
    with pytest.raises(InferenceServerException):
        triton.infer(samples[0][:1], parameters={"policy": "nobody"})

    assert failed() == before + 1


def test_statistics_of_all_models(triton):
    said = triton.said("get_inference_statistics")

    assert [model["name"] for model in said["model_stats"]] == MODELS


# Ask it.


def test_all_samples_get_the_answers_of_a_vote_in_this_process(triton, samples, expected, digits):
    results = [triton.infer(rows) for rows in batches(samples[0])]

    check_equal(results, expected, digits.spec.labels)
    assert joined(results, "exact").all()


def test_one_member_alone_answers_with_its_own_votes(triton, samples, expected_of_mlp, digits):
    results = [triton.infer(rows, "digits.mlp") for rows in batches(samples[0])]

    check_equal(results, expected_of_mlp, digits.spec.labels)
    assert (joined(results, "votes")[:, 1:] == -1).all()
    assert (joined(results, "agreement") == 1).all()


def test_most_samples_are_right(triton, samples):
    x, y = samples
    found = joined([triton.infer(rows) for rows in batches(x)], "label_index")

    assert np.mean(found == y) > 0.9


@pytest.mark.parametrize("rows", [1, 2, 64])
def test_outputs_are_those_of_the_contract(triton, samples, rows):
    result = triton.infer(samples[0][:rows])

    assert triton.described(result) == [(name, datatype, [rows, *dims]) for name, (datatype, dims) in OUTPUTS.items()]
    dtypes = {name: result.as_numpy(name).dtype for name in OUTPUTS}
    assert dtypes == {
        "label": np.dtype(object),
        "label_index": np.dtype(np.int64),
        "probabilities": np.dtype(np.float32),
        "agreement": np.dtype(np.float32),
        "margin": np.dtype(np.float32),
        "votes": np.dtype(np.int64),
        "exact": np.dtype(np.bool_),
    }


def test_no_output_has_parameters_of_its_own(grpc, samples):
    response = grpc.infer(samples[0][:1]).get_response()

    assert all(not output.parameters for output in response.outputs)


def test_response_parameters_are_those_of_the_contract(triton, samples, digits):
    found = triton.parameters(triton.infer(samples[0][:2]))

    assert {name: type(value) for name, value in found.items()} == PARAMETERS
    assert found["ensemble_policy"] == "full"
    assert found["ensemble_partial"] is False
    assert found["ensemble_members_ok"] == "mlp,cnn,forest,logistic,bayes"
    assert found["ensemble_members_failed"] == found["ensemble_members_late"] == ""
    assert found["ensemble_members_skipped"] == ""
    assert found["ensemble_digest"] == digits.digest
    assert found["ensemble_device_seconds"] > 0
    assert found["ensemble_cost_usd"] == pytest.approx(found["ensemble_device_seconds"] * 0.10 / 3600)


def test_names_version_and_id_are_echoed(triton, samples):
    response = triton.infer(samples[0][:1], "digits.mlp", request_id="request-17").get_response()

    if triton.protocol == "grpc":
        assert (response.model_name, response.model_version, response.id) == ("digits.mlp", "1", "request-17")
    else:
        assert (response["model_name"], response["model_version"], response["id"]) == ("digits.mlp", "1", "request-17")


def test_a_version_may_be_named(triton, samples, expected):
    result = triton.infer(samples[0][:1], model_version="1")

    assert result.as_numpy("label_index").tolist() == expected.label_index[:1].tolist()


def test_only_the_outputs_asked_for_come_in_the_order_asked_for(triton, samples, expected):
    wanted = [triton.module.InferRequestedOutput(name) for name in ("votes", "label_index")]
    result = triton.infer(samples[0][:3], outputs=wanted)

    assert [name for name, _, _ in triton.described(result)] == ["votes", "label_index"]
    assert result.as_numpy("label_index").tolist() == expected.label_index[:3].tolist()
    assert np.array_equal(result.as_numpy("votes"), expected.votes[:3])
    assert result.as_numpy("label") is None


def test_an_early_exit_skips_members_and_keeps_the_labels(triton, samples, expected):
    result = triton.infer(samples[0][:1], parameters={"policy": "early_exit"})
    said = triton.parameters(result)

    assert result.as_numpy("label_index").tolist() == expected.label_index[:1].tolist()
    assert result.as_numpy("exact").all()
    assert said["ensemble_members_ok"] == "mlp,logistic,bayes"
    assert said["ensemble_members_skipped"] == "cnn,forest"
    assert (result.as_numpy("votes")[0] >= 0).tolist() == [True, False, False, True, True]


def test_the_policy_is_a_parameter(triton, samples, expected_of_mlp):
    result = triton.infer(samples[0][:9], parameters={"policy": "member:mlp"})
    said = triton.parameters(result)

    assert result.as_numpy("label_index").tolist() == expected_of_mlp.label_index[:9].tolist()
    assert said["ensemble_policy"] == "member:mlp"
    assert said["ensemble_members_ok"] == "mlp"
    assert said["ensemble_members_skipped"] == "cnn,forest,logistic,bayes"
    assert not result.as_numpy("exact").any()


def test_the_full_policy_may_be_named(triton, samples):
    assert triton.parameters(triton.infer(samples[0][:1], parameters={"policy": "full"}))["ensemble_policy"] == "full"


def test_a_timeout_that_is_long_enough_changes_nothing(triton, samples, expected):
    result = triton.infer(samples[0][:1], timeout=30_000_000)

    assert result.as_numpy("label_index").tolist() == expected.label_index[:1].tolist()


def test_a_timeout_that_is_too_short_is_a_deadline(triton, samples):
    with pytest.raises(InferenceServerException) as caught:
        triton.infer(samples[0][:1], timeout=1)

    assert "deadline" in caught.value.message()
    assert "DEADLINE_EXCEEDED" in caught.value.status() or caught.value.status() == "504"


def test_a_priority_is_taken(triton, samples):
    assert triton.infer(samples[0][:1], priority=1).as_numpy("label_index").shape == (1,)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compression_over_grpc(grpc, samples, expected, algorithm):
    result = grpc.infer(samples[0][:64], compression_algorithm=algorithm)

    assert result.as_numpy("label_index").tolist() == expected.label_index[:64].tolist()


@pytest.mark.parametrize("response", [None, "gzip", "deflate"])
@pytest.mark.parametrize("request_", [None, "gzip", "deflate"])
def test_compression_over_http(http, samples, expected, request_, response):
    result = http.infer(
        samples[0][:64], request_compression_algorithm=request_, response_compression_algorithm=response
    )

    assert result.as_numpy("label_index").tolist() == expected.label_index[:64].tolist()


@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("binary_in", [True, False])
def test_binary_and_json_tensors_say_the_same(http, samples, expected, binary_in, binary_out):
    outputs = [over_http.InferRequestedOutput(name, binary_data=binary_out) for name in OUTPUTS]
    result = http.client.infer("digits", [http.tensor(samples[0][:7], binary_data=binary_in)], outputs=outputs)

    assert result.as_numpy("label_index").tolist() == expected.label_index[:7].tolist()
    assert np.array_equal(result.as_numpy("votes"), expected.votes[:7])
    assert result.as_numpy("probabilities") == pytest.approx(expected.probabilities[:7], abs=1e-6)
    assert result.as_numpy("exact").tolist() == [True] * 7
    assert [str(label, "utf-8") if isinstance(label, bytes) else label for label in result.as_numpy("label")] == [
        str(index) for index in expected.label_index[:7]
    ]


def test_each_output_is_binary_or_json_as_it_was_asked_for(http, samples):
    outputs = [
        over_http.InferRequestedOutput("label", binary_data=False),
        over_http.InferRequestedOutput("votes", binary_data=True),
    ]
    label, votes = http.infer(samples[0][:2], outputs=outputs).get_response()["outputs"]

    assert "data" in label and "parameters" not in label
    assert "data" not in votes and votes["parameters"] == {"binary_data_size": 2 * 5 * 8}


# Ask it without waiting.


def test_many_callbacks(grpc, samples, expected):
    answers: dict[int, int] = {}
    done = threading.Event()

    def heard(index: int):
        def callback(result, error) -> None:
            assert error is None
            answers[index] = int(result.as_numpy("label_index")[0])
            if len(answers) == 50:
                done.set()

        return callback

    for index in range(50):
        grpc.client.async_infer("digits", [grpc.tensor(samples[0][index : index + 1])], heard(index))

    assert done.wait(30)
    assert [answers[index] for index in range(50)] == expected.label_index[:50].tolist()


def test_many_greenlets(server, samples, expected):
    with over_http.InferenceServerClient(server.http, concurrency=8) as client:
        http = Triton("http", over_http, client)
        asked = [client.async_infer("digits", [http.tensor(samples[0][i : i + 1])]) for i in range(50)]
        found = [int(each.get_result().as_numpy("label_index")[0]) for each in asked]

    assert found == expected.label_index[:50].tolist()


async def test_labels_of_unlike_length_in_one_batch_keep_to_themselves(launch, digits, samples, expected, tmp_path):
    folder = shutil.copytree(digits.path, tmp_path / "digits")
    manifest, names = (
        folder / "ensemble.yaml",
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"],
    )
    labels = "labels: ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9']"
    assert labels in manifest.read_text()
    manifest.write_text(manifest.read_text().replace(labels, f"labels: {names}"))

    with launch(str(folder)) as server:
        async with over_http_aio.InferenceServerClient(server.http) as client:
            http = Triton("http", over_http, client)
            results = await asyncio.gather(*(http.infer(row[None]) for row in samples[0][:200]))
        assert server.metric("ensemble_batch_rows_count") < 200

    assert [result.as_numpy("label")[0].decode() for result in results] == [
        names[i] for i in expected.label_index[:200]
    ]


async def test_the_asynchronous_client_over_grpc(server, samples, expected):
    async with over_grpc_aio.InferenceServerClient(server.grpc) as client:
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready("digits.mlp")
        assert (await client.get_server_metadata()).name == "scrutin"
        assert (await client.get_model_metadata("digits")).versions == ["1"]
        assert (await client.get_model_config("digits")).config.max_batch_size == 64
        assert len((await client.get_inference_statistics()).model_stats) == len(MODELS)

        grpc = Triton("grpc", over_grpc, client)
        results = await asyncio.gather(*(grpc.infer(samples[0][i : i + 1], request_id=str(i)) for i in range(50)))

    assert [result.get_response().id for result in results] == [str(i) for i in range(50)]
    assert [int(result.as_numpy("label_index")[0]) for result in results] == expected.label_index[:50].tolist()


async def test_the_asynchronous_client_over_http(server, samples, expected):
    async with over_http_aio.InferenceServerClient(server.http) as client:
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready("digits.mlp")
        assert (await client.get_server_metadata())["name"] == "scrutin"
        assert (await client.get_model_metadata("digits"))["versions"] == ["1"]
        assert (await client.get_model_config("digits"))["max_batch_size"] == 64
        assert len((await client.get_inference_statistics())["model_stats"]) == len(MODELS)

        http = Triton("http", over_http, client)
        results = await asyncio.gather(*(http.infer(samples[0][i : i + 1], request_id=str(i)) for i in range(50)))

    assert [result.get_response()["id"] for result in results] == [str(i) for i in range(50)]
    assert [int(result.as_numpy("label_index")[0]) for result in results] == expected.label_index[:50].tolist()


# What it does not do, it says.


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        ("get_model_repository_index", ()),
        ("load_model", ("digits",)),
        ("unload_model", ("digits",)),
    ],
)
def test_management_is_off(triton, call, arguments):
    with pytest.raises(InferenceServerException, match="repository management is off") as caught:
        getattr(triton.client, call)(*arguments)

    assert "UNIMPLEMENTED" in caught.value.status() or caught.value.status() == "501"


@pytest.mark.parametrize("call", ["get_trace_settings", "get_log_settings", "get_system_shared_memory_status"])
def test_extensions_that_are_not_announced_are_refused(triton, call):
    with pytest.raises(InferenceServerException) as caught:
        getattr(triton.client, call)()

    assert "UNIMPLEMENTED" in caught.value.status() or caught.value.status() == "404"
    assert "\n" not in caught.value.message()


def test_a_stream_of_the_protocol_is_refused(grpc, samples):
    heard: list[Any] = []
    done = threading.Event()

    def callback(result, error) -> None:
        heard.append(error)
        done.set()

    grpc.client.start_stream(callback)
    with contextlib.suppress(InferenceServerException):  # when the refusal was faster
        grpc.client.async_stream_infer("digits", [grpc.tensor(samples[0][:1])])
    assert done.wait(30)
    grpc.client.stop_stream()

    assert "UNIMPLEMENTED" in heard[0].status()


def test_classification_which_is_not_announced_is_refused_and_not_passed_over(triton, samples):
    with pytest.raises(InferenceServerException, match="classification"):
        triton.infer(samples[0][:1], outputs=[triton.module.InferRequestedOutput("probabilities", class_count=3)])
