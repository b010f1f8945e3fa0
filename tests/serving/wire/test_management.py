"""The model repository extension, as Triton's clients speak it over both wires."""

import grpc
import numpy as np
import pytest
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http
from tritonclient.grpc import service_pb2 as oip
from tritonclient.utils import InferenceServerException


@pytest.fixture(scope="module")
def managed(launch, write_tiny):
    """A server whose callers may load and unload, with one ensemble beside the one that comes and goes."""
    with launch(write_tiny("coming", ["a", "b"]), write_tiny("staying", ["a"]), management=True) as server:
        yield server


@pytest.fixture(params=["grpc", "http"])
def client(managed, request):
    library, address = {"grpc": (over_grpc, managed.grpc), "http": (over_http, managed.http)}[request.param]
    client = library.InferenceServerClient(address)
    yield client
    client.load_model("coming")
    client.close()


def states(client) -> dict[str, str]:
    index = client.get_model_repository_index()
    models = (
        [(model.name, model.state) for model in index.models]
        if hasattr(index, "models")
        else [(model["name"], model["state"]) for model in index]
    )
    return dict(models)


def asked(server, name: str = "coming"):
    return server.post(f"/v1/models/{name}:predict", {"instances": [[1, 0, 0, 0]]})


def test_the_index_names_all_models_and_how_they_are(client):
    assert states(client) == dict.fromkeys(("coming", "coming.a", "coming.b", "staying", "staying.a"), "READY")


def test_what_is_unloaded_is_unknown_until_it_is_loaded_again(managed, client):
    assert asked(managed).status == 200
    client.unload_model("coming")

    assert states(client)["coming.a"] == "UNAVAILABLE" and states(client)["staying"] == "READY"
    assert asked(managed).status == 404
    assert asked(managed, "coming.b").status == 404
    assert client.is_model_ready("coming") is False
    with pytest.raises(InferenceServerException, match="coming is unloaded"):
        infer(client)
    assert asked(managed, "staying").status == 200
    assert client.is_server_ready(), "the others are not to suffer from what its operator wants"
    assert managed.metric("ensemble_info", ensemble="coming") == 0
    assert managed.metric("ensemble_member_info", ensemble="coming") == 0

    client.load_model("coming")
    assert states(client)["coming"] == "READY"
    assert client.is_model_ready("coming")
    assert asked(managed).status == 200
    assert managed.metric("ensemble_info", ensemble="coming") == 1


def infer(client):
    library = over_grpc if isinstance(client, over_grpc.InferenceServerClient) else over_http
    given = library.InferInput("x", [1, 4], "FP32")
    given.set_data_from_numpy(np.float32([[1, 0, 0, 0]]))
    return client.infer("coming", [given])


def test_only_those_that_are_ready(managed, client):
    client.unload_model("coming")
    with over_grpc.InferenceServerClient(managed.grpc) as other:
        index = other._client_stub.RepositoryIndex(oip.RepositoryIndexRequest(ready=True))
    reply = managed.post("/v2/repository/index", {"ready": True})

    assert [model.name for model in index.models] == ["staying", "staying.a"]
    assert reply.json == [
        {"name": name, "version": "1", "state": "READY", "reason": ""} for name in ("staying", "staying.a")
    ]
    assert {model["reason"] for model in managed.post("/v2/repository/index").json} == {"", "unloaded"}


def test_unloading_twice_is_unloading_once(managed, client):
    client.unload_model("coming")
    client.unload_model("coming", unload_dependents=True)

    assert managed.post("/v2/repository/models/coming/unload").json == {"name": "coming", "outcome": "unchanged"}


def test_the_extension_is_announced(client):
    metadata = client.get_server_metadata()
    extensions = metadata.extensions if hasattr(metadata, "extensions") else metadata["extensions"]
    assert "model_repository" in extensions


@pytest.mark.parametrize("act", ["load", "unload"])
def test_what_there_is_not_is_neither_loaded_nor_unloaded(client, act):
    with pytest.raises(InferenceServerException, match="unknown model 'letters', expected one of coming"):
        getattr(client, f"{act}_model")("letters")


@pytest.mark.parametrize("act", ["load", "unload"])
def test_a_member_comes_and_goes_with_its_ensemble(client, act):
    with pytest.raises(InferenceServerException, match="coming.a is a member of coming"):
        getattr(client, f"{act}_model")("coming.a")


def test_no_request_brings_a_configuration_or_a_file(client):
    with pytest.raises(InferenceServerException, match="found the parameter 'config', expected none"):
        client.load_model("coming", config='{"max_batch_size": 1}')
    with pytest.raises(InferenceServerException, match="parameter 'config'|parameter 'file:1/model.onnx'"):
        client.load_model("coming", config="{}", files={"file:1/model.onnx": b"graph"})


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v2/repository/index", b"["),
        ("/v2/repository/index", {"ready": "yes"}),
        ("/v2/repository/models/coming/load", []),
        ("/v2/repository/models/coming/load", {"parameters": 3}),
    ],
)
def test_malformed_requests_are_told_what_is_expected(managed, path, body):
    reply = managed.post(path, body)

    assert reply.status == 400 and "expected" in reply.json["error"]


def test_a_request_that_is_too_large(managed):
    assert managed.post("/v2/repository/models/coming/load", b" " * 100_000).status == 413


def test_no_repository_is_named(managed):
    request = oip.RepositoryIndexRequest(repository_name="models")
    with over_grpc.InferenceServerClient(managed.grpc) as client, pytest.raises(grpc.RpcError) as caught:
        client._client_stub.RepositoryIndex(request)

    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert caught.value.details() == "found the repository 'models', expected none to be named"


def test_where_it_is_off_nothing_is_managed(server):
    with over_grpc.InferenceServerClient(server.grpc) as client:
        for call in (
            client.get_model_repository_index,
            lambda: client.load_model("digits"),
            lambda: client.unload_model("digits"),
        ):
            with pytest.raises(InferenceServerException, match="repository management is off"):
                call()
        assert "model_repository" not in client.get_server_metadata().extensions
    assert server.post("/v2/repository/models/digits/unload").status == 501
