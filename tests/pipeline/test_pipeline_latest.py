"""Several runs seen as one: which record of an id counts, and what is left out once more is known."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ConfigurationError, PipelineError
from pipeline.latest import Chain, counting, write
from pipeline.reconcile import UNMATCHED_PROMPTS
from pipeline.review.schema import REVIEW_COLUMNS, REVIEWS
from pipeline.review.store import write_reviews
from pipeline.runs import RunDirectory
from pipeline.schema import RECORDS
from pipeline.scopes import Scope
from support.run_rows import begin, complete, gray_png, label_config, ledger_row, record_rows

AGAIN = Scope("again", "status == 'error'", ("",))
INCREMENTAL = Scope("incremental", None, ("",))


def shard(name: str, *tables: pa.Table) -> list[pa.Table]:
    """The records of a shard, and its ledger."""
    return [*tables, ledger_row(name, [number for table in tables for number in table["record_id"].to_pylist()])]


def first(path: Path, *tables: pa.Table) -> RunDirectory:
    return complete(begin(label_config(path)), *tables)


def follow(path: Path, number: int, scope: Scope, *tables: pa.Table) -> RunDirectory:
    return complete(begin(label_config(path), scope=scope, followup=f"followups/{number:04d}"), *tables)


def seen(path: Path, where: pc.Expression | None = None) -> list[tuple[int, str]]:
    table = Chain.open(str(path)).records(["record_id", "image_key"], where)
    return sorted(zip(table["record_id"].to_pylist(), table["image_key"].to_pylist(), strict=True))


def test_where_there_is_no_run_nothing_counts(tmp_path: Path) -> None:
    chain = Chain.open(str(tmp_path))
    assert chain.runs == {}
    with pytest.raises(ConfigurationError, match="holds no complete run"):
        chain.records(["record_id"])


def test_runs_are_found_in_order(tmp_path: Path) -> None:
    first(tmp_path, *shard("a", record_rows("a", [1])))
    for number in range(1, 11):
        follow(tmp_path, number, AGAIN)
    follow(tmp_path, 12, AGAIN)  # no part of the chain: 11 is not there
    chain = Chain.open(str(tmp_path))
    assert list(chain.runs) == ["", *(f"followups/{number:04d}" for number in range(1, 11))]
    assert all(Path(run.path) == tmp_path / name for name, run in chain.runs.items())


def test_of_records_with_one_id_the_latest_counts(tmp_path: Path) -> None:
    bad = record_rows("a", [2, 3], error="image_unavailable", image_key="first")
    first(tmp_path, *shard("a", record_rows("a", [1], image_key="first"), bad))
    follow(tmp_path, 1, AGAIN, *shard("a", record_rows("a", [2], image_key="second")))
    follow(tmp_path, 2, AGAIN, *shard("a", record_rows("a", [2], error="model_failed", image_key="third")))
    assert seen(tmp_path) == [(1, "first"), (2, "third"), (3, "first")]


def test_a_condition_is_applied_to_the_records_that_count(tmp_path: Path) -> None:
    first(tmp_path, *shard("a", record_rows("a", [1, 2], error="image_unavailable", image_key="first")))
    follow(tmp_path, 1, AGAIN, *shard("a", record_rows("a", [1], image_key="second")))
    failed = pc.field("status") == "error"
    assert seen(tmp_path, failed) == [(2, "first")]
    assert seen(tmp_path, ~failed) == [(1, "second")]


def test_a_run_that_is_not_complete_does_not_count(tmp_path: Path) -> None:
    first(tmp_path, *shard("a", record_rows("a", [1], image_key="first")))
    run = follow(tmp_path, 1, AGAIN, *shard("a", record_rows("a", [1], image_key="second")))
    Path(run.path, "_SUCCESS").unlink()
    assert seen(tmp_path) == [(1, "first")]
    chain = Chain.open(str(tmp_path))
    assert list(chain.runs) == ["", "followups/0001"]
    assert list(chain.complete()) == [""]


def test_a_missing_prompt_is_left_out_once_the_image_has_one(tmp_path: Path) -> None:
    missing = [record_rows("a", [number], error="prompt_missing", image_id=number * 10) for number in (1, 2)]
    other = record_rows("a", [3], error="image_corrupt", image_id=30)
    first(tmp_path, *shard("a", *missing, other))
    new = [record_rows("a", [number], image_id=number // 10 * 10) for number in (11, 12, 31)]
    follow(tmp_path, 1, INCREMENTAL, *shard("a", *new))
    assert [number for number, _ in seen(tmp_path)] == [2, 3, 11, 12, 31]


def test_the_unread_rest_of_a_shard_is_left_out_once_it_was_read_again(tmp_path: Path) -> None:
    rest = [record_rows(name, [number], error="shard_unreadable") for number, name in ((1, "a"), (2, "b"))]
    first(tmp_path, *shard("a", rest[0]), *shard("b", rest[1]))
    follow(tmp_path, 1, AGAIN, *shard("a", record_rows("a", [5])), ledger_row("c", []))
    assert [number for number, _ in seen(tmp_path)] == [2, 5]


def test_prompts_without_image_are_those_of_the_last_run_over_the_input(tmp_path: Path) -> None:
    def unmatched(*numbers: int) -> list[pa.Table]:
        return shard(UNMATCHED_PROMPTS, record_rows(UNMATCHED_PROMPTS, numbers, error="image_missing"))

    first(tmp_path, *shard("a", record_rows("a", [1])), *unmatched(7, 8))
    follow(tmp_path, 1, AGAIN, *shard("a", record_rows("a", [1])))
    assert [number for number, _ in seen(tmp_path)] == [1, 7, 8]
    follow(tmp_path, 2, INCREMENTAL, *shard("b", record_rows("b", [2])), *unmatched(8))
    assert [number for number, _ in seen(tmp_path)] == [1, 2, 8]
    follow(tmp_path, 3, INCREMENTAL, *shard("c", record_rows("c", [3])))
    assert [number for number, _ in seen(tmp_path)] == [1, 2, 3]


@pytest.mark.parametrize("seed", range(3))
def test_in_any_chain_each_id_counts_once_and_from_the_last_run_that_holds_it(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    expected: dict[int, str] = {}
    for number in range(4):
        ids = sorted(dice.sample(range(30), dice.randrange(20)))
        split = dice.randrange(len(ids) + 1)
        key: dict[str, Any] = {"image_key": str(number)}
        tables = [
            *shard("a", record_rows("a", ids[:split], **key)),
            *shard("b", record_rows("b", ids[split:], error="model_failed", **key)),
        ]
        run = first(tmp_path, *tables) if number == 0 else follow(tmp_path, number, AGAIN, *tables)
        if number and dice.random() < 0.3:
            Path(run.path, "_SUCCESS").unlink()
        else:
            expected |= dict.fromkeys(ids, str(number))
    assert seen(tmp_path) == sorted(expected.items())


def test_one_table_of_what_counts_without_alphas(tmp_path: Path) -> None:
    bad = record_rows("a", [2], error="image_unavailable")
    first(tmp_path, *shard("a", record_rows("a", [1], label="cat"), bad))
    follow(tmp_path, 1, AGAIN, *shard("a", record_rows("a", [2], label="dog")))
    chain = Chain.open(str(tmp_path))
    assert write(chain, str(tmp_path.with_suffix(".parquet"))) == 2
    frame = pd.read_parquet(tmp_path.with_suffix(".parquet"))
    assert list(frame.columns) == [name for name in RECORDS.names if name != "alpha"]
    assert sorted(zip(frame["record_id"], frame["status"], strict=True)) == [(1, "ok"), (2, "ok")]
    assert write(chain, str(tmp_path.with_suffix(".dogs")), "label == 'dog'") == 1
    assert pq.read_table(tmp_path.with_suffix(".dogs"))["record_id"].to_pylist() == [2]
    with pytest.raises(ConfigurationError, match="no column"):
        write(chain, str(tmp_path.with_suffix(".none")), "colour == 'red'")
    assert not (tmp_path / "none.parquet").exists()


def correct(output: Path, number: int, run_id: str, **columns: Any) -> None:
    """Adds a review of a record, whose corrected alpha is as light as its id."""
    alpha = {"bytes": gray_png(number), "path": None}
    row = {"record_id": number, "reviewed_run_id": run_id, "review_id": "1", "alpha": alpha, "verdict": "accept"}
    write_reviews(str(output), pa.Table.from_pylist([row | columns], schema=REVIEWS))


def test_reviews_are_laid_over_the_records_they_are_about(tmp_path: Path) -> None:
    run = first(tmp_path, *shard("a", record_rows("a", range(1, 30), run_id="first", coverage=0.5)))
    again = follow(tmp_path, 1, AGAIN, *shard("a", record_rows("a", [4, 5], run_id="second")))
    assert run.run_id != again.run_id
    correct(tmp_path, 3, "first", edited_pixels=48)
    correct(tmp_path, 4, "first")  # of a record that was made anew since
    correct(tmp_path, 5, "second", coverage=0.9)
    chain = Chain.open(str(tmp_path))
    seen = chain.records(["verdict", "alpha", "record_id", "edited_pixels"], reviews=True)
    assert seen.column_names == ["verdict", "alpha", "record_id", "edited_pixels"]
    rows = {row["record_id"]: row for row in seen.to_pylist()}
    assert len(rows) == len(seen) == 29
    assert {number for number, row in rows.items() if row["verdict"]} == {3, 5}
    assert {number for number, row in rows.items() if row["alpha"]["bytes"] != gray_png()} == {3, 5}
    assert rows[5]["alpha"]["bytes"] == gray_png(5)
    assert rows[3]["edited_pixels"] == 48
    plain = chain.records(["record_id", "alpha"])
    assert {row["alpha"]["bytes"] for row in plain.to_pylist()} == {gray_png()}
    kept = chain.records(["record_id", "coverage", "verdict"], pc.field("record_id") == 3, reviews=True)
    assert kept.to_pylist() == [{"record_id": 3, "coverage": 0.5, "verdict": "accept"}]


def test_without_reviews_their_columns_are_empty(tmp_path: Path) -> None:
    first(tmp_path, *shard("a", record_rows("a", [1, 2])))
    seen = Chain.open(str(tmp_path)).records(REVIEWS.names, reviews=True)
    assert seen.schema.names == REVIEWS.names
    assert all(seen[name].null_count == 2 for name in REVIEW_COLUMNS)
    assert seen["alpha"].null_count == 0


def test_the_table_shows_reviews_on_request(tmp_path: Path) -> None:
    first(tmp_path, *shard("a", record_rows("a", [1, 2], run_id="first")))
    correct(tmp_path, 2, "first", verdict="reject", reviewer="ann")
    chain = Chain.open(str(tmp_path))
    assert write(chain, str(tmp_path.with_suffix(".parquet")), reviewed=True) == 2
    rows = pq.read_table(tmp_path.with_suffix(".parquet")).to_pylist()
    assert "alpha" not in rows[0]
    assert {row["record_id"]: (row["verdict"], row["reviewer"]) for row in rows} == {
        1: (None, None),
        2: ("reject", "ann"),
    }


def test_a_damaged_data_file_is_named_with_what_to_do(tmp_path: Path) -> None:
    run = first(tmp_path, *shard("a", record_rows("a", [1, 2])))
    (data,) = Path(run.path, "records").glob("*.parquet")
    data.write_bytes(data.read_bytes()[:-20])
    with pytest.raises(PipelineError, match=r"data file.*jobs/runs\.py redo"):
        Chain.open(str(tmp_path)).records(["record_id"])


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([(1, 5), (1, 3), (2, 1)], [0, 2]),
        ([(1, 3), (1, 5), (2, 1)], [1, 2]),
        ([(1, 3), (2, 1), (1, 3)], [1, 2]),  # labelled at the same time: that of the output named last
        ([(1, None), (1, 3), (1, None)], [1]),
        ([(1, None), (1, None)], [1]),
        ([], []),
    ],
)
def test_over_several_outputs_the_record_labelled_last_counts(
    rows: list[tuple[int, int | None]], expected: list[int]
) -> None:
    schema = pa.schema([RECORDS.field(name) for name in ("record_id", "labelled_at")])
    table = pa.table([[row[at] for row in rows] for at in (0, 1)], schema=schema)
    assert np.flatnonzero(counting(table)).tolist() == expected


@pytest.mark.parametrize("name", ["run.json", "records/x.parquet", "latest.parquet"])
def test_the_table_is_never_written_among_the_files_of_the_output(tmp_path: Path, name: str) -> None:
    first(tmp_path / "out", *shard("a", record_rows("a", [1])))
    with pytest.raises(ConfigurationError, match="lies within"):
        write(Chain.open(str(tmp_path / "out")), str(tmp_path / "out" / name))
    assert Chain.open(str(tmp_path / "out")).records(["record_id"])["record_id"].to_pylist() == [1]
    assert write(Chain.open(str(tmp_path / "out")), str(tmp_path / "out.parquet")) == 1
