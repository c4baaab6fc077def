import pytest

from pipeline.config import PromptsConfig
from pipeline.errors import BadInputError
from pipeline.frames import Affine, Frame
from pipeline.placing import Placer, corners


def placer(frame=None, **prompts):
    return Placer(PromptsConfig.model_validate(prompts), frame or Frame(400, 300))


def placed(content, x, y, frame=None, **prompts):
    placing = placer(frame, **prompts)(content)
    point = (x, y) if placing.affine is None else placing.affine.point(x, y)
    return point, placing.repairs


def test_boxes_of_every_form():
    assert corners([10, 20, 30, 60], "xyxy") == [10, 20, 30, 60]
    assert corners([10, 20, 30, 60], "xywh") == [10, 20, 40, 80]
    assert corners([10, 20, 30, 60], "cxcywh") == [-5, -10, 25, 50]


def test_pixels_of_the_upright_image_stay_as_they_are():
    assert placer()({}).affine is None
    assert placer()({"image_size": [400, 300], "units": "pixel"}).affine is None
    assert placer(Frame(400, 300, 6))({}).affine is None
    assert placer(Frame(400, 300, 1, stored=True))({}).affine is None


def test_fractions_become_pixels():
    assert placed({}, 0.25, 0.5, units="normalised") == ((100, 150), ())
    assert placed({"units": "normalised"}, 0.25, 0.5) == ((100, 150), ())
    assert placed({"units": "pixel"}, 25, 50, units="normalised") == ((25, 50), ())
    assert placed({"units": "normalised", "image_size": [40, 30]}, 0.25, 0.5)[1] == ()  # the same at any size


def test_coordinates_of_a_stored_image_are_turned():
    stored = Frame(300, 400, 6, stored=True)  # 400 x 300 on disk
    assert placed({}, 0, 0, stored) == ((300, 0), ())
    assert placed({}, 400, 300, stored) == ((0, 400), ())
    assert placed({}, 0.5, 1, stored, units="normalised") == ((0, 200), ())


def test_the_size_that_a_prompt_was_made_for_counts():
    stored = Frame(300, 400, 6)
    assert placed({"image_size": [200, 150]}, 20, 30) == ((40, 60), ("frame_scaled",))
    assert placed({"image_size": [400, 300]}, 0, 0, stored) == ((300, 0), ("frame_rotated",))
    assert placed({"image_size": [800, 600]}, 0, 0, stored) == ((300, 0), ("frame_rotated", "frame_scaled"))
    assert placed({"image_size": [800, 600], "units": "normalised"}, 0, 0, stored) == ((300, 0), ("frame_rotated",))
    assert placed({"image_size": [300, 400]}, 7, 9, Frame(300, 400, 6, stored=True)) == ((7, 9), ("frame_rotated",))


@pytest.mark.parametrize(
    ("frame", "content", "policy", "words"),
    [
        (Frame(400, 300), {"image_size": [300, 400]}, "repair", "which image it belongs to"),
        (Frame(400, 300), {"image_size": [640, 640]}, "repair", "640 x 640"),
        (Frame(400, 300), {"image_size": [200, 150]}, "error", "prompts.audit.image_size"),
        (Frame(300, 400, 6), {"image_size": [400, 300]}, "error", "prompts.audit.image_size"),
        (Frame(400, 300), {"image_size": [300, 400], "units": "normalised"}, "repair", "which image"),
    ],
)
def test_prompts_of_another_image_are_refused(frame, content, policy, words):
    with pytest.raises(BadInputError, match=words) as caught:
        placer(frame, audit={"image_size": policy})(content)
    assert caught.value.code == "prompt_frame_mismatch"


def test_fractions_for_a_copy_are_no_mismatch_under_any_policy():
    placing = placer(audit={"image_size": "error"})({"image_size": [200, 150], "units": "normalised"})
    assert placing.affine == Affine(400, 0, 0, 0, 300, 0)


@pytest.mark.parametrize(
    ("content", "prompts", "low", "high", "words"),
    [
        ({}, {}, 0, 1, "set prompts.units to normalised"),
        ({}, {}, 0.2, 1.001, "set prompts.units to normalised"),
        ({"units": "pixel"}, {}, 0.2, 0.7, 'its "units"'),
        ({}, {"kind": "coco", "path": "a.json"}, 0.2, 0.7, "correct the file"),
        ({}, {"units": "normalised"}, 0, 1.6, "set prompts.units to pixel"),
        ({}, {"units": "normalised"}, -3, 1, "reach to -3"),
        ({"units": "normalised"}, {}, 10, 120, 'its "units"'),
        ({"units": "normalised"}, {"kind": "yolo"}, 10, 120, "units"),
    ],
)
def test_coordinates_of_the_other_unit_are_found_out(content, prompts, low, high, words):
    with pytest.raises(BadInputError, match=words) as caught:
        placer(**prompts).check_units(low, high, content)
    assert caught.value.code == "prompt_frame_mismatch"


@pytest.mark.parametrize(
    ("frame", "content", "prompts", "low", "high"),
    [
        (Frame(400, 300), {}, {}, 0, 1.5),
        (Frame(400, 300), {}, {}, -3, 1),
        (Frame(2, 2), {}, {}, 0, 1),  # here, these may well be pixels
        (Frame(400, 300), {}, {"units": "normalised"}, 0, 1),
        (Frame(400, 300), {}, {"units": "normalised"}, -0.4, 1.4),  # partly outside
        (Frame(400, 300), {"units": "pixel"}, {"units": "normalised"}, 10, 120),
    ],
)
def test_coordinates_of_the_right_unit_pass(frame, content, prompts, low, high):
    placer(frame, **prompts).check_units(low, high, content)
