"""The report of a run."""

import html
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline import storage
from pipeline.reconcile import Reconciliation
from pipeline.report import write_report
from pipeline.runs import RunDirectory
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
        self.feed(source)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.text += " "
        if tag == "tr":
            self.cells.append([])
        elif tag in {"td", "th"}:
            self.cells[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in {"td", "th"}:
            self.in_cell = False

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.in_cell:
            self.cells[-1][-1] += data


def report(run: RunDirectory, shards: list[str]) -> tuple[str, Page, Reconciliation]:
    summary = run.reconcile(shards)
    uri = write_report(run.path, summary)
    source = storage.read_bytes(uri).decode()
    return source, Page(source), summary


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return demo_run(str(tmp_path / "run"), tmp_path / "corpus")


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
    assert source.count("<rect") == 3 * 20
    assert "mean 1.000, 20 records" in page.text
    assert "13 records" in page.text, "points have no prompt_iou"


def test_the_sheet_lies_beside_the_page(plain: tuple[RunDirectory, str, Page]) -> None:
    run, _, page = plain
    with Image.open(Path(run.path) / "report" / "contact_sheet.jpg") as sheet:
        sheet.load()
        assert (sheet.format, sheet.width) == ("JPEG", 1364)
        assert sheet.height == 94 + 10 * 228 + 9 * 12
    assert (
        next(attributes["href"] for tag, attributes in page.tags if tag == "a"),
        next(attributes["src"] for tag, attributes in page.tags if tag == "img"),
    ) == ("contact_sheet.jpg", "contact_sheet.jpg")


def test_the_page_needs_nothing_from_elsewhere(plain: tuple[RunDirectory, str, Page]) -> None:
    _, source, page = plain
    assert {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "embed", "form"} == set()
    targets = [value for _, attributes in page.tags for key, value in attributes.items() if key in {"src", "href"}]
    assert set(targets) == {"contact_sheet.jpg"}
    assert "url(" not in source
    assert "@import" not in source
    assert "http://" not in source.replace("http-equiv", "")
    assert "https://" not in source


def test_what_comes_from_the_input_is_escaped(run: RunDirectory, plain: tuple[RunDirectory, str, Page]) -> None:
    fault = error_record(EVIL, EVIL, "image_corrupt", EVIL, label=EVIL, prompt_kind=EVIL, image_uri=EVIL)
    add_records(run, "evil", EVIL, [fault])
    source, page, summary = report(run, [*SHARDS, EVIL, f"lost {EVIL}"])
    assert summary.faults
    assert [tag for tag, _ in page.tags if tag in {"script", "img"}] == ["img"]
    assert all(not key.startswith("on") for _, attributes in page.tags for key in attributes)
    assert "evil.example" not in "".join(str(attributes) for _, attributes in page.tags)
    assert page.cells[-1] == [EVIL, EVIL, EVIL, "image_corrupt", EVIL, EVIL]
    assert page.text.count(EVIL) == 6, "five cells and a fault, as text"
    assert len(page.tags) > len(plain[2].tags)
    assert "<script" not in source.lower()


def test_errors_are_counted_and_the_first_hundred_listed(run: RunDirectory) -> None:
    faults: list[dict[str, Any]] = [
        {**error_record("bad.tar", f"k{at}", "image_corrupt" if at % 4 else "prompt_missing", "why"), "record_id": at}
        for at in range(120)
    ]
    add_records(run, "bad", "bad.tar", faults)
    _, page, _ = report(run, [*SHARDS, "bad.tar"])
    assert "120 errors" in page.text
    assert page.cells[1] == ["image_corrupt", "90", "64.29 %"]
    assert page.cells[2] == ["prompt_missing", "30", "21.43 %"]
    assert "The first 100 of them" in page.text
    assert [row[0] for row in page.cells[4:]] == [f"k{at}" for at in range(100)]


def test_an_incomplete_run_says_so(run: RunDirectory) -> None:
    _, page, summary = report(run, [*SHARDS, "never.tar"])
    assert not summary.complete
    assert f"Run {run.run_id} incomplete" in page.text
    assert "shard never.tar: not begun; start the job again" in page.text


@pytest.mark.parametrize(("source", "untrained"), [("untrained:sdmatte-mini", True), ("LongfeiHuang/SDMatte", False)])
def test_only_an_untrained_model_is_warned_of(tmp_path: Path, source: str, untrained: bool) -> None:
    run = demo_run(str(tmp_path / "run"), tmp_path / "corpus", source=source)
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


def test_a_run_that_labelled_nothing_has_a_report(tmp_path: Path) -> None:
    run = demo_run(str(tmp_path / "run"), tmp_path / "corpus")
    for part in ("records", "commits"):
        for file in (tmp_path / "run" / part).iterdir():
            file.unlink()
    _, page, _ = report(run, SHARDS)
    assert "0 objects" in page.text
    assert (tmp_path / "run" / "report" / "contact_sheet.jpg").stat().st_size > 1000
