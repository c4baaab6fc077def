"""Near-duplicates among the images of runs: which is kept, and what becomes of the objects of others."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.curation.images import hexadecimal
from pipeline.ids import show
from support.curation_runs import decided, decisions, failed, outcome, reasons, review, scored, scored_run


def groups(out: Path) -> dict[int, tuple[int | None, bool]]:
    return {row["record_id"]: (row["duplicate_group"], row["representative"]) for row in decisions(out)}


def test_objects_of_the_lesser_image_are_rejected(tmp_path: Path) -> None:
    rows = [
        scored(1, 0.04, image_id=-10, image_phash=0b111),
        scored(2, 0.01, image_id=20, image_phash=0b1000),
        scored(3, 0.02, image_id=20, image_phash=0b1000),
        scored(4, 0.02, image_id=30, image_phash=2**40 - 1),
        scored(5, 0.02, image_id=40, image_phash=None),
        scored(6, 0.02, image_id=50, image_phash=None),
    ]
    scored_run(tmp_path / "run", rows)
    found = decided(tmp_path / "out", tmp_path / "run", accept_above=0)
    assert outcome(tmp_path / "out") == {1: "reject", **dict.fromkeys(range(2, 7), "accept")}
    assert reasons(tmp_path / "out")[1] == f"duplicate of image {show(20)}"
    alone = dict.fromkeys((4, 5, 6), (None, True))
    assert groups(tmp_path / "out") == {1: (0, False), 2: (0, True), 3: (0, True), **alone}
    assert (found.duplicate_groups, found.duplicate_images) == (1, 1)
    assert "1 images nearly equal one that is kept, in 1 groups" in str(found)


def test_they_can_be_kept_or_left_alone(tmp_path: Path) -> None:
    scored_run(tmp_path / "run", [scored(1, 0.04, image_phash=0), scored(2, 0.01, image_phash=3)])
    decided(tmp_path / "out", tmp_path / "run", accept_above=0, on_duplicate="keep")
    assert outcome(tmp_path / "out") == {1: "accept", 2: "accept"}
    assert groups(tmp_path / "out") == {1: (0, False), 2: (0, True)}
    for bits in (None, 1):
        decided(tmp_path / "out", tmp_path / "run", accept_above=0, duplicates=bits)
        assert groups(tmp_path / "out") == {1: (None, True), 2: (None, True)}


def test_objects_of_one_image_are_no_duplicates(tmp_path: Path) -> None:
    rows = [scored(n, image_id=7, image_phash=5) for n in range(3)]
    rows.append(scored(3, image_id=7, image_phash=4))  # its file has changed a little since
    scored_run(tmp_path / "run", rows)
    decided(tmp_path / "out", tmp_path / "run", accept_above=0)
    assert set(outcome(tmp_path / "out").values()) == {"accept"}


def test_the_larger_image_is_kept_of_equal_ones_then_the_lower_id(tmp_path: Path) -> None:
    rows = [
        scored(1, image_phash=0, image_width=50),
        scored(2, image_phash=0, image_width=200),
        scored(3, image_phash=-1),
        scored(4, image_phash=-1),
    ]
    scored_run(tmp_path / "run", rows)
    decided(tmp_path / "out", tmp_path / "run", accept_above=0)
    assert outcome(tmp_path / "out") == {1: "reject", 2: "accept", 3: "accept", 4: "reject"}


def test_errors_and_rejected_mattes_do_not_stand_for_good_ones(tmp_path: Path) -> None:
    run = scored_run(
        tmp_path / "run",
        [
            failed(1, "model_failed", image_phash=0, image_width=900),
            scored(2, None, image_phash=0),
            scored(3, 0.001, image_phash=-1),
            scored(4, 0.05, image_phash=-1),
        ],
    )
    review(run, tmp_path / "run", 3, "reject")
    decided(tmp_path / "out", tmp_path / "run", accept=("coverage > 0",))
    assert outcome(tmp_path / "out") == {1: "reject", 2: "accept", 3: "reject", 4: "accept"}


def test_a_verdict_stands_above_duplicates(tmp_path: Path) -> None:
    run = scored_run(tmp_path / "run", [scored(n, n / 100, image_phash=0) for n in range(1, 5)])
    review(run, tmp_path / "run", 2, "accept")
    review(run, tmp_path / "run", 4, "fix")
    decided(tmp_path / "out", tmp_path / "run", accept_above=0)
    assert outcome(tmp_path / "out") == {1: "reject", 2: "accept", 3: "reject", 4: "review"}
    assert reasons(tmp_path / "out")[1] == f"duplicate of image {show(2)}"


def test_the_same_image_in_two_outputs_is_one_image(tmp_path: Path) -> None:
    scored_run(tmp_path / "a", [scored(1, image_id=7, image_phash=5)])
    scored_run(tmp_path / "b", [scored(2, image_id=7, image_phash=5)])
    decided(tmp_path / "out", tmp_path / "a", tmp_path / "b", accept_above=0)
    assert outcome(tmp_path / "out") == {1: "accept", 2: "accept"}


def test_ids_are_written_as_elsewhere() -> None:
    ids = np.array([0, 1, -1, 2**63 - 1, -(2**63), 0x0123456789ABCDEF])
    assert hexadecimal(ids).to_pylist() == [show(int(number)) for number in ids]
    assert hexadecimal(ids[:0]).type == pa.string()
