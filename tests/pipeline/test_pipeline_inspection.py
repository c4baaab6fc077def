"""What the runs of an output hold: their state, what is lost or doubled, and where one record is from."""

import os
from pathlib import Path

import pytest

from pipeline.errors import ConfigurationError
from pipeline.ids import parse, show
from pipeline.inspection import explain, find_record, open_chain, reconcile, record_numbers, status
from pipeline.reconcile import UNMATCHED_PROMPTS
from pipeline.runs import RunDirectory
from pipeline.scopes import Scope
from support.corpora import image, tar
from support.run_rows import begin, complete, gray_png, label_config, ledger_row, record_rows

INCREMENTAL = Scope("incremental", None, ("",))


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """A complete run over two shards, and one that labelled what was new in the second."""
    (tmp_path / "in").mkdir()
    for name in ("a.tar", "b.tar"):
        (tmp_path / "in" / name).write_bytes(tar([("x.png", image())]))
    config = label_config(tmp_path / "run", input={"path": str(tmp_path / "in/*.tar")})
    complete(
        begin(config),
        record_rows("a.tar", [1, 2], label="cat", prompt_mask=gray_png(), image_width=40),
        ledger_row("a.tar", [1, 2], images=2),
        record_rows("b.tar", [3], error="image_unavailable", error_message="503"),
        ledger_row("b.tar", [3]),
    )
    run = begin(config, scope=INCREMENTAL, followup="followups/0001")
    complete(run, record_rows("b.tar", [-4], label="dog"), ledger_row("b.tar", [-4]))
    return tmp_path / "run"


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"is not a run directory: it has no run\.json"):
        open_chain(str(tmp_path))


def test_the_state_of_each_run(output: Path) -> None:
    text = status(open_chain(str(output)))
    first, second = text.split("\nfollowups/0001")
    ids = [RunDirectory.open(str(path)).run_id for path in (output, output / "followups/0001")]
    assert first.startswith(f"first run  {ids[0]}  complete\n")
    assert "about      all of the input" in first
    assert "sdmatte-mini in float32" in first
    assert "3 (2 ok, 1 errors) in 2 finished of 2 shards" in first
    assert "0 times resumed" in first
    assert f"process {os.getpid()}" in first
    assert "orphans" not in text
    assert second.startswith(f"  {ids[1]}  complete\n")
    assert "about      what was new" in second
    assert "1 (1 ok, 0 errors) in 1 finished of 1 shards" in second


def test_the_state_of_a_run_that_stopped(tmp_path: Path) -> None:
    run = begin(label_config(tmp_path), scope=Scope("again", "quality < 0.5", ("",)))
    (tmp_path / "records").mkdir()
    (tmp_path / f"records/part-{run.claim.prefix}-0.parquet").write_bytes(b"")
    run.fail("the disk is full")
    text = status(open_chain(str(tmp_path)))
    assert f"{run.run_id}  failed" in text
    assert "about      records where quality < 0.5" in text
    assert "in 0 finished of an unknown number of shards" in text
    assert "stopped    the disk is full" in text
    assert "orphans    1 files" in text


def test_all_runs_reconcile(output: Path) -> None:
    found = reconcile(open_chain(str(output)))
    assert found.complete
    assert str(found).splitlines() == [
        "first run: 3 of 3 records in 2 of 2 shards, 3 images",
        "followups/0001: 1 of 1 records in 1 of 1 shards, 1 images",
        "lost 0, doubled 0, unexpected 0",
    ]


def test_records_that_a_followup_made_a_second_time_are_doubled(output: Path) -> None:
    config = label_config(output, input={"path": str(output.parent / "in/*.tar")})
    unmatched = (record_rows(UNMATCHED_PROMPTS, [2]), ledger_row(UNMATCHED_PROMPTS, [2]))  # made anew by each run
    run = begin(config, scope=Scope("incremental", None, ("", "followups/0001")), followup="followups/0002")
    complete(run, record_rows("b.tar", [3, -4, 5]), ledger_row("b.tar", [3, -4, 5]), *unmatched)
    found = reconcile(open_chain(str(output)))
    assert not found.complete
    assert found.doubled_between == 2
    assert "FAULT: 2 records of follow-ups were there before" in str(found)
    assert str(found).endswith("lost 0, doubled 2, unexpected 0")


def test_records_that_were_asked_for_again_are_not_doubled(output: Path) -> None:
    config = label_config(output, input={"path": str(output.parent / "in/*.tar")})
    run = begin(config, scope=Scope("again", "status == 'error'", ("", "followups/0001")), followup="followups/0002")
    complete(run, record_rows("b.tar", [3]), ledger_row("b.tar", [3]))
    assert reconcile(open_chain(str(output))).complete


def test_shards_that_no_run_knows_are_named(output: Path) -> None:
    (output.parent / "in/c.tar").write_bytes(tar([("x.png", image())]))
    found = reconcile(open_chain(str(output)))
    assert not found.complete
    assert found.not_labelled == ("c.tar",)
    assert "1 shards of the input are in no run, such as c.tar: label them with --incremental" in str(found)
    unlisted = reconcile(open_chain(str(output)), list_input=False)
    assert unlisted.complete
    assert "the input was not listed" in str(unlisted)


def test_a_data_file_that_is_gone_is_a_fault(output: Path) -> None:
    next((output / "records").iterdir()).unlink()
    found = reconcile(open_chain(str(output)))
    assert not found.complete
    assert "FAULT: records/part-000001-" in str(found)
    assert "lost 3" in str(found)


# --- one record ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("record", [1, -4])
def test_a_record_is_found_by_its_id_as_hex_and_as_number(output: Path, record: int) -> None:
    chain = open_chain(str(output))
    for text in (str(record), show(record), show(record).upper()):
        run, row = find_record(chain, text, ["record_id", "label"])
        assert row == {"record_id": record, "label": {1: "cat", -4: "dog"}[record]}
        assert run.path == {1: str(output), -4: str(output / "followups/0001")}[record]


def test_digits_alone_may_be_either_form(tmp_path: Path) -> None:
    decimal, hexadecimal = 1234567890123456, parse("6543210987654321")
    run = begin(label_config(tmp_path))
    ids = [decimal, hexadecimal]
    complete(run, record_rows("a", ids), ledger_row("a", ids))
    chain = open_chain(str(tmp_path))
    assert find_record(chain, "1234567890123456")[1]["record_id"] == decimal
    assert find_record(chain, "6543210987654321")[1]["record_id"] == hexadecimal
    assert record_numbers("6543210987654321") == [hexadecimal, 6543210987654321]


@pytest.mark.parametrize(
    "text", ["", "cat", "12.5", "9" * 19, "-9223372036854775809", "0x12345678901234", "1_000", "١"]
)
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="is no record id: give 16 hexadecimal digits"):
        record_numbers(text)


def test_of_several_records_the_latest_of_a_complete_run_is_found(output: Path) -> None:
    config = label_config(output, input={"path": str(output.parent / "in/*.tar")})
    run = begin(config, scope=Scope("again", "record_id == 3", ("", "followups/0001")), followup="followups/0002")
    complete(run, record_rows("b.tar", [3]), ledger_row("b.tar", [3]))
    assert find_record(open_chain(str(output)), "3")[1]["status"] == "ok"
    (output / "followups/0002/_SUCCESS").unlink()
    assert find_record(open_chain(str(output)), "3")[1]["status"] == "error"


def test_a_record_that_is_not_there(output: Path) -> None:
    with pytest.raises(ConfigurationError, match="holds no record 00000000000000ff"):
        find_record(open_chain(str(output)), "00000000000000ff")


def test_where_a_record_is_from(output: Path) -> None:
    text = explain(open_chain(str(output)), "1")
    run = RunDirectory.open(str(output))
    assert text.startswith(f"record 0000000000000001 of {output}\n")
    for line in (
        "  record_id          0000000000000001 (1)",
        f"  alpha              PNG of {len(gray_png())} bytes",
        f"  prompt_mask        {len(gray_png())} bytes",
        "  image_width        40 pixel",
        "  label              cat",
        f"  run                {run.run_id}, began {run.info['started_at']}",
    ):
        assert line in text.splitlines()
    assert f"python {run.info['libraries']['python']}" in text
    assert "error_code" not in text
    assert "503" in explain(open_chain(str(output)), "3")
