"""A real server that watches itself: its cheap answers are audited, its certificates judged, its shadows tried."""

import re
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ensembles import repository
from ensembles.repository import Repository
from ensembles.votes import vote

ALL = {"share": 1.0, "budget": 1e6}


@pytest.fixture
def copied(digits: Repository, tmp_path: Path) -> Path:
    """A copy of `exported_models/digits`, whose cheap answers are all audited."""
    copy = shutil.copytree(digits.path, tmp_path / "digits")
    edit(copy, audit=ALL)
    return copy


def edit(directory: Path, **sections: Any) -> None:
    """Write sections of the manifest anew."""
    file = directory / "ensemble.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), **sections}, sort_keys=False))


def on_trial(directory: Path, member: str, **more: Any) -> None:
    """Let a member stand as a shadow of its own ensemble too."""
    (entry,) = (
        each for each in yaml.safe_load((directory / "ensemble.yaml").read_text())["members"] if each["name"] == member
    )
    edit(directory, shadows=[{**entry, "name": "newcomer", **ALL, **more}])


def certificate(server: Any, row: Any, policy: str = "cascade") -> str:
    """What an answer says of the policy's certificate."""
    reply = server.post("/v1/models/digits:predict", {"instances": [row.tolist()], "policy": policy})
    said: str = reply.json["certificate"]
    return said


def ask(server: Any, rows: Any, policy: str = "cascade") -> list[str]:
    """The labels of rows in batches of 50."""
    labels = []
    for start in range(0, len(rows), 50):
        body = {"instances": rows[start : start + 50].tolist(), "policy": policy}
        reply = server.post("/v1/models/digits:predict", body)
        assert reply.status == 200, reply.body
        labels += [prediction["label"] for prediction in reply.json["predictions"]]
    return labels


def audited(server: Any, **labels: str) -> float:
    return server.metric("ensemble_audited_rows_total", ensemble="digits", **labels)


def test_cheap_answers_are_audited_by_what_the_full_ensemble_says(launch, copied, samples, expected) -> None:
    with launch(copied) as server:
        given = ask(server, samples[0])
        differing = sum(int(label) != index for label, index in zip(given, expected.label_index, strict=True))
        server.until(lambda: audited(server) == len(given), seconds=60)

        assert audited(server, policy="cascade", same="false") == differing
        assert audited(server, policy="cascade", same="true") == len(given) - differing
        assert server.metric("ensemble_device_seconds_total", policy="audit") > 0
        for name in ("ensemble_certificate_stale", "ensemble_certificate_violated"):
            assert {sample.labels["policy"]: sample.value for sample in server.families()[name].samples} == {
                "cascade": 0,
                "planned": 0,
            }
        assert "certificate" not in server.log
        assert certificate(server, samples[0][0]) == "valid"
        assert certificate(server, samples[0][0], "full") == ""


def test_a_certificate_that_does_not_hold_is_told(launch, copied, samples, expected) -> None:
    """One that promises a tenth of a per cent for rows that leave as soon as two members have voted."""
    stages = [["logistic", "bayes"], ["cnn", "mlp", "forest"]]
    claim: dict[str, Any] = {"disagreement": 0.001, "confidence": 0.95, "n": 3000}
    promised: dict[str, Any] = {"stages": stages, "exit": {"margin": 0.0}, "certificate": claim}
    edit(copied, policies={"cascade": promised})
    spec = repository.read(copied).spec
    claim["digest"] = spec.certified_digest(spec.policies.named["cascade"])
    edit(copied, policies={"cascade": promised})
    with launch(copied) as server:
        ask(server, samples[0])
        server.until(lambda: server.metric("ensemble_certificate_violated", policy="cascade") == 1, seconds=60)

        assert server.metric("ensemble_certificate_stale", policy="cascade") == 0
        assert certificate(server, samples[0][0]) == "violated"
        server.until(lambda: audited(server) >= len(samples[0]), seconds=60)
        lines = [line for line in server.log.splitlines() if "violated" in line]
        assert len(lines) == 1
        assert re.fullmatch(
            r"ERROR serving.audits: digits: policy cascade: certificate violated: \d+ of \d+ audited rows "
            r"\([\d.]+%, at least [\d.]+% with 95% confidence\) left early with another label than all of its members give, "
            r"certified were at most 0.1%; run `ensembles plan`",
            lines[0],
        )


def test_a_certificate_of_another_manifest_is_told(launch, copied, samples) -> None:
    manifest = copied / "ensemble.yaml"
    manifest.write_text(re.sub(r"margin: 0\.91\d+", "margin: 0.81", manifest.read_text()))
    with launch(copied) as server:
        stale = {
            sample.labels["policy"]: sample.value for sample in server.families()["ensemble_certificate_stale"].samples
        }

        assert stale == {"cascade": 1, "planned": 0}
        assert (certificate(server, samples[0][0]), certificate(server, samples[0][0], "planned")) == ("stale", "valid")
        assert "policies.cascade: its certificate was made for another manifest" in server.log


def test_a_shadow_is_counted_and_never_votes(launch, copied, samples, scores, digits, expected) -> None:
    """Logistic regression on trial with the weight of all the others: what it would change is what the vote itself says."""
    on_trial(copied, "logistic", weight=4)
    ballot = repository.read(copied).spec.ballot_with(repository.read(copied).spec.shadows[0])
    own = scores[:, [member.name for member in digits.spec.members].index("logistic")]
    beside = vote(np.concatenate([scores, own[:, None]], axis=1), ballot)
    with launch(copied) as server:
        server.until(lambda: "shadow digits.newcomer runs on 100% of the rows" in server.log, seconds=60)
        labels = ask(server, samples[0], "full")
        name = "ensemble_shadow_rows_total"
        server.until(lambda: server.metric(name, ensemble="digits", member="newcomer") == len(labels), seconds=60)

        assert [int(label) for label in labels] == expected.label_index.tolist()
        changed = int(np.count_nonzero(beside.label_index != expected.label_index))
        assert server.metric(name, changed="true") == changed > 0
        dissents = int(np.count_nonzero(own.argmax(axis=1) != expected.label_index))
        assert server.metric("ensemble_shadow_dissents_total", member="newcomer") == dissents
        assert server.get("/v2/models/digits.newcomer").status == 404
        assert server.post("/v1/models/digits:predict", {"instances": [], "policy": "member:newcomer"}).status == 400


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"calibration": {"accuracy": 1.0, "n": 100_000}}, "wrong labels: right on 9"),
        ({"run_on": {"backend": "onnxruntime", "device": "cuda:7", "threads": 1}}, "run_on.device: found cuda:7"),
    ],
    ids=["not what it promises", "cannot be loaded"],
)
def test_a_shadow_that_is_not_fit_is_no_fault_of_the_ensemble(launch, serving, copied, samples, more, why) -> None:
    on_trial(copied, "bayes", **more)
    with launch(copied) as server:
        server.until(lambda: "shadow digits.newcomer is left out: " in server.log, seconds=60)

        assert (
            f"WARNING serving.shadows: shadow digits.newcomer is left out: digits: shadow newcomer: {why}" in server.log
        )
        assert len(ask(server, samples[0][:50])) == 50

    done = serving("check", copied)
    assert done.returncode == 1
    assert done.stderr.startswith(f"serving: digits: shadow newcomer: {why}")
    assert len(done.stderr.splitlines()) == 1


def test_a_sound_shadow_passes_the_check(serving, copied) -> None:
    on_trial(copied, "bayes")
    done = serving("check", copied)

    assert (done.returncode, done.stdout, done.stderr) == (0, f"{copied}: ok\n", "")


def test_a_shadow_comes_and_goes_with_its_version(launch, copied, samples) -> None:
    manifest = copied / "ensemble.yaml"
    before = manifest.read_text()
    with launch(copied) as server:
        on_trial(copied, "bayes")
        server.signal(signal.SIGHUP)
        server.until(lambda: "shadow digits.newcomer runs on 100% of the rows" in server.log, seconds=60)
        ask(server, samples[0][:50])
        server.until(lambda: server.metric("ensemble_shadow_rows_total", member="newcomer") == 50, seconds=60)
        server.until(lambda: audited(server) == 50, seconds=60)

        manifest.write_text(before + "# as it was\n")
        server.signal(signal.SIGHUP)
        digest = repository.read(copied).digest
        server.until(lambda: server.metric("ensemble_info", digest=digest) == 1, seconds=60)
        ask(server, samples[0][:50])
        server.until(lambda: audited(server) == 100, seconds=60)
        assert server.metric("ensemble_shadow_rows_total", member="newcomer") == 50
