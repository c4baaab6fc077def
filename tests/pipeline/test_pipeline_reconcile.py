"""Reconciliation: what is lost, doubled or unexpected is found, from commits alone."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.commits import Commit, Ledger, ShardPart
from pipeline.ids import id_sum
from pipeline.reconcile import UNMATCHED_PROMPTS, Reconciliation, Tally, reconcile, reconciled

IDS = st.integers(-(2**63), 2**63 - 1)


def ledger(ids: Sequence[int], matched: Sequence[int] = ()) -> Ledger:
    return Ledger(images=2, records=len(ids), id_sum=id_sum(ids), matched=tuple(matched))


def commit(stem: str, **shards: tuple[Sequence[int], Ledger | None]) -> Commit:
    parts = {name: ShardPart(np.array(ids, np.int64), len(ids), {}, at_end) for name, (ids, at_end) in shards.items()}
    rows = sum(len(ids) for ids, _ in shards.values())
    return Commit(stem, f"records/{stem}.parquet" if rows else None, rows, 1000, parts)


def check(commits: Sequence[Commit], expected: Sequence[str], gone: Sequence[str] = ()) -> Reconciliation:
    return reconcile(commits, expected, {str(c.data) for c in commits} - {f"records/{stem}.parquet" for stem in gone})


def test_a_complete_run() -> None:
    outcome = check(
        [
            commit("p0", a=([1, 2], None), b=([5], None)),
            commit("p1", a=([3], None)),
            commit("p2", a=([], ledger([1, 2, 3])), b=([], ledger([5])), empty=([], ledger([]))),
        ],
        ["a", "b", "empty"],
    )
    assert outcome.complete
    assert outcome.counts() == {
        "shards": 3,
        "finished": 3,
        "images": 6,
        "expected": 4,
        "found": 4,
        "lost": 0,
        "doubled": 0,
        "unexpected": 0,
        "by_status": {"ok": 4, "error": 0},
        "by_code": {},
    }


def test_a_ledger_that_a_resumed_job_wrote_again_is_one_ledger() -> None:
    outcome = check(
        [commit("p0", a=([1], ledger([1, 2], [8, 9]))), commit("p1", a=([2], ledger([1, 2], [8, 9])))], ["a"]
    )
    assert outcome.complete
    assert (outcome.expected, outcome.images) == (2, 2)


def test_statuses_and_codes_are_counted() -> None:
    parts = {
        "a": ShardPart(np.array([1, 2, 3]), 1, {"image_corrupt": 2}, ledger([1, 2, 3])),
        "b": ShardPart(np.array([4]), 0, {"prompt_missing": 1}, ledger([4])),
    }
    outcome = check([Commit("p0", "records/p0.parquet", 4, 1, parts)], ["a", "b"])
    assert outcome.complete
    assert outcome.by_status == {"ok": 1, "error": 3}
    assert outcome.by_code == {"image_corrupt": 2, "prompt_missing": 1}


def test_a_lost_record() -> None:
    outcome = check([commit("p0", a=([1, 3], ledger([1, 2, 3])))], ["a"])
    assert (outcome.lost, outcome.doubled, outcome.unexpected, outcome.finished) == (1, 0, 0, 0)
    assert outcome.faults == ("shard a: 1 of 3 records are missing; start the job again",)


def test_a_doubled_record() -> None:
    outcome = check([commit("p0", a=([1, 2], ledger([1, 2]))), commit("p1", a=([2], None))], ["a"])
    assert (outcome.lost, outcome.doubled, outcome.unexpected, outcome.found) == (0, 1, 0, 2)
    assert outcome.faults[0] == (
        "shard a: 1 records are there more than once (did two jobs write at the same time?); forget its commits "
        "with jobs/runs.py redo --shard 'a', and start the job again"
    )


def test_a_record_that_stands_for_another() -> None:
    outcome = check([commit("p0", a=([1, 2, 4], ledger([1, 2, 3])))], ["a"])
    assert (outcome.lost, outcome.doubled, outcome.unexpected) == (1, 0, 1)
    assert "1 or more records that are not in the input, 1 lost; forget its commits with" in outcome.faults[0]


def test_a_record_too_many() -> None:
    outcome = check([commit("p0", a=([1, 2], ledger([1])))], ["a"])
    assert (outcome.lost, outcome.unexpected) == (0, 1)
    assert not outcome.complete


def test_one_record_under_two_shards() -> None:
    outcome = check([commit("p0", a=([1], ledger([1])), b=([1], ledger([1])))], ["a", "b"])
    assert (outcome.doubled, outcome.found) == (1, 1)
    assert outcome.faults == (
        "1 records stand under more than one shard: two shards hold the same images and prompts",
    )


def test_shards_that_were_not_read_to_their_end() -> None:
    outcome = check([commit("p0", a=([1, 2], None))], ["a", "b"])
    assert (outcome.shards, outcome.finished, outcome.expected, outcome.found) == (2, 0, 0, 2)
    assert outcome.faults == (
        "shard a: not read to its end (2 records so far); start the job again",
        "shard b: not begun; start the job again",
    )


def test_a_shard_that_the_input_does_not_have() -> None:
    outcome = check([commit("p0", a=([1], ledger([1])), old=([7, 8], ledger([7, 8])))], ["a"])
    assert (outcome.unexpected, outcome.shards, outcome.finished, outcome.expected) == (2, 1, 1, 1)
    assert outcome.faults[0].startswith(
        "shard old: 2 records, but the input has no such shard; put it back, or forget"
    )


def test_a_shard_that_changed_while_the_run_went_on() -> None:
    outcome = check([commit("p0", a=([1], ledger([1, 2]))), commit("p1", a=([2], ledger([1, 2, 3])))], ["a"])
    assert not outcome.complete
    assert (
        "changed while the run went on (2 ledgers that differ); forget its commits with jobs/runs.py redo --shard 'a'"
        in (outcome.faults[0])
    )


def test_a_data_file_that_is_gone_takes_its_records_with_it() -> None:
    commits = [commit("p0", a=([1, 2], ledger([1, 2, 3]))), commit("p1", a=([3], None))]
    outcome = check(commits, ["a"], gone=["p0"])
    assert (outcome.lost, outcome.found) == (2, 1)
    assert outcome.faults[0] == (
        "records/p0.parquet is gone, and with it 2 records: put it back, or forget its commit with "
        "jobs/runs.py redo, and start the job again, which makes them anew"
    )
    assert outcome.faults[1] == "shard a: 2 of 3 records are missing; start the job again"


def test_unmatched_prompts_are_a_shard_of_their_own() -> None:
    read = commit("p0", a=([1], ledger([1])))
    assert check([read, commit("p1", **{UNMATCHED_PROMPTS: ([8, 9], ledger([8, 9]))})], ["a"]).expected == 3
    assert check([read], ["a"]).complete
    assert not check([read, commit("p1", **{UNMATCHED_PROMPTS: ([8], ledger([8, 9]))})], ["a"]).complete
    assert not check([read, commit("p1", **{UNMATCHED_PROMPTS: ([8], None)})], ["a"]).complete


@pytest.fixture(scope="module")
def names() -> list[str]:
    return ["a", "b", "c"]


@given(
    ids=st.lists(IDS, min_size=1, max_size=30, unique=True),
    owners=st.lists(st.integers(0, 2), min_size=30, max_size=30),
    writes=st.lists(st.integers(0, 4), min_size=33, max_size=33),
    victim=st.integers(0, 29),
    stranger=IDS,
)
def test_any_split_into_writes_reconciles_and_any_single_fault_is_found(
    names: list[str], ids: list[int], owners: list[int], writes: list[int], victim: int, stranger: int
) -> None:
    placed = [(number, names[owner], write) for number, owner, write in zip(ids, owners, writes, strict=False)]
    ledgers = [(ledger([i for i, name, _ in placed if name == shard]), shard) for shard in names]

    def run(records: list[tuple[int, str, int]]) -> Reconciliation:
        commits = []
        for write in range(5):
            shards = {
                shard: (
                    [i for i, name, w in records if (name, w) == (shard, write)],
                    at_end if writes[30 + position] == write else None,
                )
                for position, (at_end, shard) in enumerate(ledgers)
            }
            commits.append(commit(f"p{write}", **{k: v for k, v in shards.items() if v[0] or v[1]}))
        return check(commits, names)

    whole = run(placed)
    assert whole.complete, whole.faults
    assert whole.found == whole.expected == len(ids)

    hit = placed[victim % len(placed)]
    lost = run([record for record in placed if record != hit])
    assert (lost.complete, lost.lost, lost.doubled, lost.unexpected) == (False, 1, 0, 0)
    doubled = run([*placed, (hit[0], hit[1], (hit[2] + 1) % 5)])
    assert (doubled.complete, doubled.lost, doubled.doubled, doubled.unexpected) == (False, 0, 1, 0)
    if stranger not in ids:
        foreign = run([*placed, (stranger, hit[1], hit[2])])
        assert (foreign.complete, foreign.lost, foreign.doubled, foreign.unexpected) == (False, 0, 0, 1)
        swapped = run([record if record != hit else (stranger, *hit[1:]) for record in placed])
        assert (swapped.complete, swapped.lost, swapped.doubled, swapped.unexpected) == (False, 1, 0, 1)


def test_of_whole_shards_no_ids_are_kept() -> None:
    tally = Tally()
    tally.add(commit("p0", a=([1, 2], None), b=([5], None)))
    assert tally.by_shard.shards()["a"].record_ids.tolist() == [1, 2]
    tally.add(commit("p1", a=([3], ledger([1, 2, 3]))))
    shards = tally.by_shard.shards()
    assert (shards["a"].whole, len(shards["a"].record_ids), shards["a"].count, shards["a"].finished) == (
        True,
        0,
        3,
        True,
    )
    assert shards["b"].record_ids.tolist() == [5]
    assert not tally.by_shard.reopened


def test_commits_of_a_sound_run_are_gone_through_once_and_those_of_another_until_all_is_known() -> None:
    sound = [commit("p0", a=([1, 2], ledger([1, 2])))]
    assert _times(sound, ["a"]) == 1
    assert _times([*sound, commit("p1", a=([2], None))], ["a"]) == 2


def _times(commits: Sequence[Commit], expected: Sequence[str]) -> int:
    times = 0

    def fold(start: Callable[[], Tally]) -> Tally:
        nonlocal times
        times += 1
        tally = start()
        for each in commits:
            tally.add(each)
        return tally

    reconciled(fold, expected, lambda: {str(each.data) for each in commits})
    return times


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.lists(st.integers(0, 4), max_size=4), st.booleans()), max_size=6),
    st.lists(st.integers(0, 4), unique=True, max_size=4),
)
def test_what_is_found_does_not_depend_on_the_order_of_the_commits(
    writes: list[tuple[str, list[int], bool]], asked: list[int]
) -> None:
    commits = [
        commit(f"p{number}", **{name: (ids, ledger(asked) if with_ledger else None)})
        for number, (name, ids, with_ledger) in enumerate(writes)
    ]
    forth, back = check(commits, ["a", "b"]), check(commits[::-1], ["a", "b"])
    assert forth == back
    for name in "ab":
        ids = [number for shard, numbers, _ in writes if shard == name for number in numbers]
        has_ledger = any(at_end for shard, _, at_end in writes if shard == name)
        sound = has_ledger and sorted(ids) == sorted(asked)
        assert sound == (not any(f"shard {name}" in fault for fault in forth.faults))
