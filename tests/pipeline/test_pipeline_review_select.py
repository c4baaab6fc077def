"""Which objects go to reviewers, in which order, and that their records and originals come along."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.curation.schema import DECISIONS
from pipeline.errors import ConfigurationError
from pipeline.originals import Unavailable
from pipeline.review import select
from pipeline.review.schema import REVIEWS
from pipeline.review.store import write_reviews
from pipeline.stages.records import encode_png
from support.review_run import review_run, soft_alpha


@pytest.fixture
def output(tmp_path: Path) -> str:
    return review_run(tmp_path).path


def numbers(selection: select.Selection) -> list[int]:
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
    with pytest.raises(ConfigurationError, match=r"decisions\.parquet is not there"):
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
