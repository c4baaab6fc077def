"""The chaos matrix' own judgement: a run that isn't exact must not pass."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from benchmarks.chaos import Result, main, page, verdict
from benchmarks.chaos_faults import FAULTS
from benchmarks.chaos_job import Corpus, Outcome, look, make_corpus, session
from pipeline.config import load_config
from pipeline.parts import write_part
from pipeline.runs import RunDirectory
from pipeline.schema import RECORDS
from support.run_rows import MODEL, ledger_row, record_rows


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return make_corpus(shards=2, images=3)


@pytest.fixture
def run(corpus: Corpus, tmp_path: Path) -> Path:
    """A complete run of the corpus, made without a model."""
    (tmp_path / "in").mkdir()
    for name, data in corpus.shards.items():
        (tmp_path / "in" / name).write_bytes(data)
    path = tmp_path / "run"
    config = load_config(
        None,
        [
            "input.kind=webdataset",
            f"input.path={tmp_path}/in/*.tar",
            f"output.path={path}",
            "model.source=sdmatte-nano",
        ],
    )
    with RunDirectory.claimed(config, MODEL) as made:
        made.write_plan(sorted(corpus.shards))
        for number, shard in enumerate(sorted(corpus.shards)):
            ids = [i for i, name in corpus.shard_of.items() if name == shard]
            rows = [record_rows(shard, [i], error=corpus.expected[i][1]) for i in ids]
            write_part(made.claim, f"{number}", pa.concat_tables([*rows, ledger_row(shard, ids, images=3)]))
        made.finish(made.reconcile(sorted(corpus.shards)))
    return path


def data_file(run: Path) -> Path:
    return min((run / "records").iterdir())


def test_an_exact_run_passes(run: Path, corpus: Corpus) -> None:
    assert look(str(run), corpus) == Outcome(0, 0, 0)


def test_a_lost_data_file_is_noticed(run: Path, corpus: Corpus) -> None:
    rows = pq.read_metadata(data_file(run)).num_rows
    data_file(run).unlink()
    found = look(str(run), corpus)
    assert (found.lost, found.exact) == (rows, False)


def test_a_lost_commit_is_noticed(run: Path, corpus: Corpus) -> None:
    min((run / "commits").glob("*.json")).unlink()
    assert not look(str(run), corpus).exact


def test_a_data_file_that_came_late_is_noticed(run: Path, corpus: Corpus) -> None:
    rows = pq.read_metadata(data_file(run)).num_rows
    shutil.copy(data_file(run), run / "records" / "part-000001-abcdef-9.parquet")
    found = look(str(run), corpus)
    assert (found.lost, found.doubled, found.exact) == (0, rows, False)


def test_a_record_of_the_wrong_status_is_noticed(run: Path, corpus: Corpus) -> None:
    table = pq.read_table(data_file(run))
    at = table.column_names.index("status")
    pq.write_table(
        table.set_column(at, RECORDS.field("status"), pc.replace_substring(table["status"], "ok", "error")),
        data_file(run),
    )
    found = look(str(run), corpus)
    assert found.unexpected == pc.sum(pc.equal(table["status"], "ok")).as_py()


def test_a_run_that_never_began_has_lost_everything(corpus: Corpus, tmp_path: Path) -> None:
    found = look(str(tmp_path / "run"), corpus)
    assert (found.lost, found.exact) == (len(corpus.expected), False)


def test_what_was_not_injected_fails_and_what_cannot_be_is_left_out() -> None:
    exact = Result("driver-kill", 1, "disk", 2, 30.0, Outcome(0, 0, 0))
    doubled = Result("zombie", 1, "S3", 2, 30.0, Outcome(0, 2, 0))
    missed = Result("two-jobs", 1, "disk", 0, 30.0, None, ("the job was faster",))
    skipped = Result("disk-full", 1, "disk", 0, 1.0, None, ("needs root",), available=False)
    assert [result.passed for result in (exact, doubled, missed, skipped)] == [True, False, False, True]
    assert verdict([exact, doubled, missed]) == "lost 0 / doubled 2 / unexpected 0 (targets 0)"
    text = page([exact, doubled, missed, skipped], 600.0)
    assert "in 2 of 4 cases" in text
    assert "| zombie | 1 | S3 | 2 | 0 | 2 | 0 | 0 | 30 |" in text
    assert all(f"- **{name}**" in text for name in FAULTS)


def test_a_fault_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--only", "flood"])
    assert stop.value.code == 2
    assert "driver-kill" in capsys.readouterr().err


def test_processes_of_a_session_are_found_and_no_others() -> None:
    script = "import subprocess, sys; subprocess.Popen(['sleep', '30']); print(flush=True); sys.stdin.read()"
    leader = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    assert leader.stdout is not None
    leader.stdout.readline()
    found = session(leader.pid)
    assert len(found) == 2
    assert leader.pid in found
    assert os.getpid() not in found
    for number in found:
        os.kill(number, 9)
    leader.communicate(timeout=10)
