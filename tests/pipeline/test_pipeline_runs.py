"""A run directory from its first job to its marker, through kills, resumes and refusals."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipeline import exclusive, runs, storage
from pipeline.claims import SupersededError
from pipeline.errors import ConfigurationError
from pipeline.provenance import ModelIdentity
from pipeline.runs import AlreadyComplete, RunDirectory, read_records
from pipeline.schema import RECORDS
from pipeline.sink import CommitSink
from pipeline.upkeep import redo
from support.run_rows import begin, charge, label_config, ledger_row, record_rows, task


def write(run: RunDirectory, index: int, *tables: Any) -> None:
    CommitSink(run.claim, 1).write(tables, task(index))


def name(run: RunDirectory, index: int) -> str:
    """What the files of a write are called, without extension."""
    return f"part-{run.claim.prefix}-0-{index:06d}"


def info(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((path / "run.json").read_text(encoding="utf-8"))
    return content


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return begin(label_config(tmp_path / "run"))


def finish(run: RunDirectory, *shards: str) -> None:
    run.finish(run.reconcile(shards))


def test_a_new_run_describes_itself(tmp_path: Path) -> None:
    config = label_config(
        tmp_path / "run", input={"path": ["https://me:secret@host/a.tar?sig=secret", "s3://b/?.tar"]}
    )
    run = begin(config)
    held = info(tmp_path / "run")
    assert held == run.info
    assert not run.resumed
    assert (held["version"], held["state"], held["resumed"], held["counts"]) == (2, "running", [], None)
    assert held["config"]["input"]["path"] == ["https://host/a.tar", "s3://b/?.tar"]
    assert "secret" not in json.dumps(held)
    assert held["config_hash"] == config.matte_hash()
    identity = {"name": "sdmatte-mini", "weights_sha256": "ab" * 32, "precision": "float32", "input_size": 64}
    assert held["model"] == {**identity, "second_weights_sha256": None, "second_size": None}
    assert held["code"]["version"]
    assert held["libraries"]["python"]
    assert held["started_at"].endswith("+00:00")
    assert held["scope"] == {"kind": "all", "where": None, "bases": []}
    assert begin(config).resumed


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
    assert (marker["run_id"], marker["epoch"], marker["counts"]) == (run.run_id, 1, reconciliation.counts())
    with pytest.raises(AlreadyComplete, match="nothing to do") as caught:
        begin(label_config(run.path))
    assert caught.value.run.run_id == run.run_id
    assert info(Path(run.path))["state"] == "complete"


def test_the_marker_comes_last_and_only_when_all_is_there(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    write(run, 0, record_rows("a", [1]), ledger_row("a", [1, 2]))
    finish(run, "a")
    assert not run.succeeded
    assert run.info["state"] == "incomplete"
    assert run.info["faults"] == ["shard a: 1 of 2 records are missing; start the job again"]

    again = begin(label_config(run.path))
    assert again.info["state"] == "running"
    assert "faults" not in again.info
    write(again, 0, record_rows("a", [2]), ledger_row("a", [1, 2]))

    events: list[str] = []
    put, create, delete = storage.write_bytes_atomic, exclusive.create, storage.delete
    orphan = f"{name(again, 9)}.parquet"
    Path(run.path, "records", orphan).write_bytes(b"")
    monkeypatch.setattr(
        storage, "write_bytes_atomic", lambda uri, data: (events.append(Path(uri).name), put(uri, data))
    )
    monkeypatch.setattr(exclusive, "create", lambda uri, data: (events.append(Path(uri).name), create(uri, data))[1])
    monkeypatch.setattr(storage, "delete", lambda uri: (events.append(Path(uri).name), delete(uri)))
    finish(again, "a")
    assert events == [orphan, "run.json", "_SUCCESS"]
    assert again.succeeded


def test_a_run_killed_just_before_its_marker_gets_it_from_the_next_job(run: RunDirectory) -> None:
    write(run, 0, record_rows("a", [1]), ledger_row("a", [1]))
    finish(run, "a")
    Path(run.path, "_SUCCESS").unlink()
    again = begin(label_config(run.path))
    assert again.finished_shards() == {"a"}
    finish(again, "a")
    assert again.succeeded


def test_resuming_knows_what_is_committed(run: RunDirectory) -> None:
    write(run, 0, record_rows("a", [1, 2]), record_rows("b", [2**63 - 1]))
    write(run, 1, record_rows("a", [3]), ledger_row("a", [1, 2, 3], matched=[7]))
    committed = begin(label_config(run.path)).committed()
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
        again = begin(label_config(run.path))
    assert "begun with other versions" in caplog.text
    assert again.info["code"] == run.info["code"]
    assert [job["code"] for job in info(Path(run.path))["resumed"]] == [other]


def test_workers_batch_size_and_device_may_change(run: RunDirectory) -> None:
    config = label_config(run.path, workers={"actors": 3}, model={"batch_size": 1, "device": "cpu"})
    assert begin(config).resumed


def test_a_run_of_other_settings_is_refused_and_the_differences_named(run: RunDirectory) -> None:
    before = info(Path(run.path))
    config = label_config(
        run.path,
        input={"path": "https://key:secret@other/*.tar"},
        model={"input_size": 512, "resize": "aspect"},
        output={"alpha_bits": 16},
    )
    with pytest.raises(ConfigurationError) as caught:
        begin(config, ModelIdentity("x", "ab" * 32, "bfloat16", 512))
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
        begin(label_config(run.path), ModelIdentity("sdmatte-mini", "cd" * 32, "float32", 64))


def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.doc").write_text("years of work")
    with pytest.raises(ConfigurationError, match=r"holds files, but no run\.json: choose an empty or new folder"):
        begin(label_config(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} <= {"thesis.doc", "claims"}
    with pytest.raises(ConfigurationError, match="is not a run directory"):
        RunDirectory.open(str(tmp_path))


def test_that_holds_for_names_that_look_like_patterns_too() -> None:
    storage.write_bytes_atomic("memory://runs-bkt/run[1]/thesis.doc", b"years of work")
    with pytest.raises(ConfigurationError, match=r"holds files, but no run\.json"):
        begin(label_config("memory://runs-bkt/run[1]"))


def test_workers_in_other_folders_are_given_an_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert begin(label_config("out/run")).path == str(tmp_path / "out/run")
    assert RunDirectory.open("out/run").path == str(tmp_path / "out/run")
    assert begin(label_config("~/run")).path == str(tmp_path / "home/run")


def test_an_empty_folder_is_fine(tmp_path: Path) -> None:
    assert not begin(label_config(tmp_path)).resumed


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not the JSON of a run"),
        ("[]", "is not the JSON of a run"),
        ('{"version": 1}', "is of version 1, this program reads version 2"),
        ('{"version": 2}', "run of another version of this program"),
        ('{"version": 2, "config": {}}', "run of another version of this program"),
    ],
)
def test_a_run_that_cannot_be_read_is_left_alone(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ConfigurationError, match=message):
        begin(label_config(tmp_path))
    assert (tmp_path / "run.json").read_text() == content


def test_a_failed_job_leaves_a_run_that_can_go_on(run: RunDirectory) -> None:
    write(run, 0, record_rows("a", [1]))
    run.fail("can't read https://me:secret@host/x?sig=secret now")
    held = info(Path(run.path))
    assert (held["state"], held["error"]) == ("failed", "can't read https://host/x now")
    again = begin(label_config(run.path))
    assert "error" not in info(Path(run.path))
    assert again.committed()["a"].record_ids.tolist() == [1]


def test_readers_follow_commits(run: RunDirectory) -> None:
    assert read_records(run.path).schema.equals(RECORDS)
    write(run, 0, record_rows("a", [1, 2]), record_rows("a", [3], error="image_corrupt"))
    write(run, 1, record_rows("a", [4]))
    Path(run.path, f"commits/{name(run, 1)}.json").unlink()  # now an orphan
    assert read_records(run.path)["record_id"].to_pylist() == [1, 2, 3]
    table = read_records(run.path, ["record_id", "alpha"], where=pc.field("status") == "ok")
    assert table.column_names == ["record_id", "alpha"]
    assert [row["alpha"]["bytes"][:4] for row in table.to_pylist()] == [b"\x89PNG"] * 2


def test_only_what_killed_writes_left_behind_is_removed(run: RunDirectory) -> None:
    write(run, 0, record_rows("a", [1]))
    write(run, 1, record_rows("a", [2]))
    folder = Path(run.path)
    (folder / f"commits/{name(run, 1)}.json").unlink()
    leftovers = [
        f"records/.{name(run, 2)}.parquet.ab12.tmp",
        f"commits/.{name(run, 2)}.json.cd34.tmp",
        f"commits/.sealed-{run.claim.prefix}.parquet.ef56.tmp",
    ]
    of_a_later_job = "records/part-000002-f00f00-0-000000.parquet"
    for file in (*leftovers, "records/notes.txt", "records/part-of-mine.parquet", of_a_later_job):
        (folder / file).write_text("")
    found = {Path(file.uri).relative_to(folder).as_posix() for file in run.orphans()}
    assert found == {*leftovers, f"records/{name(run, 1)}.parquet"}
    assert of_a_later_job in {
        Path(file.uri).relative_to(folder).as_posix() for file in RunDirectory.open(run.path).orphans()
    }
    write(run, 3, ledger_row("a", [1]))
    finish(run, "a")
    left = {path.name for path in (folder / "records").iterdir()}
    assert left == {"notes.txt", "part-of-mine.parquet", Path(of_a_later_job).name, f"{name(run, 0)}.parquet"}
    assert run.committed()["a"].record_ids.tolist() == [1]


def test_the_named_cure_heals_a_run(run: RunDirectory) -> None:
    write(run, 0, record_rows("a", [1, 2]), record_rows("b", [5]), ledger_row("b", [5]))
    write(run, 1, record_rows("a", [2]), ledger_row("a", [1, 2]))  # of a job that nothing kept out
    run.write_plan(["a", "b"])
    reconciliation = run.reconcile(["a", "b"])
    assert (reconciliation.doubled, reconciliation.lost) == (1, 0)
    (shard,) = re.findall(r"jobs/runs\.py redo --shard '(.*)'", reconciliation.faults[0])
    assert redo(run, [shard]) == 2

    again = begin(label_config(run.path))
    assert again.finished_shards() == set()
    write(again, 0, record_rows("a", [1, 2]), ledger_row("a", [1, 2]))
    write(again, 1, record_rows("b", [5]), ledger_row("b", [5]))
    finish(again, "a", "b")
    assert again.succeeded
    assert sorted(pq.read_table(Path(run.path, "records"))["record_id"].to_pylist()) == [1, 2, 5]


KILLED_JOB = """
    import os, signal, sys
    from support.run_rows import begin, label_config, ledger_row, record_rows, task
    from pipeline import storage
    from pipeline.sink import CommitSink

    output, moment = sys.argv[1:]
    put = storage.write_bytes_atomic

    def put_until(uri, data, **options):
        if moment == "before the commit" and "commits/" in uri and uri.endswith("-000001.json"):
            os.kill(os.getpid(), signal.SIGKILL)
        if moment == "within the data file" and "records/" in uri and uri.endswith("-000001.parquet"):
            os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
        put(uri, data, **options)

    storage.write_bytes_atomic = put_until
    run = begin(label_config(output))
    sink = CommitSink(run.claim, 1)
    sink.write([record_rows("a", [1, 2])], task(0))
    sink.write([record_rows("a", [3]), record_rows("b", [4]), ledger_row("a", [1, 2, 3])], task(1))
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

    run = begin(label_config(output))
    assert run.resumed
    committed = run.committed()
    assert {name: shard.record_ids.tolist() for name, shard in committed.items()} == {"a": [1, 2]}
    assert not committed["a"].finished
    assert read_records(run.path)["record_id"].to_pylist() == [1, 2]

    write(run, 0, record_rows("a", [3]), ledger_row("a", [1, 2, 3]))
    write(run, 1, record_rows("b", [4]), ledger_row("b", [4]))
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
    run = begin(config)
    assert run.committed() == {}
    write(run, 0, record_rows("a", [1, 2], alpha={"bytes": bytes(2**20), "path": None}))
    write(run, 1, record_rows("a", [3]), ledger_row("a", [1, 2, 3]))
    assert run.finished_shards() == {"a"}

    # What other processes write is seen, though this one has listed before.
    key = f"corpus/run/commits/{name(run, 1)}.json"
    commit = s3.get_object(Bucket="run-directory", Key=key)["Body"].read()
    s3.delete_object(Bucket="run-directory", Key=key)
    assert RunDirectory.open(run.path).committed()["a"].record_ids.tolist() == [1, 2]
    s3.put_object(Bucket="run-directory", Key=key, Body=commit)
    s3.put_object(Bucket="run-directory", Key=f"corpus/run/records/{name(run, 7)}.parquet", Body=b"")

    again = begin(config)
    assert again.resumed
    assert sorted(read_records(run.path, ["record_id"])["record_id"].to_pylist()) == [1, 2, 3]
    finish(again, "a")
    assert again.succeeded
    keys = [item["Key"] for item in s3.list_objects_v2(Bucket="run-directory")["Contents"]]
    assert keys == [
        "corpus/run/_SUCCESS",
        f"corpus/run/claims/{run.claim.prefix}.alive",
        "corpus/run/claims/000001.json",
        f"corpus/run/claims/{again.claim.prefix}.alive",
        "corpus/run/claims/000002.json",
        f"corpus/run/commits/sealed-{again.claim.prefix}.parquet",
        f"corpus/run/records/{name(run, 0)}.parquet",
        f"corpus/run/records/{name(run, 1)}.parquet",
        "corpus/run/run.json",
    ]
    with pytest.raises(AlreadyComplete):
        begin(config)


def test_reconciling_opens_no_data_file(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    write(run, 0, record_rows("a", [1]), ledger_row("a", [1]))
    Path(run.path, f"records/{name(run, 0)}.parquet").write_bytes(b"not Parquet")
    read: list[str] = []
    real = storage.read_bytes
    monkeypatch.setattr(storage, "read_bytes", lambda uri: (read.append(uri), real(uri))[1])
    assert run.reconcile(["a"]).complete
    assert [Path(uri).relative_to(run.path).as_posix() for uri in read] == [
        "claims/000001.json",
        f"commits/{name(run, 0)}.json",
    ]


def test_the_plan_is_kept(run: RunDirectory) -> None:
    with pytest.raises(ConfigurationError, match=r"plan\.parquet is missing or damaged: start the job again"):
        run.plan()
    run.write_plan(["b", "ä/1.tar"])
    run.write_plan(["ä/1.tar", "c"])
    assert RunDirectory.open(run.path).plan() == ["ä/1.tar", "c"]
    Path(run.path, "plan.parquet").write_bytes(b"PAR1")
    with pytest.raises(ConfigurationError, match="missing or damaged"):
        run.plan()


def test_a_run_opened_for_reading_has_no_claim(run: RunDirectory) -> None:
    with pytest.raises(AssertionError, match="opened for reading"):
        _ = RunDirectory.open(run.path).claim


def test_a_job_that_was_superseded_changes_nothing_of_the_run(run: RunDirectory) -> None:
    write(run, 0, record_rows("a", [1]), ledger_row("a", [1]))
    Path(run.path, f"records/{name(run, 5)}.parquet").write_bytes(b"")  # an orphan
    reconciliation = run.reconcile(["a"])
    assert reconciliation.complete
    again = begin(label_config(run.path))
    again.write_plan(["a"])

    def state() -> dict[str, bytes]:
        files = (path for path in Path(run.path).rglob("*") if path.is_file())
        return {path.relative_to(run.path).as_posix(): path.read_bytes() for path in files}

    before = state()
    for change in (
        lambda: run.finish(reconciliation),
        lambda: run.finish(replace(reconciliation, faults=("one",))),
        lambda: run.fail("no reason"),
        lambda: run.write_plan(["b"]),
        lambda: run.hold(run.claim),
    ):
        with pytest.raises(SupersededError):
            change()
    assert state() == before
    finish(again, "a")
    assert again.succeeded


def test_a_second_marker_is_not_written(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check of the claim may come too early; the marker itself can be written once only."""
    write(run, 0, record_rows("a", [1]), ledger_row("a", [1]))
    finish(run, "a")
    marker = Path(run.path, "_SUCCESS").read_bytes()
    monkeypatch.setattr(runs, "_text", lambda _: "later")
    with pytest.raises(SupersededError, match="another job has completed"):
        finish(run, "a")
    assert Path(run.path, "_SUCCESS").read_bytes() == marker


def test_a_store_without_conditional_writes_can_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a conditional write")

    monkeypatch.setattr(exclusive, "create", refuse)
    config = label_config(tmp_path / "run", output={"exclusive": False})
    run = begin(config)
    write(run, 0, record_rows("a", [1]), ledger_row("a", [1]))
    again = begin(config)
    finish(again, "a")
    assert again.succeeded
    assert again.claim.epoch == 2


def test_only_claims_may_lie_where_a_run_begins(tmp_path: Path) -> None:
    """A job that died before it had a run leaves its claim."""
    charge(tmp_path / "run")
    assert begin(label_config(tmp_path / "run")).claim.epoch == 2


def test_progress_keeps_the_ids_of_unfinished_shards_only(run: RunDirectory) -> None:
    write(run, 0, record_rows("a", [1, 2]), ledger_row("a", [1, 2]), record_rows("b", [5]))
    progress = run.progress()
    assert {name: (shard.finished, shard.count) for name, shard in progress.items()} == {
        "a": (True, 2),
        "b": (False, 1),
    }
    assert {name: shard.record_ids.tolist() for name, shard in progress.items()} == {"a": [], "b": [5]}


def test_progress_knows_the_ids_of_a_shard_of_which_more_came_than_it_needs(run: RunDirectory) -> None:
    write(run, 0, record_rows("a", [1, 2]), ledger_row("a", [1, 2]))
    write(run, 1, record_rows("a", [3]))
    assert run.progress()["a"].record_ids.tolist() == [1, 2, 3]
    assert not run.progress()["a"].finished


def test_all_records_are_in_the_portions_of_a_run(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "FILES_AT_ONCE", 2)
    assert [dataset.count_rows() for dataset in run.datasets()] == [0]
    for number in range(5):
        write(run, number, record_rows("a", [number]))
    portions = [dataset.to_table(columns=["record_id"])["record_id"].to_pylist() for dataset in run.datasets()]
    assert portions == [[0, 1], [2, 3], [4]]
