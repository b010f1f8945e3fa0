"""`results.json` and the other files: by their schema, back again without loss, and faults in one line."""

import csv
import io
import json
import random
from pathlib import Path

import jsonschema_rs
import pytest

from loadtest import hdr, outputs, report, results, tables
from loadtest.histogram import Histogram
from loadtest.results import ResultsError


@pytest.fixture(scope="module")
def run(side_by_side):
    """With all that a run may have."""
    found = side_by_side(full=(390, 2e-6), early_exit=(388, 1.2e-6), member_cnn=(370, 1e-6))
    arm = found.arms[0]
    for place in range(7):
        arm.sent(3.0 + place / 100, 3.0 + place / 100)
        arm.failed(3.0 + place / 100, 3.5, "RESOURCE_EXHAUSTED")
    arm.unsent(9.0, 10.0)
    arm.partial, arm.degraded = 5, 1
    found.messages = {"RESOURCE_EXHAUSTED": "the queue is full"}
    found.slos = ["p99<50ms", "error_rate<0.1%", "accuracy>0.9"]
    found.server = {'ensemble_requests_total{code="OK"}': 6000.0}
    found.ensemble = {"name": "digits", "version": 1, "digest": "ab" * 32}
    return found


@pytest.fixture(scope="module")
def document(run):
    return results.document(run)


def test_a_document_keeps_its_published_schema(document) -> None:
    schema = json.loads(results.SCHEMA_FILE.read_text())

    jsonschema_rs.validate(schema, document)


def test_the_schema_refuses_what_is_not_so(document) -> None:
    schema = json.loads(results.SCHEMA_FILE.read_text())
    for wrong in ({"schema": 2}, {"arms": [{}]}, {"valid": "yes"}, {"verdict": None}):
        assert not jsonschema_rs.is_valid(schema, document | wrong)


def test_the_keys_of_the_contract_are_there(document) -> None:
    assert document.keys() >= {
        "schema",
        "target",
        "seed",
        "schedule_sha256",
        "valid",
        "invalid_because",
        "arms",
        "verdict",
    }
    assert document["verdict"]["text"]
    for arm in document["arms"]:
        assert arm.keys() >= {
            "policy", "requests", "rows", "errors", "partial", "censored", "latency_seconds", "service_seconds", "lateness_seconds",
            "rows_per_second", "goodput_per_second", "accuracy", "agreement_with_full", "device_seconds_per_1000",
            "cost_usd_per_1000", "cost_usd_per_1000_right",
        }  # fmt: skip
        assert arm["latency_seconds"].keys() >= {"p50", "p90", "p95", "p99", "p99_9", "max"}


def test_a_run_comes_back_from_its_file_as_it_was(run, document, tmp_path: Path) -> None:
    results.write(document, tmp_path)

    assert results.read(tmp_path) == run
    assert results.document(results.read(tmp_path / "results.json")) == document


def test_missed_objectives_are_listed(document) -> None:
    assert results.missed(document) == ["full: p99<50ms missed", "full: error_rate<0.1% missed"] or results.missed(
        document
    ) == ["full: error_rate<0.1% missed"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "expected the results.json of a load test"),
        ("[]", "found schema list, expected 1"),
        ('{"schema": 7}', "found schema 7, expected 1"),
        ('{"schema": 1}', "expected what `loadtest run` writes"),
        ('{"schema": NaN}', "found NaN, which is no JSON, expected the results.json of a load test"),
        ("[" * 100_000, "expected the results.json of a load test"),
    ],
)
def test_what_is_no_result_is_told_in_one_line(tmp_path: Path, content: str, told: str) -> None:
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(ResultsError) as fault:
        results.read(tmp_path)

    assert str(fault.value).startswith(f"{tmp_path / 'results.json'}: ")
    assert told in str(fault.value)
    assert "\n" not in str(fault.value)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="found No such file or directory, expected the results.json of a load test"):
        results.read(tmp_path / "nowhere.json")


def test_whatever_is_wrong_in_a_file_is_told_or_does_no_harm(side_by_side) -> None:
    """Two hundred files with one value that does not belong there."""
    document = json.dumps(results.document(side_by_side(full=(390, 2e-6), seconds=1.0)))
    chance = random.Random(0)
    wrong = [None, -1, 0, 1e308, "x", [], {}, True, 1.5, [[1]], 10**30]
    for _ in range(200):
        content = json.loads(document)
        holder, key = chance.choice(list(places(content)))
        holder[key] = chance.choice(wrong)
        try:
            found = results.parse(content)
        except ResultsError as fault:
            assert "\n" not in str(fault)
        else:
            results.document(found)


def places(content):
    """Where there is a value: its holder and its key; of lists the first three."""
    items = list(content.items() if isinstance(content, dict) else enumerate(content[:3]))
    for key, value in items:
        yield content, key
        if isinstance(value, (dict, list)):
            yield from places(value)


def test_a_table_has_a_row_for_each_policy(document) -> None:
    rows = list(csv.DictReader(io.StringIO(outputs.table(document))))

    assert [row["policy"] for row in rows] == ["full", "early_exit", "member:cnn"]
    assert float(rows[0]["latency_seconds.p99"]) == document["arms"][0]["latency_seconds"]["p99"]
    assert rows[0]["errors"] == "7" and rows[1]["errors"] == "0"


def test_all_files_are_written(run, document, tmp_path: Path) -> None:
    written = outputs.write(run, document, tmp_path / "new" / "folder")

    assert {path.name for path in written.values()} == {"results.json", "results.csv", "latency.hlog", "report.html"}
    tags = [line.split(",")[0] for line in written["latency.hlog"].read_text().splitlines() if line.startswith("Tag=")]
    assert tags[:2] == ["Tag=full", "Tag=full.service"]


def test_how_soon_requests_failed_and_why_is_told(run, document) -> None:
    failures = document["arms"][0]["failure_seconds"]

    assert failures["RESOURCE_EXHAUSTED"]["max"] == pytest.approx(0.5, rel=1e-3)
    assert "RESOURCE_EXHAUSTED within 500 ms (p99): the queue is full." in report.page(run, document)


def test_the_histogram_log_holds_what_was_measured(run, document, tmp_path: Path) -> None:
    written = outputs.write(run, document, tmp_path)
    line = next(line for line in written["latency.hlog"].read_text().splitlines() if line.startswith("Tag=early_exit,"))
    found = hdr.decode(line.rsplit(",", 1)[1])

    assert found.counts == run.arm("early_exit").delays.counts
    assert isinstance(found, Histogram)


def test_a_folder_that_cannot_be_written_is_told(run, document, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultsError, match="expected a folder to write to"):
        outputs.write(run, document, tmp_path / "file" / "folder")


def test_the_report_is_one_page_that_loads_nothing(run, document) -> None:
    page = report.page(run, document)

    assert page.count("<svg ") == 5
    assert "<script" not in page and "http-equiv" not in page
    assert not [part for part in page.split('"') if part.startswith(("http:", "https:")) and "w3.org" not in part]
    assert document["verdict"]["text"] in page


def test_the_servers_own_latency_stands_beside_ours(side_by_side) -> None:
    run = side_by_side(full=(390, 2e-6))
    run.server = {
        f'ensemble_request_seconds{{ensemble="digits",policy="full",quantile="{q}"}}': 0.0123 for q in ("0.5", "0.99")
    }
    page = report.page(run, results.document(run))

    assert page.count("<td>12.3 ms</td>") == 2
    assert "All 2 series that grew" in page


def test_the_same_run_gives_the_same_page(run, document) -> None:
    assert report.page(run, document) == report.page(run, document)


def test_a_page_shows_what_must_be_read_before_its_numbers(side_by_side) -> None:
    run = side_by_side(full=(390, 2e-6))
    run.generator.busiest, run.stopped = 1.0, "interrupted after 3.0 s"
    page = report.page(run, results.document(run))

    assert "This run is INVALID" in page
    assert "The generator had no CPU left" in page
    assert "interrupted after 3.0 s" in page


def test_names_from_outside_cannot_become_markup(side_by_side) -> None:
    run = side_by_side(full=(390, 2e-6))
    run.target = run.data = "<script>alert(1)</script>"
    run.arms[0].policy = "<b>full</b>"
    run.server = {"<i>": 1.0}
    page = report.page(run, results.document(run))

    assert "<script>alert" not in page and "<b>full" not in page and "<i>" not in page


def test_a_run_without_answers_or_labels_has_a_report_too(simulated) -> None:
    run = simulated(0, seconds=2.0)
    assert "What accuracy costs" not in report.page(run, results.document(run))

    arm = type(run.arms[0])("full")
    for place in range(10):
        arm.sent(place / 10, place / 10)
        arm.failed(place / 10, 1.0, "UNAVAILABLE")
    run.arms = [arm]
    page = report.page(run, results.document(run))
    assert "no request was answered" in page.lower()
    assert "UNAVAILABLE" in page


def test_the_terminal_shows_the_verdict_last(run, document) -> None:
    console = tables.console()
    with console.capture() as captured:
        console.print(tables.tables(run, document))
    text = " ".join(captured.get().split())

    assert text.endswith(document["verdict"]["text"])
    assert "full: error_rate<0.1% MISSED" in text
    assert "7 failed" in text and "1 had no answer when the run ended" in text
