"""Run directories are kept tidy, and nothing that counts is touched."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline import claims, storage
from pipeline.claims import ClaimedError
from pipeline.holding import holding
from pipeline.latest import Chain
from pipeline.parts import write_part
from pipeline.runs import RunDirectory, read_records
from pipeline.scopes import Scope
from pipeline.upkeep import collect_garbage, compact, redo
from support.run_rows import begin, complete, label_config, ledger_row, record_rows


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A complete run of two shards in three commits."""
    made = begin(label_config(tmp_path / "run"))
    write_part(made.claim, "1", record_rows("a", [1, 2]))
    write_part(made.claim, "2", record_rows("b", [3]))
    return complete(made, ledger_row("a", [1, 2]), ledger_row("b", [3]))


def files(run: RunDirectory, *folders: str) -> set[str]:
    root = Path(run.path)
    return {path.relative_to(root).as_posix() for folder in folders for path in (root / folder).iterdir()}


def held(run: RunDirectory) -> list[int]:
    return sorted(read_records(run.path, ["record_id"])["record_id"].to_pylist())


def orphan(run: RunDirectory) -> str:
    """What a write leaves that was killed before its commit."""
    stem = f"part-{run.claim.prefix}-9"
    Path(run.path, f"records/{stem}.parquet").write_bytes(b"half")
    return f"records/{stem}.parquet"


@contextmanager
def another_job(run: RunDirectory) -> Iterator[None]:
    """Is in charge of a run, from another thread."""
    ready, stop = threading.Event(), threading.Event()

    def work() -> None:
        with holding(run.path, exclusively=True):
            ready.set()
            stop.wait()

    thread = threading.Thread(target=work)
    thread.start()
    assert ready.wait(20)
    yield
    stop.set()
    thread.join()


def test_commits_are_gathered_in_one_file(run: RunDirectory) -> None:
    before = run.committed()
    assert len(files(run, "commits")) == 3
    (line,) = compact(Chain.open(run.path))
    assert line == f"{run.path}: 3 files with commits before, 1 now"
    assert len(files(run, "commits")) == 1
    after = run.committed()
    assert {name: shard.record_ids.tolist() for name, shard in after.items()} == {
        name: shard.record_ids.tolist() for name, shard in before.items()
    }
    assert run.reconcile(["a", "b"]).complete
    assert run.succeeded
    assert compact(Chain.open(run.path)) == [f"{run.path}: 1 files with commits before, 1 now"]


def test_all_runs_of_an_output_are_compacted(run: RunDirectory) -> None:
    scope = Scope("incremental", None, ("",))
    complete(begin(label_config(run.path), scope=scope, followup="followups/0001"), ledger_row("c", []))
    assert len(compact(Chain.open(run.path))) == 2


def test_garbage_is_listed_and_only_deleted_on_demand(run: RunDirectory) -> None:
    stray = orphan(run)
    Path(run.path, "claims/probe-12ab").write_bytes(b"first")
    Path(run.path, "records/notes.txt").write_bytes(b"mine")
    before = files(run, "records", "commits", "claims")
    found = collect_garbage(Chain.open(run.path), delete=False)
    assert {Path(file.uri).relative_to(run.path).as_posix() for file in found} == {stray, "claims/probe-12ab"}
    assert files(run, "records", "commits", "claims") == before

    assert collect_garbage(Chain.open(run.path), delete=True) == found
    left = files(run, "records", "claims")
    assert stray not in left
    assert "claims/probe-12ab" not in left
    assert "records/notes.txt" in left
    assert held(run) == [1, 2, 3]
    assert run.reconcile(["a", "b"]).complete
    assert run.succeeded
    assert collect_garbage(Chain.open(run.path), delete=False) == []


@pytest.mark.usefixtures("run")
def test_garbage_is_found_where_the_run_is_named_like_a_pattern() -> None:
    run = begin(label_config("memory://upkeep-bkt/run[1]"))
    write_part(run.claim, "0", record_rows("a", [1]))
    complete(run, ledger_row("a", [1]))
    storage.write_bytes_atomic("memory://upkeep-bkt/run[1]/claims/probe-12ab", b"first")
    found = collect_garbage(Chain.open(run.path), delete=False)
    assert [file.name for file in found] == ["probe-12ab"]
    assert held(run) == [1]


def test_a_job_at_work_is_left_alone(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.05)
    with another_job(run):
        before = files(run, "commits", "claims")
        for tidy in (compact, lambda chain: collect_garbage(chain, delete=True), lambda _: redo(run, ["a"])):
            with pytest.raises(ClaimedError):
                tidy(Chain.open(run.path))
        collect_garbage(Chain.open(run.path), delete=False)
        assert files(run, "commits", "claims") == before
    assert held(run) == [1, 2, 3]


def test_shards_are_forgotten_with_all_their_commits_and_made_anew(run: RunDirectory) -> None:
    assert redo(run, ["a"]) == 2  # its records, and the commit of both ledgers
    assert not run.succeeded
    assert held(run) == [3]
    again = begin(label_config(run.path))
    write_part(again.claim, "1", record_rows("a", [1, 2]))
    complete(again, ledger_row("a", [1, 2]), ledger_row("b", [3]))
    assert held(run) == [1, 2, 3]
    assert files(run, "records") == {commit for commit in files(again, "records") if commit.startswith("records/part")}
    assert len(files(run, "records")) == 2  # the forgotten data file was an orphan


def test_commits_without_data_file_are_forgotten_in_any_case(run: RunDirectory) -> None:
    Path(run.path, f"records/part-{run.claim.prefix}-2.parquet").unlink()
    assert not run.reconcile(["a", "b"]).complete
    assert redo(run, []) == 1
    assert not run.succeeded
    assert held(run) == [1, 2]
    reconciliation = run.reconcile(["a", "b"])
    assert reconciliation.faults == ("shard b: 1 of 1 records are missing; start the job again",)


def test_forgetting_nothing_leaves_a_complete_run_complete(run: RunDirectory) -> None:
    assert redo(run, ["no such shard"]) == 0
    assert run.succeeded
    assert run.reconcile(["a", "b"]).complete
