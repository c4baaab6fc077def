import base64
import json
import math
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.prompts import (
    MAX_BYTES,
    MAX_PROMPTS,
    RawPrompt,
    from_values,
    parse_line,
    parse_lines,
    parse_list,
    parse_prompt,
    raw_prompt,
)
from support.auditing import HEIGHT, WIDTH, audited, png, refused

# --- files -----------------------------------------------------------------------------------------------------------


def test_json_lines_of_any_dialect():
    data = b'\xef\xbb\xbf{"box": [1, 2, 3, 4]}\r\n\r\n  \n{"label": "caf\xc3\xa9\xe2\x80\xa8", "points": [[1, 2]]}'
    first, second = parse_lines(data, "a.jsonl")
    assert first == RawPrompt({"box": [1, 2, 3, 4]}, "a.jsonl line 1")
    assert second == RawPrompt({"label": "café\u2028", "points": [[1, 2]]}, "a.jsonl line 4")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"box": [1, 2, 3', "not valid JSON"),
        (b"[1, 2, 3, 4]", "must be an object"),
        (b"null", "must be an object"),
        (b'"\xff"', "not UTF-8"),
        (b'{"box": [' + b"1" * 5000 + b", 2, 3, 4]}", "not valid JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"mask": ' + b"[" * 40 + b"1" + b"]" * 40 + b"}", "nested too deeply"),
    ],
)
def test_malformed_lines_keep_their_place(line, reason):
    good = b'{"box": [1, 2, 3, 4]}'
    first, bad, last = parse_lines(b"\n".join([good, line, good]), "a.jsonl")
    assert first.fault is None
    assert last == RawPrompt({"box": [1, 2, 3, 4]}, "a.jsonl line 3")
    assert reason in bad.fault
    assert bad.content == parse_line(line, "elsewhere").content  # its id depends on the text alone
    prompt = parse_prompt(bad, 1)
    assert (prompt["kind"], prompt["error_code"]) == (None, "prompt_malformed")
    assert prompt["error_message"].startswith("a.jsonl line 2: ")
    json.dumps(prompt).encode()


def test_lists():
    assert [raw.content for raw in parse_list(b'[{"box": [1, 2, 3, 4]}, {}]', "a")] == [{"box": [1, 2, 3, 4]}, {}]
    assert parse_list(b"[]", "a") == []
    assert "expected a list" in parse_list(b'{"box": [1, 2, 3, 4]}', "a")[0].fault
    assert "not valid JSON" in parse_list(b"[", "a")[0].fault
    assert parse_list("[7]", "a")[0].where == "a prompt 1"


@pytest.mark.parametrize(
    ("parse", "data"),
    [
        (parse_lines, b"0\n" * 2_000_000),
        (parse_list, b"[" + b"0," * 2_000_000 + b"0]"),
        (parse_list, "\n[" + "{} ,\n" * 2_000_000 + "{}]"),
        (parse_list, b"[" + b"0," * 2_000_000),  # breaks off behind what is looked at
        (from_values, [0] * 2_000_000),
    ],
    ids=["lines", "list", "text", "broken", "values"],
)
def test_millions_of_prompts_are_one_malformed_one_and_cost_next_to_nothing(parse, data):
    tracemalloc.start()
    start = time.process_time()
    try:
        (raw,) = parse(data, "a.jsonl")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert time.process_time() - start < 2  # traced; a fifth of it otherwise
    assert peak < 40 * 2**20
    prompt = parse_prompt(raw, 1)
    assert prompt["error_code"] == "prompt_malformed"
    assert prompt["error_message"].startswith("a.jsonl: ")
    assert "more than 100000" in prompt["error_message"]
    assert "leave out" in prompt["error_message"]


def test_as_many_prompts_as_are_allowed_are_read():
    numbered = parse_lines(b"\n{}" * MAX_PROMPTS + b"\n \r\n", "a")
    assert (len(numbered), numbered[-1].where) == (MAX_PROMPTS, f"a line {MAX_PROMPTS + 1}")
    assert len(parse_list(b"[" + b"{}," * (MAX_PROMPTS - 1) + b"{}]", "a")) == MAX_PROMPTS
    (list_of_one,) = parse_list(b'[{"points": [' + b"0," * MAX_PROMPTS + b"0]}]", "a")  # commas, but no prompts
    assert list_of_one.fault is None


@pytest.mark.parametrize("parse", [parse_lines, parse_list])
def test_prompts_of_too_many_bytes_are_not_parsed(parse):
    (raw,) = parse(b" " * (MAX_BYTES + 1), "a")
    assert f"may have {MAX_BYTES}" in raw.fault
    assert parse(b"[" + b" " * (MAX_BYTES - 2) + b"]", "a")[0:1] != [raw]


def test_nulls_are_as_good_as_nothing():
    raw = raw_prompt({"box": [1, 2, 3, 4], "points": None, "mask": None, "label": None}, "")
    assert raw.content == {"box": [1, 2, 3, 4]}
    assert raw_prompt({"mask": {"png": b"x", "size": None}}, "").content == {"mask": {"png": b"x"}}


# --- fields ----------------------------------------------------------------------------------------------------------


def test_all_fields():
    prompt = audited({"id": 17, "label": "cat\ud800", "score": 1, "transparent": True, "box": [1, 2.5, 30, 20]})
    assert prompt == {
        "record_id": 5,
        "kind": "box",
        "id": "17",
        "label": "cat\\ud800",
        "score": 1.0,
        "transparent": True,
        "box": [1.0, 2.5, 30.0, 20.0],
        "points": None,
        "mask": None,
        "repairs": [],
        "error_code": None,
        "error_message": None,
    }


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, "neither"),
        ({"box": [1, 2, 3, 4], "mask": "a.png"}, "box and mask"),
        ({"box": [1, 2, 3, 4], "bbox": [1, 2, 3, 4]}, "unknown key 'bbox'"),
        ({"box": [1, 2, 3, 4], "image": "a.jpg"}, "separate prompt files only"),
        ({"box": "1,2,3,4"}, "four numbers"),
        ({"box": ["1", "2", "3", "4"]}, "four numbers"),
        ({"box": [1, 2, 3]}, "four numbers"),
        ({"box": [1, None, 3, 4]}, "four numbers"),
        ({"box": [True, 2, 3, 4]}, "four numbers"),
        ({"box": {"x": 1}}, "four numbers"),
        ({"points": []}, "pairs"),
        ({"points": [1, 2]}, "pairs"),
        ({"points": [[1, 2, 3]]}, "pairs"),
        ({"points": [[1, "2"]]}, "pairs"),
        ({"points": "1 2"}, "pairs"),
        ({"points": [[3, 3]] * 1000}, "more than"),
        ({"box": [1, 2, 3, 4], "score": 1.5}, "from 0 to 1"),
        ({"box": [1, 2, 3, 4], "score": "0.5"}, "from 0 to 1"),
        ({"box": [1, 2, 3, 4], "score": math.nan}, "from 0 to 1"),
        ({"box": [1, 2, 3, 4], "label": ["a"]}, "label must be a string"),
        ({"box": [1, 2, 3, 4], "id": True}, "id must be a string"),
        ({"box": [1, 2, 3, 4], "transparent": 1}, "true or false"),
        ({"mask": 7}, "must be a file name"),
        ({"mask": {"rle": "x"}}, "must be a file name"),
        ({"mask": {"png": "x", "size": [1, 2]}}, "must be a file name"),
        ({"mask": {"png": "no base64!"}}, "base64"),
        ({"mask": {"png": base64.b64encode(b"no png").decode()}}, "not a PNG"),
        ({"mask": {"png": base64.b64encode(png(np.zeros((HEIGHT, WIDTH), np.uint8))[:-30]).decode()}}, "damaged"),
        ({"mask": {"size": "30x40", "counts": [1200]}}, r"[height, width]"),
        ({"mask": {"size": [HEIGHT, WIDTH], "counts": [100]}}, "don't add up"),
        ({"mask": {"size": [HEIGHT, WIDTH], "counts": [10**30]}}, "don't add up"),
        ({"mask": {"size": [HEIGHT, WIDTH], "counts": [-5, 1205]}}, "don't add up"),
        ({"mask": {"size": [HEIGHT, WIDTH], "counts": ["1200"]}}, "don't add up"),
        ({"mask": {"size": [HEIGHT, WIDTH], "counts": "\u00ff\u00ff"}}, "damaged"),
        ({"mask": {"size": [HEIGHT, WIDTH], "counts": "o" * 100_000}}, "damaged"),
        ({"mask": {"size": [HEIGHT, WIDTH], "counts": "oo"}}, "middle of a number"),
        ({"mask": {"size": [HEIGHT, WIDTH], "counts": ""}}, "don't add up"),
        ({"mask": {"polygon": []}}, "empty"),
        ({"mask": {"polygon": [[1, 1, 5, 5]]}}, "three points"),
        ({"mask": {"polygon": [[1, 1, 5, 5, 3]]}}, "three points"),
        ({"mask": {"polygon": [1, 1, 5, 5, 3, 3]}}, "three points"),
        ({"mask": {"polygon": [[1, 1, 5, 1e10, 3, 3]]}}, "beyond 1e+09"),
        ({"box": [1, 2, 3, 4], "units": "percent"}, "pixel or normalised"),
        ({"box": [1, 2, 3, 4], "units": ["pixel"]}, "pixel or normalised"),
        ({"box": [1, 2, 3, 4], "image_size": "40x30"}, "[width, height]"),
        ({"box": [1, 2, 3, 4], "image_size": [40]}, "[width, height]"),
        ({"box": [1, 2, 3, 4], "image_size": [40, 0]}, "[width, height]"),
        ({"box": [1, 2, 3, 4], "image_size": [40.5, 30]}, "[width, height]"),
        ({"box": [1, 2, 3, 4], "image_size": [True, 30]}, "[width, height]"),
        ({"mask": {"polygon": [[1.0, 1.0] * 100_001]}}, "vertices"),
    ],
)
def test_what_is_malformed_says_so(content, words):
    code, message = refused(content)
    assert code == "prompt_malformed"
    assert words in message
    assert len(message) < 500


def test_a_malformed_prompt_keeps_what_could_be_read():
    prompt = audited({"id": "7", "label": "cat", "box": "wrong"})
    assert (prompt["kind"], prompt["id"], prompt["label"], prompt["box"]) == ("box", "7", "cat", None)


def test_numbers_stay_as_they_are_until_the_audit():
    prompt = parse_prompt(raw_prompt({"box": [1, math.nan, 10**400, -(10**400)]}, ""), 1)
    assert prompt["error_code"] is None
    assert prompt["box"][0] == 1.0
    assert math.isnan(prompt["box"][1])
    assert prompt["box"][2:] == [math.inf, -math.inf]


@given(st.binary(max_size=40))
def test_any_bytes_are_a_prompt_that_can_be_parsed(data):
    raw = parse_line(data, "a")
    prompt = parse_prompt(raw, 1)
    assert (raw.fault is None) or prompt["error_code"] == "prompt_malformed"
    json.dumps(prompt).encode()
