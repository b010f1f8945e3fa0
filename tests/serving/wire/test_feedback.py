"""Receipts come with every answer over every wire; sent back with the true labels, they score the vote and each member."""

import json
import time
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http

from scrutin.v1 import ensemble_pb2 as pb

LABELS = ", ".join(repr(str(digit)) for digit in range(10))
MEMBERS = ["mlp", "cnn", "forest", "logistic", "bayes"]
PREDICT, FEEDBACK = "/v1/models/digits:predict", "/v1/models/digits:feedback"


@dataclass(frozen=True)
class Score:
    """What came back. `refusal`: the status and the line where it was refused."""

    rows: int = 0
    right: int = 0
    members: Any = None
    refusal: tuple[str, str] = ("OK", "")


def score_over_grpc(server, receipt: str, labels: list[str], model: str = "digits") -> Score:
    with server.stub() as stub:
        try:
            found = stub.Feedback(pb.FeedbackRequest(ensemble=model, receipt=receipt, labels=labels))
        except grpc.RpcError as error:
            return Score(refusal=(error.code().name, error.details()))
    return Score(found.rows, found.right, dict(found.members))


CODES = {400: "INVALID_ARGUMENT", 404: "NOT_FOUND", 501: "UNIMPLEMENTED"}


def score_over_http(server, receipt: str, labels: list[str], model: str = "digits") -> Score:
    reply = server.post(f"/v1/models/{model}:feedback", {"receipt": receipt, "labels": labels})
    if reply.status != 200:
        return Score(refusal=(CODES[reply.status], reply.json["error"]))
    return Score(**reply.json)


@pytest.fixture(params=[score_over_grpc, score_over_http], ids=["grpc", "http"])
def score(request):
    return request.param


def typed(rows, model: str = "digits", policy: str = "") -> pb.PredictRequest:
    tensor = pb.Tensor(datatype="UINT8", shape=rows.shape, data=rows.tobytes())
    return pb.PredictRequest(ensemble=model, policy=policy, tensor=tensor)


# Who gives receipts: each returns one for these rows.


def by_predict(server, rows) -> str:
    with server.stub() as stub:
        return stub.Predict(typed(rows)).receipt


def on_a_stream(server, rows) -> str:
    with server.stub() as stub:
        (answer,) = stub.PredictStream(iter([typed(rows)]))
    return answer.receipt


def by_oip_over_grpc(server, rows) -> str:
    tensor = over_grpc.InferInput("image", list(rows.shape), "UINT8")
    tensor.set_data_from_numpy(rows)
    with over_grpc.InferenceServerClient(server.grpc) as client:
        response = client.infer("digits", [tensor]).get_response()
    return response.parameters["ensemble_receipt"].string_param


def by_oip_over_http(server, rows, binary: bool = True) -> str:
    tensor = over_http.InferInput("image", list(rows.shape), "UINT8")
    tensor.set_data_from_numpy(rows, binary_data=binary)
    output = over_http.InferRequestedOutput("label", binary_data=binary)
    with over_http.InferenceServerClient(server.http) as client:
        response = client.infer("digits", [tensor], outputs=[output]).get_response()
    return response["parameters"]["ensemble_receipt"]


def by_oip_json(server, rows) -> str:
    return by_oip_over_http(server, rows, binary=False)


def by_json(server, rows) -> str:
    return server.post(PREDICT, {"instances": rows.tolist()}).json["receipt"]


WIRES = [by_predict, on_a_stream, by_oip_over_grpc, by_oip_over_http, by_oip_json, by_json]


@pytest.mark.parametrize("rows", [1, 5, 64])
@pytest.mark.parametrize("receipt", WIRES, ids=lambda wire: wire.__name__)
def test_a_receipt_of_every_wire_scores_the_vote_and_each_member(
    server, score, samples, expected, digits, receipt, rows
):
    part = slice(100, 100 + rows)
    truth = [digits.spec.labels[index] for index in samples[1][part]]
    found = score(server, receipt(server, samples[0][part]), truth)

    assert (found.rows, found.right) == (rows, int((expected.label_index[part] == samples[1][part]).sum()))
    right = (expected.votes[part] == samples[1][part, None]).sum(axis=0).tolist()
    assert found.members == dict(zip(MEMBERS, right, strict=True))


def test_a_label_that_is_not_known_is_not_counted(server, score, samples, expected):
    truth = [str(label) for label in expected.label_index[:6]]
    found = score(server, by_json(server, samples[0][:6]), [truth[0], "", truth[2], "", "", truth[5]])

    assert (found.rows, found.right) == (3, 3)
    assert max(found.members.values()) <= 3


def test_where_no_label_is_known_nothing_is_counted(server, score, samples):
    assert score(server, by_json(server, samples[0][:2]), ["", ""]) == Score(0, 0, {})


def test_members_that_did_not_vote_are_not_scored(server, score, samples, expected_of_mlp):
    with server.stub() as stub:
        receipt = stub.Predict(typed(samples[0][:9], policy="member:mlp")).receipt
    found = score(server, receipt, [str(label) for label in samples[1][:9]])
    right = int((expected_of_mlp.label_index[:9] == samples[1][:9]).sum())

    assert found == Score(9, right, {"mlp": right})


def test_a_member_as_a_model_takes_receipts_too(server, score, samples):
    with server.stub() as stub:
        receipt = stub.Predict(typed(samples[0][:1], model="digits.mlp")).receipt

    assert score(server, receipt, [str(samples[1][0])], model="digits.mlp").members.keys() == {"mlp"}


def test_feedback_is_counted_by_policy_and_by_member(server, score, samples, expected, digits):
    rows = slice(0, 60)
    truth = [digits.spec.labels[index] for index in samples[1][rows]]
    with server.stub() as stub:
        answer = stub.Predict(typed(samples[0][rows], policy="early_exit"))

    def counted() -> dict[str, float]:
        of = {"ensemble": "digits", "policy": "early_exit"}
        return {
            "right": server.metric("ensemble_feedback_total", correct="true", **of),
            "wrong": server.metric("ensemble_feedback_total", correct="false", **of),
            "cost": server.metric("ensemble_feedback_cost_usd_total", **of),
            "mlp": server.metric("ensemble_member_feedback_total", ensemble="digits", member="mlp"),
            "mlp right": server.metric("ensemble_member_feedback_total", member="mlp", correct="true"),
        }

    before = counted()
    found = score(server, answer.receipt, [*truth[:30], *[""] * 30])
    grown = {name: value - before[name] for name, value in counted().items()}

    assert (grown["right"], grown["wrong"]) == (found.right, 30 - found.right)
    assert grown["cost"] == pytest.approx(answer.cost_usd / 2)
    assert (grown["mlp"], grown["mlp right"]) == (30, found.members["mlp"])


# What else an answer says: which policy was asked for, and what is known of the one that ran.


def test_every_wire_says_which_policy_was_asked_for(server, samples):
    rows = samples[0][:1]
    tensor = over_http.InferInput("image", [1, 8, 8], "UINT8")
    tensor.set_data_from_numpy(rows)
    with server.stub() as stub:
        answer = stub.Predict(typed(rows, policy="early_exit"))
        default = stub.Predict(typed(rows))
    with over_http.InferenceServerClient(server.http) as client:
        said = client.infer("digits", [tensor], parameters={"policy": "early_exit"}).get_response()["parameters"]
    read = server.post(PREDICT, {"instances": rows.tolist(), "policy": "early_exit"}).json

    assert (answer.policy, answer.requested_policy, answer.brownout_level) == ("early_exit", "early_exit", 0)
    assert (default.policy, default.requested_policy) == ("full", "full")
    assert (said["ensemble_requested_policy"], said["ensemble_brownout_level"]) == ("early_exit", 0)
    assert (read["requested_policy"], read["brownout_level"]) == ("early_exit", 0)


# What is refused.


def test_a_receipt_is_counted_once(server, score, samples):
    receipt, truth = by_json(server, samples[0][:1]), [str(samples[1][0])]
    assert score(server, receipt, truth).rows == 1

    line = "receipt: found one that was used before, expected each one once"
    assert score_over_grpc(server, receipt, truth).refusal == ("INVALID_ARGUMENT", line)
    assert score_over_http(server, receipt, truth).refusal == ("INVALID_ARGUMENT", line)


def altered(receipt: str, place: int) -> str:
    """The same with another character at this place."""
    return receipt[:place] + ("B" if receipt[place] != "B" else "C") + receipt[place + 1 :]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda receipt: altered(receipt, 90), "receipt: found a forged one, expected one that was signed here"),
        (lambda receipt: receipt[:-8], "receipt: found a truncated one of "),
        (lambda receipt: receipt[:-1], "receipt: found characters or a length that none has"),
        (lambda receipt: receipt[:40], "receipt: found a truncated one of 30 bytes, expected at least "),
        (lambda receipt: receipt + receipt, "receipt: found "),
        (lambda receipt: "", "receipt: found a truncated one of 0 bytes"),
        (lambda receipt: "A" * 20_000, "receipt: found 20000 characters, expected at most "),
    ],
)
def test_a_receipt_that_is_not_as_it_came_is_refused(server, score, samples, change, line):
    code, said = score(server, change(by_json(server, samples[0][:1])), ["1"]).refusal

    assert code == "INVALID_ARGUMENT"
    assert said.startswith(line)
    assert "\n" not in said


@pytest.mark.parametrize(
    ("labels", "line"),
    [
        ([], "labels: found 0, expected 2, one for each row of the receipt"),
        (["1"], "labels: found 1, expected 2, one for each row of the receipt"),
        (["1", "2", "3"], "labels: found 3, expected 2, one for each row of the receipt"),
        (["1", "ten"], f"labels: found 'ten' for row 1, expected one of {LABELS}, or '' where it is unknown"),
    ],
)
def test_wrong_labels_are_refused_and_leave_the_receipt_good(server, score, samples, labels, line):
    receipt = by_json(server, samples[0][:2])

    assert score(server, receipt, labels).refusal == ("INVALID_ARGUMENT", line)
    assert score(server, receipt, [str(label) for label in samples[1][:2]]).rows == 2


def test_feedback_of_an_unknown_model_is_not_found(server, score):
    code, line = score(server, "AAAA", ["1"], model="nobody").refusal

    assert code == "NOT_FOUND"
    assert line.startswith("unknown model 'nobody', expected one of digits")


@pytest.mark.parametrize(
    ("body", "line"),
    [
        (b"", "found no JSON, expected an object"),
        (b"[]", "the body: found list, expected an object"),
        (b"{}", "receipt: found NoneType, expected a string"),
        (b'{"receipt": 1, "labels": []}', "receipt: found int, expected a string"),
        (b'{"receipt": "A"}', "labels: found NoneType, expected a list of strings, one for each row"),
        (b'{"receipt": "A", "labels": "7"}', "labels: found str, expected a list of strings, one for each row"),
        (b'{"receipt": "A", "labels": [7]}', "labels: found other values than strings, expected a list of strings"),
        (b'{"receipt": "A", "labels": [], "label": 1}', "unknown key 'label', expected receipt and labels"),
    ],
)
def test_a_body_that_is_none_is_refused(server, body, line):
    reply = server.post(FEEDBACK, body)

    assert reply.status == 400
    assert reply.json["error"].startswith(line)


def test_a_body_larger_than_any_receipt_is_refused(server, score):
    code, line = 413, "found a body of "
    if score is score_over_http:
        reply = server.post(FEEDBACK, {"receipt": "A" * 200_000, "labels": ["1"]})
        assert (reply.status, reply.json["error"][: len(line)]) == (code, line)
    else:
        assert score(server, "A" * 200_000, ["1"]).refusal[0] == "RESOURCE_EXHAUSTED"


def test_the_feedback_route_takes_post_only(server):
    assert server.get(FEEDBACK).status == 405


# Settings.


@pytest.fixture
def config(tmp_path):
    """`config(receipt_seconds=1)` is a file of settings."""

    def config(**settings: object):
        file = tmp_path / f"{len(list(tmp_path.iterdir()))}.yaml"
        file.write_text(json.dumps(settings))
        return file

    return config


def test_replicas_with_one_key_take_each_others_receipts(launch, digits, samples, config, tmp_path, server, score):
    key = tmp_path / "key"
    key.write_text("0123456789abcdef" * 4 + "\n")
    truth = [str(label) for label in samples[1][:3]]
    with launch(digits.path, config=config(receipt_key_file=str(key))) as one:
        receipt = by_json(one, samples[0][:3])
        assert "random key" not in one.log
        with launch(digits.path, config=config(receipt_key_file=str(key))) as other:
            assert score(other, receipt, truth).rows == 3
    assert "receipts are signed with a random key of this process" in server.log
    assert score(server, receipt, truth).refusal[1].startswith("receipt: found a forged one")


def test_a_receipt_expires_and_one_of_another_ensemble_is_foreign(launch, digits, samples, config, write_tiny, score):
    tiny = write_tiny("tiny", ["a", "b"])
    with launch(digits.path, tiny, config=config(receipt_seconds=2)) as server:
        receipt = by_json(server, samples[0][:1])
        foreign = score(server, receipt, ["yes"], model="tiny").refusal
        time.sleep(2.1)
        expired = score(server, receipt, ["1"]).refusal

    line = "receipt: found one of another ensemble, or of another version of this one"
    assert foreign == ("INVALID_ARGUMENT", line)
    line = "receipt: found one that has expired, expected it within 2 s of the answer"
    assert expired == ("INVALID_ARGUMENT", line)


def test_receipts_can_be_turned_off(launch, digits, samples, config, score):
    with launch(digits.path, config=config(receipt_seconds=0)) as server:
        for receipt in (by_predict, on_a_stream, by_oip_over_grpc):
            assert receipt(server, samples[0][:1]) == ""
        assert "receipt" not in server.post(PREDICT, {"instances": samples[0][:1].tolist()}).json
        refusal = score(server, "AAAA", ["1"]).refusal

    assert refusal == ("UNIMPLEMENTED", "receipts are off: receipt_seconds is 0")


def test_a_key_that_is_none_keeps_the_server_from_starting(serving, digits, config, tmp_path):
    short = tmp_path / "short"
    short.write_text("secret")
    done = serving("run", digits.path, "--config", config(receipt_key_file=str(short)))

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"serving: receipt_key_file: {short}: found 6 bytes, expected 32 to 4096 random ones\n"


def test_a_price_of_nothing_keeps_the_server_from_starting(serving, digits, config):
    file = config(prices={"cpu": {"usd_per_hour": 0, "as_of": "2026-11-24"}})
    done = serving("run", digits.path, "--config", file)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"serving: {file}: prices.cpu.usd_per_hour: found 0, expected greater than 0\n"


def test_the_price_of_every_device_is_told_with_its_day(launch, digits, config, server):
    prices = {"cpu": {"usd_per_hour": 0.36, "as_of": "2026-11-24"}}
    with launch(digits.path, config=config(prices=prices)) as priced:
        said = priced.families()["ensemble_price_usd_per_hour"].samples
        cost = priced.post(PREDICT, {"instances": np.zeros((1, 8, 8), int).tolist()}).json

    assert [(sample.labels, sample.value) for sample in said] == [
        ({"device": "cpu", "currency": "USD", "as_of": "2026-11-24"}, 0.36)
    ]
    assert cost["cost_usd"] == pytest.approx(cost["device_seconds"] * 0.36 / 3600, rel=1e-4)
    (sample,) = server.families()["ensemble_price_usd_per_hour"].samples
    assert (sample.labels["as_of"], sample.value) == ("", 0.10)
