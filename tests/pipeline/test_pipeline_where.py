"""Conditions on records: what they select, and that nothing else can be said in them."""

import math
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.errors import ConfigurationError, ErrorCode
from pipeline.schema import RECORDS
from pipeline.where import of_codes, parse

ROWS: list[dict[str, Any]] = [
    {"record_id": 1, "label": "cat", "quality": 0.25, "transparent": True, "status": "ok", "input_width": 64},
    {"record_id": 2, "label": "glass", "quality": 0.75, "transparent": False, "status": "ok", "input_width": 512},
    {"record_id": 3, "label": None, "quality": None, "transparent": None, "status": "error", "error_code": "a'b"},
    {"record_id": -(2**63), "label": "cat", "quality": math.nan, "status": "error", "error_code": "image_corrupt"},
]
TABLE = pa.Table.from_pylist(ROWS, schema=RECORDS)


def selected(text: str) -> list[int]:
    """Numbers of the rows that meet a condition."""
    numbered = TABLE.append_column("number", pa.array([1, 2, 3, 4]))
    found: list[int] = numbered.filter(parse(text))["number"].to_pylist()
    return found


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("label == 'cat'", [1, 4]),
        ('label == "cat"', [1, 4]),
        ("quality < 0.5", [1]),
        ("quality <= 0.25", [1]),
        ("quality > 0.5", [2]),
        ("quality >= 0.75", [2]),
        ("quality < 1", [1, 2]),
        ("label in ('cat', 'dog')", [1, 4]),
        ("label in ['glass']", [2]),
        ("input_width == 64", [1]),
        ("quality > -1", [1, 2]),
        ("record_id == -9223372036854775808", [4]),
        ("record_id in (1, 2)", [1, 2]),
        ("transparent", [1]),
        ("transparent == True", [1]),
        ("transparent == False", [2]),
        ("quality < 0.5 and label == 'cat'", [1]),
        ("quality < 0.5 or label == 'glass'", [1, 2]),
        ("label == 'glass' or label == 'cat' and quality < 0.5", [1, 2]),
        ("(label == 'glass' or label == 'cat') and quality < 0.5", [1]),
        ("  status == 'error'\n", [3, 4]),
        ("""error_code == "a'b" """, [3]),
    ],
)
def test_what_conditions_select(text: str, rows: list[int]) -> None:
    assert selected(text) == rows


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("quality is None", [3]),
        ("quality is not None", [1, 2, 4]),
        ("label != 'cat'", [2]),  # a missing label is neither a cat nor not one
        ("not (label == 'cat')", [2, 3]),
        ("label not in ('cat',)", [2, 3]),
        ("not (quality < 0.5)", [2, 3, 4]),
        ("not transparent", [2, 3, 4]),
        ("not (transparent == True)", [2, 3, 4]),
        ("quality < 0.5 or quality is None", [1, 3]),
    ],
)
def test_what_becomes_of_missing_values(text: str, rows: list[int]) -> None:
    assert selected(text) == rows


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "can't be parsed"),
        ("label ==", "can't be parsed"),
        ("label = 'cat'", "can't be parsed"),
        ("x = 1; y", "can't be parsed"),
        ("label\0", "can't be parsed"),
        ("\ud800", "can't be parsed"),
        ("(" * 5000, "can't be parsed"),
        ("not " * 2400 + "transparent", "can't be parsed"),
        ("label == 'x' or " * 700 + "transparent", "too long"),
        ("colour == 'red'", "'colour' is no column; columns are record_id, "),
        ("alpha is None", "'alpha' is no column"),
        ("prompt_mask == 'x'", "'prompt_mask' is no column"),
        ("label", "'label' is no comparison"),
        ("quality", "'quality' is no comparison"),
        ("'cat' == label", "is no column"),
        ("label == status", "is no number and no string"),
        ("0 < quality < 1", "is no comparison"),
        ("quality + 1 < 2", "is no column"),
        ("label == b'cat'", "is no number and no string"),
        ("label == 1j", "is no number and no string"),
        ("label == None", "is no number and no string"),
        ("label is 'cat'", "can't be compared like that"),
        ("label in 'cat'", "can't be compared like that"),
        ("label in (status,)", "is no number and no string"),
        ("label < 3", "compares what can't be compared"),
        ("label in ()", "compares what can't be compared"),
        ("label in ('a', 1)", "compares what can't be compared"),
        ("label in (1, 2)", "compares what can't be compared"),
        ("quality < 'low'", "compares what can't be compared"),
        ("image_notes == 'x'", "compares what can't be compared"),
        ("prompt_box in ('x',)", "compares what can't be compared"),
        ("record_id == 99999999999999999999", "compares what can't be compared"),
        ("record_id in (99999999999999999999,)", "compares what can't be compared"),
    ],
)
def test_what_is_no_condition_is_refused_with_a_reason(text: str, reason: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse(text)
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 1500


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').mkdir('{path}')",
        "label == __import__('os').mkdir('{path}')",
        "[x for x in ().__class__.__bases__[0].__subclasses__()]",
        "label in (__import__('os').mkdir('{path}'),)",
        "(lambda: __import__('os').mkdir('{path}'))()",
        "label == f\"{{__import__('os').mkdir('{path}')}}\"",
        "(label := 'x') == 'x'",
        "record_id == 9**9**9",
    ],
)
def test_nothing_is_executed(text: str, tmp_path: Any) -> None:
    with pytest.raises(ConfigurationError):
        parse(text.format(path=tmp_path / "made"))
    assert not (tmp_path / "made").exists()


_WORDS = st.sampled_from(
    [
        *RECORDS.names,
        *("and", "or", "not", "in", "is", "None", "True", "==", "!=", "<", ">=", "(", ")", "[", "]", ","),
        *("1", "-1", "0.5", "1e999", "'cat'", '"', "'", "9" * 30, ":", "=", "lambda", "\n", "#", "\\", "ä", "\0"),
    ]
)


@given(st.one_of(st.text(max_size=60), st.lists(_WORDS, max_size=12).map(" ".join)))
@example("quality < 1e999")
@example("labelled_at > '2026-01-01'")
@example("labelled_at == 5")
@example("transparent < 1.5")
@example("image_notes in ()")
@example("quality in (1, 0.5)")
@example("quality in (True, 0.5)")
def test_any_text_is_a_condition_or_a_fault_of_the_configuration(text: str) -> None:
    try:
        condition = parse(text)
    except ConfigurationError:
        return
    assert len(TABLE.filter(condition)) <= len(TABLE)


_ATOMS = st.sampled_from(
    ["label == 'cat'", "quality < 0.5", "quality is None", "transparent", "record_id in (1, 3)", "label != 'cat'"]
)
_CONDITIONS = st.recursive(
    _ATOMS,
    lambda inner: st.one_of(
        inner.map(lambda text: f"not ({text})"),
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(lambda parts: f"({' '.join(parts)})"),
    ),
    max_leaves=6,
)


@given(_CONDITIONS)
def test_every_row_meets_a_condition_or_its_opposite(text: str) -> None:
    assert sorted(selected(text) + selected(f"not ({text})")) == [1, 2, 3, 4]


def test_codes() -> None:
    assert of_codes("all") == 'status == "error"'
    assert selected(of_codes("image_corrupt")) == [4]
    assert selected(of_codes(" image_corrupt, image_missing,")) == [4]
    assert selected(of_codes(",".join(ErrorCode))) == [4]
    for wrong in ("", ",", "image_corrupted", "all,image_corrupt", "IMAGE_CORRUPT"):
        with pytest.raises(
            ConfigurationError, match=r"unknown error code .*; known are all, transient, shard_unreadable, "
        ):
            of_codes(wrong)
