"""Which objects go to reviewers, in which order, and that their records and originals come along."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.curation.schema import DECISIONS
from pipeline.errors import ConfigurationError, PipelineError
from pipeline.originals import Unavailable, read_originals
from pipeline.review import select
from pipeline.review.schema import REVIEWS
from pipeline.review.store import write_reviews
from pipeline.stages.records import encode_png
from support.review_run import data_file, double_record, review_run, soft_alpha


@pytest.fixture
def output(tmp_path: Path) -> str:
    return review_run(tmp_path).path


@pytest.mark.parametrize("folder", ["run/reviews", "./run/a/../b", "link/x", "run/x/"])
def test_a_folder_within_an_output_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with pytest.raises(ConfigurationError, match="lies within"):
        select.check_folder(folder, ["other", str(tmp_path / "run")])
    select.check_folder("run-reviews", ["run"])
    select.check_folder("run/../x", ["run"])


def test_an_address_within_an_output_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="lies within"):
        select.check_folder("s3://bucket/run/reviews", ["s3://bucket/run/"])
    select.check_folder("s3://bucket/run2", ["s3://bucket/run"])


def numbers(selection: select.ReviewSelection) -> list[int]:
    return [each.record_id for each in selection.objects]


def review(output: str, number: int, run_id: str, verdict: str | None, **columns: Any) -> None:
    row = {"record_id": number, "reviewed_run_id": run_id, "review_id": verdict, "verdict": verdict, **columns}
    write_reviews(output, pa.Table.from_pylist([row], schema=REVIEWS))


def run_id(output: str) -> str:
    return str(select.choose([output]).objects[0].run_id)


def decide(folder: Path, *rows: dict[str, Any]) -> str:
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=DECISIONS), folder / "decisions.parquet")
    return str(folder)


def test_the_worst_come_first_then_the_least_definite_without_a_prediction(output: str) -> None:
    assert numbers(select.choose([output])) == [3, 2, 1, 4, 5]
    assert numbers(select.choose([output], limit=2)) == [3, 2]
    assert numbers(select.choose([output], where="label == 'cat' or predicted_mad > 0.02")) == [3, 2]


def test_what_has_a_verdict_does_not_come_again_unless_it_is_to_be_fixed(output: str) -> None:
    run = run_id(output)
    review(output, 3, run, "accept")
    review(output, 2, run, "fix")
    review(output, 1, run, None)
    review(output, 4, "another run", "reject")  # the record was made anew since
    selection = select.choose([output])
    assert numbers(selection) == [2, 1, 4, 5]
    assert selection.reviewed == 1
    assert numbers(select.choose([output], again=True)) == [3, 2, 1, 4, 5]


def test_of_an_object_in_two_outputs_the_last_one_counts(tmp_path: Path, output: str) -> None:
    other = review_run(tmp_path / "other").path
    selection = select.choose([output, other])
    assert len(selection.objects) == 5
    assert {each.output for each in selection.objects} == {other}


def test_of_an_object_in_two_outputs_the_one_labelled_last_counts_whatever_is_asked_of_it(
    tmp_path: Path, output: str
) -> None:
    later = review_run(tmp_path / "later", labelled_at=datetime(2027, 1, 1, tzinfo=UTC), label="dog").path
    for order in ([output, later], [later, output]):
        assert {each.output for each in select.choose(order).objects} == {later}
        assert numbers(select.choose(order, where="label == 'cat'")) == []  # only in what is superseded
        assert numbers(select.choose(order, where="predicted_mad > 0.02")) == [3, 2]


def test_an_output_named_twice_is_one(output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(output).parent)
    assert {each.output for each in select.choose([output, "run", "./run", f"{output}/"]).objects} == {output}


def test_of_a_record_that_is_there_twice_the_later_row_is_shown_and_others_keep_their_alphas(tmp_path: Path) -> None:
    run = review_run(tmp_path)
    alpha = encode_png(soft_alpha(9))
    double_record(run, 3, alpha)
    found = {item.record["record_id"]: item for item in select.review_items(select.choose([run.path]).objects)}
    assert len(found) == 5
    assert found[3].record["alpha"]["bytes"] == alpha
    for number in (1, 2, 4):
        assert found[number].record["alpha"]["bytes"] == encode_png(soft_alpha(number))


def test_a_damaged_data_file_says_what_to_do(tmp_path: Path) -> None:
    run = review_run(tmp_path)
    objects = select.choose([run.path]).objects
    path = data_file(run)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(PipelineError, match=r"a data file can't be read .*jobs/runs\.py reconcile"):
        list(select.review_items(objects))
    with pytest.raises(PipelineError, match=r"a data file can't be read .*jobs/runs\.py reconcile"):
        select.choose([run.path])


def test_originals_are_fetched_only_where_they_are_needed(output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def watched(uris: Iterable[str], max_pixels: int) -> Iterator[Any]:
        asked.extend(uris)
        return read_originals(asked, max_pixels)

    monkeypatch.setattr(select, "read_originals", watched)
    objects = select.choose([output]).objects
    without = list(select.review_items(objects, originals=False))
    assert asked == []
    assert [item.record["record_id"] for item in without] == [3, 2, 1, 4, 5]
    assert {item.image for item in without} == {Unavailable("it was not fetched")}
    assert all(isinstance(item.image, bytes) for item in select.review_items(objects))
    assert len(asked) == 5


def test_decisions_are_followed_by_rank(tmp_path: Path, output: str) -> None:
    run = run_id(output)
    common = {"output": output, "run_id": run, "decision": "review"}
    review(output, 5, run, "accept")
    folder = decide(
        tmp_path / "decided",
        common | {"record_id": 1, "rank": 1, "reason": "quality 0.31 < 0.5"},
        common | {"record_id": 4, "rank": 0},
        common | {"record_id": 5, "rank": 2},
        common | {"record_id": 2, "rank": 3, "run_id": "an older one"},
        common | {"record_id": 77, "rank": 4},
        common | {"record_id": 3, "decision": "accept"},
    )
    selection = select.choose_decided(folder)
    assert numbers(selection) == [4, 1]
    assert (selection.reviewed, selection.outdated) == (1, 2)
    assert selection.objects[1].reason == "quality 0.31 < 0.5"
    assert numbers(select.choose_decided(folder, limit=1)) == [4]
    assert numbers(select.choose_decided(folder, again=True)) == [4, 1, 5]
    assert numbers(select.choose_decided(folder, where="definiteness < 0.2")) == [1]
    with pytest.raises(ConfigurationError, match=r"decisions\.parquet isn't there"):
        select.choose_decided(str(tmp_path))


def test_records_come_with_their_originals_in_order(output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "CHUNK", 2)
    (Path(output).parent / "pictures/4.jpg").unlink()
    items = list(select.review_items(select.choose([output]).objects))
    assert [item.rank for item in items] == [0, 1, 2, 3, 4]
    assert [item.record["record_id"] for item in items] == [3, 2, 1, 4, 5]
    assert items[1].record["alpha"]["bytes"] == encode_png(soft_alpha(2))
    assert items[1].image == items[2].image == (Path(output).parent / "pictures/1.jpg").read_bytes()
    assert isinstance(items[3].image, Unavailable)


def test_a_reviewed_object_comes_with_the_alpha_that_counts(output: str) -> None:
    corrected = {"bytes": encode_png(soft_alpha(9)), "path": None}
    review(output, 3, run_id(output), "accept", alpha=corrected)
    (item,) = select.review_items(select.choose([output], limit=1, again=True).objects)
    assert item.record["alpha"] == corrected
    assert item.record["run_id"] == "reviews/0001"
