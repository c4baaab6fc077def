"""A run directory from its first job to its marker, through kills, resumes and refusals."""

import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import boto3
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipeline import runs, storage
from pipeline.errors import ConfigurationError
from pipeline.provenance import ModelIdentity
from pipeline.runs import AlreadyComplete, RunDirectory, read_records
from pipeline.schema import RECORDS
from pipeline.sink import CommitSink
from support.run_rows import MODEL, label_config, ledger_row, record_rows, task

SECOND = "f" * 32
"""The write id of a second job."""


def write(run: RunDirectory, index: int, *tables: Any, job: str = "0" * 32) -> None:
    CommitSink(run.path, 1).write(tables, task(index, job))


def info(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((path / "run.json").read_text(encoding="utf-8"))
    return content


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.open_or_create(label_config(tmp_path / "run"), MODEL)


def finish(run: RunDirectory, *shards: str) -> None:
    run.finish(run.reconcile(shards))


def test_a_new_run_describes_itself(tmp_path: Path) -> None:
    config = label_config(
        tmp_path / "run", input={"path": ["https://me:secret@host/a.tar?sig=secret", "s3://b/?.tar"]}
    )
    run = RunDirectory.open_or_create(config, MODEL)
    held = info(tmp_path / "run")
    assert held == run.info
    assert not run.resumed
    assert (held["version"], held["state"], held["resumed"], held["counts"]) == (1, "running", [], None)
    assert held["config"]["input"]["path"] == ["https://host/a.tar", "s3://b/?.tar"]
    assert "secret" not in json.dumps(held)
    assert held["config_hash"] == config.matte_hash()
    identity = {"name": "sdmatte-mini", "weights_sha256": "ab" * 32, "precision": "float32", "input_size": 64}
    assert held["model"] == identity
    assert held["code"]["version"]
    assert held["libraries"]["python"]
    assert held["started_at"].endswith("+00:00")
    assert RunDirectory.open_or_create(config, MODEL).resumed


def test_a_complete_run(run: RunDirectory) -> None:
    write(run, 0, record_rows("a", [1, 2]), record_rows("b", [3], error="image_corrupt"))
    write(run, 1, ledger_row("a", [1, 2]), ledger_row("b", [3]))
    assert run.finished_shards() == {"a", "b"}
    reconciliation = run.reconcile(["a", "b"])
    assert reconciliation.complete
    assert not run.succeeded
    run.finish(reconciliation)

    assert run.succeeded
    assert run.info["state"] == "complete"
    assert run.info["counts"] == reconciliation.counts()
    marker = json.loads((Path(run.path) / "_SUCCESS").read_text())
    assert (marker["run_id"], marker["counts"]) == (run.run_id, reconciliation.counts())
    with pytest.raises(AlreadyComplete, match="nothing to do") as caught:
        RunDirectory.open_or_create(label_config(run.path), MODEL)
    assert caught.value.run.run_id == run.run_id
    assert info(Path(run.path))["state"] == "complete"


def test_the_marker_comes_last_and_only_when_all_is_there(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    write(run, 0, record_rows("a", [1]), ledger_row("a", [1, 2]))
    finish(run, "a")
    assert not run.succeeded
    assert run.info["state"] == "incomplete"
    assert run.info["faults"] == ["shard a: 1 of 2 records are missing; start the job again"]

    again = RunDirectory.open_or_create(label_config(run.path), MODEL)
    assert again.info["state"] == "running"
    assert "faults" not in again.info
    write(again, 0, record_rows("a", [2]), ledger_row("a", [1, 2]), job=SECOND)

    events: list[str] = []
    put, delete = storage.write_bytes_atomic, storage.delete
    Path(run.path, "records/part-orphan.parquet").write_bytes(b"")
    monkeypatch.setattr(
        storage, "write_bytes_atomic", lambda uri, data: (events.append(Path(uri).name), put(uri, data))
    )
    monkeypatch.setattr(storage, "delete", lambda uri: (events.append(Path(uri).name), delete(uri)))
    finish(again, "a")
    assert events == ["part-orphan.parquet", "run.json", "_SUCCESS"]
    assert again.succeeded


def test_a_run_killed_just_before_its_marker_gets_it_from_the_next_job(run: RunDirectory) -> None:
    write(run, 0, record_rows("a", [1]), ledger_row("a", [1]))
    finish(run, "a")
    Path(run.path, "_SUCCESS").unlink()
    again = RunDirectory.open_or_create(label_config(run.path), MODEL)
    assert again.finished_shards() == {"a"}
    finish(again, "a")
    assert again.succeeded


def test_resuming_knows_what_is_committed(run: RunDirectory) -> None:
    write(run, 0, record_rows("a", [1, 2]), record_rows("b", [2**63 - 1]))
    write(run, 1, record_rows("a", [3]), ledger_row("a", [1, 2, 3], matched=[7]))
    committed = RunDirectory.open_or_create(label_config(run.path), MODEL).committed()
    assert list(committed) == ["a", "b"]
    assert committed["a"].record_ids.tolist() == [1, 2, 3]
    assert committed["a"].finished
    assert committed["a"].ledgers[0].matched == (7,)
    assert not committed["b"].finished
    assert committed["b"].done == (2**63 - 1).to_bytes(8, "little")


def test_a_ledger_may_come_before_its_records(run: RunDirectory) -> None:
    write(run, 0, ledger_row("a", [1, 2]), record_rows("a", [1]))
    assert run.finished_shards() == set()
    write(run, 1, record_rows("a", [2]))
    assert run.finished_shards() == {"a"}


def test_resuming_with_other_code_is_noted(run: RunDirectory, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    other = {"version": "99", "commit": None, "modified": None}
    monkeypatch.setattr(runs, "code_version", lambda: other)
    with caplog.at_level(logging.WARNING):
        again = RunDirectory.open_or_create(label_config(run.path), MODEL)
    assert "begun with other versions" in caplog.text
    assert again.info["code"] == run.info["code"]
    assert [job["code"] for job in info(Path(run.path))["resumed"]] == [other]


def test_workers_batch_size_and_device_may_change(run: RunDirectory) -> None:
    config = label_config(run.path, workers={"actors": 3}, model={"batch_size": 1, "device": "cpu"})
    assert RunDirectory.open_or_create(config, MODEL).resumed


def test_a_run_of_other_settings_is_refused_and_the_differences_named(run: RunDirectory) -> None:
    before = info(Path(run.path))
    config = label_config(
        run.path,
        input={"path": "https://key:secret@other/*.tar"},
        model={"input_size": 512, "resize": "aspect"},
        output={"alpha_bits": 16},
    )
    with pytest.raises(ConfigurationError) as caught:
        RunDirectory.open_or_create(config, ModelIdentity("x", "ab" * 32, "bfloat16", 512))
    assert str(caught.value) == (
        f"{run.path} holds the run {run.run_id} (running), which differs from this job:\n"
        "  input.path: 's3://corpus/*.tar' there, 'https://other/*.tar' here\n"
        "  model.input_size: None there, 512 here\n"
        "  model.resize: 'square' there, 'aspect' here\n"
        "  output.alpha_bits: 8 there, 16 here\n"
        "  loaded model.precision: 'float32' there, 'bfloat16' here\n"
        "  loaded model.input_size: 64 there, 512 here\n"
        "Choose another output.path, or the same settings to go on with that run"
    )
    assert info(Path(run.path)) == before


def test_other_weights_under_the_same_name_are_refused_even_for_a_complete_run(run: RunDirectory) -> None:
    finish(run)
    assert run.succeeded
    with pytest.raises(ConfigurationError, match=r"loaded model\.weights_sha256: 'abab.*' there, 'cdcd.*' here"):
        RunDirectory.open_or_create(label_config(run.path), ModelIdentity("sdmatte-mini", "cd" * 32, "float32", 64))


def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.doc").write_text("years of work")
    with pytest.raises(ConfigurationError, match=r"holds files, but no run\.json: choose an empty or new folder"):
        RunDirectory.open_or_create(label_config(tmp_path), MODEL)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.doc"]
    with pytest.raises(ConfigurationError, match="is not a run directory"):
        RunDirectory.open(str(tmp_path))


def test_workers_in_other_folders_are_given_an_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert RunDirectory.open_or_create(label_config("out/run"), MODEL).path == str(tmp_path / "out/run")
    assert RunDirectory.open("out/run").path == str(tmp_path / "out/run")
    assert RunDirectory.open_or_create(label_config("~/run"), MODEL).path == str(tmp_path / "home/run")


def test_an_empty_folder_is_fine(tmp_path: Path) -> None:
    assert not RunDirectory.open_or_create(label_config(tmp_path), MODEL).resumed


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not the JSON of a run"),
        ("[]", "is not the JSON of a run"),
        ('{"version": 2}', "is of version 2, this program reads version 1"),
        ('{"version": 1}', "run of another version of this program"),
        ('{"version": 1, "config": {}}', "run of another version of this program"),
    ],
)
def test_a_run_that_cannot_be_read_is_left_alone(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ConfigurationError, match=message):
        RunDirectory.open_or_create(label_config(tmp_path), MODEL)
    assert (tmp_path / "run.json").read_text() == content


def test_a_failed_job_leaves_a_run_that_can_go_on(run: RunDirectory) -> None:
    write(run, 0, record_rows("a", [1]))
    run.fail("can't read https://me:secret@host/x?sig=secret now")
    held = info(Path(run.path))
    assert (held["state"], held["error"]) == ("failed", "can't read https://host/x now")
    again = RunDirectory.open_or_create(label_config(run.path), MODEL)
    assert "error" not in info(Path(run.path))
    assert again.committed()["a"].record_ids.tolist() == [1]


def test_readers_follow_commits(run: RunDirectory) -> None:
    assert read_records(run.path).schema.equals(RECORDS)
    write(run, 0, record_rows("a", [1, 2]), record_rows("a", [3], error="image_corrupt"))
    write(run, 1, record_rows("a", [4]))
    Path(run.path, "commits/part-000000000000-000001.json").unlink()  # now an orphan
    assert read_records(run.path)["record_id"].to_pylist() == [1, 2, 3]
    table = read_records(run.path, ["record_id", "alpha"], where=pc.field("status") == "ok")
    assert table.column_names == ["record_id", "alpha"]
    assert [row["alpha"]["bytes"][:4] for row in table.to_pylist()] == [b"\x89PNG"] * 2


def test_only_what_killed_writes_left_behind_is_removed(run: RunDirectory) -> None:
    write(run, 0, record_rows("a", [1]))
    write(run, 1, record_rows("a", [2]))
    folder = Path(run.path)
    (folder / "commits/part-000000000000-000001.json").unlink()
    leftovers = ["records/.part-x.parquet.ab12.tmp", "commits/.part-x.json.cd34.tmp"]
    for name in (*leftovers, "records/notes.txt"):
        (folder / name).write_text("")
    removed = {Path(uri).relative_to(folder).as_posix() for uri in run.remove_orphans()}
    assert removed == {*leftovers, "records/part-000000000000-000001.parquet"}
    left = sorted(path.name for path in (folder / "records").iterdir())
    assert left == ["notes.txt", "part-000000000000-000000.parquet"]
    assert run.committed()["a"].record_ids.tolist() == [1]


def test_the_named_cure_heals_a_run(run: RunDirectory) -> None:
    write(run, 0, record_rows("a", [1, 2]), record_rows("b", [5]), ledger_row("b", [5]))
    write(run, 1, record_rows("a", [2]), ledger_row("a", [1, 2]))  # a zombie's
    reconciliation = run.reconcile(["a", "b"])
    assert (reconciliation.doubled, reconciliation.lost) == (1, 0)
    for word in reconciliation.faults[0].replace(",", "").split():
        if word.startswith("commits/"):
            Path(run.path, word).unlink()

    again = RunDirectory.open_or_create(label_config(run.path), MODEL)
    assert again.finished_shards() == set()
    write(again, 0, record_rows("a", [1, 2]), ledger_row("a", [1, 2]), job=SECOND)
    write(again, 1, record_rows("b", [5]), ledger_row("b", [5]), job=SECOND)
    finish(again, "a", "b")
    assert again.succeeded
    assert sorted(pq.read_table(Path(run.path, "records"))["record_id"].to_pylist()) == [1, 2, 5]


KILLED_JOB = """
    import os, signal, sys
    from support.run_rows import MODEL, label_config, ledger_row, record_rows, task
    from pipeline import storage
    from pipeline.runs import RunDirectory
    from pipeline.sink import CommitSink

    output, moment = sys.argv[1:]
    put = storage.write_bytes_atomic

    def put_until(uri, data, **options):
        if moment == "before the commit" and uri.endswith("commits/part-aaaaaaaaaaaa-000001.json"):
            os.kill(os.getpid(), signal.SIGKILL)
        if moment == "within the data file" and uri.endswith("records/part-aaaaaaaaaaaa-000001.parquet"):
            os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
        put(uri, data, **options)

    storage.write_bytes_atomic = put_until
    run = RunDirectory.open_or_create(label_config(output), MODEL)
    sink = CommitSink(run.path, 1)
    sink.write([record_rows("a", [1, 2])], task(0, "a" * 32))
    sink.write([record_rows("a", [3]), record_rows("b", [4]), ledger_row("a", [1, 2, 3])], task(1, "a" * 32))
    print("not killed")
"""


@pytest.mark.parametrize("moment", ["before the commit", "within the data file"])
def test_a_process_killed_in_a_write_loses_and_doubles_nothing(tmp_path: Path, moment: str) -> None:
    output = tmp_path / "run"
    tests = Path(__file__).parents[1]
    job = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED_JOB), str(output), moment],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tests.parent), str(tests)])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert job.returncode == -signal.SIGKILL, job.stderr
    data = [path.name for path in (output / "records").iterdir()]
    assert len(data) == 2  # one whole; the other an orphan, or unfinished
    assert len(list((output / "commits").glob("*.json"))) == 1

    run = RunDirectory.open_or_create(label_config(output), MODEL)
    assert run.resumed
    committed = run.committed()
    assert {name: shard.record_ids.tolist() for name, shard in committed.items()} == {"a": [1, 2]}
    assert not committed["a"].finished
    assert read_records(run.path)["record_id"].to_pylist() == [1, 2]

    write(run, 0, record_rows("a", [3]), ledger_row("a", [1, 2, 3]), job=SECOND)
    write(run, 1, record_rows("b", [4]), ledger_row("b", [4]), job=SECOND)
    outcome = run.reconcile(["a", "b"])
    assert outcome.complete, outcome.faults
    assert (outcome.lost, outcome.doubled, outcome.unexpected, outcome.found) == (0, 0, 0, 4)
    run.finish(outcome)
    assert len(list((output / "records").iterdir())) == 3  # no orphan, no unfinished file
    assert sorted(pq.read_table(output / "records")["record_id"].to_pylist()) == [1, 2, 3, 4]


def test_a_run_on_s3(s3_server: str) -> None:
    s3 = boto3.client("s3")
    s3.create_bucket(Bucket="run-directory")
    config = label_config("s3://run-directory/corpus/run")
    run = RunDirectory.open_or_create(config, MODEL)
    assert run.committed() == {}
    write(run, 0, record_rows("a", [1, 2], alpha={"bytes": bytes(2**20), "path": None}))
    write(run, 1, record_rows("a", [3]), ledger_row("a", [1, 2, 3]))
    assert run.finished_shards() == {"a"}

    # What other processes write is seen, though this one has listed before.
    stem = "part-000000000000-000001"
    commit = s3.get_object(Bucket="run-directory", Key=f"corpus/run/commits/{stem}.json")["Body"].read()
    s3.delete_object(Bucket="run-directory", Key=f"corpus/run/commits/{stem}.json")
    assert RunDirectory.open_or_create(config, MODEL).committed()["a"].record_ids.tolist() == [1, 2]
    s3.put_object(Bucket="run-directory", Key=f"corpus/run/commits/{stem}.json", Body=commit)
    s3.put_object(Bucket="run-directory", Key="corpus/run/records/part-orphan.parquet", Body=b"")

    again = RunDirectory.open_or_create(config, MODEL)
    assert again.resumed
    assert sorted(read_records(run.path, ["record_id"])["record_id"].to_pylist()) == [1, 2, 3]
    finish(again, "a")
    assert again.succeeded
    keys = [item["Key"] for item in s3.list_objects_v2(Bucket="run-directory")["Contents"]]
    assert keys == [
        "corpus/run/_SUCCESS",
        "corpus/run/commits/part-000000000000-000000.json",
        "corpus/run/commits/part-000000000000-000001.json",
        "corpus/run/records/part-000000000000-000000.parquet",
        "corpus/run/records/part-000000000000-000001.parquet",
        "corpus/run/run.json",
    ]
    with pytest.raises(AlreadyComplete):
        RunDirectory.open_or_create(config, MODEL)


def test_reconciling_opens_no_data_file(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    write(run, 0, record_rows("a", [1]), ledger_row("a", [1]))
    Path(run.path, "records/part-000000000000-000000.parquet").write_bytes(b"not Parquet")
    read: list[str] = []
    real = storage.read_bytes
    monkeypatch.setattr(storage, "read_bytes", lambda uri: (read.append(uri), real(uri))[1])
    assert run.reconcile(["a"]).complete
    assert [Path(uri).suffix for uri in read] == [".json"]
