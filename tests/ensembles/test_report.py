"""The report: one page that needs nothing else, made from JSON alone, the same every time, whatever the names say."""

import copy
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from ensembles import document, plots, report, svg, verdict
from ensembles.document import DocumentError
from ensembles.placing import placed
from ensembles.recording import record
from ensembles.report import ReportError
from ensembles.repository import Repository

SECTIONS = ["accuracy", "plane", "promise", "diversity", "marginal", "errors", "hopeless", "reliability", "selective"]


@pytest.fixture(scope="module")
def evaluation(digits: Repository, tmp_path_factory: pytest.TempPathFactory) -> Any:
    recording = record(digits, digits.path / "samples.npz", tmp_path_factory.mktemp("cache"))
    return json.loads(document.text(document.evaluated(recording, 0.1)))


@pytest.fixture(scope="module")
def page(evaluation: Any) -> str:
    return report.page(evaluation)


@pytest.fixture
def folder(evaluation: Any, tmp_path: Path) -> Path:
    (tmp_path / "evaluation.json").write_text(json.dumps(evaluation))
    return tmp_path


def estimate(value: float) -> Any:
    return {"value": value, "low": value - 0.01, "high": value + 0.01, "n": 600}


class Page(HTMLParser):
    """The elements of a page, with their attributes, and all text."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


# ---------------------------------------------------------------------------------------------------------------- the page


def test_a_report_is_drawn_from_the_json_alone_and_always_the_same(folder: Path) -> None:
    file = report.redraw(folder)
    first = file.read_bytes()
    file.unlink()

    assert report.redraw(folder).read_bytes() == first
    assert sorted(path.name for path in folder.iterdir()) == ["evaluation.json", "report.html"]


def test_pictures_stand_alone_as_files_too(folder: Path) -> None:
    page = report.redraw(folder).read_text()
    files = report.apart(folder)

    assert [file.name for file in files] == [f"{name}.svg" for name in SECTIONS if name != "hopeless"]
    for file in files:
        root = ET.parse(file).getroot()
        used, given = set(re.findall(r"var\((--\w+)\)", file.read_text())), root[0].text or ""
        assert root.tag.endswith("svg") and all(f"{variable}:" in given for variable in used)
        assert file.read_text().partition("</style>")[2].strip() in page


def test_every_section_has_a_picture_that_can_be_heard(page: str) -> None:
    found = Page(page)
    drawings = found.all("svg")

    assert [attributes["id"] for attributes in drawings] == [name for name in SECTIONS if name != "hopeless"]
    assert all(attributes["role"] == "img" and len(attributes["aria-label"] or "") > 40 for attributes in drawings)
    assert len(found.all("figcaption")) == len(drawings)
    assert all(attributes.get("alt") for attributes in found.all("img")) and len(found.all("img")) == 9
    assert found.all("html") == [{"lang": "en"}]
    titles = {attributes["id"] for attributes in found.all("h2")}
    assert {attributes["aria-labelledby"] for attributes in found.all("section")} == titles


def test_the_page_asks_nobody_for_anything(page: str) -> None:
    found = Page(page)

    for _, attributes in found.elements:
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href"):
                assert value is not None and value.startswith(("data:image/png;base64,", "#"))
    assert not found.all("script") and not found.all("link")
    assert "@import" not in page
    assert re.findall(r"url\((?!#)", page) == []
    outside = set(re.findall(r"https?://[^\"' <]+", page))
    assert outside <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}, "names, which nobody fetches"


def test_ids_are_unlike_and_colours_are_the_style_sheets(page: str) -> None:
    ids = [attributes["id"] for _, attributes in Page(page).elements if "id" in attributes]

    assert len(ids) == len(set(ids))
    for colour, variable in svg.VARIABLES.items():
        assert colour not in page
        assert f"--{variable}: #" in page
    drawings = page[page.index("<svg") : page.rindex("</svg>")]
    assert not re.search(r"(fill|stroke): #", drawings), "a colour that light or dark would not change"


def test_numbers_of_the_evaluation_are_on_the_page(evaluation: Any, page: str) -> None:
    text = Page(page).text

    assert "digits version 1 on samples.npz, 600 rows" in text
    assert verdict.headline(evaluation) in text
    for each in evaluation["members"]:
        assert each["name"] in text and verdict.percent(each["accuracy"]["value"]) in text
    assert "On 9 of 600 rows no member is right" in text


def test_names_cannot_become_markup(evaluation: Any) -> None:
    hostile = copy.deepcopy(evaluation)
    bad = "<script>alert(1)</script>\"'&$x^2$"
    hostile["ensemble"]["name"] = hostile["data"]["name"] = hostile["measured"]["machine"] = bad
    hostile["gain"]["best_member"] = hostile["members"][0]["name"] = bad
    hostile["diversity"]["pairs"][0]["a"] = bad
    hostile["marginal"][0]["member"] = bad
    for pair in hostile["diversity"]["pairs"]:
        pair["a"], pair["b"] = (bad if name == "mlp" else name for name in (pair["a"], pair["b"]))
    for sample in hostile["samples"]:
        sample["name"] = sample["label"] = sample["votes"][0] = bad
        sample["picture"] = "javascript:alert(1)"
    found = Page(report.page(hostile))

    assert not found.all("script") and not found.all("img")
    assert bad in found.text, "as it is, dollars too"


def entry(*members: str, accuracy: Any, seconds: Any, **more: Any) -> Any:
    return {"members": list(members), "accuracy": accuracy, "seconds_per_1000": seconds, **more}


def test_a_plan_in_the_folder_draws_its_front(folder: Path) -> None:
    without = report.redraw(folder).read_text()
    points = [
        entry("cnn", accuracy=estimate(0.93), seconds=estimate(0.02), known_as=["best_member"], on_front=True),
        entry("mlp", "cnn", accuracy=estimate(0.95), seconds=estimate(0.03), known_as=["chosen"], on_front=True),
        entry("forest", accuracy=estimate(0.9), seconds=estimate(0.06), known_as=["bigger_model"], on_front=False),
        entry(
            "mlp", "cnn", "forest", accuracy=estimate(0.96), seconds=estimate(0.09), known_as=["full"], on_front=True
        ),
    ]
    data = json.loads((folder / "evaluation.json").read_text())["data"]
    plan = {"schema": 1, "front": points, "chosen": points[1], "judged_on": 240, "data": data}
    (folder / "plan.json").write_text(json.dumps({**plan, "data": {**data, "digest": "0" * 64}}))
    of_other_data = report.redraw(folder).read_text()
    (folder / "plan.json").write_text(json.dumps(plan))
    content = report.redraw(folder).read_text()

    assert "front of the plan" not in re.findall(r">([^<>]+)</text>", without)
    assert set(re.findall(r">([^<>]+)</text>", content)) >= {
        "front of the plan",
        "cnn (best single member)",
        "forest (one bigger model)",
        "full ensemble",
        "chosen",
    }
    assert "The plan chose mlp, cnn: right on 95.0% in 30 ms." in content
    assert of_other_data == without, "figures of other rows do not stand beside these"


def test_a_plan_of_plain_numbers_is_drawn_too(evaluation: Any) -> None:
    plan = {"front": [entry("cnn", accuracy=0.93, seconds=0.002), entry("mlp", "cnn", accuracy=0.95, seconds=0.003)]}

    assert "front of the plan" in plots.plane(evaluation, plan)


def test_twins_are_framed(evaluation: Any) -> None:
    framed = copy.deepcopy(evaluation)
    framed["diversity"]["twins"] = [["mlp", "cnn"]]

    drawn = [plots.diversity(content).count("stroke: var(--wrong)") for content in (evaluation, framed)]
    assert drawn == [0, 2], "in both matrices"
    assert "Twins, that err in step: mlp and cnn." in verdict.diversity(framed)


def test_one_pair_alone_is_compared_with_no_other(evaluation: Any) -> None:
    pair = copy.deepcopy(evaluation)
    pair["diversity"] |= {"pairs": pair["diversity"]["pairs"][:1], "twins": []}
    (found,) = pair["diversity"]["pairs"]

    said = verdict.diversity(pair)
    assert said.startswith(
        f"The errors of {found['a']} and {found['b']} correlate {found['correlation']['value']:.2f}. The"
    )
    pair["diversity"]["twins"] = [[found["a"], found["b"]]]
    assert "They are twins: they err in step." in verdict.diversity(pair)


@pytest.mark.parametrize(
    ("needed", "said"), [("a", "Without a the"), ("ab", "Without a or b the"), ("abc", "Without a, b or c the")]
)
def test_members_that_are_missed_are_named(evaluation: Any, needed: str, said: str) -> None:
    content = copy.deepcopy(evaluation)
    lost = {"value": 0.02, "low": 0.01, "high": 0.03, "n": 600}
    content["marginal"] = [{**content["marginal"][0], "member": name, "accuracy_lost": lost} for name in needed]

    assert verdict.marginal(content).startswith(said)


def test_one_member_and_twenty_are_drawn_too(evaluation: Any) -> None:
    single = copy.deepcopy(evaluation)
    single["members"] = [each for each in single["members"] if each["name"] == "cnn"]
    single["diversity"] |= {"pairs": [], "twins": [], "kappa": None, "effective_votes": None}
    single["promise"] |= {"mean_correlation": None, "correlated_error": None, "bracket": None, "efficiency": None}
    single["marginal"], single["samples"] = [], []
    drawn = Page(report.page(single)).all("svg")
    assert {"diversity", "marginal"}.isdisjoint(attributes["id"] for attributes in drawn)

    crowd = copy.deepcopy(evaluation)
    template, pair = crowd["members"][0], crowd["diversity"]["pairs"][0]
    names = ["cnn", *(f"member-{number}" for number in range(19))]
    crowd["members"] = [{**template, "name": name} for name in names]
    crowd["diversity"]["pairs"] = [{**pair, "a": a, "b": b} for i, a in enumerate(names) for b in names[i + 1 :]]
    crowd["samples"] = []
    assert "member-18" in plots.diversity(crowd) and "member-18" in plots.accuracy(crowd)


def test_an_evaluation_without_its_parts_is_refused_in_one_line(folder: Path, evaluation: Any) -> None:
    for key in ("gain", "members", "selective", "measured"):
        (folder / "evaluation.json").write_text(
            json.dumps({name: part for name, part in evaluation.items() if name != key})
        )
        with pytest.raises(ReportError, match=f"expected all that `ensembles evaluate` writes, found KeyError '{key}'"):
            report.redraw(folder)
    assert not (folder / "report.html").exists()
    with pytest.raises(DocumentError, match="evaluation.json: found No such file"):
        report.redraw(folder / "elsewhere")


@pytest.mark.parametrize("content", ["[" * 100_000, "nothing", '{"schema": "' + "2" * 1000 + '"}', "3"])
def test_what_is_no_evaluation_is_refused_in_one_line(folder: Path, content: str) -> None:
    (folder / "evaluation.json").write_text(content)
    with pytest.raises(DocumentError) as refused:
        report.redraw(folder)
    (line,) = str(refused.value).splitlines()
    assert len(line) < len(str(folder)) + 300


def test_members_that_took_no_time_are_refused_in_one_line(folder: Path, evaluation: Any) -> None:
    instant = copy.deepcopy(evaluation)
    for each in instant["members"]:
        each["seconds_per_1000"]["value"] = 0
    (folder / "evaluation.json").write_text(json.dumps(instant))
    with pytest.raises(ReportError, match="found ZeroDivisionError"):
        report.redraw(folder)


def test_data_whose_name_is_no_unicode_is_drawn(folder: Path, evaluation: Any) -> None:
    named = {**evaluation, "data": {**evaluation["data"], "name": "\udcff.npz"}}
    (folder / "evaluation.json").write_text(json.dumps(named))

    assert r"\udcff.npz" in report.redraw(folder).read_text()


# --------------------------------------------------------------------------------------------------------------- sentences


def with_gain(evaluation: Any, **more: Any) -> Any:
    return {**evaluation, "gain": {**evaluation["gain"], **more}}


def test_the_headline_says_what_the_interval_says(evaluation: Any) -> None:
    def over(low: float, high: float) -> Any:
        return with_gain(evaluation, over_best_member={"value": (low + high) / 2, "low": low, "high": high, "n": 600})

    assert verdict.headline(over(0.01, 0.03)) == (
        "The vote beats cnn, the best member, by 2.0 points (95% interval +1.0 to +3.0)."
    )
    assert verdict.headline(over(-0.03, -0.01)).startswith("The vote is worse than cnn, the best member: -2.0 points")
    assert verdict.headline(over(-0.01, 0.02)).startswith(
        "No gain over cnn, the best member, can be shown: +0.5 points"
    )
    assert "about 5,000 rows are needed" in verdict.evidence(
        {**over(-0.01, 0.02), "gain": {**over(-0.01, 0.02)["gain"], "rows_needed": 5000}}
    )


def test_too_few_rows_are_said_first(evaluation: Any) -> None:
    few = with_gain(evaluation, enough=False, rows=50, rows_for_any=120)

    assert verdict.headline(few) == (
        "Too few rows to say anything: on these 50, even a vote without any error could not be told from cnn, "
        "the best member. About 120 rows are needed."
    )


@pytest.mark.parametrize(
    ("value", "shown"),
    [(2.5, "2.5 s"), (0.0123, "12.3 ms"), (0.00076, "760 µs"), (3e-9, "0.003 µs"), (None, "unknown")],
)
def test_seconds_are_shown_in_the_unit_that_suits(value: float | None, shown: str) -> None:
    assert verdict.seconds(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(1.5, "1.5 USD"), (0.0, "0 USD"), (1.89e-7, "1.9·10⁻⁷ USD"), (None, "unknown")]
)
def test_small_sums_are_shown_in_powers_of_ten(value: float | None, shown: str) -> None:
    assert verdict.dollars(value) == shown


def test_ticks_say_where_they_are(evaluation: Any) -> None:
    near = copy.deepcopy(evaluation)
    for number, each in enumerate([*near["members"], *near["ensembles"]]):
        value = 0.71 + 0.0165 * number
        each["accuracy"] |= {"value": value, "low": value - 0.01, "high": value + 0.01}

    ticks = re.findall(r">([\d.]+)%<", plots.accuracy(near))
    steps = np.diff([float(tick) for tick in ticks])

    assert len(steps) > 3
    assert np.allclose(steps, steps[0])


def test_pictures_of_the_same_figure_are_the_same_bytes() -> None:
    def draw(axes: Any) -> None:
        axes.plot(np.arange(5), np.arange(5) ** 2, "o", color=svg.MEMBER)

    assert svg.drawn("one", "A < B", 2, draw) == svg.drawn("one", "A < B", 2, draw)
    assert 'aria-label="A &lt; B"' in svg.drawn("one", "A < B", 2, draw)


def test_names_beside_points_keep_off_each_other_and_the_edge() -> None:
    crowd = placed([100, 104, 290], [50, 50, 50], ["one", "other", "at the edge"], 300)

    assert crowd[0] == (True, True)
    assert crowd[1] != crowd[0]
    assert not crowd[2].right
