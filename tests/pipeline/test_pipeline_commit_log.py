"""Which commits count: gathered while they are read, after crashes, over takeovers, and in great number."""

import itertools
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import claims, commit_log, storage
from pipeline.claims import Claim
from pipeline.commit_log import compact, compacting, epoch_of, merge, outdated, read_commits, remove_outdated, seal
from pipeline.commits import Commit, Ledger, ShardPart
from pipeline.errors import ConfigurationError, TransientError
from support.run_rows import charge


def commit(claim: Claim, name: str, *ids: int, shard: str = "a") -> Commit:
    stem = f"part-{claim.prefix}-{name}"
    part = ShardPart(np.asarray(ids, np.int64), len(ids), {}, None)
    return Commit(stem, f"records/{stem}.parquet", len(ids), 10, {shard: part})


def put(claim: Claim, name: str, *ids: int) -> None:
    made = commit(claim, name, *ids)
    storage.write_bytes_atomic(f"{claim.run}/commits/{made.stem}.json", made.to_json().encode())


def ids(run: str) -> list[int]:
    """All record ids that a reader sees, those that it sees twice, twice."""
    return sorted(number for each in read_commits(run) for part in each.shards.values() for number in part.record_ids)


def follow(claim: Claim, nonce: str = "f00f00", gather: Callable[..., tuple[str, ...]] = seal) -> Claim:
    """Take over as the next job does."""
    epoch = claim.epoch + 1
    logs = gather(claim.run, claims.latest(claim.run), f"sealed-{epoch:06d}-{nonce}.parquet")
    return charge(claim.run, epoch, nonce, logs)


def names(claim: Claim) -> list[str]:
    return [file.name for file in commit_log.list_part_files(claim.run, "commits")]


@pytest.fixture
def claim(tmp_path: Path) -> Claim:
    return charge(tmp_path)


@pytest.fixture
def undurable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes without waiting for the disk, for tests of many."""

    def write(uri: str, data: bytes, **_: Any) -> None:
        Path(uri).parent.mkdir(parents=True, exist_ok=True)
        Path(uri).write_bytes(data)

    monkeypatch.setattr(storage, "write_bytes_atomic", write)


def test_where_no_job_ever_began_nothing_counts(tmp_path: Path) -> None:
    storage.write_bytes_atomic(str(tmp_path / "commits/part-000001-0123ab-0.json"), b"never read")
    assert read_commits(str(tmp_path)) == []
    assert seal(str(tmp_path), None, "sealed.parquet") == ()
    assert merge(str(tmp_path), None, "sealed.parquet") == ()


def test_a_log_holds_what_its_commits_held(claim: Claim) -> None:
    ledger = Ledger(images=2, records=3, id_sum=6, matched=(-5, 7), source="ab12")
    parts = {
        "ä": ShardPart(np.asarray([-(2**63), 2**63 - 1], np.int64), 1, {"image_corrupt": 1}, ledger),
        "empty": ShardPart(np.asarray([], np.int64), 0, {}, Ledger(0, 0, 0)),
    }
    stem = f"part-{claim.prefix}-0"
    made = Commit(stem, f"records/{stem}.parquet", 2, 99, parts)
    storage.write_bytes_atomic(f"{claim.run}/commits/{stem}.json", made.to_json().encode())
    put(claim, "1", 5)
    alone = [each.to_json() for each in read_commits(claim.run)]
    assert compact(claim, 0, at=2)
    assert names(claim) == [f"log-{claim.prefix}-000000.parquet"]
    assert [each.to_json() for each in read_commits(claim.run)] == alone
    assert alone[0] == made.to_json()
    assert read_commits(claim.run)[0].shards["ä"].ledger.source == "ab12"  # type: ignore[union-attr]


def test_few_commits_are_left_as_they_are(claim: Claim) -> None:
    put(claim, "0", 1)
    assert not compact(claim, 0, at=2)
    assert names(claim) == [f"part-{claim.prefix}-0.json"]


def test_only_logs_that_the_claim_names_count_of_earlier_epochs(claim: Claim) -> None:
    put(claim, "0", 1)
    compact(claim, 0, at=1)
    put(claim, "1", 2)
    second = follow(claim)
    assert second.logs == (f"log-{claim.prefix}-000000.parquet", f"sealed-{second.prefix}.parquet")
    put(claim, "2", 3)  # too late
    compact(claim, 1, at=1)
    put(second, "0", 4)
    assert ids(claim.run) == [1, 2, 4]
    third = follow(second, "facade")
    assert ids(claim.run) == [1, 2, 4]
    assert len(third.logs) == 3


def test_what_does_not_count_is_outdated_and_removed(claim: Claim) -> None:
    put(claim, "0", 1)
    second = follow(claim)
    put(claim, "1", 2)
    put(second, "0", 3)
    storage.write_bytes_atomic(f"{claim.run}/commits/notes.txt", b"mine")
    late = {f"part-{claim.prefix}-0.json", f"part-{claim.prefix}-1.json"}
    assert {file.name for file in outdated(second)} == late
    remove_outdated(second)
    assert set(names(second)) == {f"sealed-{second.prefix}.parquet", f"part-{second.prefix}-0.json", "notes.txt"}
    assert ids(claim.run) == [1, 3]


def test_a_takeover_with_nothing_left_to_seal_writes_no_log(claim: Claim) -> None:
    second = follow(claim)
    assert second.logs == ()
    assert names(second) == []


def test_merging_leaves_few_logs(claim: Claim, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit_log, "LOG_COMMITS", 3)
    for number in range(7):
        put(claim, str(number), number)
        if number % 2:
            compact(claim, number, at=1)
    merged = follow(claim, gather=merge)
    assert len(merged.logs) == 3
    remove_outdated(merged)
    assert names(merged) == list(merged.logs)
    assert ids(claim.run) == list(range(7))


def test_merging_forgets_what_it_is_told_to(claim: Claim) -> None:
    for number in range(4):
        put(claim, str(number), number)

    def without(run: str, last: Claim | None, name: str) -> tuple[str, ...]:
        return merge(run, last, name, keep=lambda each: not each.stem.endswith("-2"))

    follow(claim, gather=without)
    assert ids(claim.run) == [0, 1, 3]


# --- crashes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deleted", [0, 1, 2])
def test_a_crash_between_log_and_deletions_doubles_nothing(
    claim: Claim, monkeypatch: pytest.MonkeyPatch, deleted: int
) -> None:
    for number in range(3):
        put(claim, str(number), number)
    left = itertools.count(deleted, -1)
    delete = storage.delete

    def fail(uri: str, **_: Any) -> None:
        if next(left) <= 0:
            raise TransientError("503")
        delete(uri)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "delete", fail)
        with pytest.raises(TransientError):
            compact(claim, 0, at=1)
    assert len(names(claim)) == 1 + 3 - deleted
    assert ids(claim.run) == [0, 1, 2]
    follow(claim)
    assert ids(claim.run) == [0, 1, 2]


def test_a_compaction_that_failed_halfway_loses_nothing_in_the_next_attempt(
    claim: Claim, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its log holds commits that are deleted already: another attempt must not replace it."""
    monkeypatch.setattr(commit_log, "COMPACT_SECONDS", 0.05)
    monkeypatch.setattr(commit_log, "compact", lambda claim, number: compact(claim, number, at=2))
    delete = storage.delete
    failed = threading.Event()

    def fail_once(uri: str, **_: Any) -> None:
        if uri.endswith("-3.json") and not failed.is_set():
            failed.set()
            raise TransientError("503")
        delete(uri)

    monkeypatch.setattr(storage, "delete", fail_once)
    for number in range(4):
        put(claim, str(number), number)
    with caplog.at_level(logging.WARNING), compacting(claim):
        assert failed.wait(10)
        put(claim, "4", 4)
        end = time.monotonic() + 10
        while any(name.startswith("part-") for name in names(claim)) and time.monotonic() < end:
            time.sleep(0.02)
    assert "could not be gathered this time" in caplog.text
    assert [name.startswith("log-") for name in names(claim)] == [True, True]
    assert ids(claim.run) == [0, 1, 2, 3, 4]


def test_a_superseded_job_gathers_nothing_more(
    claim: Claim, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(commit_log, "COMPACT_SECONDS", 0.02)
    put(claim, "0", 1)
    second = follow(claim)
    monkeypatch.setattr(commit_log, "COMPACT_AT", 1)
    before = names(second)
    with caplog.at_level(logging.WARNING), compacting(claim):
        time.sleep(0.2)
    assert "has taken over" in caplog.text
    assert names(second) == before


# --- reading while others write --------------------------------------------------------------------------------------


def while_it_reads(monkeypatch: pytest.MonkeyPatch, at: int, change: Callable[[], None]) -> None:
    """Let something happen before the reader's n-th listing or read."""
    calls = itertools.count()
    list_files, read_bytes = storage.list_files, storage.read_bytes
    busy = threading.Lock()

    def maybe() -> None:
        if busy.acquire(blocking=False):
            try:
                if next(calls) == at:
                    change()
            finally:
                busy.release()

    def listing(*arguments: Any, **options: Any) -> Any:
        maybe()
        return list_files(*arguments, **options)

    def reading(*arguments: Any, **options: Any) -> bytes:
        maybe()
        return read_bytes(*arguments, **options)

    monkeypatch.setattr(storage, "list_files", listing)
    monkeypatch.setattr(storage, "read_bytes", reading)


@pytest.mark.parametrize("at", range(8))
def test_commits_may_be_gathered_while_they_are_read(claim: Claim, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    for number in range(4):
        put(claim, str(number), number)
    while_it_reads(monkeypatch, at, lambda: compact(claim, 0, at=1) and None)
    assert ids(claim.run) == [0, 1, 2, 3]


@pytest.mark.parametrize("at", range(8))
def test_the_next_job_may_take_over_while_commits_are_read(
    claim: Claim, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    for number in range(4):
        put(claim, str(number), number)
    while_it_reads(monkeypatch, at, lambda: remove_outdated(follow(claim)))
    assert ids(claim.run) == [0, 1, 2, 3]


def test_a_listing_that_misses_the_log_and_its_commits_is_not_taken_for_whole(
    claim: Claim, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listing goes through the names: a log may come where it has been, commits go before it gets there."""
    for number in range(4):
        put(claim, str(number), number)
    list_files = storage.list_files
    torn: list[str] = []

    def slow_listing(path: str, *arguments: Any, **options: Any) -> Any:
        before = list_files(path, *arguments, **options)
        if path.endswith("commits") and not torn:
            torn.append(path)
            compact(claim, 0, at=1)
            after = {file.name for file in list_files(path, *arguments, **options)}
            return [file for file in before if file.name in after]
        return before

    monkeypatch.setattr(storage, "list_files", slow_listing)
    assert ids(claim.run) == [0, 1, 2, 3]
    assert torn


def test_a_reader_that_never_gets_a_view_gives_up(claim: Claim, monkeypatch: pytest.MonkeyPatch) -> None:
    put(claim, "0", 1)
    read_bytes = storage.read_bytes

    def gone(uri: str, **options: Any) -> bytes:
        if "/commits/" in uri:
            raise storage.NotFoundError(uri)
        return read_bytes(uri, **options)

    monkeypatch.setattr(storage, "read_bytes", gone)
    with pytest.raises(TransientError, match="change faster than they can be read"):
        read_commits(claim.run)


# --- faults ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no Parquet at all"])
def test_a_damaged_log_is_named(claim: Claim, content: bytes) -> None:
    storage.write_bytes_atomic(f"{claim.run}/commits/log-{claim.prefix}-000000.parquet", content)
    with pytest.raises(ConfigurationError, match=rf"log-{claim.prefix}-000000\.parquet is damaged"):
        read_commits(claim.run)


def test_names_tell_their_epoch() -> None:
    assert epoch_of("part-000012-abcdef-0-000003.json") == 12
    assert epoch_of("sealed-000003-abcdef-000001.parquet") == 3
    assert epoch_of(".log-000004-abcdef-000001.parquet.12ab.tmp") == 4
    assert [epoch_of(name) for name in ("notes.txt", "part-of-mine.json", "part-12-a.json", "xpart-000001-a")] == [
        None
    ] * 4


# --- many ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("undurable")
def test_many_commits_are_read_with_few_requests(claim: Claim, monkeypatch: pytest.MonkeyPatch) -> None:
    many = 20_000
    for number in range(0, many, 500):
        made = [commit(claim, f"0-{at:06d}", at, shard=f"{at // 100}.tar") for at in range(number, number + 500)]
        commit_log._write_log(claim.run, f"log-{claim.prefix}-{number // 500:06d}.parquet", made)
    requests: Counter[str] = Counter()

    def counting(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            requests[name] += 1
            return call(*arguments, **options)

        return counted

    for name in ("list_files", "read_bytes", "exists"):
        monkeypatch.setattr(storage, name, counting(name, getattr(storage, name)))
    assert len(read_commits(claim.run)) == many
    assert requests["read_bytes"] <= many / 500 + 1
    assert requests.total() <= many / 500 + 6

    monkeypatch.setattr(commit_log, "LOG_COMMITS", many)
    follow(claim, gather=merge)
    requests.clear()
    assert ids(claim.run) == list(range(many))
    assert requests.total() <= 7


# --- any order -------------------------------------------------------------------------------------------------------

_EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["commit", "commit", "commit", "again", "compact", "torn", "seal", "merge", "clear", "late"]),
        st.integers(0, 3),
    ),
    max_size=25,
)


@pytest.mark.usefixtures("undurable")
@settings(max_examples=60)
@given(events=_EVENTS)
def test_in_any_order_of_events_each_record_is_seen_once(
    tmp_path_factory: pytest.TempPathFactory, events: list[tuple[str, int]]
) -> None:
    """Commits, repeated ones, compactions (whole, or killed halfway), takeovers, and writes of jobs that lost."""
    claim = charge(tmp_path_factory.mktemp("run"))
    jobs, numbers, logs = [claim], itertools.count(), itertools.count()
    expected: dict[int, tuple[Claim, int]] = {}  # record, the job and the name of its commit
    for event, choice in events:
        if event == "commit":
            number = next(numbers)
            put(claim, f"0-{number:06d}", number)
            expected[number] = (claim, number)
        elif event == "again" and expected:  # Ray repeats a task, perhaps of a job that has lost
            job, number = list(expected.values())[choice % len(expected)]
            put(job, f"0-{number:06d}", number)
        elif event == "compact":
            compact(claim, next(logs), at=1)
        elif event == "torn":
            left = itertools.count(choice, -1)
            delete = storage.delete
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(commit_log, "_READERS", 1)
                patch.setattr(storage, "delete", lambda uri, n=left, d=delete: d(uri) if next(n) > 0 else None)
                compact(claim, next(logs), at=1)
        elif event in ("seal", "merge"):
            claim = follow(claim, f"{len(jobs):06x}", seal if event == "seal" else merge)
            jobs.append(claim)
        elif event == "clear":
            remove_outdated(claim)
        elif event == "late" and len(jobs) > 1:
            zombie = jobs[choice % (len(jobs) - 1)]
            number = next(numbers)
            put(zombie, f"0-{number:06d}", number)
            if choice % 2:
                compact(zombie, next(logs), at=1)
        assert ids(claim.run) == sorted(expected)


def test_heads_say_which_data_files_count_without_reading_ids(claim: Claim) -> None:
    for number in range(3):
        put(claim, str(number), number, number + 10)
    compact(claim, 0, at=3)
    put(claim, "3", 7)
    empty = Commit(f"part-{claim.prefix}-4", None, 0, 0, {"a": ShardPart(np.empty(0, np.int64), 0, {}, None)})
    storage.write_bytes_atomic(f"{claim.run}/commits/{empty.stem}.json", empty.to_json().encode())
    found = commit_log.heads(claim.run)
    assert [(each.rows, each.shards) for each in found] == [(2, {}), (2, {}), (2, {}), (1, {}), (0, {})]
    assert commit_log.data_files(claim.run) == [f"records/part-{claim.prefix}-{number}.parquet" for number in range(4)]


def test_merged_logs_stay_small_enough_to_be_read_a_few_at_a_time(
    claim: Claim, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit_log, "LOG_ROWS", 5)
    for number in range(4):
        put(claim, str(number), 3 * number, 3 * number + 1, 3 * number + 2)
    assert len(merge(claim.run, claim, "sealed-000002-f00f00.parquet")) == 4
    follow(claim, gather=merge)
    assert ids(claim.run) == list(range(12))


def test_large_commits_are_gathered_in_several_logs(claim: Claim, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit_log, "LOG_ROWS", 4)
    for number in range(5):
        put(claim, str(number), 2 * number, 2 * number + 1)
    assert compact(claim, 0, at=5)
    assert names(claim) == [f"log-{claim.prefix}-000000-00000{number}.parquet" for number in range(3)]
    put(claim, "5", 10, 11)
    assert compact(claim, 1, at=1)
    assert ids(claim.run) == list(range(12))
    follow(claim)
    assert ids(claim.run) == list(range(12))


def test_results_wait_in_bounded_number() -> None:
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        return item

    with ThreadPoolExecutor(4) as pool:
        results = commit_log._ahead(pool, work, range(100), 5)
        assert next(results) == 0
        time.sleep(0.05)
        assert len(begun) <= 6
        assert list(results) == list(range(1, 100))
