"""Reviews beside runs: files are added and never changed, the same annotation twice adds nothing, and which count."""

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ConfigurationError
from pipeline.review import store
from pipeline.review.schema import REVIEWS
from pipeline.review.store import (
    counting_names,
    counting_reviews,
    known_reviews,
    read_reviews,
    reviews_of,
    shown_reviews,
    write_reviews,
)
from support.run_rows import gray_png

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def review(number: int, verdict: str | None = "accept", minutes: float | None = 0, **columns: Any) -> dict[str, Any]:
    return {
        "record_id": number,
        "run_id": "first",
        "reviewed_run_id": "first",
        "status": "ok",
        "alpha": {"bytes": gray_png(number), "path": None},
        "verdict": verdict,
        "reviewed_at": None if minutes is None else NOON + timedelta(minutes=minutes),
        "review_tool": "label_studio",
        "review_id": f"a{number}",
        "edited_pixels": 0,
        "rematted": False,
        **columns,
    }


def table(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=REVIEWS)


def records(**runs: str) -> pa.Table:
    """Records that count: `r1="first"` is the record 1 of the run `first`."""
    ids = [int(name[1:]) for name in runs]
    return pa.table({"record_id": pa.array(ids, pa.int64()), "run_id": list(runs.values())})


def verdicts(reviews: pa.Table) -> dict[int, str]:
    found = dict(zip(reviews["record_id"].to_pylist(), reviews["verdict"].to_pylist(), strict=True))
    assert len(found) == len(reviews)
    return found


def test_files_are_numbered_and_never_changed(tmp_path: Path) -> None:
    output = str(tmp_path)
    first = write_reviews(output, table(review(1)))
    assert first == f"{output}/reviews/0001.parquet"
    before = Path(first).read_bytes()
    assert write_reviews(output, table(review(1, "reject", minutes=1))) == f"{output}/reviews/0002.parquet"
    assert Path(first).read_bytes() == before
    assert [path.name for path in sorted((tmp_path / "reviews").iterdir())] == ["0001.parquet", "0002.parquet"]


def test_what_was_written_is_read(tmp_path: Path) -> None:
    rows = table(review(1, reviewer="ann", review_comment="veil", edited_pixels=7), review(2, None))
    write_reviews(str(tmp_path), rows)
    read = read_reviews(str(tmp_path))
    assert read.schema == REVIEWS
    assert read.drop(["run_id"]) == rows.drop(["run_id"])
    assert read["run_id"].to_pylist() == ["reviews/0001"] * 2
    assert read_reviews(str(tmp_path), ["verdict", "record_id"]).column_names == ["verdict", "record_id"]
    alphas = read_reviews(str(tmp_path), ["alpha"])["alpha"].to_pylist()
    assert [alpha["bytes"] for alpha in alphas] == [gray_png(1), gray_png(2)]


def test_without_reviews_there_are_none(tmp_path: Path) -> None:
    assert len(read_reviews(str(tmp_path))) == 0
    assert reviews_of(str(tmp_path), records(r1="first")).schema == REVIEWS
    assert known_reviews(str(tmp_path)) == set()


def test_the_file_of_the_last_review_is_named_for_each_run_of_a_record(tmp_path: Path) -> None:
    output = str(tmp_path)
    assert counting_names(output) == {}
    write_reviews(output, table(review(1), review(2)))
    write_reviews(output, table(review(2, minutes=-5), review(1, reviewed_run_id="second", review_id="b")))
    first, second = "reviews/0001", "reviews/0002"
    assert counting_names(output) == {(1, "first"): first, (1, "second"): second, (2, "first"): second}


def test_the_same_annotation_a_second_time_adds_nothing(tmp_path: Path) -> None:
    output = str(tmp_path)
    write_reviews(output, table(review(1), review(2)))
    assert write_reviews(output, table(review(1), review(2))) is None
    assert write_reviews(output, table(review(1), review(2, "reject", minutes=5))) is not None  # changed since
    assert verdicts(read_reviews(output)) == {1: "accept", 2: "reject"}
    assert pq.read_table(tmp_path / "reviews/0002.parquet")["record_id"].to_pylist() == [2]


def test_without_a_time_only_the_last_annotation_is_known(tmp_path: Path) -> None:
    output = str(tmp_path)
    one, other = (review(1, verdict, None, review_id=verdict) for verdict in ("accept", "reject"))
    write_reviews(output, table(one))
    assert write_reviews(output, table(one)) is None
    write_reviews(output, table(other))
    assert write_reviews(output, table(one)) is not None  # changed back
    assert verdicts(read_reviews(output)) == {1: "accept"}


def test_of_several_the_one_of_the_last_file_counts_then_the_latest(tmp_path: Path) -> None:
    output = str(tmp_path)
    write_reviews(output, table(review(1, "reject", 50), review(2, "fix", 9), review(2, "reject", 3, review_id="b")))
    write_reviews(output, table(review(1, "accept", 10)))
    assert verdicts(read_reviews(output)) == {1: "accept", 2: "fix"}


def test_reviews_of_a_record_that_was_made_anew_count_no_more(tmp_path: Path) -> None:
    output = str(tmp_path)
    write_reviews(output, table(review(1, "accept"), review(2, "reject")))
    counting = reviews_of(output, records(r1="first", r2="second", r3="second"), ["record_id", "verdict"])
    assert verdicts(counting) == {1: "accept"}
    assert verdicts(read_reviews(output)) == {1: "accept", 2: "reject"}


def test_a_late_import_about_the_old_record_does_not_hide_a_review_of_the_new_one(tmp_path: Path) -> None:
    output = str(tmp_path)
    write_reviews(output, table(review(1, "accept", reviewed_run_id="second")))
    write_reviews(output, table(review(1, "reject", minutes=9)))
    assert verdicts(reviews_of(output, records(r1="second"))) == {1: "accept"}
    assert verdicts(reviews_of(output, records(r1="first"))) == {1: "reject"}


def shown(output: str, number: int, name: str, run: str = "first") -> dict[str, Any] | None:
    return dict(shown_reviews(output, [(number, name)], {number: run})).get((number, name))


def test_a_review_is_found_by_the_name_of_its_file(tmp_path: Path) -> None:
    output = str(tmp_path)
    write_reviews(output, table(review(1), review(2, "fix")))
    found = shown(output, 2, "reviews/0001")
    assert found is not None
    assert (found["verdict"], found["alpha"]["bytes"]) == ("fix", gray_png(2))
    assert shown(output, 3, "reviews/0001") is None
    assert shown(output, 1, "reviews/0002") is None
    assert shown(output, 1, "reviews/../reviews/0001") is None
    assert shown(output, 1, "20260101-000000-abcdef") is None


def test_of_two_reviews_of_a_record_in_one_file_the_one_that_counts_is_what_was_shown(tmp_path: Path) -> None:
    output = str(tmp_path)
    alphas = [{"bytes": gray_png(level), "path": None} for level in (10, 20, 30)]
    other = review(1, "reject", 99, review_id="c", reviewed_run_id="older", alpha=alphas[2])
    write_reviews(
        output, table(review(1, "fix", 1, alpha=alphas[0]), review(1, "fix", 5, review_id="b", alpha=alphas[1]), other)
    )
    (counting,) = counting_reviews(output, records(r1="first"))
    assert counting["alpha"] == alphas[1]
    assert shown(output, 1, "reviews/0001") == counting
    named = shown(output, 1, "reviews/0001", run="older")
    assert named is not None
    assert named["alpha"] == alphas[2]


def test_of_whole_rows_only_the_row_groups_that_hold_them_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = str(tmp_path)
    monkeypatch.setattr(store, "_GROUP_BYTES", 1)  # a row group each
    write_reviews(output, table(*map(review, range(8))))
    read: list[int] = []

    class Watched(pq.ParquetFile):  # type: ignore[misc]
        def read_row_group(self, group: int, *arguments: Any, **options: Any) -> pa.Table:
            read.append(group)
            return super().read_row_group(group, *arguments, **options)

    monkeypatch.setattr(store.pq, "ParquetFile", Watched)
    asked = [(number, "reviews/0001") for number in (6, 2)]
    assert {number for (number, _), _ in shown_reviews(output, asked, {})} == {2, 6}
    assert read == [2, 6]
    read.clear()
    found = list(counting_reviews(output, records(r3="first", r4="another")))
    assert [row["record_id"] for row in found] == [3]
    assert read == [3]


def test_annotations_without_a_time_are_told_apart_by_what_was_shown(tmp_path: Path) -> None:
    output = str(tmp_path)
    both = table(
        review(1, "fix", None, review_id="a", shown_run_id="first"),
        review(1, "accept", None, review_id="b", shown_run_id="reviews/0001"),
    )
    write_reviews(output, both)
    assert write_reviews(output, both) is None
    assert verdicts(read_reviews(output)) == {1: "accept"}


def test_two_imports_at_once_lose_nothing(tmp_path: Path) -> None:
    output = str(tmp_path)
    threads = [
        threading.Thread(target=write_reviews, args=(output, table(review(number), review(99)))) for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    files = sorted((tmp_path / "reviews").iterdir())
    assert [path.name for path in files] == [f"{number:04d}.parquet" for number in range(1, 9)]
    written = [number for path in files for number in pq.read_table(path)["record_id"].to_pylist()]
    assert sorted(written) == [*range(8), 99]


def test_an_object_store_does_as_well(s3_server: str) -> None:
    boto3.client("s3", endpoint_url=s3_server).create_bucket(Bucket="reviews-store")
    output = "s3://reviews-store/run"
    assert write_reviews(output, table(review(1), review(2))) == f"{output}/reviews/0001.parquet"
    assert write_reviews(output, table(review(1))) is None
    assert write_reviews(output, table(review(1, "fix", minutes=2))) == f"{output}/reviews/0002.parquet"
    assert verdicts(reviews_of(output, records(r1="first", r2="first"))) == {1: "fix", 2: "accept"}
    found = shown(output, 2, "reviews/0001")
    assert found is not None
    assert found["alpha"]["bytes"] == gray_png(2)


@pytest.mark.parametrize("content", [b"", b"PAR1 no", None])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    write_reviews(str(tmp_path), table(review(1)))
    path = tmp_path / "reviews/0001.parquet"
    if content is None:
        pq.write_table(pa.table({"a": [1]}), path)
    else:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"0001\.parquet is no file of reviews, or damaged"):
        read_reviews(str(tmp_path))
