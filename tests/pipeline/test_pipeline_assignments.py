"""What a job has to do: which run it goes on with, which shards it reads, and which records it leaves alone."""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.assignments import Assignment, assignment, find_target, sources
from pipeline.config import LabelConfig
from pipeline.errors import ConfigurationError
from pipeline.ids import image_id, record_id
from pipeline.latest import Chain
from pipeline.prompt_files import load_prompt_index
from pipeline.provenance import ModelIdentity
from pipeline.reconcile import UNMATCHED_PROMPTS
from pipeline.runs import RunDirectory
from pipeline.scopes import ALL, Scope, Selection
from pipeline.sources import Shard, make_source
from support.corpora import BOX, image, lines, reading_config, tar
from support.run_rows import MODEL, begin, complete, label_config, ledger_row, record_rows

NEW = Selection("incremental")
FAILED = Selection("again", "status == 'error'")
OTHER_WEIGHTS = ModelIdentity("sdmatte-mini", "cd" * 32, "float32", 64)


def followup(path: Path, number: int, scope: Scope, *tables: Any, model: ModelIdentity = MODEL) -> RunDirectory:
    config = label_config(path)
    return complete(begin(config, model, scope, followup=f"followups/{number:04d}"), *tables)


def shards(*names: str) -> list[Shard]:
    return [Shard(name, {}) for name in names]


def names(job: Assignment) -> list[str]:
    return [shard.name for shard in job.shards]


def base(path: Path) -> RunDirectory:
    """A complete run of three shards: one with an error, one whose rest could not be read."""
    rest = record_id(image_id("c", ""), {})
    return complete(
        begin(label_config(path)),
        record_rows("a", [1, 2]),
        ledger_row("a", [1, 2], matched=[70], source="a1"),
        record_rows("b", [3]),
        record_rows("b", [4], error="image_unavailable"),
        ledger_row("b", [3, 4], matched=[71], source="b1"),
        record_rows("c", [5]),
        record_rows("c", [rest], error="shard_unreadable"),
        ledger_row("c", [5, rest], matched=[72]),
        record_rows(UNMATCHED_PROMPTS, [9], error="image_missing"),
        ledger_row(UNMATCHED_PROMPTS, [9]),
    )


# --- in which run ----------------------------------------------------------------------------------------------------


def test_without_a_run_there_is_nothing_to_follow(tmp_path: Path) -> None:
    config = label_config(tmp_path / "run")
    with pytest.raises(ConfigurationError, match="holds no run whose records could be made anew"):
        find_target(config, FAILED)
    for selection in (NEW, Selection()):
        target = find_target(config, selection)
        assert (target.path, target.selection) == (str(tmp_path / "run"), Selection())
        assert target.scope(config, MODEL) == ALL


def test_a_run_that_is_not_complete_is_finished_first(tmp_path: Path) -> None:
    config = label_config(tmp_path)
    begin(config)
    target = find_target(config, NEW)
    assert (target.path, target.selection) == (str(tmp_path), Selection())
    assert target.scope(config, MODEL) == ALL
    with pytest.raises(ConfigurationError, match=r"is not complete yet.*the command that began it \(no option\)"):
        find_target(config, FAILED)


def test_a_complete_run_is_followed(tmp_path: Path) -> None:
    config = label_config(tmp_path)
    base(tmp_path)
    assert find_target(config, Selection()).path == str(tmp_path)
    for selection in (NEW, FAILED):
        target = find_target(config, selection)
        assert target.path == str(tmp_path / "followups/0001")
        assert target.scope(config, MODEL) == Scope(selection.kind, selection.where, ("",))
    followup(tmp_path, 1, Scope("incremental", None, ("",)))
    target = find_target(config, FAILED)
    assert target.path == str(tmp_path / "followups/0002")
    assert target.scope(config, MODEL).bases == ("", "followups/0001")


def test_a_followup_that_is_not_complete_goes_on_with_what_it_is_about(tmp_path: Path) -> None:
    config = label_config(tmp_path)
    base(tmp_path)
    scope = Scope(FAILED.kind, FAILED.where, ("",))
    begin(config, scope=scope, followup="followups/0001")
    target = find_target(config, FAILED)
    assert target.path == str(tmp_path / "followups/0001")
    assert target.scope(config, OTHER_WEIGHTS) == scope
    for other in (NEW, Selection("again", "status == 'ok'")):
        with pytest.raises(ConfigurationError, match=r"--where \"status == 'error'\""):
            find_target(config, other)


def test_what_is_new_is_new_to_the_runs_of_the_same_settings_and_weights(tmp_path: Path) -> None:
    base(tmp_path)
    config = label_config(tmp_path)
    assert find_target(config, NEW).scope(config, MODEL).bases == ("",)
    assert find_target(config, NEW).scope(config, OTHER_WEIGHTS).bases == ()
    larger = label_config(tmp_path, model={"input_size": 512})
    assert find_target(larger, NEW).scope(larger, MODEL).bases == ()
    assert find_target(larger, FAILED).scope(larger, OTHER_WEIGHTS).bases == ("",)


# --- which shards and records ----------------------------------------------------------------------------------------


def test_a_run_over_all_reads_all(tmp_path: Path) -> None:
    job = assignment(Chain.open(str(tmp_path)), ALL, shards("a", "b"), {"a": "a1", "b": "b1"})
    assert (names(job), len(job.seen.records), len(job.matched), job.selected) == (["a", "b"], 0, 0, None)


def test_shards_that_are_as_they_were_are_not_read_again(tmp_path: Path) -> None:
    base(tmp_path)
    chain, scope = Chain.open(str(tmp_path)), Scope("incremental", None, ("",))
    now = {"a": "a1", "b": "b2", "c": "", "new": "n1"}
    job = assignment(chain, scope, shards("a", "b", "c", "new"), now)
    assert names(job) == ["b", "c", "new"]
    assert sorted(job.matched) == [70]
    # Neither what stands for an unread rest nor prompts without image are asked for once only.
    assert job.seen.records.tolist() == [1, 2, 3, 4, 5]
    assert job.seen.records.dtype == np.int64


def test_nothing_is_new(tmp_path: Path) -> None:
    base(tmp_path)
    chain, scope = Chain.open(str(tmp_path)), Scope("incremental", None, ("",))
    assert names(assignment(chain, scope, shards("a", "b"), {"a": "a1", "b": "b1"})) == []


def test_a_shard_that_a_followup_read_anew_is_known_by_its_new_fingerprint(tmp_path: Path) -> None:
    base(tmp_path)
    more = Scope("incremental", None, ("",))
    followup(tmp_path, 1, more, record_rows("b", [6]), ledger_row("b", [6], source="b2"))
    chain = Chain.open(str(tmp_path))
    scope = Scope("incremental", None, ("", "followups/0001"))
    job = assignment(chain, scope, shards("a", "b", "c"), {"a": "a2", "b": "b2"})
    assert names(job) == ["a", "c"]
    assert job.seen.records.tolist() == [1, 2, 3, 4, 5, 6]
    assert names(assignment(chain, scope, shards("b"), {"b": "b1"})) == []


def test_records_made_anew_with_other_weights_say_nothing_about_the_rest_of_their_shard(tmp_path: Path) -> None:
    """With the new weights a follow-up made one record of shard b; its ledger asks for that one alone."""
    base(tmp_path)
    again = Scope("again", "record_id == 4", ("",))
    made = (record_rows("b", [4]), ledger_row("b", [4], source="b1"))
    followup(tmp_path, 1, again, *made, model=OTHER_WEIGHTS)
    config = label_config(tmp_path)
    target = find_target(config, NEW)
    scope = target.scope(config, OTHER_WEIGHTS)
    assert scope.bases == ("followups/0001",)
    job = assignment(target.chain, scope, shards("a", "b"), {"a": "a1", "b": "b1"})
    assert names(job) == ["a", "b"]
    assert job.seen.records.tolist() == [4]


def test_records_that_meet_a_condition_are_made_again(tmp_path: Path) -> None:
    base(tmp_path)
    chain = Chain.open(str(tmp_path))
    scope = Scope("again", "error_code == 'image_unavailable'", ("",))
    job = assignment(chain, scope, shards("a", "b", "c"), {})
    assert (names(job), job.seen.records.tolist(), job.selected) == (["b"], [1, 2, 3, 5], 1)
    unread = assignment(chain, Scope("again", "error_code == 'shard_unreadable'", ("",)), shards("a", "b", "c"), {})
    assert (names(unread), unread.seen.records.tolist()) == (["c"], [1, 2, 3, 4, 5])


def test_a_condition_that_selects_nothing_is_refused(tmp_path: Path) -> None:
    base(tmp_path)
    with pytest.raises(ConfigurationError, match=r"no record of .* meets the condition label == 'dog'"):
        assignment(Chain.open(str(tmp_path)), Scope("again", "label == 'dog'", ("",)), shards("a"), {})


def test_where_a_shard_is_gone_all_are_looked_into(tmp_path: Path) -> None:
    """The images may be in other shards now, with the same ids."""
    base(tmp_path)
    scope = Scope("again", "error_code == 'image_unavailable'", ("",))
    job = assignment(Chain.open(str(tmp_path)), scope, shards("a", "b-renamed"), {})
    assert (names(job), job.selected) == (["a", "b-renamed"], 1)
    assert 4 not in job.seen.records


# --- what shards are now ---------------------------------------------------------------------------------------------


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for name in "ab":
        (tmp_path / "in" / f"{name}.tar").write_bytes(tar([(f"{name}.png", image())]))
    (tmp_path / "p.jsonl").write_bytes(lines(BOX | {"image": "a.png"}))
    return tmp_path


def now(config: LabelConfig) -> dict[str, str]:
    return sources(config, make_source(config).shards(), load_prompt_index(config))


def touch(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 10**9))


def test_fingerprints_of_shards_change_with_their_file_alone(corpus: Path) -> None:
    config = reading_config("webdataset", corpus / "in/*.tar")
    before = now(config)
    assert set(before) == {"a.tar", "b.tar"}
    assert len(set(before.values())) == 2
    assert all(before.values())
    assert now(config) == before
    touch(corpus / "in/a.tar", tar([("c.png", image())]))
    after = now(config)
    assert after["a.tar"] != before["a.tar"]
    assert after["b.tar"] == before["b.tar"]


def test_fingerprints_change_with_whatever_changes_the_prompts(corpus: Path) -> None:
    path = corpus / "in/*.tar"
    prompts = {"kind": "jsonl", "path": str(corpus / "p.jsonl")}
    config = reading_config("webdataset", path, prompts=prompts)
    found = [now(config), now(reading_config("webdataset", path))]
    found.append(now(reading_config("webdataset", path, prompts=prompts | {"min_score": 0.5})))
    found.append(now(reading_config("webdataset", path, input={"max_pixels": 1000}, prompts=prompts)))
    touch(corpus / "p.jsonl", lines(BOX | {"image": "b.png"}))
    found.append(now(config))
    assert len({each["a.tar"] for each in found}) == len(found)
    assert now(reading_config("webdataset", path, prompts=prompts, workers={"retries": 3})) == found[-1]


def test_what_listings_do_not_tell_is_never_taken_for_unchanged(corpus: Path) -> None:
    config = reading_config("webdataset", corpus / "in/*.tar")
    assert sources(config, shards("a"), None) == {"a": ""}


# --- what changed since ----------------------------------------------------------------------------------------------


def test_an_earlier_followup_that_was_opened_again_is_finished_first(tmp_path: Path) -> None:
    config = label_config(tmp_path)
    base(tmp_path)
    first = followup(tmp_path, 1, Scope("incremental", None, ("",)), record_rows("new", [7]), ledger_row("new", [7]))
    followup(tmp_path, 2, Scope("incremental", None, ("", "followups/0001")))
    (tmp_path / "followups/0001/_SUCCESS").unlink()
    for selection in (NEW, Selection()):
        target = find_target(config, selection)
        assert target.path == first.path
        assert list(target.earlier.runs) == [""]
    with pytest.raises(ConfigurationError, match="0001 is not complete yet"):
        find_target(config, FAILED)


def test_prompts_in_another_frame_are_another_configuration(tmp_path: Path) -> None:
    base(tmp_path)
    assert find_target(label_config(tmp_path), NEW).scope(label_config(tmp_path), MODEL).bases == ("",)
    corrected = label_config(tmp_path, prompts={"box": "xywh"})
    assert find_target(corrected, NEW).scope(corrected, MODEL).bases == ()


def test_prompts_without_image_can_not_be_made_again(tmp_path: Path) -> None:
    base(tmp_path)
    scope = Scope("again", "error_code == 'image_missing'", ("",))
    with pytest.raises(ConfigurationError, match="--incremental labels those whose images have come since"):
        assignment(Chain.open(str(tmp_path)), scope, shards("a"), {})


def test_images_are_known_by_their_bytes(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"then").hexdigest()
    complete(
        begin(label_config(tmp_path)),
        record_rows("a", [1], image_id=11, image_sha256=digest),
        record_rows("a", [2], image_id=12, error="image_missing"),
        ledger_row("a", [1, 2]),
    )
    seen = assignment(Chain.open(str(tmp_path)), Scope("incremental", None, ("",)), shards("a"), {}).seen
    assert (seen.has_changed(11, b"then"), seen.has_changed(11, b"now")) == (False, True)
    assert not any((seen.has_changed(12, b"now"), seen.has_changed(11, None), seen.has_changed(99, b"now")))
