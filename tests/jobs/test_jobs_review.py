"""The command of reviews, in this process: files out, files in, and exit codes; no server."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import review as job
from pipeline.curation.schema import DECISIONS
from pipeline.review.store import read_reviews
from support.review_run import data_file, review_run


@pytest.fixture
def output(tmp_path: Path) -> str:
    return review_run(tmp_path).path


def export(output: str, folder: Path, tool: str, *more: str) -> int:
    return job.main(["export", output, "--tool", tool, "--out", str(folder), *more])


@pytest.mark.parametrize("tool", ["cvat", "coco"])
def test_there_and_back(tmp_path: Path, output: str, tool: str, capsys: Any) -> None:
    folder = tmp_path / "export"
    assert export(output, folder, tool, "--limit", "3", "--title", "Mine") == 0
    assert capsys.readouterr().out == f"3 of 3 objects are in {folder}\n"
    name = {"cvat": "annotations.xml", "coco": "annotations/instances_default.json"}[tool]
    verdict = {"cvat": ('"verdict">none', '"verdict">accept'), "coco": ('"verdict": "none"', '"verdict": "accept"')}
    (folder / name).write_text((folder / name).read_text().replace(*verdict[tool], 2))
    back = ["import", output, "--tool", tool, "--from", str(folder / name), "--reviewer", "ann"]
    assert job.main([*back, "--dry-run"]) == 0
    assert "nothing was written" in capsys.readouterr().out
    assert len(read_reviews(output)) == 0
    assert job.main(back) == 0
    said = capsys.readouterr().out
    assert "3 came back: 2 imported, 0 known already, 1 say nothing, 0 faults" in said
    assert f"wrote {output}/reviews/0001.parquet" in said
    assert job.main(back) == 0
    assert "3 came back: 0 imported, 2 known already, 1 say nothing, 0 faults" in capsys.readouterr().out
    assert set(read_reviews(output)["reviewer"].to_pylist()) == {"ann"}
    assert export(output, tmp_path / "next", tool) == 0
    said = capsys.readouterr().out
    assert "2 objects were reviewed already; --again brings them, too" in said
    assert "3 of 3 objects" in said


def test_label_studio_by_files(tmp_path: Path, output: str, capsys: Any) -> None:
    assert export(output, tmp_path / "export", "label_studio", "--images", "embed", "--where", "record_id == 3") == 0
    tasks = json.loads((tmp_path / "export/tasks-0001.json").read_text())
    for task in tasks:
        results = [*task["predictions"][0]["result"]]
        task |= {"annotations": [{"id": 7, "result": results, "updated_at": "2026-03-01T12:00:00Z"}]}
    (tmp_path / "back.json").write_text(json.dumps(tasks))
    assert job.main(["import", output, "--tool", "label_studio", "--from", str(tmp_path / "back.json")]) == 0
    assert "1 came back: 1 imported" in capsys.readouterr().out
    assert read_reviews(output)["edited_pixels"].to_pylist() == [0]


def test_what_cannot_be_shown_or_used_is_listed_and_is_exit_code_1(tmp_path: Path, output: str, capsys: Any) -> None:
    (tmp_path / "pictures/4.jpg").unlink()
    assert export(output, tmp_path / "export", "coco") == 1
    said = capsys.readouterr().out
    assert "FAULT: record 4 of" in said
    assert "4 of 5 objects" in said
    path = tmp_path / "export/annotations/instances_default.json"
    path.write_text(path.read_text().replace('"record_id": "3"', '"record_id": "33"'))
    assert job.main(["import", output, "--tool", "coco", "--from", str(path)]) == 1
    said = capsys.readouterr().out
    assert "FAULT: record 33 of" in said
    assert "4 came back: 0 imported, 0 known already, 3 say nothing, 1 faults" in said


def test_a_damaged_data_file_is_exit_code_1(tmp_path: Path, capsys: Any) -> None:
    run = review_run(tmp_path)
    path = data_file(run)
    path.write_bytes(path.read_bytes()[:200])
    assert export(run.path, tmp_path / "export", "coco") == 1
    assert "a data file can't be read" in capsys.readouterr().err


def test_with_addresses_no_original_is_fetched(tmp_path: Path, output: str, capsys: Any) -> None:
    for path in (tmp_path / "pictures").iterdir():
        path.unlink()
    assert export(output, tmp_path / "export", "label_studio", "--images", "uri") == 1
    said = capsys.readouterr().out
    assert said.count("a browser can't fetch") == 5  # local files have no address; that they are gone nobody asked


def test_decisions(tmp_path: Path, output: str, capsys: Any) -> None:
    run = json.loads((Path(output) / "run.json").read_text())["run_id"]
    rows = [
        {"output": output, "record_id": 4, "run_id": run, "decision": "review", "rank": 0},
        {"output": output, "record_id": 5, "run_id": "older", "decision": "review", "rank": 1},
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=DECISIONS), tmp_path / "decisions.parquet")
    arguments = ["export", "--decisions", str(tmp_path), "--tool", "cvat", "--out", str(tmp_path / "export")]
    assert job.main(arguments) == 0
    said = capsys.readouterr().out
    assert "1 decisions are about records that were made anew since: curate again" in said
    assert "1 of 1 objects" in said


def test_nothing_to_review_is_no_fault(tmp_path: Path, output: str, capsys: Any) -> None:
    assert export(output, tmp_path / "export", "cvat", "--where", "label == 'unicorn'") == 0
    assert capsys.readouterr().out == "there is nothing to review\n"
    assert not (tmp_path / "export").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "--tool", "cvat", "--out", "x"], "either outputs or --decisions"),
        (["export", "OUT", "--decisions", "y", "--tool", "cvat", "--out", "x"], "either outputs or --decisions"),
        (["export", "OUT", "--where", "colour == 1", "--tool", "cvat", "--out", "x"], "is no column"),
        (["export", "nowhere", "--tool", "cvat", "--out", "x"], "is not a run directory"),
        (["export", "OUT", "--tool", "cvat", "--out", "OUT"], "is not empty"),
        (["export", "OUT", "--tool", "cvat", "--out", "run/reviews"], "lies within"),
        (["import", "OUT", "--tool", "cvat"], "name either --from FILE or --url"),
        (["import", "OUT", "--tool", "cvat", "--from", "no.xml"], "no.xml"),
        (["import", "OUT", "--tool", "coco", "--from", "no.json"], "no.json"),
        (["import", "OUT", "--tool", "cvat", "--url", "http://127.0.0.1:1"], "--url goes with --tool label_studio"),
        (["import", "OUT", "--tool", "label_studio", "--from", "bad.json"], "is no list of tasks"),
        (["import", "OUT", "--tool", "label_studio", "--url", "http://127.0.0.1:1"], "and --project N"),
        (["import", "OUT", "--tool", "cvat", "--from", "a", "--rematte-model", "b"], "goes with --rematte"),
        (["push", "x", "--url", "http://127.0.0.1:1"], "the environment variable LABEL_STUDIO_API_KEY holds no token"),
        (["push", "x", "--url", "http://127.0.0.1:1", "--token-env", "MY_KEY"], "variable MY_KEY holds no token"),
        (["push", "x", "--url", "http://127.0.0.1:1", "--token-file", "no.txt"], "can't be read"),
        (["push", "x", "--url", "http://127.0.0.1:1", "--token-file", "empty.txt"], "holds no token"),
    ],
)
def test_commands_that_cannot_be_used_are_exit_code_2(
    tmp_path: Path, output: str, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LABEL_STUDIO_API_KEY", raising=False)
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "empty.txt").write_text("\n")
    assert job.main([output if each == "OUT" else each for each in arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--limit", "0"], ["--tool", "paint"], ["--token", "secret"]])
def test_options_that_do_not_exist_are_exit_code_2(output: str, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        job.main(["export", output, "--tool", "cvat", "--out", "x", *arguments])
    assert caught.value.code == 2
