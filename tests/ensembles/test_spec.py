"""What `ensemble.yaml` may say. Whatever it may not is refused with one line that names key, found and expected."""

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ensembles.spec import DTYPES, EnsembleSpec, SpecError, from_mapping, parse
from ensembles.votes import Rule, TieBreak

HASH = "0123456789abcdef" * 4
FULL: dict[str, Any] = {
    "name": "digits",
    "version": 3,
    "labels": ["zero", "one", "two"],
    "input": {
        "name": "image",
        "datatype": "UINT8",
        "shape": [8, 6],
        "image": {"mode": "L", "width": 6, "height": 8, "range": [0, 16]},
    },
    "members": [
        {
            "name": "mlp",
            "model": "mlp/1/model.onnx",
            "sha256": HASH,
            "emits": "probabilities",
            "weight": 2,
            "calibration": {"accuracy": 0.9, "n": 300},
            "run_on": {"backend": "onnxruntime", "device": "auto", "threads": 1},
        },
        {
            "name": "cnn",
            "model": "cnn/1/model.onnx",
            "sha256": HASH,
            "emits": "logits",
            "calibration": {"accuracy": 0.95, "n": 300},
        },
        {"name": "tree", "model": "tree/1/model.onnx", "sha256": HASH, "emits": "probabilities", "weight": 0.5},
    ],
    "vote": {"rule": "median", "tie_break": "priority", "temperature": 1.5, "quorum": 2},
    "policies": {"default": "member:cnn"},
    "limits": {"max_batch_size": 32, "max_queue_size": 512, "timeout_ms": 250},
}
OPTIONAL = ("version", "vote", "policies", "limits")

Path = tuple[str | int, ...]


def changed(path: Path, value: Any) -> dict[str, Any]:
    """The full manifest with one value changed, or added."""
    content = deepcopy(FULL)
    inner: Any = content
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return content


def without(*path: str | int) -> dict[str, Any]:
    content = deepcopy(FULL)
    inner: Any = content
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return content


def refusal(content: dict[str, Any] | str) -> str:
    """The line with which the manifest is refused."""
    with pytest.raises(SpecError) as fault:
        parse(content) if isinstance(content, str) else from_mapping(content)
    line = str(fault.value)
    assert len(line.splitlines()) == 1, f"expected one line, found {line!r}"
    assert len(line) < 1000
    return line


# ------------------------------------------------------------------------------------------------------------ what is read


def test_the_full_manifest_says_what_it_says() -> None:
    spec = parse(yaml.safe_dump(FULL))

    assert spec == from_mapping(FULL)
    assert (spec.name, spec.version, spec.labels) == ("digits", 3, ("zero", "one", "two"))
    assert (spec.input.dtype, spec.input.shape, spec.input.row_bytes) == (np.dtype(np.uint8), (8, 6), 48)
    assert [(m.name, m.emits, m.weight) for m in spec.members] == [
        ("mlp", "probabilities", 2.0),
        ("cnn", "logits", 1.0),
        ("tree", "probabilities", 0.5),
    ]
    assert spec.policy_names == ("full", "member:mlp", "member:cnn", "member:tree")
    assert (spec.limits.max_batch_size, spec.limits.max_queue_size, spec.limits.timeout_ms) == (32, 512, 250)


def test_what_may_be_left_out_has_the_defaults_of_the_contract() -> None:
    content = {key: value for key, value in FULL.items() if key not in OPTIONAL}
    content["members"] = [{k: FULL["members"][0][k] for k in ("name", "model", "sha256", "emits")}]
    spec = from_mapping(content)
    (member,) = spec.members

    assert spec.version == 1
    assert (spec.vote.rule, spec.vote.tie_break) == (Rule.PROBABILITY_AVERAGE, TieBreak.PROBABILITY)
    assert (spec.vote.temperature, spec.vote.quorum, spec.policies.default) == (1.0, 1, "full")
    assert (spec.limits.max_batch_size, spec.limits.max_queue_size, spec.limits.timeout_ms) == (64, 1024, 1000)
    assert (member.weight, member.calibration) == (1.0, None)
    assert (member.run_on.backend, member.run_on.device, member.run_on.threads) == ("onnxruntime", "auto", 1)


def test_the_ballot_has_weights_in_order_and_asks_the_best_validated_member_first() -> None:
    ballot = from_mapping(FULL).ballot

    assert (ballot.rule, ballot.tie_break, ballot.temperature) == (Rule.MEDIAN, TieBreak.PRIORITY, 1.5)
    assert ballot.weights.tolist() == [2.0, 1.0, 0.5]
    assert ballot.priority.tolist() == [1, 0, 2], "members without calibration last"


def test_members_of_equal_accuracy_are_asked_in_the_order_of_the_manifest() -> None:
    content = changed(("members", 1, "calibration", "accuracy"), 0.9)

    assert from_mapping(content).ballot.priority.tolist() == [0, 1, 2]


def test_what_was_read_does_not_change() -> None:
    spec = from_mapping(FULL)
    with pytest.raises(ValueError, match="frozen"):
        spec.name = "other"


@pytest.mark.parametrize("datatype", DTYPES)
def test_every_datatype_of_a_tensor_is_an_input(datatype: str) -> None:
    assert from_mapping(changed(("input", "datatype"), datatype)).input.dtype == DTYPES[datatype]


@pytest.mark.parametrize(
    ("mode", "shape"),
    [
        ("L", [8, 6]),
        ("L", [1, 8, 6]),
        ("L", [8, 6, 1]),
        ("RGB", [3, 8, 6]),
        ("RGB", [8, 6, 3]),
    ],
)
def test_a_picture_fills_the_shape_with_channels_first_or_last(mode: str, shape: list[int]) -> None:
    content = changed(("input", "image", "mode"), mode)
    content["input"]["shape"] = shape

    assert from_mapping(content).input.shape == tuple(shape)


@pytest.mark.parametrize("path", [("input", "image", "range"), ("members", 0, "calibration"), ("members", 0, "run_on")])
def test_what_else_may_be_left_out(path: Path) -> None:
    from_mapping(without(*path))


@pytest.mark.parametrize("name", ["a", "0", "digits", "a.b-c_d", "x" * 63])
def test_names(name: str) -> None:
    assert from_mapping(changed(("name",), name)).name == name


@pytest.mark.parametrize("text", ["# a comment\n", "---\n", "\ufeff", "%YAML 1.1\n---\n"])
def test_yaml_may_be_written_as_one_likes(text: str) -> None:
    assert parse(text + yaml.safe_dump(FULL, default_flow_style=True)) == from_mapping(FULL)


# --------------------------------------------------------------------------------------------------------- what is refused

WRONG: list[tuple[Path, Any, str]] = [
    (("name",), "Digits", "name: found 'Digits', expected"),
    (("name",), "", "name: found '', expected"),
    (("name",), ".x", "name: found '.x', expected"),
    (("name",), "a/b", "name: found 'a/b', expected"),
    (("name",), "digits\n", r"name: found 'digits\\n', expected"),
    (("name",), "x" * 64, "name: found 'xxx.*', expected"),
    (("name",), 7, "name: found 7, expected a valid string"),
    (("version",), 0, "version: found 0, expected greater than or equal to 1"),
    (("version",), "1", "version: found '1', expected a valid integer"),
    (("version",), 1.5, "version: found 1.5, expected a valid integer"),
    (("version",), True, "version: found True, expected a valid integer"),
    (("version",), 10**400, "version: found 1000.*, expected"),
    (("labels",), "abc", "labels: found 'abc', expected"),
    (("labels",), {"a": 1}, "labels: found {'a': 1}, expected"),
    (("labels",), [], "labels: found 0, expected at least 2"),
    (("labels",), ["one"], "labels: found 1, expected at least 2"),
    (("labels",), ["a", "b", "a"], "labels: found 'a' twice, expected distinct names"),
    (("labels", 1), "", r"labels\[1\]: found '', expected"),
    (("labels", 1), 1, r"labels\[1\]: found 1, expected a valid string"),
    (("labels", 1), None, r"labels\[1\]: found None, expected a valid string"),
    (("labels", 1), "\ud800", r"labels\[1\]: found '\\ud800', expected"),
    (("input",), None, "input: found None, expected"),
    (("input", "name"), "", "input.name: found '', expected"),
    (("input", "datatype"), "uint8", "input.datatype: found 'uint8', expected 'BOOL', 'UINT8'"),
    (("input", "datatype"), "BYTES", "input.datatype: found 'BYTES', expected"),
    (("input", "datatype"), ["UINT8"], r"input.datatype: found \['UINT8'\], expected"),
    (("input", "shape"), 8, "input.shape: found 8, expected"),
    (("input", "shape"), [8, -1], r"input.shape\[1\]: found -1, expected greater than 0"),
    (("input", "shape"), [8, 0], r"input.shape\[1\]: found 0, expected greater than 0"),
    (("input", "shape"), [8, 6.0], r"input.shape\[1\]: found 6.0, expected a valid integer"),
    (("input", "shape"), [2**20, 2**20], "input: .*1099511627776 bytes, expected at most 1073741824"),
    (("input", "shape"), [2**31] * 8, "input: .* bytes, expected at most 1073741824"),
    (("input", "shape"), [1] * 64, "input.shape: .*at most 8"),
    (("input", "shape"), [], "input.shape: .*at least 1"),
    (("input", "shape"), [6, 8], r"input: .*image: found L 6x8, expected one that fills \[6, 8\]"),
    (("input", "shape"), [48], r"input: .*image: found L 6x8, expected one that fills \[48\]"),
    (("input", "shape"), [3, 8, 6], r"input: .*image: found L 6x8, expected one that fills \[3, 8, 6\]"),
    (("input", "image", "mode"), "RGB", r"input: .*image: found RGB 6x8, expected one that fills \[8, 6\]"),
    (("input", "image", "mode"), "CMYK", "input.image.mode: found 'CMYK', expected 'L' or 'RGB'"),
    (("input", "image", "width"), 7, r"input: .*image: found L 7x8, expected one that fills \[8, 6\]"),
    (("input", "image", "height"), "8", "input.image.height: found '8', expected a valid integer"),
    (("input", "image", "range"), [0], r"input.image.range\[1\]: missing"),
    (("input", "image", "range"), [0, 1, 2], r"input.image.range.*: .*expected"),
    (("input", "image", "range"), ["0", 1], r"input.image.range\[0\]: found '0', expected a valid number"),
    (("members",), [], "members: found none, expected at least 1"),
    (("members",), {"mlp": {}}, "members: found {'mlp': {}}, expected"),
    (("members", 1), "mlp", r"members\[1\]: found 'mlp', expected"),
    (("members", 1, "name"), "mlp", "members: found 'mlp' twice, expected distinct names"),
    (("members", 1, "name"), "MLP", r"members\[1\].name: found 'MLP', expected"),
    (("members", 1, "model"), "", r"members\[1\].model: found '', expected"),
    (("members", 1, "model"), "x" * 2000, r"members\[1\].model: found 'xxx.*, expected"),
    (("members", 1, "sha256"), HASH[:-1], rf"members\[1\].sha256: found '{HASH[:-1]}', expected"),
    (("members", 1, "sha256"), HASH.upper(), r"members\[1\].sha256: found '.*', expected"),
    (("members", 1, "sha256"), HASH + "\n", r"members\[1\].sha256: found '.*', expected"),
    (("members", 1, "emits"), "labels", r"members\[1\].emits: found 'labels', expected 'probabilities' or 'logits'"),
    (("members", 1, "weight"), 0, r"members\[1\].weight: found 0, expected greater than 0"),
    (("members", 1, "weight"), -1.0, r"members\[1\].weight: found -1.0, expected greater than 0"),
    (("members", 1, "weight"), float("nan"), r"members\[1\].weight: found nan, expected"),
    (("members", 1, "weight"), float("inf"), r"members\[1\].weight: found inf, expected"),
    (("members", 1, "weight"), "1", r"members\[1\].weight: found '1', expected a valid number"),
    (("members", 1, "calibration", "accuracy"), 1.01, r"calibration.accuracy: found 1.01, expected less than"),
    (("members", 1, "calibration", "accuracy"), float("nan"), r"calibration.accuracy: found nan, expected"),
    (("members", 1, "calibration", "n"), 0, r"calibration.n: found 0, expected greater than 0"),
    (("members", 0, "run_on", "backend"), "torch", r"members\[0\].run_on.backend: found 'torch', expected"),
    (("members", 0, "run_on", "device"), "gpu", r"members\[0\].run_on.device: found 'gpu', expected"),
    (("members", 0, "run_on", "device"), "cuda", r"members\[0\].run_on.device: found 'cuda', expected"),
    (("members", 0, "run_on", "device"), "cuda:0\n", r"members\[0\].run_on.device: found 'cuda:0\\n', expected"),
    (
        ("members", 0, "run_on", "threads"),
        0,
        r"members\[0\].run_on.threads: found 0, expected greater than or equal to 1",
    ),
    (("members", 0, "run_on", "threads"), 1000, r"members\[0\].run_on.threads: found 1000, expected less than"),
    (("vote", "rule"), "plurality", "vote.rule: found 'plurality', expected 'majority', 'probability_average'"),
    (("vote", "rule"), [], r"vote.rule: found \[\], expected"),
    (("vote", "tie_break"), "random", "vote.tie_break: found 'random', expected 'probability', 'priority'"),
    (("vote", "temperature"), 0, "vote.temperature: found 0, expected greater than 0"),
    (("vote", "temperature"), float("nan"), "vote.temperature: found nan, expected"),
    (("vote", "quorum"), 0, "vote.quorum: found 0, expected greater than 0"),
    (("vote", "quorum"), 4, "vote.quorum: found 4, expected at most 3, the number of members"),
    (("policies", "default"), "fast", "policies.default: found 'fast', expected one of full, member:mlp, member:cnn"),
    (("policies", "default"), "mlp", "policies.default: found 'mlp', expected one of full, member:mlp"),
    (("policies", "default"), None, "policies.default: found None, expected"),
    (("limits", "max_batch_size"), 0, "limits.max_batch_size: found 0, expected greater than or equal to 1"),
    (("limits", "max_queue_size"), -1, "limits.max_queue_size: found -1, expected greater than or equal to 1"),
    (("limits", "timeout_ms"), 10**9, "limits.timeout_ms: found 1000000000, expected less than or equal to 3600000"),
]


@pytest.mark.parametrize(("path", "value", "line"), WRONG)
def test_a_wrong_value_is_refused_with_its_key_what_was_found_and_expected(path: Path, value: Any, line: str) -> None:
    found = refusal(changed(path, value))
    with pytest.raises(SpecError, match=line):
        raise SpecError(found)


@pytest.mark.parametrize("values", [[float("nan"), 16], [0, float("inf")], [16, 16]], ids=str)
def test_a_picture_has_a_finite_range_that_is_not_empty(values: list[float]) -> None:
    assert refusal(changed(("input", "image", "range"), values)).startswith("input")


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ((), "author"),
        (("input",), "input.author"),
        (("input", "image"), "input.image.author"),
        (("members", 1), "members[1].author"),
        (("members", 1, "calibration"), "members[1].calibration.author"),
        (("members", 0, "run_on"), "members[0].run_on.author"),
        (("vote",), "vote.author"),
        (("limits",), "limits.author"),
    ],
)
def test_an_unknown_key_is_named_with_its_place(path: Path, key: str) -> None:
    assert refusal(changed((*path, "author"), "me")) == f"{key}: unknown key"


@pytest.mark.parametrize(
    "key", [1, None, True, 2.5, "two\nlines", "\ud800", "x" * 100_000], ids=lambda key: repr(key)[:20]
)
def test_a_key_of_any_kind_is_refused_in_one_line(key: Any) -> None:
    refusal({**FULL, key: 1})


@pytest.mark.parametrize(
    ("path", "key"),
    [
        (("name",), "name"),
        (("labels",), "labels"),
        (("input",), "input"),
        (("input", "datatype"), "input.datatype"),
        (("input", "shape"), "input.shape"),
        (("members",), "members"),
        (("members", 1, "sha256"), "members[1].sha256"),
        (("members", 1, "emits"), "members[1].emits"),
        (("members", 1, "calibration", "n"), "members[1].calibration.n"),
    ],
)
def test_a_missing_key_is_named_with_its_place(path: Path, key: str) -> None:
    assert refusal(without(*path)) == f"{key}: missing"


TEXT = yaml.safe_dump(FULL, sort_keys=False)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "expected a mapping, found NoneType"),
        ("[1, 2]", "expected a mapping, found list"),
        ("digits", "expected a mapping, found str"),
        (TEXT + "version: 2\n", "line 1: found key 'version' twice, expected it once"),
        (
            TEXT.replace("rule: median", "rule: median\n  rule: borda"),
            "line 46: found key 'rule' twice, expected it once",
        ),
        ("a: &x [1]\nb: *x\n", "line 2: found an alias, expected plain YAML"),
        ("a: " + "[" * 10_000, "expected a manifest, found YAML that nests too deep"),
        ("a: " + "{b: " * 10_000, "expected a manifest, found YAML that nests too deep"),
        ("- " * 10_000, "expected a manifest, found YAML that nests too deep"),
        ("a: [1, 2", "expected YAML, found .*line 1, column"),
        ("a: b: c", "expected YAML, found mapping values are not allowed here"),
        ("a:\tb:\n\t- c", "expected YAML, found "),
        ("a: \x00", "expected YAML, found unacceptable character"),
        ("? [a]\n: b", "expected YAML, found .*unhashable key"),
        (TEXT + "---\n" + TEXT, "expected YAML, found expected a single document"),
        ("a: !!python/object/apply:os.system [ls]", "expected YAML, found could not determine a constructor"),
        ("a: !Custom {}", "expected YAML, found could not determine a constructor"),
        ("a: !!binary x", "expected YAML, found failed to decode base64"),
    ],
    ids=lambda text: repr(text)[:30],
)
def test_text_that_is_no_plain_yaml_is_refused(text: str, line: str) -> None:
    found = refusal(text)
    with pytest.raises(SpecError, match=line):
        raise SpecError(found)


@pytest.mark.parametrize(
    "scalar",
    ["2020-99-99", "0x_", "9" * 5000, "!!int x", "!!float x", "!!bool x", "!!timestamp x"],
    ids=lambda scalar: scalar[:12],
)
def test_a_scalar_that_yaml_cannot_convert_is_refused(scalar: str) -> None:
    refusal(TEXT.replace("version: 3", f"version: {scalar}"))


def test_a_few_lines_do_not_grow_into_gigabytes() -> None:
    lines = ["l0: &l0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 10)}]" for i in range(1, 12)]

    assert refusal("\n".join(lines)) == "line 2: found an alias, expected plain YAML"


def test_a_manifest_that_contains_itself_is_refused() -> None:
    assert refusal("&self\nname: *self\n") == "line 2: found an alias, expected plain YAML"


@given(st.text(max_size=200))
def test_no_text_at_all_breaks_the_parser(text: str) -> None:
    try:
        spec = parse(text)
    except SpecError as fault:
        assert len(str(fault).splitlines()) == 1
    else:
        assert isinstance(spec, EnsembleSpec)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
places = st.sampled_from(sorted({path for path, _, _ in WRONG if len(path) < 3 or isinstance(path[1], int)}, key=str))


@given(places, values)
def test_no_value_at_all_breaks_the_checks(path: Path, value: Any) -> None:
    try:
        spec = from_mapping(changed(path, value))
    except SpecError as fault:
        assert len(str(fault).splitlines()) == 1
    else:
        assert isinstance(spec.ballot.weights, np.ndarray)
