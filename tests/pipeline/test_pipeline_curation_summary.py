"""What people read at the end, where input tries to spoil it, and what the file holds."""

import json
from dataclasses import replace

from pipeline.curation.summary import Curated, Stratum

FOUND = Curated(
    out="s3://me:secret@bucket/out",
    faults=(),
    notes=(),
    records=10,
    counts={"accept": 5, "review": 3, "reject": 2},
    reasons=(("accept", "quality >= 0.5", 5), ("review", "quality < 0.5", 3), ("reject", "error: image_corrupt", 2)),
    expected_error=0.01234,
    expected_of=5,
    review_share=0.625,
    without_score=0,
    mismatched=0,
    judged=0,
    duplicate_groups=0,
    duplicate_images=0,
    strata=(),
)


def test_a_curation_without_surprises() -> None:
    assert str(FOUND).splitlines() == [
        "10 records",
        "  accept           5   50.0%",
        "  review           3   30.0%",
        "  reject           2   20.0%",
        "  expected error of what is accepted: 0.0123 (mean predicted MAD)",
        "  the review covers 62% of the error that is expected",
        "",
        "reasons",
        "  accept           5  quality >= 0.5",
        "  review           3  quality < 0.5",
        "  reject           2  error: image_corrupt",
        "written to s3://bucket/out",
    ]
    assert FOUND.complete


def test_long_lists_end() -> None:
    counts = {"accept": 1, "review": 0, "reject": 0}
    many = replace(
        FOUND,
        reasons=tuple(("reject", f"reject: fragments > {n}", 2) for n in range(12)),
        strata=tuple(Stratum(f"label=l{n}", counts, 0.5) for n in range(2000)),
    )
    said = str(many)
    assert "8  for 4 other reasons" in said
    assert "... and 1,980 more strata" in said
    assert len(said.splitlines()) < 50


def test_text_from_outside_stays_on_its_line() -> None:
    spoilt = replace(
        FOUND,
        reasons=(("reject", "reject: label == '\x1b[2J\n'", 1), ("reject", "x" * 10_000, 1)),
        strata=(Stratum('label="' + "y" * 500, {"accept": 0, "review": 0, "reject": 1}, None),),
        notes=("https://host/run?signature=abc is odd",),
    )
    said = str(spoilt)
    assert "\x1b" not in said
    assert "reject: label == '?[2J?'" in said
    assert max(map(len, said.splitlines())) < 140
    assert "signature" not in said


def test_faults_make_it_incomplete() -> None:
    broken = replace(FOUND, faults=("2 records are there twice",))
    assert not broken.complete
    assert "FAULT: 2 records are there twice" in str(broken)


def test_without_any_records() -> None:
    nothing = replace(
        FOUND, records=0, counts=dict.fromkeys(FOUND.counts, 0), reasons=(), expected_error=None, review_share=None
    )
    assert "expected" not in str(nothing)
    assert str(nothing).startswith("0 records\n")


def test_the_file_is_plain_json() -> None:
    about = json.loads(json.dumps(FOUND.to_dict(), allow_nan=False))
    assert about["counts"] == FOUND.counts
    assert about["reasons"][0] == {"decision": "accept", "reason": "quality >= 0.5", "records": 5}
    assert "strata" not in about
