"""The report of a run."""

import base64
import hashlib
import html
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline import storage
from pipeline.reconcile import Reconciliation
from pipeline.report import write_report
from pipeline.runs import RunDirectory
from pipeline.timing import ActorTimes, TimeAccount
from support.demo_run import add_records, demo_run, error_record

EVIL = "<script>alert('x')</script><img src=//evil.example/x onerror=alert(1)>\"&"
SHARDS = ["demo-00000.tar", "demo-00001.tar", "demo-00002.tar"]


class Page(HTMLParser):
    """What a browser would make of the page: tags with attributes, and text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.in_cell = False
        self.cells: list[list[str]] = []
        self.raw: dict[str, list[str]] = {"script": [], "style": []}
        self.within = ""
        self.feed(source)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.text += " "
        self.within = tag
        if tag == "tr":
            self.cells.append([])
        elif tag in {"td", "th"}:
            self.cells[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self.within = ""
        if tag in {"td", "th"}:
            self.in_cell = False

    def handle_data(self, data: str) -> None:
        if self.within in self.raw:
            self.raw[self.within].append(data)
            return
        self.text += data
        if self.in_cell:
            self.cells[-1][-1] += data

    @property
    def objects(self) -> list[dict[str, Any]]:
        return json.loads(self.raw["script"][0])["objects"]


def report(run: RunDirectory, shards: list[str]) -> tuple[str, Page, Reconciliation]:
    summary = run.reconcile(shards)
    uri = write_report(run.path, summary)
    source = storage.read_bytes(uri).decode()
    return source, Page(source), summary


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return demo_run(str(tmp_path / "run"), tmp_path / "corpus", sheet=2)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDirectory, str, Page]:
    """A run without errors and its report; to be read only."""
    folder = tmp_path_factory.mktemp("plain")
    run = demo_run(str(folder / "run"), folder / "corpus")
    return run, *report(run, SHARDS)[:2]


def test_the_page_tells_what_the_run_holds(plain: tuple[RunDirectory, str, Page]) -> None:
    run, source, page = plain
    assert f"Run {run.run_id} complete" in page.text
    for fact in ("20 objects", "20 ok", "0 errors", "3 / 3 shards finished", "ab" * 32, "sdmatte-mini, float32"):
        assert fact in page.text, fact
    assert run.path in page.text
    assert "None." in page.text
    assert source.count("<rect") == 3 * 25
    assert "mean 1 · median 1" in page.text, "definiteness"
    assert "13 records" in page.text, "points have no prompt_iou"


def test_the_sheet_lies_beside_the_page(plain: tuple[RunDirectory, str, Page]) -> None:
    run, _, page = plain
    with Image.open(Path(run.path) / "report" / "contact_sheet.jpg") as sheet:
        sheet.load()
        assert (sheet.format, sheet.width) == ("JPEG", 1364)
        assert sheet.height == 94 + 10 * 228 + 9 * 12
    assert "contact_sheet.jpg" in [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert [attributes["src"] for tag, attributes in page.tags if tag == "img"] == ["contact_sheet.jpg"]


def test_the_page_needs_nothing_from_elsewhere(plain: tuple[RunDirectory, str, Page]) -> None:
    _, source, page = plain
    assert {tag for tag, _ in page.tags} & {"link", "iframe", "object", "embed"} == set()
    targets = [value for _, attributes in page.tags for key, value in attributes.items() if key in {"src", "href"}]
    assert set(targets) == {"contact_sheet.jpg", "#overview", "#objects", "#errors", "#run"}
    assert "url(" not in source
    assert re.search(r"\bfetch\(|XMLHttpRequest|import\(|innerHTML|document\.write|eval\(", source) is None
    assert "@import" not in source
    assert re.findall(r"https?://[^\"]*", source) == ["http://www.w3.org/2000/svg"], "a name, not a place"


def test_a_browser_runs_the_pages_own_script_and_style_only(plain: tuple[RunDirectory, str, Page]) -> None:
    _, _, page = plain
    policy = next(a["content"] or "" for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    digests = {
        name: f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
        for name, text in {"script-src": page.raw["script"][1], "style-src": page.raw["style"][0]}.items()
    }
    assert rules == {
        "default-src": "'none'",
        "img-src": "'self' file: data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        **digests,
    }
    assert all("style" not in attributes for _, attributes in page.tags)


def test_every_object_has_its_pictures_beside_the_page(plain: tuple[RunDirectory, str, Page]) -> None:
    run, _, page = plain
    folder = Path(run.path) / "report"
    data = json.loads(page.raw["script"][0])
    assert len(data["objects"]) == 20
    assert len(data["sheets"]) == 3
    for one in data["objects"]:
        number, x, y, width, height = one["pic"]
        for name in ("photo", "cut"):
            with Image.open(folder / data["sheets"][number][name]) as sheet:
                assert list(sheet.size) == data["sheets"][number]["size"]
                assert x + width <= sheet.width
                assert y + height <= sheet.height
        assert max(width, height) <= 320
        assert "fault" not in one


def test_the_alpha_on_a_sheet_is_that_of_the_record(plain: tuple[RunDirectory, str, Page]) -> None:
    run, _, page = plain
    data = json.loads(page.raw["script"][0])
    alphas = {row["record_id"]: row["alpha"]["bytes"] for row in run.dataset().to_table().to_pylist()}
    for one in data["objects"]:
        number, x, y, width, height = one["pic"]
        with Image.open(Path(run.path) / "report" / data["sheets"][number]["cut"]) as sheet:
            shown = np.asarray(sheet.crop((x, y, x + width, y + height)).getchannel("A"), int)
        left, top, across, down = one["crop"]
        alpha = Image.open(io.BytesIO(alphas[int(one["id"])])).crop((left, top, left + across, top + down))
        expected = np.asarray(alpha.resize((width, height), Image.Resampling.BOX), int)
        assert np.abs(shown - expected).mean() < 1, one["key"]


def test_a_report_replaces_the_earlier_one_and_its_pictures(run: RunDirectory) -> None:
    folder = Path(run.path) / "report" / "pictures"
    report(run, SHARDS)
    first = {file.name for file in folder.iterdir()}
    (folder / "cut-0009-0123456789.webp").write_bytes(b"of an earlier report")
    (folder / "mine.webp").write_bytes(b"somebody's")
    report(run, SHARDS)
    assert {file.name for file in folder.iterdir()} == {*first, "mine.webp"}


def test_photographs_that_are_gone_are_said_to_be(run: RunDirectory, tmp_path: Path) -> None:
    (tmp_path / "corpus" / SHARDS[0]).unlink()
    _, page, _ = report(run, SHARDS)
    faults = [one["fault"] for one in page.objects if one["key"] in {"astronaut", "camera", "cat", "clock"}]
    assert faults
    assert all(SHARDS[0] in fault for fault in faults)
    assert all(one["alpha"] for one in page.objects), "the alphas are shown all the same"


def test_only_so_many_objects_have_pictures(tmp_path: Path) -> None:
    run = demo_run(str(tmp_path / "run"), tmp_path / "corpus", objects=6, sheet=0)
    _, page, _ = report(run, SHARDS)
    assert len(page.objects) == 6
    assert len({one["label"] for one in page.objects}) == 6, "spread over the labels"
    assert (
        "Pictures of 6 of 20 objects: 6 drawn, spread over the labels. The other 14 are counted, not listed."
        in page.text
    )


def test_a_report_without_pictures(tmp_path: Path) -> None:
    run = demo_run(str(tmp_path / "run"), tmp_path / "corpus", objects=0, sheet=0)
    _, page, _ = report(run, SHARDS)
    assert page.objects == []
    assert not (tmp_path / "run" / "report" / "pictures").exists()
    assert "20 objects" in page.text


def test_records_without_scores_are_said_to_have_none(plain: tuple[RunDirectory, str, Page]) -> None:
    _, _, page = plain
    assert "No scores." in page.text
    assert "≈" not in page.text


@pytest.mark.parametrize(
    ("matches", "words"),
    [
        (True, ""),
        (False, "The scores are not calibrated for this model."),
        (None, "Whether the scores fit this model is"),
    ],
)
def test_scores_of_another_models_calibration_are_marked(run: RunDirectory, matches: bool | None, words: str) -> None:
    row = run.dataset().head(1).to_pylist()[0]
    scored = {**row, "record_id": 5, "predicted_mad": 0.02, "quality": 0.5, "calibration": "of-a-nano"}
    add_records(run, "scored", "scored.tar", [{**scored, "calibration_matches": matches}])
    _, page, _ = report(run, [*SHARDS, "scored.tar"])
    assert (words in page.text) if words else ("calibrated for this model" not in page.text)
    assert ("≈ 0.0200" in page.text) == (matches is not True)
    (one,) = [one for one in page.objects if one["id"] == "5"]
    assert one.get("foreign", False) == (matches is not True)


def test_what_comes_from_the_input_is_escaped(run: RunDirectory, plain: tuple[RunDirectory, str, Page]) -> None:
    fault = error_record(EVIL, EVIL, "image_corrupt", EVIL, label=EVIL, prompt_kind=EVIL, image_uri=EVIL)
    add_records(run, "evil", EVIL, [fault])
    source, page, summary = report(run, [*SHARDS, EVIL, f"lost {EVIL}"])
    assert summary.faults
    assert [tag for tag, _ in page.tags if tag in {"script", "img"}] == ["img", "script", "script"]
    assert all(not key.startswith("on") for _, attributes in page.tags for key in attributes)
    assert "evil.example" not in "".join(str(attributes) for _, attributes in page.tags)
    assert page.cells[-1] == [EVIL, EVIL, EVIL, "image_corrupt", EVIL, EVIL]
    assert page.text.count(EVIL) == 9, "a fault, two slices, an example and five cells, as text"
    assert len(page.tags) > len(plain[2].tags)
    assert source.lower().count("<script") == 2
    assert source.lower().count("</script") == 2
    (one,) = [one for one in page.objects if one.get("code")]
    assert (one["label"], one["key"], one["message"]) == (EVIL, EVIL, EVIL)
    assert not set("<>&\u2028\u2029") & set(page.raw["script"][0])


def test_signs_that_turn_the_direction_of_text_are_visible(run: RunDirectory) -> None:
    turning = [*"\u061c\u200e\u200f", *map(chr, range(0x202A, 0x202F)), *map(chr, range(0x2066, 0x206A))]
    text = f"gpj{''.join(turning)}exe"
    shown = "gpj" + "".join(f"\\u{ord(sign):04x}" for sign in turning) + "exe"
    fault = error_record(text, text, "image_corrupt", text, label=text, prompt_kind=text, image_uri=text)
    add_records(run, "evil", text, [fault | {"image_notes": [text]}])
    source, page, _ = report(run, [*SHARDS, text, f"lost {text}"])
    assert not set(turning) & set(source)
    assert page.cells[-1] == [shown, shown, shown, "image_corrupt", shown, shown]
    (one,) = [one for one in page.objects if one.get("code")]
    assert (one["label"], one["key"], one["kind"], one["notes"]) == (shown, shown, shown, [shown])


def test_errors_are_counted_and_the_first_hundred_listed(run: RunDirectory) -> None:
    faults: list[dict[str, Any]] = [
        {**error_record("bad.tar", f"k{at}", "image_corrupt" if at % 4 else "prompt_missing", "why"), "record_id": at}
        for at in range(120)
    ]
    add_records(run, "bad", "bad.tar", faults)
    _, page, _ = report(run, [*SHARDS, "bad.tar"])
    assert "120 errors" in page.text
    assert ["image_corrupt", "90", "64.29 %", "why"] in page.cells
    assert ["prompt_missing", "30", "21.43 %", "why"] in page.cells
    assert "The first 100 of them" in page.text
    assert [row[0] for row in page.cells[-100:]] == [f"k{at}" for at in range(100)]


def test_an_incomplete_run_says_so(run: RunDirectory) -> None:
    _, page, summary = report(run, [*SHARDS, "never.tar"])
    assert not summary.complete
    assert f"Run {run.run_id} incomplete" in page.text
    assert "shard never.tar: not begun; start the job again" in page.text


@pytest.mark.parametrize(("source", "untrained"), [("untrained:sdmatte-mini", True), ("LongfeiHuang/SDMatte", False)])
def test_only_an_untrained_model_is_warned_of(tmp_path: Path, source: str, untrained: bool) -> None:
    run = demo_run(str(tmp_path / "run"), tmp_path / "corpus", source=source, sheet=0, objects=0)
    _, page, _ = report(run, SHARDS)
    assert ("The model is untrained." in page.text) == untrained


def test_without_a_sheet_the_page_has_no_picture(tmp_path: Path) -> None:
    run = demo_run(str(tmp_path / "run"), tmp_path / "corpus", sheet=0)
    _, page, _ = report(run, SHARDS)
    assert not (tmp_path / "run" / "report" / "contact_sheet.jpg").exists()
    assert "img" not in [tag for tag, _ in page.tags]
    assert "Contact sheet" not in page.text


def test_the_lines_on_reading_the_records_work(plain: tuple[RunDirectory, str, Page]) -> None:
    _, source, _ = plain
    match = re.search(r"<pre>(.*?)</pre>", source, re.DOTALL)
    assert match
    lines = html.unescape(match[1])
    assert len(lines.splitlines()) == 3
    names: dict[str, Any] = {}
    exec(lines, names)
    assert len(names["records"]) == 20
    assert names["alpha"].mode == "L"


def test_a_report_on_an_object_store(s3_server: str, tmp_path: Path) -> None:
    import boto3

    boto3.client("s3").create_bucket(Bucket="reports")
    run = demo_run("s3://reports/runs/7", tmp_path / "corpus")
    assert write_report(run.path, run.reconcile(SHARDS)) == "s3://reports/runs/7/report/index.html"
    page = Page(storage.read_bytes("s3://reports/runs/7/report/index.html").decode())
    assert "s3://reports/runs/7" in page.text
    with Image.open(io.BytesIO(storage.read_bytes("s3://reports/runs/7/report/contact_sheet.jpg"))) as sheet:
        assert sheet.width == 1364
    sheets = json.loads(page.raw["script"][0])["sheets"]
    there = {file.name for file in storage.list_files("s3://reports/runs/7/report/pictures")}
    assert there == {sheet[name].removeprefix("pictures/") for sheet in sheets for name in ("photo", "cut")}


def test_a_run_that_labelled_nothing_has_a_report(tmp_path: Path) -> None:
    run = demo_run(str(tmp_path / "run"), tmp_path / "corpus")
    for part in ("records", "commits"):
        for file in (tmp_path / "run" / part).iterdir():
            file.unlink()
    _, page, _ = report(run, SHARDS)
    assert "0 objects" in page.text
    assert (tmp_path / "run" / "report" / "contact_sheet.jpg").stat().st_size > 1000


def test_the_page_says_where_the_time_went_and_what_bounds_the_run(run: RunDirectory) -> None:
    before = report(run, SHARDS)[1]
    assert "Where the time went" not in before.text, "as in runs of older versions"
    account = TimeAccount(0.0, iter([0.0, 100.0, 110.0, 110.0, 110.0]).__next__)
    budget = {"matte": {"limit": 4000, "smallest": 1000, "last": 2000}}
    account.acted("a", ActorTimes({"compute": 60.0, "decode": 20.0, "wait": 10.0}, {"decode": 50.0}, budget))
    timing = account.lap(images=10, objects=20, actors=1, readers=2)
    uri = write_report(run.path, run.reconcile(SHARDS), timing)
    page = Page(storage.read_bytes(uri).decode())
    assert "The model bounds this run: it was busy 67 % of the time, and it stood still 22 % while images" in page.text
    rows = {cells[0].strip(): cells[1:4] for cells in page.cells if len(cells) == 5}
    assert rows["compute"] == ["54.5 %", "60.0", "–"]
    assert rows["decode"] == ["18.2 %", "20.0", "50.0"]
    assert rows["ramp-up"][:2] == ["9.1 %", "10.0"]
    assert rows["tail"][:2] == ["9.1 %", "10.0"]
    assert rows["read"][:2] == ["–", "–"]
    assert "copy" not in rows
    assert "batches to matte went from 4,000 pixels down to 1,000, and were of 2,000 at the end" in page.text
    bars = [attributes for tag, attributes in page.tags if tag == "rect" and attributes.get("height") == "24"]
    assert sum(float(bar["width"] or 0) for bar in bars) == pytest.approx(1000, abs=0.1)
