"""What `ensemble.yaml` may say of shadows and of audits, and how a shadow's vote would be counted."""

from typing import Any

import pytest

from ensembles.spec import EnsembleSpec, SpecError, from_mapping

HASH = "0123456789abcdef" * 4


def entry(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "model": f"{name}/1/model.onnx", "sha256": HASH, "emits": "probabilities", **more}


def manifest(**more: Any) -> dict[str, Any]:
    return {
        "name": "e",
        "labels": ["no", "yes"],
        "input": {"name": "x", "datatype": "FP32", "shape": [4]},
        "members": [entry("mlp", weight=2, calibration={"accuracy": 0.9, "n": 300}), entry("cnn")],
        **more,
    }


def spec(**more: Any) -> EnsembleSpec:
    return from_mapping(manifest(**more))


def refusal(**more: Any) -> str:
    with pytest.raises(SpecError) as fault:
        spec(**more)
    return str(fault.value)


def test_without_a_word_a_hundredth_of_the_cheap_rows_is_audited() -> None:
    assert (spec().audit.share, spec().audit.budget) == (0.01, 0.05)
    assert spec().shadows == ()


def test_what_is_said_counts() -> None:
    said = spec(audit={"share": 0.5, "budget": 2}, shadows=[entry("net", share=1, budget=0.1, weight=3)])

    assert (said.audit.share, said.audit.budget) == (0.5, 2)
    (shadow,) = said.shadows
    assert (shadow.name, shadow.share, shadow.budget, shadow.weight) == ("net", 1, 0.1, 3)


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({"audit": {"share": 1.5}}, "audit.share: found 1.5, expected less than or equal to 1"),
        ({"audit": {"share": -0.1}}, "audit.share: found -0.1, expected greater than or equal to 0"),
        ({"audit": {"budget": 0}}, "audit.budget: found 0, expected greater than 0"),
        ({"audit": {"rate": 0.1}}, "audit.rate: unknown key"),
        ({"audit": 0.1}, "audit: found 0.1, expected a mapping"),
        ({"shadows": {"net": 1}}, "shadows: found {'net': 1}, expected a valid tuple"),
        ({"shadows": [entry("net", share=2)]}, "shadows[0].share: found 2, expected less than or equal to 1"),
        (
            {"shadows": [entry("net", budget=float("inf"))]},
            "shadows[0].budget: found inf, expected a finite number",
        ),
        ({"shadows": [entry("cnn")]}, "shadows: found 'cnn' twice, expected distinct names"),
        ({"shadows": [entry("net"), entry("net")]}, "shadows: found 'net' twice, expected distinct names"),
        ({"shadows": [entry("net", model="")]}, "shadows[0].model: found '', expected have at least 1 character"),
        ({"members": [entry("mlp", share=0.1)]}, "members[0].share: unknown key"),
        (
            {"policies": {"early_exit": {"stages": [["mlp"], ["net"]]}}, "shadows": [entry("net")]},
            "policies.early_exit.stages: found 'net', expected members: mlp, cnn",
        ),
        (
            {"policies": {"default": "member:net"}, "shadows": [entry("net")]},
            "policies.default: found 'member:net', expected one of full, member:mlp, member:cnn",
        ),
    ],
)
def test_what_may_not_stand_there_is_refused_with_one_line(more: dict[str, Any], line: str) -> None:
    assert refusal(**more) == line


def test_a_shadow_is_no_member() -> None:
    """It has no vote, no policy of its own, and no certificate depends on it."""
    alone = spec(policies={"cascade": {"stages": [["mlp"], ["cnn"]], "exit": {"margin": 0.5}}})
    beside = spec(policies={"cascade": {"stages": [["mlp"], ["cnn"]], "exit": {"margin": 0.5}}}, shadows=[entry("net")])

    assert beside.ballot.weights.tolist() == alone.ballot.weights.tolist() == [2, 1]
    assert beside.policy_names == alone.policy_names
    cascade = alone.policies.named["cascade"]
    assert beside.certified_digest(cascade) == alone.certified_digest(cascade)


def test_its_vote_would_be_the_last_column_with_its_weight_and_its_trust() -> None:
    """The most accurate member is asked first where votes are tied by priority."""
    said = spec(shadows=[entry("net", weight=0.5, calibration={"accuracy": 0.95, "n": 300})])
    ballot = said.ballot_with(said.shadows[0])

    assert ballot.weights.tolist() == [2, 1, 0.5]
    assert ballot.priority.tolist() == [2, 0, 1]


def test_all_that_have_a_graph_are_members_and_shadows() -> None:
    assert [each.name for each in spec(shadows=[entry("net")]).classifiers] == ["mlp", "cnn", "net"]
