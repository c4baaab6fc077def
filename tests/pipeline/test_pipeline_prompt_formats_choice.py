import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import PromptsConfig
from pipeline.errors import ConfigurationError
from pipeline.prompt_formats.choice import Choice
from pipeline.prompts import RawPrompt


def chosen(choice, *contents, faults=()):
    raws = [RawPrompt(content, f"line {n}", n in faults or None) for n, content in enumerate(contents)]
    return [int(raw.where.split()[1]) for raw in choice(raws)]


def scores(*values):
    return [{} if value is None else {"score": value} for value in values]


def test_low_scores_are_left_out():
    choice = Choice(min_score=0.5)
    assert chosen(choice, *scores(0.4, 0.5, None, 0.9, 0)) == [1, 2, 3]


def test_scores_that_are_none_become_error_records():
    nan = float("nan")
    assert chosen(Choice(min_score=0.5), *scores(nan, "0.1", 2)) == [0, 1, 2]
    assert chosen(Choice(), *scores(-3, 0)) == [0, 1]  # logits: the audit refuses them


def test_labels():
    choice = Choice(labels=frozenset({"cat", "7"}))
    assert chosen(choice, {"label": "cat"}, {"label": "dog"}, {"label": 7}, {}) == [0, 2]
    assert chosen(choice, {}, {"label": "dog"}, {"label": "cat"}, faults=(0, 1, 2)) == [0, 2]  # may be a cat


def test_the_best_are_kept_in_the_order_of_the_file():
    choice = Choice(top_k=3)
    assert chosen(choice, *scores(0.1, 0.9, None, 0.5, 0.9)) == [1, 3, 4]
    assert chosen(choice, *scores(0.5, 0.5, 0.5, 0.5)) == [0, 1, 2]
    assert chosen(choice, *scores(None, None, None, None, 0.0)) == [0, 1, 4]
    assert chosen(choice, *scores(None, float("nan"), 7, 0.2)) == [0, 1, 3]
    assert chosen(choice, *scores(0.1)) == [0]
    assert chosen(Choice(min_score=0.3, top_k=1), *scores(0.1, 0.2, None)) == [2]


@given(
    st.lists(st.none() | st.floats(0, 1), max_size=20),
    st.builds(Choice, min_score=st.floats(0, 1), top_k=st.none() | st.integers(1, 5)),
)
def test_choosing_twice_changes_nothing(values, choice):
    raws = [RawPrompt(content, str(n)) for n, content in enumerate(scores(*values))]
    once = choice(raws)
    assert choice(once) == once
    assert len(once) <= (choice.top_k or 20)


def of(categories, wanted, kind="coco"):
    return Choice.of(PromptsConfig(kind=kind, path="x", categories=wanted), categories)


def test_names_and_ids_of_categories():
    known = {"3": "cat", "4": "dog", "cat": "lion"}
    assert of(known, ["dog", "3"]).labels == {"dog", "cat"}
    assert of(known, ["cat"]).labels == {"cat"}  # a name, before an id
    assert of({}, ["3"]).labels == {"3"}
    assert of(None, ["anything"]).labels == {"anything"}
    assert of(known, None).labels is None


def test_unknown_categories_are_named():
    with pytest.raises(ConfigurationError, match=r"unknown \['bird'\].*'cat', 'dog'"):
        of({"3": "cat", "4": "dog"}, ["bird", "dog"])
    with pytest.raises(ConfigurationError, match=r"set prompts\.coco_images"):
        of({}, ["cat"])
    with pytest.raises(ConfigurationError, match=r"set prompts\.class_names"):
        of({}, ["cat"], "yolo")
