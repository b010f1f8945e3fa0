"""HTTP as a person or a script uses it: the readable routes under /v1, those of the Open Inference Protocol, the documents, the metrics."""

import contextlib
import http.client
import io
import json
import re

import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from PIL import Image
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

PREDICT = "/v1/models/digits:predict"
MEMBERS = ["mlp", "cnn", "forest", "logistic", "bayes"]


def picture(pixels, kind: str, mode: str = "L", size=None) -> bytes:
    """A sample, 0 to 16, as a picture, 0 to 255."""
    image = Image.fromarray(np.rint(pixels * (255 / 16)).astype(np.uint8)).convert(mode)
    stream = io.BytesIO()
    (image.resize(size, Image.Resampling.NEAREST) if size else image).save(stream, kind, quality=100)
    return stream.getvalue()


def form(*fields: tuple[str, bytes], boundary: str = "frontier") -> tuple[bytes, dict[str, str]]:
    """The body and the headers of a multipart form."""
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="f"\r\n\r\n'.encode()
        + content
        + b"\r\n"
        for name, content in fields
    ]
    return b"".join([*parts, f"--{boundary}--\r\n".encode()]), {
        "Content-Type": f"multipart/form-data; boundary={boundary}"
    }


# POST /v1/models/{m}:predict


def test_an_answer_has_the_keys_of_the_contract(server, samples):
    reply = server.post(PREDICT, {"instances": samples[0][:2].tolist()})
    answer = reply.json

    assert reply.status == 200
    assert reply.headers["content-type"] == "application/json"
    assert answer.keys() == {
        "predictions", "policy", "requested_policy", "brownout_level", "certificate", "partial", "members",
        "latency_seconds", "cost_usd", "device_seconds", "digest", "receipt",
    }  # fmt: skip
    assert len(answer["predictions"]) == 2
    for prediction in answer["predictions"]:
        assert prediction.keys() == {
            "label", "probability", "probabilities", "agreement", "margin", "exact", "votes"
        }  # fmt: skip
        assert list(prediction["votes"]) == MEMBERS
    assert list(answer["members"]) == MEMBERS
    for member in answer["members"].values():
        assert member.keys() == {"outcome", "seconds", "cost_usd"}
        assert member["outcome"] == "ok"
    assert answer["latency_seconds"].keys() == {"queue", "compute", "vote", "total"}


def test_all_samples_get_the_answers_of_a_vote_in_this_process(server, samples, expected, digits):
    labels = np.array(digits.spec.labels)
    for start in range(0, len(samples[0]), 64):
        part = slice(start, start + 64)
        predictions = server.post(PREDICT, {"instances": samples[0][part].tolist()}).json["predictions"]

        assert [each["label"] for each in predictions] == labels[expected.label_index[part]].tolist()
        assert [list(each["votes"].values()) for each in predictions] == labels[expected.votes[part]].tolist()
        probabilities = np.array([each["probabilities"] for each in predictions])
        assert probabilities == pytest.approx(expected.probabilities[part], abs=2e-6)
        assert [each["probability"] for each in predictions] == pytest.approx(probabilities.max(axis=1).tolist())
        assert [each["agreement"] for each in predictions] == pytest.approx(expected.agreement[part].tolist(), abs=2e-6)
        assert [each["margin"] for each in predictions] == pytest.approx(expected.margin[part].tolist(), abs=2e-6)
        assert all(each["exact"] is True for each in predictions)


def test_an_answer_says_how_long_it_took_and_what_it_cost(server, samples, digits):
    answer = server.post(PREDICT, {"instances": samples[0][:8].tolist()}).json
    took = answer["latency_seconds"]

    assert answer["digest"] == digits.digest
    assert answer["policy"] == "full"
    assert answer["partial"] is False
    assert took["total"] >= took["queue"] + took["compute"] + took["vote"] > 0
    assert answer["cost_usd"] == pytest.approx(answer["device_seconds"] * 0.10 / 3600)
    assert answer["cost_usd"] == pytest.approx(sum(member["cost_usd"] for member in answer["members"].values()))


def test_a_policy_of_one_member(server, samples, expected_of_mlp):
    answer = server.post(PREDICT, {"instances": samples[0][:4].tolist(), "policy": "member:mlp"}).json

    assert answer["policy"] == "member:mlp"
    assert [int(each["label"]) for each in answer["predictions"]] == expected_of_mlp.label_index[:4].tolist()
    assert [list(each["votes"]) for each in answer["predictions"]] == [["mlp"]] * 4
    assert {name: member["outcome"] for name, member in answer["members"].items()} == {
        "mlp": "ok", "cnn": "skipped", "forest": "skipped", "logistic": "skipped", "bayes": "skipped"
    }  # fmt: skip
    assert not any(each["exact"] for each in answer["predictions"])


def test_an_early_exit_gives_the_labels_of_the_full_vote_for_less(server, samples, expected):
    answer = server.post(PREDICT, {"instances": samples[0][:60].tolist(), "policy": "early_exit"}).json
    votes = [len(each["votes"]) for each in answer["predictions"]]

    assert answer["policy"] == "early_exit"
    assert [int(each["label"]) for each in answer["predictions"]] == expected.label_index[:60].tolist()
    assert all(each["exact"] for each in answer["predictions"])
    assert set(votes) == {3, 4, 5}, "rows left after each of the three stages"
    assert answer["cost_usd"] == pytest.approx(sum(member["cost_usd"] for member in answer["members"].values()))


def test_a_row_that_leaves_early_is_told_who_was_skipped_and_does_not_pay_for_them(server, samples):
    plain = server.post(PREDICT, {"instances": samples[0][:1].tolist(), "policy": "early_exit"}).json
    ran = {name for name, member in plain["members"].items() if member["outcome"] == "ok"}

    assert set(plain["predictions"][0]["votes"]) == ran < {"mlp", "cnn", "forest", "logistic", "bayes"}
    assert {member["cost_usd"] for member in plain["members"].values() if member["outcome"] == "skipped"} == {0.0}


def test_a_member_as_the_model(server, samples):
    answer = server.post("/v1/models/digits.mlp:predict", {"instances": samples[0][:1].tolist()}).json

    assert answer["policy"] == "member:mlp"


def test_a_picture_as_the_body(server, samples, expected):
    for row, index in zip(samples[0][:20], expected.label_index, strict=False):
        reply = server.post(PREDICT, picture(row, "PNG"), {"Content-Type": "image/png"})

        assert reply.json["predictions"][0]["label"] == str(index)


@pytest.mark.parametrize("content_type", ["image/jpeg", "image/jpeg; charset=binary", "IMAGE/JPEG"])
def test_a_jpeg_as_the_body(server, samples, content_type):
    reply = server.post(PREDICT, picture(samples[0][0], "JPEG"), {"Content-Type": content_type})

    assert reply.status == 200
    assert len(reply.json["predictions"]) == 1


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA"])
def test_a_picture_of_another_size_and_mode_is_made_to_fit(server, samples, expected, mode):
    big = picture(samples[0][0], "PNG", mode, size=(320, 320))
    predictions = server.post(PREDICT, big, {"Content-Type": "image/png"}).json["predictions"]

    assert predictions[0]["label"] == str(expected.label_index[0])


def test_a_picture_of_16_bits_says_the_same_as_one_of_8(server, samples, expected):
    stream = io.BytesIO()
    Image.fromarray(np.rint(samples[0][0] * (65535 / 16)).astype(np.uint16)).save(stream, "PNG")
    predictions = server.post(PREDICT, stream.getvalue(), {"Content-Type": "image/png"}).json["predictions"]

    assert predictions[0]["label"] == str(expected.label_index[0])


def test_pictures_in_a_form(server, samples, expected):
    body, headers = form(*(("image", picture(row, "PNG")) for row in samples[0][:5]))
    predictions = server.post(PREDICT, body, headers).json["predictions"]

    assert [int(each["label"]) for each in predictions] == expected.label_index[:5].tolist()


def test_a_policy_in_a_form(server, samples):
    body, headers = form(("policy", b"member:mlp"), ("image", picture(samples[0][0], "PNG")))

    assert server.post(PREDICT, body, headers).json["policy"] == "member:mlp"


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_compressed_body_and_a_compressed_answer(server, samples, encoding):
    import gzip
    import zlib

    body = json.dumps({"instances": samples[0][:64].tolist()}).encode()
    compress, decompress = {"gzip": (gzip.compress, gzip.decompress), "deflate": (zlib.compress, zlib.decompress)}[
        encoding
    ]
    reply = server.post(PREDICT, compress(body), {"Content-Encoding": encoding, "Accept-Encoding": encoding})

    assert reply.headers["content-encoding"] == encoding
    assert len(json.loads(decompress(reply.body))["predictions"]) == 64


def test_one_connection_takes_many_requests(server, samples):
    connection = http.client.HTTPConnection(server.http, timeout=30)
    body = json.dumps({"instances": samples[0][:1].tolist()})
    try:
        for _ in range(20):
            connection.request("POST", PREDICT, body)
            used = connection.sock
            assert connection.getresponse().read()
            assert connection.sock is used
    finally:
        connection.close()


def test_http_1_0_is_answered_too(server):
    """nginx speaks it to what is behind it unless told otherwise, and so do HAProxy's checks and ab."""
    with server.socket() as connection:
        connection.sendall(b"GET /v2/health/ready HTTP/1.0\r\n\r\n")

        assert re.match(rb"HTTP/1\.[01] 200 ", connection.recv(4096))


# GET /v1/models


def test_the_list_of_models(server):
    (model,) = server.get("/v1/models").json["models"]

    assert model == server.get("/v1/models/digits").json


def test_a_model_described(server, digits):
    model = server.get("/v1/models/digits").json

    assert (model["name"], model["version"], model["digest"], model["ready"]) == ("digits", "1", digits.digest, True)
    assert model["labels"] == [str(digit) for digit in range(10)]
    assert (model["datatype"], model["shape"], model["max_batch_size"]) == ("UINT8", [8, 8], 64)
    assert (model["rule"], model["tie_break"], model["quorum"]) == ("probability_average", "probability", 3)
    assert model["policies"] == ["full", "early_exit", "cascade", "planned", *(f"member:{name}" for name in MEMBERS)]
    assert model["default_policy"] == "full"
    assert [member["name"] for member in model["members"]] == MEMBERS
    assert {member["provider"] for member in model["members"]} == {"CPUExecutionProvider"}


# /v2


@pytest.mark.parametrize("path", ["/v2", "/v2/"])
def test_the_server_described(server, path):
    answer = server.get(path).json

    assert answer.keys() == {"name", "version", "extensions"}


def test_health(server):
    assert server.get("/v2/health/live").json == {"live": True}
    assert server.get("/v2/health/ready").json == {"ready": True}


@pytest.mark.parametrize("path", ["/v2/models/digits", "/v2/models/digits/versions/1", "/v2/models/digits.mlp"])
@pytest.mark.parametrize("what", ["", "/ready", "/config", "/stats"])
def test_a_model_has_four_routes_with_and_without_its_version(server, path, what):
    reply = server.get(path + what)

    assert reply.status == 200
    assert reply.json


def test_names_may_be_encoded(server):
    assert server.get("/v2/models/digits%2Emlp").json["name"] == "digits.mlp"


def test_statistics_of_all_models(server):
    assert len(server.get("/v2/models/stats").json["model_stats"]) == 1 + len(MEMBERS)


@pytest.mark.parametrize("path", ["/v2/models/digits/infer", "/v2/models/digits/versions/1/infer"])
def test_inference_in_json(server, samples, expected, path):
    tensor = {"name": "image", "shape": [2, 8, 8], "datatype": "UINT8", "data": samples[0][:2].ravel().tolist()}
    reply = server.post(path, {"id": "17", "inputs": [tensor], "outputs": [{"name": "label_index"}]})

    assert reply.status == 200
    assert reply.headers["content-type"] == "application/json"
    answer = reply.json
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("digits", "1", "17")
    assert answer["outputs"] == [
        {"name": "label_index", "datatype": "INT64", "shape": [2], "data": expected.label_index[:2].tolist()}
    ]


def test_nested_data_says_the_same_as_flat_data(server, samples):
    def infer(data):
        tensor = {"name": "image", "shape": [2, 8, 8], "datatype": "UINT8", "data": data}
        return server.post("/v2/models/digits/infer", {"inputs": [tensor]}).json["outputs"]

    assert infer(samples[0][:2].tolist()) == infer(samples[0][:2].ravel().tolist())


def test_an_answer_has_no_id_where_none_was_given(server, samples):
    tensor = {"name": "image", "shape": [1, 8, 8], "datatype": "UINT8", "data": samples[0][:1].tolist()}

    assert "id" not in server.post("/v2/models/digits/infer", {"inputs": [tensor]}).json


def test_a_header_as_long_as_the_body_is_all_json(server, samples):
    tensor = {"name": "image", "shape": [1, 8, 8], "datatype": "UINT8", "data": samples[0][:1].tolist()}
    body = json.dumps({"inputs": [tensor]}).encode()
    reply = server.post("/v2/models/digits/infer", body, {"Inference-Header-Content-Length": str(len(body))})

    assert reply.status == 200
    assert reply.json["outputs"]


def test_a_raw_binary_request_is_one_row(server, samples, expected):
    reply = server.post("/v2/models/digits/infer", samples[0][0].tobytes(), {"Inference-Header-Content-Length": "0"})
    length = int(reply.headers["inference-header-content-length"])
    outputs = json.loads(reply.body[:length])["outputs"]
    sizes = {output["name"]: output["parameters"]["binary_data_size"] for output in outputs}

    assert sizes["label_index"] == 8
    start = length + sizes["label"]
    assert np.frombuffer(reply.body[start : start + 8], "<i8").tolist() == expected.label_index[:1].tolist()


def test_management_is_off(server):
    for path in ("/v2/repository/index", "/v2/repository/models/digits/load", "/v2/repository/models/digits/unload"):
        reply = server.post(path)

        assert reply.status == 501
        assert reply.json.keys() == {"error"}


# What is not there.


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", PREDICT),
        ("PUT", PREDICT),
        ("DELETE", "/v2/models/digits"),
        ("POST", "/v2/models/digits"),
        ("GET", "/v2/models/digits/infer"),
        ("POST", "/v2/health/live"),
        ("PATCH", "/v1/models"),
        ("POST", "/docs"),
        ("OPTIONS", "/v2"),
    ],
)
def test_a_wrong_method_is_405(server, method, path):
    reply = server.request(method, path)

    assert reply.status == 405
    assert reply.json.keys() == {"error"}


def test_a_wrong_method_is_told_the_right_ones(server):
    """RFC 9110, 15.5.6: a 405 must carry Allow."""
    assert "POST" in server.get(PREDICT).headers.get("allow", "")


def test_head_is_answered_like_get_without_a_body(server):
    """RFC 9110, 9.1: every server must support GET and HEAD; load balancers probe with it."""
    reply = server.request("HEAD", "/v2/health/ready")

    assert (reply.status, reply.body) == (200, b"")


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/v1",
        "/v3",
        "/v2/models",
        "/v2/models/",
        "/v2/models/nobody",
        "/v2/models/digits/versions/2",
        "/v2/models/digits/versions/one/config",
        "/v2/models/digits.nobody/stats",
        "/v2/models/digits/nothing",
        "/v2/models/digits%00",
        "/v1/models/nobody",
        "/v1/models/digits:nothing",
        "//v2",
        "/v2/../docs",
        "/metrics",
        "/v2/models/" + "a" * 5000,
    ],
)
def test_what_is_unknown_is_404(server, path):
    reply = server.get(path)

    assert reply.status == 404
    assert reply.json.keys() == {"error"}
    assert len(reply.json["error"]) < 300
    assert reply.json["error"].isprintable()


def test_a_path_that_is_no_utf_8_is_answered_too(server):
    with server.socket() as connection:
        connection.settimeout(5)
        connection.sendall(b"GET /v2/models/%ff HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")

        assert re.match(rb"HTTP/1.1 (400|404) ", connection.recv(4096))


def test_prediction_of_an_unknown_model_names_those_there_are(server):
    reply = server.post("/v1/models/nobody:predict", {"instances": []})

    assert reply.status == 404
    assert "nobody" in reply.json["error"] and "digits" in reply.json["error"]


def test_the_root_leads_to_the_documents(server):
    reply = server.get("/")

    assert reply.status in (302, 307)
    assert reply.headers["location"] == "/docs"


def test_a_query_changes_nothing(server):
    assert server.get("/v2/health/live?verbose=1").json == {"live": True}


# /docs and /openapi.json


def test_the_page_of_documents_loads_nothing_from_elsewhere(server):
    reply = server.get("/docs")
    page = reply.body.decode()

    assert reply.status == 200
    assert reply.headers["content-type"].startswith("text/html")
    assert "/openapi.json" in page
    assert "://" not in page


def test_openapi_describes_every_model(server):
    document = server.get("/openapi.json").json

    assert document["openapi"].startswith("3.1")
    assert {"/v1/models", "/v1/models/digits", PREDICT, "/v2", "/v2/health/ready"} <= document["paths"].keys()
    assert {"/v1/models/digits:feedback"} <= document["paths"].keys()
    for model in ("digits", *(f"digits.{member}" for member in MEMBERS)):
        assert f"/v2/models/{model}/infer" in document["paths"]


@pytest.fixture(scope="module")
def api(server):
    return schemathesis.openapi.from_url(f"http://{server.http}/openapi.json")


def test_openapi_is_valid(api):
    api.validate()


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_every_answer_is_as_openapi_says(api, subtests, mode):
    """To requests that are as it says too, and to such as are not. A member's routes are those of every other."""
    operations = [found.ok() for found in api.get_all_operations()]
    for operation in operations:
        if re.search(r"digits\.(cnn|forest|logistic|bayes)", operation.path):
            continue

        @given(operation.as_strategy(generation_mode=mode))
        @settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        def ask(case):
            # A schema cannot say what a picture is, or that as many numbers come as the shape holds.
            case.call_and_validate(excluded_checks=[positive_data_acceptance])

        with subtests.test(operation=operation.label), contextlib.suppress(Unsatisfiable):
            ask()


# The metrics port.

CONTRACT = {
    "ensemble_requests": {"ensemble", "policy", "protocol", "code"},
    "ensemble_predictions": {"ensemble", "policy"},
    "ensemble_request_seconds": {"ensemble", "policy"},
    "ensemble_queue_seconds": {"ensemble"},
    "ensemble_vote_seconds": {"ensemble"},
    "ensemble_batch_rows": {"ensemble"},
    "ensemble_member_seconds": {"ensemble", "member"},
    "ensemble_member_rows": {"ensemble", "member", "outcome"},
    "ensemble_device_seconds": {"ensemble", "policy", "member", "device"},
    "ensemble_cost_usd": {"ensemble", "policy", "member", "device"},
    "ensemble_idle_device_seconds": {"device"},
    "ensemble_idle_cost_usd": {"device"},
    "ensemble_price_usd_per_hour": {"device", "currency", "as_of"},
    "ensemble_dissents": {"ensemble", "member"},
    "ensemble_queued_rows": {"ensemble"},
    "ensemble_in_flight_requests": {"ensemble"},
    "ensemble_shed": {"ensemble", "reason"},
    "ensemble_info": {"ensemble", "version", "digest", "rule"},
    "ensemble_member_info": {"ensemble", "member", "backend", "device", "provider"},
}
"""By the names of the families, which Prometheus' own parser gives without `_total`."""


@pytest.fixture
def families(server, samples):
    server.post(PREDICT, {"instances": samples[0][:3].tolist()})
    return server.families()


def test_metrics_have_the_names_of_the_contract(families):
    assert families.keys() >= CONTRACT.keys()


@pytest.mark.parametrize("name", CONTRACT)
def test_metrics_have_the_labels_of_the_contract(families, name):
    for sample in families[name].samples:
        assert sample.labels.keys() - {"le"} == CONTRACT[name]


def test_counters_end_in_total(families):
    for family in families.values():
        if family.type == "counter":
            assert {sample.name.removeprefix(family.name) for sample in family.samples} <= {"_total", "_created"}


@pytest.mark.parametrize("name", ["ensemble_request_seconds", "ensemble_queue_seconds", "ensemble_vote_seconds"])
def test_histograms_begin_at_250_microseconds(families, name):
    bounds = {float(sample.labels["le"]) for sample in families[name].samples if "le" in sample.labels}

    assert families[name].type == "histogram"
    assert min(bounds) == 0.00025


def test_requests_rows_and_members_are_counted(server, samples):
    def counted() -> list[float]:
        return [
            server.metric("ensemble_requests_total", policy="full", protocol="http", code="OK"),
            server.metric("ensemble_predictions_total", ensemble="digits", policy="full"),
            server.metric("ensemble_member_rows_total", member="mlp", outcome="ok"),
            server.metric("ensemble_batch_rows_sum", ensemble="digits"),
            server.metric("ensemble_request_seconds_count", policy="full"),
        ]

    before, runs = counted(), server.metric("ensemble_member_seconds_count", member="mlp")
    server.post(PREDICT, {"instances": samples[0][:7].tolist()})

    assert np.subtract(counted(), before).tolist() == [1, 7, 7, 7, 1]
    assert server.metric("ensemble_member_seconds_count", member="mlp") > runs, (
        "by one, and by audits of other tests' answers"
    )


def test_dissents_are_the_votes_that_were_not_the_answer(server, samples, expected):
    before = {member: server.metric("ensemble_dissents_total", member=member) for member in MEMBERS}
    server.post(PREDICT, {"instances": samples[0][:64].tolist()})
    grown = [server.metric("ensemble_dissents_total", member=member) - before[member] for member in MEMBERS]

    assert grown == (expected.votes[:64] != expected.label_index[:64, None]).sum(axis=0).tolist()


def test_refusals_are_counted_by_their_code(server):
    before = server.metric("ensemble_requests_total", protocol="http", code="INVALID_ARGUMENT")
    server.post(PREDICT, {"instances": []})

    assert server.metric("ensemble_requests_total", protocol="http", code="INVALID_ARGUMENT") == before + 1


def test_names_that_strangers_make_up_do_not_become_series(server, samples):
    for name in ("one", "two", "three"):
        server.post(f"/v1/models/{name}:predict", {"instances": samples[0][:1].tolist()})
        server.post(PREDICT, {"instances": samples[0][:1].tolist(), "policy": name})

    text = server.request("GET", "/metrics", address=server.metrics).body.decode()
    assert not re.search('"(one|two|three)"', text)


def test_metrics_are_in_the_text_format_of_prometheus(server):
    reply = server.request("GET", "/metrics", address=server.metrics)

    assert reply.status == 200
    assert reply.headers["content-type"].startswith("text/plain; version=")


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/"), ("GET", "/v2"), ("GET", "/docs"), ("POST", "/metrics"), ("POST", PREDICT), ("GET", "/metrics/")],
)
def test_nothing_else_is_on_the_metrics_port(server, method, path):
    reply = server.request(method, path, address=server.metrics)

    assert reply.status in (404, 405)
    assert reply.json.keys() == {"error"}


@pytest.mark.parametrize(("path", "said"), [("live", {"live": True}), ("ready", {"ready": True})])
def test_health_is_told_on_the_metrics_port_too(server, path, said):
    reply = server.request("GET", f"/v2/health/{path}", address=server.metrics)

    assert (reply.status, reply.json) == (200, said)


def test_metrics_are_on_no_other_port(server):
    assert server.get("/metrics").status == 404
