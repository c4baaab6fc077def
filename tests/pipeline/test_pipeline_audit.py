import base64
import math
import re
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.audit import NOTES, without_image
from pipeline.config import AuditConfig, PromptsConfig
from pipeline.errors import ErrorCode, TransientError
from pipeline.ids import record_id
from pipeline.prompts import parse_prompt, raw_prompt
from pipeline.schema import RECORDS
from support.auditing import HEIGHT, WIDTH, audit_all, audited, blob, pixels_of, png, refused

NAN, INFINITY = math.nan, math.inf
STRICT = {name: "error" for name in AuditConfig.model_fields if name != "min_side"}
"""All policies at their strictest."""


def half(*, left=0, right=WIDTH):
    inside = np.zeros((HEIGHT, WIDTH), bool)
    inside[5:25, left:right] = True
    return inside


def in_base64(inside):
    return {"mask": {"png": base64.b64encode(png(inside)).decode()}}


# --- boxes -----------------------------------------------------------------------------------------------------------


def test_good_prompts_are_left_alone_under_any_policy():
    for audit in ({}, STRICT):
        box, points, mask = audit_all(
            {"box": [0, 0, WIDTH, HEIGHT]}, {"points": [[0, 0], [39.9, 29.9]]}, {"mask": png(half())}, audit=audit
        )
        assert (box["box"], points["points"]) == ([0, 0, WIDTH, HEIGHT], [[0, 0], [39.9, 29.9]])
        np.testing.assert_array_equal(pixels_of(mask), half())
        assert [(each["error_code"], each["repairs"]) for each in (box, points, mask)] == [(None, [])] * 3


def test_boxes_are_clipped_and_say_so():
    prompt = audited({"box": [-5, 2, 100, 20.5]})
    assert (prompt["box"], prompt["repairs"]) == ([0, 2, WIDTH, 20.5], ["box_clipped"])
    code, message = refused({"box": [-5, 2, 100, 20.5]}, audit={"out_of_frame": "error"})
    assert code == "prompt_out_of_frame"
    assert "prompts.audit.out_of_frame" in message


def test_rounding_is_no_finding():
    box = {"box": [-0.0000004, 0.1, 1.0000004, 0.9], "units": "normalised"}
    prompt = audited(box, audit=STRICT)
    assert (prompt["box"], prompt["repairs"]) == ([0, 3, WIDTH, 27], [])
    polygon = {"mask": {"polygon": [[0, 0.1, 1.0000004, 0.1, 1.0000004, 0.9, 0, 0.9]]}, "units": "normalised"}
    assert audited(polygon, audit=STRICT)["error_code"] is None


def test_boxes_that_cannot_be_repaired():
    code, message = refused({"box": [100, 100, 120, 120]})
    assert code == "prompt_out_of_frame"
    assert "40 x 30" in message
    assert refused({"box": [WIDTH, 0, WIDTH + 5, 5]})[0] == "prompt_out_of_frame"
    assert audited({"box": [100, 100, 120, 120]})["box"] == [100, 100, 120, 120]  # shown as it was


@pytest.mark.parametrize("box", [[10, 10, 10, 20], [10, 10, 20, 10], [10, 10, 10, 10], [20, 10, 10, 10]])
def test_boxes_without_area_are_always_errors(box):
    assert refused({"box": box})[0] == "prompt_degenerate"
    assert refused({"box": box}, audit=STRICT)[0] == "prompt_degenerate"


@pytest.mark.parametrize("box", [[30, 5, 10, 20], [10, 20, 30, 5], [30, 20, 10, 5]])
def test_corners_in_the_wrong_order_are_sorted(box):
    prompt = audited({"box": box})
    assert (prompt["box"], prompt["repairs"]) == ([10, 5, 30, 20], ["box_swapped"])
    code, message = refused({"box": box}, audit={"swapped": "error"})
    assert code == "prompt_swapped"
    assert "prompts.box" in message


@pytest.mark.parametrize("edge", [NAN, INFINITY, -INFINITY, 10**400])
def test_boxes_that_are_not_finite_are_always_errors(edge):
    assert refused({"box": [1, 2, edge, 4]})[0] == "prompt_not_finite"
    assert audited({"box": [1, 2, edge, 4]})["box"] is None
    assert refused({"box": [1, 2, edge, 4]}, box="xywh")[0] == "prompt_not_finite"


def test_boxes_that_only_their_form_takes_beyond_all_numbers():
    assert refused({"box": [1e308, 2, 1e308, 4]}, box="xywh")[0] == "prompt_not_finite"


def test_tiny_boxes():
    tiny = {"box": [20, 10, 21, 28]}
    prompt = audited(tiny)
    assert (prompt["box"], prompt["repairs"]) == ([20, 10, 21, 28], ["prompt_tiny"])
    prompt = audited(tiny, audit={"tiny": "repair"})
    assert (prompt["box"], prompt["repairs"]) == ([18.5, 10, 22.5, 28], ["box_grown"])
    code, message = refused(tiny, audit={"tiny": "error"})
    assert code == "prompt_tiny"
    assert "1 x 18" in message
    assert audited(tiny, audit={"tiny": "error", "min_side": 1})["error_code"] is None
    assert audited({"box": [20, 10, 24, 14]})["repairs"] == []


def test_tiny_boxes_grow_inside_the_image():
    prompt = audited({"box": [-5, 29, 1, 33]}, audit={"tiny": "repair"})
    assert (prompt["box"], prompt["repairs"]) == ([0, 26, 4, 30], ["box_clipped", "box_grown"])
    prompt = audited({"box": [0, 0, 2, 1]}, size=(2, 20), audit={"tiny": "repair"})
    assert prompt["box"] == [0, 0, 2, 4]
    prompt = audited({"box": [0, 0, 1, 1]}, size=(1, 1), audit={"tiny": "repair"})
    assert (prompt["box"], prompt["repairs"]) == ([0, 0, 1, 1], ["prompt_tiny"])  # there is nowhere to grow to


# --- points ----------------------------------------------------------------------------------------------------------


def test_points_outside_are_dropped():
    points = {"points": [[0, 0], [WIDTH, 5], [39.9, 29.9], [-1, 3]]}
    prompt = audited(points)
    assert (prompt["points"], prompt["repairs"]) == ([[0, 0], [39.9, 29.9]], ["points_dropped"])
    assert refused(points, audit={"out_of_frame": "error"})[0] == "prompt_out_of_frame"
    assert refused({"points": [[WIDTH, 5], [-1, 3]]})[0] == "prompt_out_of_frame"


def test_points_that_are_not_finite_are_dropped():
    points = {"points": [[5, 6], [NAN, 5], [5, INFINITY], [10**400, 1]]}
    prompt = audited(points)
    assert (prompt["points"], prompt["repairs"]) == ([[5, 6]], ["points_dropped"])
    code, message = refused(points, audit={"not_finite": "error"})
    assert code == "prompt_not_finite"
    assert "nan" in message
    assert refused({"points": [[NAN, 5]]})[0] == "prompt_not_finite"


def test_points_on_an_edge_that_a_turn_leads_to_stay_inside():
    """A click on the left edge of a mirrored image is one on its right edge, where the image has ended already."""
    mirrored = audited({"points": [[0, 3]]}, orientation_of_image=2, orientation="stored", audit=STRICT)
    fractions = audited({"points": [[1.0, 0.1]]}, units="normalised", audit=STRICT)
    for prompt in (mirrored, fractions):
        assert prompt["error_code"] is None
        assert prompt["points"][0] == pytest.approx([WIDTH, 3])
        assert prompt["points"][0][0] < WIDTH


# --- masks -----------------------------------------------------------------------------------------------------------


def test_polygons_at_the_edge():
    polygon = {"mask": {"polygon": [[-10, -10, 5, -10, 5, 5, -10, 5]]}}
    assert audited(polygon)["repairs"] == ["mask_clipped"]
    assert refused(polygon, audit={"out_of_frame": "error"})[0] == "prompt_out_of_frame"


@pytest.mark.parametrize("vertex", [NAN, INFINITY, 10**400])
def test_polygons_that_are_not_finite_are_always_errors(vertex):
    assert refused({"mask": {"polygon": [[1, 1, 5, vertex, 3, 3]]}})[0] == "prompt_not_finite"


def test_tiny_masks_are_kept_or_refused():
    thin = np.zeros((HEIGHT, WIDTH), bool)
    thin[10:12, 5:30] = True
    for policy in ("keep", "repair"):
        prompt = audited({"mask": png(thin)}, audit={"tiny": policy})
        assert prompt["repairs"] == ["prompt_tiny"]
        np.testing.assert_array_equal(pixels_of(prompt), thin)
    code, message = refused({"mask": png(thin)}, audit={"tiny": "error"})
    assert code == "prompt_tiny"
    assert "25 x 2" in message


def test_masks_of_several_subjects():
    two = half(right=15) | half(left=25)
    two[5:25, 25:27] = False
    prompt = audited({"mask": png(two)})
    assert prompt["repairs"] == ["several_subjects"]
    np.testing.assert_array_equal(pixels_of(prompt), two)
    prompt = audited({"mask": png(two)}, audit={"several_subjects": "repair"})
    assert prompt["repairs"] == ["largest_part_kept"]
    np.testing.assert_array_equal(pixels_of(prompt), half(right=15))
    code, message = refused({"mask": png(two)}, audit={"several_subjects": "error"})
    assert code == "prompt_several_subjects"
    assert "2 separate parts" in message


def test_specks_and_cracks_make_no_second_subject():
    assert audited({"mask": png(blob())}, audit=STRICT)["error_code"] is None
    cracked = half()
    cracked[:, 20:22] = False
    assert audited({"mask": png(cracked)}, audit=STRICT)["error_code"] is None
    cracked[:, 22] = False
    assert audited({"mask": png(cracked)}, audit=STRICT)["error_code"] == "prompt_several_subjects"
    fifth = half(right=20) | half(left=25, right=29)
    assert audited({"mask": png(fifth)})["repairs"] == []
    quarter = half(right=20) | half(left=25, right=30)
    assert audited({"mask": png(quarter)})["repairs"] == ["several_subjects"]


def test_masks_of_another_size_are_scaled():
    for inside in (half().repeat(2, axis=0).repeat(2, axis=1), half()[::5, ::5].copy()):
        for mask in (png(inside), {"size": [*inside.shape], "counts": _counts(inside)}):
            prompt = audited({"mask": mask})
            assert prompt["repairs"] == ["mask_scaled"]
            np.testing.assert_array_equal(pixels_of(prompt), half())
            code, message = refused({"mask": mask}, audit={"mask_size": "error"})
            assert code == "prompt_size_mismatch"
            assert "prompts.audit.mask_size" in message
    assert refused({"mask": png(np.ones((HEIGHT, HEIGHT), bool))})[0] == "prompt_size_mismatch"


def _counts(inside):
    flat = inside.T.ravel()
    changes = np.flatnonzero(np.diff(flat)) + 1
    return np.diff([0, *([0] if flat[0] else []), *changes, flat.size]).tolist()


def test_masks_of_a_stored_image():
    inside = half(right=15)
    inside[5, 39] = True
    stored = png(np.rot90(inside).copy())  # what orientation 6 turns back, clockwise
    prompt = audited({"mask": stored}, orientation_of_image=6)
    assert prompt["repairs"] == ["mask_rotated"]
    np.testing.assert_array_equal(pixels_of(prompt), inside)
    prompt = audited({"mask": stored}, orientation_of_image=6, orientation="stored", audit=STRICT)
    assert (prompt["error_code"], prompt["repairs"]) == (None, [])
    np.testing.assert_array_equal(pixels_of(prompt), inside)
    prompt = audited({"mask": png(inside[:, ::-1].copy())}, orientation_of_image=2, orientation="stored")
    np.testing.assert_array_equal(pixels_of(prompt), inside)
    code, message = refused({"mask": stored})
    assert code == "prompt_size_mismatch"
    assert "no EXIF orientation" in message


def test_a_store_that_fails_makes_its_prompt_unavailable():
    def failing(name):
        raise TransientError(f"can't read {name}: 503")

    box, mask = audit_all({"box": [1, 2, 30, 20]}, {"mask": "m.png"}, load_mask=failing)
    assert box["error_code"] is None
    assert mask["error_code"] == "prompt_unavailable"
    assert "503" in mask["error_message"]


# --- frame -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [{"box": [10, 5, 30, 20]}, {"points": [[10, 5], [30, 20]]}])
def test_coordinates_of_a_stored_image_are_turned(content):
    (kind,) = content
    prompt = audited(content, size=(HEIGHT, WIDTH), orientation_of_image=6, orientation="stored")
    # 40 x 30 on disk: what is on the left there is on top when it is turned clockwise.
    found = np.array(prompt[kind]).reshape(-1, 2)
    np.testing.assert_array_equal(np.sort(found, axis=0), [[10, 10], [25, 30]])
    assert prompt["repairs"] == []


def test_polygons_of_a_stored_image_are_turned_like_masks():
    ring = [5, 5, 20, 5, 20, 25, 12, 25]
    for orientation in range(1, 9):
        size = (HEIGHT, WIDTH) if orientation >= 5 else (WIDTH, HEIGHT)
        options = {"size": size, "orientation_of_image": orientation, "orientation": "stored"}
        polygon = audited({"mask": {"polygon": [ring]}}, **options)
        drawn = audited({"mask": png(pixels_of(audited({"mask": {"polygon": [ring]}})))}, **options)
        # A centre that lies on an edge is on one side of it before, on the other side after turning.
        assert np.count_nonzero(pixels_of(polygon) != pixels_of(drawn)) <= 5


@pytest.mark.parametrize(
    ("form", "box"), [("xyxy", [10, 5, 30, 20]), ("xywh", [10, 5, 20, 15]), ("cxcywh", [20, 12.5, 20, 15])]
)
def test_boxes_of_every_form_and_unit(form, box):
    assert audited({"box": box}, box=form)["box"] == [10, 5, 30, 20]
    fractions = [box[0] / WIDTH, box[1] / HEIGHT, box[2] / WIDTH, box[3] / HEIGHT]
    prompt = audited({"box": fractions}, box=form, units="normalised")
    assert prompt["box"] == pytest.approx([10, 5, 30, 20])
    assert prompt["repairs"] == []


def test_fractions_of_a_prompt_of_its_own_are_corners_whatever_the_others_are():
    prompt = audited({"box": [0.25, 0.5, 0.75, 1.0], "units": "normalised"}, box="xywh")
    assert prompt["box"] == [10, 15, 30, 30]
    assert audited({"box": [10, 15, 20, 15], "units": "pixel"}, box="xywh", units="normalised")["box"] == [
        10,
        15,
        30,
        30,
    ]


def test_prompts_for_a_copy_of_the_image_are_scaled():
    sized = {"image_size": [80, 60]}
    box, points, polygon = audit_all(
        {"box": [20, 10, 60, 40]} | sized,
        {"points": [[20, 10]]} | sized,
        {"mask": {"polygon": [[20, 10, 60, 10, 60, 40, 20, 40]]}} | sized,
    )
    assert (box["box"], points["points"]) == ([10, 5, 30, 20], [[10, 5]])
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[5:20, 10:30] = True
    np.testing.assert_array_equal(pixels_of(polygon), expected)
    assert [each["repairs"] for each in (box, points, polygon)] == [["frame_scaled"]] * 3
    assert audited({"mask": png(half())} | sized)["repairs"] == []  # its own size counts
    for content in ({"box": [20, 10, 60, 40]}, {"mask": {"polygon": [[20, 10, 60, 10, 60, 40]]}}):
        assert refused(content | sized, audit={"image_size": "error"})[0] == "prompt_frame_mismatch"
        assert refused(content | {"image_size": [60, 60]})[0] == "prompt_frame_mismatch"
        assert audited(content | {"image_size": [60, 60]})["box"] is None  # numbers of another frame say nothing


def test_prompts_for_the_image_before_its_rotation_are_turned():
    prompt = audited({"box": [0, 0, 10, 20], "image_size": [HEIGHT, WIDTH]}, orientation_of_image=6)
    assert (prompt["box"], prompt["repairs"]) == ([20, 0, 40, 10], ["frame_rotated"])


@pytest.mark.parametrize(
    "content",
    [{"box": [0.1, 0.2, 0.5, 0.9]}, {"points": [[0.5, 0.5]]}, {"mask": {"polygon": [[0.1, 0.1, 0.9, 0.1, 0.9, 0.9]]}}],
)
def test_fractions_given_as_pixels_are_refused_not_matted(content):
    code, message = refused(content)
    assert code == "prompt_frame_mismatch"
    assert "prompts.units" in message
    assert audited(content, units="normalised")["error_code"] is None


@pytest.mark.parametrize(
    "content", [{"box": [10, 5, 30, 20]}, {"points": [[10, 5]]}, {"mask": {"polygon": [[1, 1, 30, 1, 30, 20]]}}]
)
def test_pixels_given_as_fractions_are_refused(content):
    code, message = refused(content, units="normalised")
    assert code == "prompt_frame_mismatch"
    assert "prompts.units" in message


# --- prompts of one image --------------------------------------------------------------------------------------------


def test_prompts_that_say_the_same_are_noted():
    box = {"box": [10, 5, 30, 20]}
    prompts = [
        box,
        {"box": [0.25, 5 / 30, 0.75, 20 / 30], "units": "normalised", "label": "cat"},
        {"box": [30, 20, 10, 5]},
        {"box": [10, 5, 30, 20.5]},
        box | {"transparent": True},
        {"points": [[1, 7], [5, 6]]},
        {"points": [[5, 6], [1, 7]]},
        {"mask": png(half())},
        in_base64(half()),
        {"box": "bad"},
        {"box": "bad"},
    ]
    noted = [[], ["prompt_duplicate"], ["box_swapped", "prompt_duplicate"], [], [], [], ["prompt_duplicate"], []]
    found = audit_all(*prompts)
    assert [each["repairs"] for each in found] == [*noted, ["prompt_duplicate"], [], []]
    found = audit_all(*prompts, audit={"duplicate": "error"})
    codes = [each["error_code"] for each in found]
    same = "prompt_duplicate"
    assert codes == [None, same, same, None, None, None, same, None, same, *["prompt_malformed"] * 2]


def test_prompts_beyond_the_cap_are_errors_and_not_even_decoded():
    loaded = []

    def load(name):
        loaded.append(name)
        return png(half())

    found = audit_all(*[{"mask": f"{n}.png"} for n in range(5)], load_mask=load, max_per_image=2)
    assert [each["error_code"] for each in found] == [None, None, *["prompt_too_many"] * 3]
    assert loaded == ["0.png", "1.png"]
    assert "prompt 3 of its image" in found[2]["error_message"]
    assert "prompts.max_per_image" in found[2]["error_message"]


# --- without an image ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "prompts", "box", "points"),
    [
        ({"box": [10, 5, 20, 15]}, {}, [10, 5, 20, 15], None),
        ({"box": [10, 5, 20, 15]}, {"box": "xywh"}, [10, 5, 30, 20], None),
        ({"points": [[1, 2]]}, {}, None, [[1, 2]]),
        ({"points": [[1, NAN]]}, {}, None, None),
        ({"box": [10, 5, INFINITY, 15]}, {}, None, None),
        ({"box": [0.1, 0.5, 0.2, 0.15]}, {"units": "normalised"}, None, None),
        ({"box": [0.1, 0.5, 0.2, 0.15], "units": "normalised"}, {}, None, None),
        ({"box": [10, 5, 20, 15], "image_size": [30, 20]}, {}, None, None),
        ({"points": [[1, 2]]}, {"orientation": "stored"}, None, None),
        ({"box": "bad"}, {}, None, None),
    ],
)
def test_without_an_image_only_what_needs_none_is_shown(content, prompts, box, points):
    raw = raw_prompt(content, "")
    prompt = parse_prompt(raw, 1)
    without_image(prompt, raw, PromptsConfig.model_validate(prompts))
    assert (prompt["box"], prompt["points"]) == (box, points)


# --- anything --------------------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
coordinates = st.floats(-100, 100) | st.floats() | st.integers(-50, 100) | st.floats(0, 1) | st.integers()
boxes = st.lists(coordinates, min_size=4, max_size=4)
pairs = st.lists(st.lists(coordinates, min_size=2, max_size=2), min_size=1, max_size=4)
masks = st.one_of(
    st.lists(st.lists(coordinates, min_size=6, max_size=8), max_size=3).map(lambda rings: {"polygon": rings}),
    st.tuples(st.lists(st.integers(0, 60), min_size=2, max_size=2), st.lists(st.integers(0, 700), max_size=6)).map(
        lambda each: {"size": each[0], "counts": each[1]}
    ),
    json_values,
)
contents = st.one_of(
    json_values,
    st.dictionaries(
        st.sampled_from(["box", "points", "mask", "id", "label", "score", "transparent", "units", "image_size", "x"]),
        json_values,
        max_size=3,
    ),
    st.fixed_dictionaries(
        {},
        optional={
            "box": boxes,
            "points": pairs,
            "mask": masks,
            "units": st.sampled_from(["pixel", "normalised"]),
            "image_size": st.sampled_from([[40, 30], [30, 40], [80, 60], [1, 1], [40, 31]]),
        },
    ),
)
settings = st.fixed_dictionaries(
    {
        "units": st.sampled_from(["pixel", "normalised"]),
        "box": st.sampled_from(["xyxy", "xywh", "cxcywh"]),
        "orientation": st.sampled_from(["upright", "stored"]),
        "audit": st.fixed_dictionaries(
            {name: st.sampled_from(["repair", "error"]) for name in STRICT if name != "duplicate"}
        ),
    }
)


@given(contents, settings, st.integers(1, 8), st.sampled_from([(WIDTH, HEIGHT), (HEIGHT, WIDTH), (3, 2), (1, 1)]))
def test_any_value_is_a_prompt_inside_the_image_or_an_error(content, prompts, orientation, size):
    prompt = audited(content, size=size, orientation_of_image=orientation, **prompts)
    assert set(prompt["repairs"]) <= NOTES.keys()
    if prompt["error_code"] is not None:
        assert prompt["error_code"] in set(ErrorCode)
        prompt["error_message"].encode()
        numbers = [*(prompt["box"] or ()), *(part for pair in prompt["points"] or () for part in pair)]
        assert all(map(math.isfinite, numbers))
        return
    assert prompt["kind"] in content
    width, height = size
    match prompt["kind"]:
        case "box":
            x0, y0, x1, y1 = prompt["box"]
            assert 0 <= x0 < x1 <= width
            assert 0 <= y0 < y1 <= height
        case "points":
            assert prompt["points"]
            assert all(0 <= x < width and 0 <= y < height for x, y in prompt["points"])
        case _:
            assert pixels_of(prompt).shape == (height, width)
            assert pixels_of(prompt).any()


@given(st.lists(contents, max_size=4), settings, settings)
def test_ids_do_not_depend_on_policies_or_repairs(values, first, second):
    raws = [raw_prompt(value, "") for value in values]
    ids = [record_id(1, raw.content) for raw in raws]
    for prompts in (first, second):
        audit_all(*values, **prompts)
    assert [record_id(1, raw.content) for raw in raws] == ids
    assert [record_id(1, raw_prompt(value, "").content) for value in values] == ids  # nothing was changed in place


def test_a_thousand_boxes_take_moments():
    contents = [{"box": [n, 10, n + 500, 900], "label": "cat", "score": 0.5} for n in range(1000)]
    start = time.process_time()
    found = audit_all(*contents, size=(4000, 3000))
    assert time.process_time() - start < 1  # 0.02 s on a quiet machine
    assert {each["error_code"] for each in found} == {None}


# --- documentation ---------------------------------------------------------------------------------------------------


def test_every_note_is_documented_and_every_documented_note_exists():
    page = (Path(__file__).parents[2] / "docs/prompts.md").read_text()
    checks = page[page.index("## What is checked") :]
    for note in NOTES:
        assert f"`{note}`" in checks, note
    for code in ErrorCode:
        if code.startswith("prompt_") and code != "prompt_unsupported":
            assert f"`{code}`" in checks, code
    named = set(re.findall(r"`((?:box|points|mask|frame|prompt|largest|several)_[a-z_]+)`", checks))
    assert named <= {*NOTES, *ErrorCode, *AuditConfig.model_fields, *RECORDS.names}
