"""scrutin.v1 by gRPC: one request, many on a stream, what is served; and the health and reflection services beside it."""

import io
import queue
import time

import grpc
import numpy as np
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from PIL import Image

from scrutin.v1 import ensemble_pb2 as pb

SERVING = health_pb2.HealthCheckResponse.SERVING


def request(rows, **more: object) -> pb.PredictRequest:
    tensor = pb.Tensor(datatype="UINT8", shape=rows.shape, data=rows.tobytes())
    return pb.PredictRequest(**{"ensemble": "digits", "tensor": tensor, **more})


def picture(pixels, kind: str) -> bytes:
    """A sample, 0 to 16, as a picture, 0 to 255."""
    stream = io.BytesIO()
    Image.fromarray(np.rint(pixels * (255 / 16)).astype(np.uint8), "L").save(stream, kind, quality=100)
    return stream.getvalue()


def outcomes(response) -> dict[str, str]:
    return {member.name: pb.Outcome.Name(member.outcome).removeprefix("OUTCOME_") for member in response.members}


# One request.


def test_all_samples_get_the_answers_of_a_vote_in_this_process(stub, samples, expected, digits):
    labels = digits.spec.labels
    for start in range(0, len(samples[0]), 64):
        part = slice(start, start + 64)
        answer = stub.Predict(request(samples[0][part]))

        assert list(answer.label_index) == expected.label_index[part].tolist()
        assert list(answer.label) == [labels[index] for index in expected.label_index[part]]
        probabilities = np.array(answer.probabilities).reshape(-1, 10)
        assert probabilities == pytest.approx(expected.probabilities[part], abs=1e-6)
        assert list(answer.agreement) == pytest.approx(expected.agreement[part].tolist(), abs=1e-6)
        assert list(answer.margin) == pytest.approx(expected.margin[part].tolist(), abs=1e-6)
        assert np.array_equal(np.array(answer.votes).reshape(-1, 5), expected.votes[part])
        assert all(answer.exact) and len(answer.exact) == len(answer.label)


def test_an_answer_says_who_voted_how_long_it_took_and_what_it_cost(stub, samples, digits):
    answer = stub.Predict(request(samples[0][:4], id="17"))

    assert (answer.ensemble, answer.version, answer.id, answer.policy) == ("digits", "1", "17", "full")
    assert answer.digest == digits.digest
    assert answer.partial is False
    assert not answer.HasField("error")
    assert outcomes(answer) == dict.fromkeys(["mlp", "cnn", "forest", "logistic", "bayes"], "OK")
    assert all(member.seconds > 0 and member.device_seconds > 0 for member in answer.members)
    assert answer.device_seconds == pytest.approx(sum(member.device_seconds for member in answer.members))
    assert answer.cost_usd == pytest.approx(answer.device_seconds * 0.10 / 3600)
    took = answer.latency_seconds
    assert took.total >= took.queue + took.compute + took.vote
    assert min(took.queue, took.compute, took.vote) > 0


def test_a_policy_of_one_member(stub, samples, expected_of_mlp):
    answer = stub.Predict(request(samples[0][:9], policy="member:mlp"))

    assert answer.policy == "member:mlp"
    assert list(answer.label_index) == expected_of_mlp.label_index[:9].tolist()
    assert outcomes(answer) == {
        "mlp": "OK",
        "cnn": "SKIPPED",
        "forest": "SKIPPED",
        "logistic": "SKIPPED",
        "bayes": "SKIPPED",
    }
    assert (np.array(answer.votes).reshape(9, 5)[:, 1:] == -1).all()
    assert answer.members[1].seconds == answer.members[1].cost_usd == 0
    assert not any(answer.exact)
    assert not answer.partial


def test_an_early_exit_says_row_by_row_who_voted(stub, samples, expected):
    answer = stub.Predict(request(samples[0][:60], policy="early_exit"))
    votes = np.reshape(answer.votes, (60, 5))

    assert answer.label_index == expected.label_index[:60].tolist()
    assert all(answer.exact)
    assert set((votes >= 0).sum(axis=1)) == {3, 4, 5}
    assert np.array_equal(votes[votes >= 0], expected.votes[:60][votes >= 0])
    assert answer.cost_usd == pytest.approx(sum(member.cost_usd for member in answer.members))


def test_a_certified_exit_is_exact_only_where_that_is_provable(stub, samples, expected):
    answer = stub.Predict(request(samples[0][:60], policy="cascade"))
    exact = np.array(answer.exact)

    assert np.array_equal(np.array(answer.label_index)[exact], expected.label_index[:60][exact])
    assert 0 < exact.sum() < 60


def test_a_member_as_the_ensemble(stub, samples, expected_of_mlp):
    answer = stub.Predict(request(samples[0][:9], ensemble="digits.mlp"))

    assert answer.policy == "member:mlp"
    assert list(answer.label_index) == expected_of_mlp.label_index[:9].tolist()


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_pictures(stub, samples, expected, kind):
    images = pb.Images(files=[picture(row, kind) for row in samples[0][:64]])
    answer = stub.Predict(pb.PredictRequest(ensemble="digits", images=images))

    agree = np.mean(np.array(answer.label_index) == expected.label_index[:64])
    assert agree == 1 if kind == "PNG" else agree > 0.9  # JPEG loses a little


def test_a_timeout_of_ones_own(stub, samples):
    assert stub.Predict(request(samples[0][:1], timeout_microseconds=30_000_000)).label
    with pytest.raises(grpc.RpcError) as caught:
        stub.Predict(request(samples[0][:1], timeout_microseconds=1))

    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_requests(stub, samples, expected, compression):
    answer = stub.Predict(request(samples[0][:64]), compression=compression)

    assert list(answer.label_index) == expected.label_index[:64].tolist()


# Many requests on one stream.


def test_answers_on_a_stream_are_matched_by_id(stub, samples, expected):
    answers = list(stub.PredictStream(request(samples[0][i : i + 1], id=str(i)) for i in range(100)))

    assert len(answers) == 100
    assert {int(answer.id): answer.label_index[0] for answer in answers} == dict(
        enumerate(expected.label_index[:100].tolist())
    )


def test_requests_on_a_stream_may_differ_in_rows_policy_and_model(stub, samples, expected, expected_of_mlp):
    asked = [
        request(samples[0][:5], id="five"),
        request(samples[0][:3], id="mlp", policy="member:mlp"),
        request(samples[0][:2], id="model", ensemble="digits.mlp"),
    ]
    answers = {answer.id: list(answer.label_index) for answer in stub.PredictStream(iter(asked))}

    assert answers == {
        "five": expected.label_index[:5].tolist(),
        "mlp": expected_of_mlp.label_index[:3].tolist(),
        "model": expected_of_mlp.label_index[:2].tolist(),
    }


def test_a_bad_request_on_a_stream_is_answered_by_its_error_and_the_stream_goes_on(stub, samples):
    row = samples[0][:1]
    asked = [
        request(row, id="good"),
        request(row, id="unknown", ensemble="nobody"),
        request(row, id="policy", policy="nobody"),
        request(row[:, :4], id="shape"),
        pb.PredictRequest(ensemble="digits", id="empty"),
        request(row, id="late", timeout_microseconds=1),
        request(row, id="also good"),
    ]
    answers = {answer.id: answer for answer in stub.PredictStream(iter(asked))}

    codes = {name: answer.error.code for name, answer in answers.items()}
    assert codes == {
        "good": 0,
        "unknown": grpc.StatusCode.NOT_FOUND.value[0],
        "policy": grpc.StatusCode.INVALID_ARGUMENT.value[0],
        "shape": grpc.StatusCode.INVALID_ARGUMENT.value[0],
        "empty": grpc.StatusCode.INVALID_ARGUMENT.value[0],
        "late": grpc.StatusCode.DEADLINE_EXCEEDED.value[0],
        "also good": 0,
    }
    assert "full, early_exit, cascade, planned, member:mlp" in answers["policy"].error.message
    assert not answers["shape"].label
    assert answers["also good"].label


def test_many_requests_in_flight_on_one_stream(stub, samples, expected):
    n = 2000
    answers = list(stub.PredictStream(request(samples[0][i % 600][None], id=str(i)) for i in range(n)))

    assert len({answer.id for answer in answers}) == n
    assert not [answer.error.message for answer in answers if answer.HasField("error")]
    assert all(answer.label_index[0] == expected.label_index[int(answer.id) % 600] for answer in answers)


def test_a_stream_stays_open_between_requests(stub, samples):
    asked: queue.Queue = queue.Queue()
    answers = stub.PredictStream(iter(asked.get, None))
    for turn in range(3):
        asked.put(request(samples[0][:1], id=str(turn)))
        assert next(answers).id == str(turn)
        time.sleep(0.05)  # longer than the server waits before it looks whether a caller has left
    asked.put(None)

    assert list(answers) == []
    assert answers.code() is grpc.StatusCode.OK


def test_a_stream_without_requests_ends_well(stub):
    answers = stub.PredictStream(iter([]))

    assert list(answers) == []
    assert answers.code() is grpc.StatusCode.OK


def test_the_deadline_of_a_stream_ends_it(stub, samples):
    asked: queue.Queue = queue.Queue()
    asked.put(request(samples[0][:1]))
    answers = stub.PredictStream(iter(asked.get, None), timeout=0.5)
    assert next(answers).label
    with pytest.raises(grpc.RpcError) as caught:
        next(answers)
    asked.put(None)

    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_stream_that_its_caller_leaves_is_let_go(launch, digits, samples):
    with launch(digits.path) as server, server.stub() as stub:
        for _ in range(5):
            asked: queue.Queue = queue.Queue()
            asked.put(request(samples[0][:1]))
            answers = stub.PredictStream(iter(asked.get, None))
            next(answers)
            answers.cancel()
            asked.put(None)
        assert stub.Predict(request(samples[0][:1])).label
        time.sleep(0.5)
        server.stop()

        assert "draining: 0 requests under way" in server.log
        assert "ERROR" not in server.log


# Members that are slow or fail, on the scripted server.


@pytest.fixture(scope="module")
def scripted(launch_scripted, write_tiny):
    limits = {"timeout_ms": 20_000}
    repositories = [
        write_tiny("quick", ["a"], limits=limits),
        write_tiny("slow", ["a"], limits=limits),
        write_tiny("late", ["a"], limits={"timeout_ms": 300}),
        write_tiny("partial", ["good", "bad"], vote={"quorum": 1}, limits=limits),
        write_tiny("broken", ["good", "bad"], vote={"quorum": 2}, limits=limits),
        write_tiny("split", ["no", "yes"], vote={"rule": "majority", "tie_break": "abstain"}, limits=limits),
    ]
    script = {
        "slow": {"a": [{"delay": 1.0}]},
        "late": {"a": [{"delay": 5.0}]},
        "partial": {"good": [{"answer": 1}], "bad": [{"fault": "the disk is full"}]},
        "broken": {"good": [{}], "bad": [{"fault": "the disk is full"}]},
        "split": {"no": [{"answer": 0}], "yes": [{"answer": 1}]},
    }
    with launch_scripted(script, *repositories) as server:
        yield server


def tiny(ensemble: str, **more: object) -> pb.PredictRequest:
    row = np.array([[1, 0, 0, 0]], np.float32)
    return pb.PredictRequest(
        ensemble=ensemble, tensor=pb.Tensor(datatype="FP32", shape=row.shape, data=row.tobytes()), **more
    )


def test_answers_on_a_stream_come_in_the_order_in_which_they_are_ready(scripted):
    with scripted.stub() as stub:
        answers = [answer.id for answer in stub.PredictStream(iter([tiny("slow", id="1"), tiny("quick", id="2")]))]

    assert answers == ["2", "1"]


def test_a_member_that_fails_makes_an_answer_partial(scripted):
    with scripted.stub() as stub:
        answer = stub.Predict(tiny("partial"))

    assert answer.partial
    assert outcomes(answer) == {"good": "OK", "bad": "FAILED"}
    assert list(answer.label) == ["yes"]
    assert list(answer.exact) == [False]
    assert list(answer.agreement) == [1.0]
    assert list(answer.votes) == [1, -1]


def test_below_the_quorum_there_is_no_answer_and_the_missing_are_named(scripted):
    with scripted.stub() as stub, pytest.raises(grpc.RpcError) as caught:
        stub.Predict(tiny("broken"))

    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "bad" in caught.value.details() and "quorum is 2" in caught.value.details()
    assert "disk" not in caught.value.details()


def test_an_abstention(scripted):
    with scripted.stub() as stub:
        answer = stub.Predict(tiny("split"))

    assert list(answer.label) == [""]
    assert list(answer.label_index) == [-1]
    assert list(answer.agreement) == [0.0]


def test_the_deadline_of_the_ensemble_ends_a_request_before_its_members_are_done(scripted):
    began = time.monotonic()
    with scripted.stub() as stub, pytest.raises(grpc.RpcError) as caught:
        stub.Predict(tiny("late"))

    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - began < 4


# What is served.


def test_the_list_of_ensembles(stub):
    assert [ensemble.name for ensemble in stub.ListEnsembles(pb.ListEnsemblesRequest()).ensembles] == ["digits"]


def test_an_ensemble_described(stub, digits):
    ensemble = stub.GetEnsemble(pb.GetEnsembleRequest(ensemble="digits"))

    assert (ensemble.name, ensemble.version, ensemble.digest) == ("digits", "1", digits.digest)
    assert list(ensemble.labels) == [str(digit) for digit in range(10)]
    assert (ensemble.datatype, list(ensemble.shape)) == ("UINT8", [8, 8])
    assert (ensemble.rule, ensemble.tie_break, ensemble.quorum) == ("probability_average", "probability", 3)
    assert list(ensemble.policies) == list(digits.spec.policy_names)
    assert ensemble.default_policy == "full"
    assert ensemble.ready is True
    assert ensemble.max_batch_size == 64
    assert [(member.name, member.weight, member.backend, member.device) for member in ensemble.members] == [
        (member.name, 1.0, "onnxruntime", "cpu") for member in digits.spec.members
    ]
    assert {member.provider for member in ensemble.members} == {"CPUExecutionProvider"}


def test_an_unknown_ensemble(stub):
    with pytest.raises(grpc.RpcError) as caught:
        stub.GetEnsemble(pb.GetEnsembleRequest(ensemble="nobody"))

    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert "digits" in caught.value.details()


def test_an_unknown_method_is_unimplemented(server):
    with grpc.insecure_channel(server.grpc) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/scrutin.v1.EnsembleService/Nothing")(b"")

    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


# Health and reflection.


@pytest.fixture
def health(server):
    with grpc.insecure_channel(server.grpc) as channel:
        yield health_pb2_grpc.HealthStub(channel)


@pytest.mark.parametrize("service", ["", "digits"])
def test_health_of_the_server_and_of_each_ensemble(health, service):
    assert health.Check(health_pb2.HealthCheckRequest(service=service)).status == SERVING


def test_health_of_something_unknown(health):
    with pytest.raises(grpc.RpcError) as caught:
        health.Check(health_pb2.HealthCheckRequest(service="nobody"))

    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_health_can_be_watched(health):
    answers = health.Watch(health_pb2.HealthCheckRequest(service="digits"))

    assert next(answers).status == SERVING
    answers.cancel()


def test_reflection_lists_the_services(server):
    with grpc.insecure_channel(server.grpc) as channel:
        services = ProtoReflectionDescriptorDatabase(channel).get_services()

    assert set(services) == {
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
        "inference.GRPCInferenceService",
        "scrutin.v1.EnsembleService",
    }


def test_a_client_that_knows_only_the_address_can_ask_by_reflection(server, samples, expected):
    with grpc.insecure_channel(server.grpc) as channel:
        pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        method = pool.FindServiceByName("scrutin.v1.EnsembleService").FindMethodByName("Predict")
        asked = GetMessageClass(method.input_type).FromString(request(samples[0][:1]).SerializeToString())
        answer = channel.unary_unary(
            "/scrutin.v1.EnsembleService/Predict",
            request_serializer=type(asked).SerializeToString,
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )(asked)

        assert list(answer.label_index) == expected.label_index[:1].tolist()
        assert pool.FindServiceByName("inference.GRPCInferenceService").FindMethodByName("ModelInfer")
