import copy
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.prompt_formats.brush import encode_levels
from pipeline.review.items import Returned, ReturnFault
from pipeline.review.label_studio_read import read
from pipeline.review.label_studio_tasks import task_of
from support.brush import packed, rgba
from support.review_items import all_levels, made_item

SHOWN = all_levels(48, 32)
DELETE = object()


def choice(verdict, name="verdict"):
    return {"from_name": name, "to_name": "image", "type": "choices", "value": {"choices": [verdict]}}


def brush(mask=SHOWN, **changes):
    height, width = mask.shape
    value = {"format": "rle", "rle": encode_levels(mask), "brushlabels": ["Matte"]}
    size = {"original_width": width, "original_height": height}
    return {"from_name": "mask", "to_name": "image", "type": "brushlabels", "value": value} | size | changes


def annotation(*results, number=5, updated="2026-03-04T05:06:07.890000Z", **changes):
    common = {"id": number, "completed_by": {"id": 1, "email": "ann@example.org"}, "was_cancelled": False}
    return common | {"result": list(results), "updated_at": updated, "parent_prediction": 3} | changes


def reviewed(*annotations, **columns):
    """A task as the server returns it."""
    task, _ = task_of(made_item(**columns), "embed")
    return task | {"id": 12, "annotations": list(annotations)}


def only(task, **options):
    (one,) = read([task], **options)
    return one


def returned(task):
    one = only(task)
    assert isinstance(one, Returned), one
    return one


def test_a_matte_that_nobody_touched_equals_what_was_shown():
    one = returned(reviewed(annotation(brush(), choice("accept"))))
    np.testing.assert_array_equal(one.mask, SHOWN)
    np.testing.assert_array_equal(one.shown, SHOWN)
    assert (one.record_id, one.run_id, one.tool, one.verdict, one.binary) == (
        *(-(2**63), "2026-run", "label_studio", "accept", False),
    )
    assert (one.reviewer, one.review_id, one.comment) == ("ann@example.org", "5", None)
    assert one.reviewed_at == datetime(2026, 3, 4, 5, 6, 7, 890000, UTC)


def test_run_lengths_of_another_writer_mean_the_same():
    other = brush()
    other["value"]["rle"] = packed(rgba(SHOWN, (1, 2, 3)), literal=lambda at: at % 7 == 0)
    np.testing.assert_array_equal(returned(reviewed(annotation(other))).mask, SHOWN)


def test_regions_are_united_by_their_maximum():
    stroke = np.zeros((32, 48), np.uint8)
    stroke[:, :24] = 100
    np.testing.assert_array_equal(
        returned(reviewed(annotation(brush(), brush(stroke)))).mask, np.maximum(SHOWN, stroke)
    )


def test_an_annotation_that_began_with_the_matte_and_has_none_was_erased():
    one = returned(reviewed(annotation(choice("reject"))))
    assert one.mask is not None
    assert not one.mask.any()
    np.testing.assert_array_equal(one.shown, SHOWN)


def test_an_annotation_that_began_empty_says_nothing_about_the_mask():
    one = returned(reviewed(annotation(choice("accept"), parent_prediction=None)))
    assert (one.mask, one.verdict) == (None, "accept")


def test_without_a_matte_to_begin_with_none_is_erased_and_strokes_are_new():
    empty = {"mask": np.zeros((32, 48), np.uint8)}
    assert returned(reviewed(annotation(choice("accept")), **empty)).mask is None
    one = returned(reviewed(annotation(brush()), **empty))
    np.testing.assert_array_equal(one.mask, SHOWN)
    assert one.shown is not None
    assert not one.shown.any()


def test_what_was_shown_is_found_in_either_place_or_left_to_the_record():
    task = reviewed(annotation(brush(np.zeros_like(SHOWN) + 9)))
    np.testing.assert_array_equal(returned(task).shown, SHOWN)
    moved = copy.deepcopy(task)  # as in an export by the page
    moved["annotations"][0]["prediction"] = moved["predictions"][0]
    moved["predictions"] = [3]
    np.testing.assert_array_equal(returned(moved).shown, SHOWN)
    moved["annotations"][0]["prediction"] = {}
    assert returned(moved).shown is None
    task["predictions"][0]["model_version"] = "another model"
    assert returned(task).shown is None


def test_the_annotation_that_was_changed_last_counts():
    first = annotation(brush(), choice("accept"), number=1, updated="2026-01-05T00:00:00Z")
    second = annotation(choice("reject"), number=2, updated="2026-01-04T23:00:00+02:00")
    skipped = annotation(choice("fix"), number=3, updated="2026-02-01T00:00:00Z", was_cancelled=True)
    for order in ([first, second, skipped], [skipped, second, first]):
        assert returned(reviewed(*order)).review_id == "1"
    assert returned(reviewed(first | {"id": 8}, first | {"id": 9})).review_id == "9"


@pytest.mark.parametrize("annotations", [[], None, [annotation(choice("fix"), was_cancelled=True)]])
def test_tasks_that_nobody_answered_are_passed_over(annotations):
    assert list(read([reviewed() | {"annotations": annotations}])) == []


def test_comments_and_names_are_kept_as_text():
    text = {"from_name": "comment", "type": "textarea", "value": {"text": ["the ear\udcff", "<b>is</b> missing"]}}
    one = returned(reviewed(annotation(brush(), text, completed_by=7)))
    assert (one.comment, one.reviewer, one.verdict) == ("the ear\\udcff\n<b>is</b> missing", "7", None)
    assert returned(reviewed(annotation(completed_by=True))).reviewer is None


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (None, "it is no task with data"),
        ({"id": 3, "verdict": "accept"}, "not as JSON-MIN"),
        (reviewed(annotation()) | {"data": {"image": "a.jpg"}}, "of another project"),
        (reviewed(annotation()) | {"data": {"record_id": 12, "run_id": "r"}}, "of another project"),
        (reviewed(annotation(), record_id=2**63), "ids have 64 bits"),
        (reviewed(annotation()) | {"data": {"record_id": "1", "run_id": "r"}}, "size is not known"),
        (reviewed() | {"annotations": {}}, "annotations are no list"),
        (reviewed({"id": 1}), "has no list of results"),
        (reviewed(annotation(choice("maybe"))), "verdict is .'maybe'.; it must be one of accept, fix, reject"),
        (reviewed(annotation(choice("fix"), choice("accept"))), "it must be one of"),
        (reviewed(annotation(brush(original_width=32, original_height=48))), r"is for \[32, 48\] pixels, .* 48 x 32"),
        (reviewed(annotation(brush(original_width="?"))), "is for None pixels"),
        (reviewed(annotation(brush(value=None))), "has no value"),
        (reviewed(annotation(brush(value={"format": "png"}))), "has the format 'png'"),
        (reviewed(annotation(brush(value={"format": "rle", "touches": [{}]}))), "not submitted"),
        (reviewed(annotation(brush(value={"rle": encode_levels(SHOWN)[:-20]}))), "end too early"),
        (reviewed(annotation(brush(value={"rle": encode_levels(SHOWN[1:])}))), "not for the RGBA values"),
        (reviewed(annotation(brush(value={"rle": "AAAA"}))), "list of numbers"),
    ],
)
def test_what_can_not_be_used_is_named_with_its_task(task, words):
    one = only(task)
    assert isinstance(one, ReturnFault)
    assert one.where == ("task number 1" if task is None else f"task {task['id']}")
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(one.message)


def test_a_fault_costs_its_task_only():
    good = reviewed(annotation(brush()))
    found = list(read([good, {}, good]))
    assert [type(one) for one in found] == [Returned, ReturnFault, Returned]


def test_nothing_large_is_laid_out():
    task = reviewed(annotation(brush(original_width=10**6, original_height=10**6)))
    task["data"] |= {"width": 10**6, "height": 10**6}
    one = only(task)
    assert isinstance(one, ReturnFault)
    assert "more than" in one.message
    assert isinstance(only(reviewed(annotation(brush())), max_pixels=48 * 32 - 1), ReturnFault)
    assert isinstance(only(reviewed(annotation(brush())), max_pixels=48 * 32), Returned)


def _places(value, path=()):
    yield path
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        if key != "rle":
            yield from _places(part, (*path, key))


FULL = reviewed(annotation(brush(), choice("fix")), annotation(brush(), number=6))
PLACES = list(_places(FULL))
JUNK = st.sampled_from(
    [None, True, -1, 0, 1.5, 2**70, float("nan"), float("inf"), "", "x", "9" * 30, [], [None], {}, {"a": []}, DELETE]
)


@given(st.lists(st.tuples(st.sampled_from(PLACES), JUNK), min_size=1, max_size=3))
def test_no_content_raises(changes):
    task = copy.deepcopy(FULL)
    for path, junk in changes:
        place = task
        try:
            for key in path[:-1]:
                place = place[key]
            if path and junk is DELETE:
                del place[path[-1]]
            elif path:
                place[path[-1]] = copy.deepcopy(junk)
            elif junk is not DELETE:
                task = junk
        except (LookupError, TypeError):
            continue
    for one in read([task]):
        assert isinstance(one, Returned | ReturnFault)
        assert not isinstance(one, Returned) or one.mask is None or one.mask.shape == (32, 48)
