"""Policies in the manifest: stages, exits, certificates, and what of them is refused."""

from copy import deepcopy
from typing import Any

import pytest

from ensembles.spec import EnsembleSpec, SpecError, from_mapping
from ensembles.votes import Rule

MEMBERS = ("mlp", "cnn", "forest")
MANIFEST: dict[str, Any] = {
    "name": "e",
    "labels": ["no", "yes"],
    "input": {"name": "x", "datatype": "FP32", "shape": [2]},
    "members": [
        {
            "name": name,
            "model": f"{name}/1/model.onnx",
            "sha256": str(number) * 64,
            "emits": "probabilities",
            "calibration": {"accuracy": 0.9, "n": 100},
        }
        for number, name in enumerate(MEMBERS)
    ],
}
EXACT = {"stages": [["mlp", "cnn"], ["forest"]], "exit": "decided"}
CASCADE = {"stages": [["cnn"], ["mlp", "forest"]], "exit": {"margin": 0.83}}


def with_policies(policies: Any, **vote: Any) -> EnsembleSpec:
    return from_mapping({**MANIFEST, "vote": vote, "policies": policies})


def test_a_policy_is_a_list_of_stages_and_an_exit() -> None:
    spec = with_policies({"default": "early_exit", "early_exit": EXACT, "cascade": CASCADE})
    exact, cascade = spec.policies.named["early_exit"], spec.policies.named["cascade"]

    assert (exact.stages, exact.exit, exact.rule) == ((("mlp", "cnn"), ("forest",)), "decided", None)
    assert (cascade.exit.score, cascade.exit.threshold) == ("margin", 0.83)
    assert exact.members == MEMBERS
    assert spec.policies.default == "early_exit"
    assert spec.policy_names == ("full", "early_exit", "cascade", "member:mlp", "member:cnn", "member:forest")


def test_a_policy_may_have_fewer_members_and_a_rule_of_its_own() -> None:
    policy = with_policies({"planned": {"stages": [["cnn", "mlp"]], "rule": "majority"}}).policies.named["planned"]

    assert (policy.members, policy.rule, policy.exit) == (("cnn", "mlp"), Rule.MAJORITY, "decided")


@pytest.mark.parametrize(
    ("policies", "refusal"),
    [
        ({"p": {}}, "policies.p.stages: missing"),
        ({"p": {"stages": []}}, "policies.p: stages: found none or an empty one, expected at least one member in each"),
        ({"p": {"stages": [["cnn"], []]}}, "policies.p: stages: found none or an empty one"),
        ({"p": {"stages": [["cnn"], ["cnn"]]}}, "policies.p: stages: found 'cnn' twice, expected distinct names"),
        ({"p": {"stages": [["svm"]]}}, "policies.p.stages: found 'svm', expected members: mlp, cnn, forest"),
        ({"p": {"stages": "cnn"}}, "policies.p.stages: found 'cnn', expected a valid tuple"),
        ({"p": {**CASCADE, "exit": "sometimes"}}, "policies.p.exit: found 'sometimes', expected decided, or margin or"),
        ({"p": {**CASCADE, "exit": {"margin": 1.5}}}, "policies.p.exit: found {'margin': 1.5}, expected decided, or"),
        ({"p": {**CASCADE, "exit": {"margin": True}}}, "policies.p.exit: found {'margin': True}, expected decided, or"),
        ({"p": {**CASCADE, "exit": {"margin": 0.5, "agreement": 0.5}}}, "policies.p.exit: found {'margin': 0.5, "),
        ({"p": {**CASCADE, "exit": {}}}, "policies.p.exit: found {}, expected decided, or"),
        ({"p": {**CASCADE, "speed": 1}}, "policies.p.speed: unknown key"),
        ({"p": {**CASCADE, "certificate": {"n": 5}}}, "policies.p.certificate.disagreement: missing"),
        ({"p": {**EXACT, "rule": "median"}}, "policies.p.exit: found decided, expected a threshold: under median"),
        (
            {"full": EXACT},
            "policies: found the name 'full', expected another than full, audit, shadow, probe that matches",
        ),
        (
            {"audit": EXACT},
            "policies: found the name 'audit', expected another than full, audit, shadow, probe that matches",
        ),
        ({"member:cnn": EXACT}, "policies: found the name 'member:cnn', expected another"),
        ({"defualt": "full"}, "policies.defualt: found 'full', expected a mapping"),
        ({"default": "cascade"}, "policies.default: found 'cascade', expected one of full, member:mlp"),
    ],
)
def test_what_is_no_policy_is_refused_with_its_place(policies: Any, refusal: str) -> None:
    with pytest.raises(SpecError) as fault:
        with_policies(policies)

    assert str(fault.value).startswith(refusal)
    assert len(str(fault.value).splitlines()) == 1


def certified(manifest: dict[str, Any]) -> EnsembleSpec:
    """The manifest with a cascade whose certificate is for it."""
    spec = from_mapping({**manifest, "policies": {"cascade": CASCADE}})
    digest = spec.certified_digest(spec.policies.named["cascade"])
    certificate = {"disagreement": 0.005, "confidence": 0.95, "n": 598, "digest": digest}
    return from_mapping({**manifest, "policies": {"cascade": {**CASCADE, "certificate": certificate}}})


def changed(spec: EnsembleSpec, *path: Any, value: Any) -> EnsembleSpec:
    content = deepcopy(spec.model_dump(mode="json"))
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    for policy in content["policies"].values():
        if isinstance(policy, dict) and isinstance(policy["exit"], dict):
            policy["exit"] = {name: score for name, score in policy["exit"].items() if score is not None}
    return from_mapping(content)


def test_a_certificate_holds_for_what_it_was_made_for() -> None:
    spec = certified(MANIFEST)

    assert not spec.stale(spec.policies.named["cascade"])


def test_a_certificate_without_a_digest_holds_for_nothing_known() -> None:
    certificate = {"disagreement": 0.005, "confidence": 0.95, "n": 598}
    spec = with_policies({"cascade": {**CASCADE, "certificate": certificate}})

    assert spec.stale(spec.policies.named["cascade"])


def test_a_policy_without_a_certificate_is_never_stale() -> None:
    spec = with_policies({"early_exit": EXACT})

    assert not spec.stale(spec.policies.named["early_exit"])


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("members", 1, "sha256"), "f" * 64),
        (("members", 1, "weight"), 2.0),
        (("members", 1, "emits"), "logits"),
        (("labels",), ["yes", "no"]),
        (("input", "datatype"), "FP64"),
        (("vote", "rule"), "majority"),
        (("vote", "tie_break"), "first_class"),
        (("vote", "temperature"), 2.0),
        (("policies", "cascade", "exit"), {"margin": 0.8}),
        (("policies", "cascade", "exit"), {"agreement": 0.83}),
        (("policies", "cascade", "stages"), [["mlp"], ["cnn", "forest"]]),
    ],
)
def test_whatever_changes_an_answer_makes_the_certificate_stale(path: tuple[Any, ...], value: Any) -> None:
    spec = changed(certified(MANIFEST), *path, value=value)

    assert spec.stale(spec.policies.named["cascade"])


@pytest.mark.parametrize(
    ("path", "value"),
    [(("version",), 7), (("limits", "max_batch_size"), 8), (("members", 0, "run_on", "threads"), 4)],
)
def test_what_changes_no_answer_leaves_the_certificate_alone(path: tuple[Any, ...], value: Any) -> None:
    spec = changed(certified(MANIFEST), *path, value=value)

    assert not spec.stale(spec.policies.named["cascade"])


def test_who_is_trusted_more_matters_where_that_breaks_ties() -> None:
    by_priority = {**MANIFEST, "vote": {"tie_break": "priority"}}
    spec = changed(certified(by_priority), "members", 2, "calibration", value={"accuracy": 0.99, "n": 100})

    assert spec.stale(spec.policies.named["cascade"])
