import copy
import re

import numpy as np
import pytest

from pipeline.errors import ConfigurationError
from pipeline.prompt_formats.brush import encode_levels
from pipeline.review.label_studio_config import CONFIG, check_config, check_prediction
from pipeline.review.label_studio_tasks import task_of
from support.review_items import all_levels, made_item

SIZE = (48, 32)
GOOD = task_of(made_item(prompt_points=[[5.0, 6.0]]), "embed")[0]["predictions"][0]
BRUSH, BOX, POINT = GOOD["result"]


def changed(part, *path, to):
    """A copy of the good prediction in which one value of a result is another."""
    prediction = copy.deepcopy(GOOD)
    place = prediction["result"][GOOD["result"].index(part)]
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = to
    return prediction


def test_what_is_exported_fits():
    check_prediction(GOOD, all_levels(*SIZE), SIZE)
    check_prediction(GOOD, None, SIZE)


@pytest.mark.parametrize(
    ("prediction", "words"),
    [
        ({**GOOD, "result": None}, "has no list of results"),
        ({**GOOD, "model_version": "other"}, "model_version 'other', not matte"),
        ({**GOOD, "score": float("nan")}, "score nan"),
        ({**GOOD, "score": "1"}, "score '1'"),
        ({**GOOD, "result": [3]}, "result 1 of the prediction is no object with a value"),
        ({**GOOD, "result": [*GOOD["result"], BRUSH]}, "has 2 brushes instead of one"),
        ({**GOOD, "result": [BOX]}, "has 0 brushes instead of one"),
        (changed(BRUSH, "from_name", to="tag"), "is of 'tag', which is no control of mask, prompt_box, prompt_points"),
        (changed(BRUSH, "to_name", to="img"), "result 1 of the prediction has to_name 'img' instead of 'image'"),
        (changed(BRUSH, "type", to="brush"), "has type 'brush' instead of 'brushlabels'"),
        (changed(BRUSH, "original_width", to=47), "has original_width 47 instead of 48"),
        (changed(BRUSH, "value", "brushlabels", to=["Cat"]), r"has the labels \['Cat'\], but mask knows Matte only"),
        (changed(BRUSH, "value", "format", to="png"), "has the format 'png' instead of rle"),
        (changed(BRUSH, "value", "rle", to=BRUSH["value"]["rle"][:-9]), "end too early"),
        (changed(BRUSH, "value", "rle", to=encode_levels(np.ones((32, 49), np.uint8))), "not for the RGBA values"),
        (changed(BRUSH, "value", "rle", to=encode_levels(np.ones((32, 48), np.uint8))), "decode to another mask"),
        (changed(BOX, "value", "x", to=-0.1), "has x -0.1, which is no percentage from 0 to 100"),
        (changed(BOX, "value", "y", to=None), "has y None"),
        (changed(BOX, "value", "width", to=100.0), "leaves the image"),
        (changed(POINT, "value", "x", to=float("inf")), "result 3 of the prediction has x inf"),
    ],
)
def test_what_does_not_fit_is_named(prediction, words):
    with pytest.raises(ConfigurationError, match=words):
        check_prediction(prediction, all_levels(*SIZE), SIZE)


def test_the_configuration_is_known_again_and_others_are_not():
    check_config(CONFIG)
    for name in ("mask", "verdict", "comment"):
        with pytest.raises(ConfigurationError, match=rf"lacks {name}: it was not made for mattes"):
            check_config(CONFIG.replace(f'name="{name}"', 'name="other"'))
    with pytest.raises(ConfigurationError, match="lacks mask, prompt_box"):
        check_config(None)


def test_a_verdict_is_asked_for_and_all_verdicts_can_be_given():
    assert re.findall(r'<Choice value="(\w+)"', CONFIG) == ["accept", "fix", "reject"]
    assert re.search(r'<Choices [^>]*name="verdict"[^>]*required="true"', CONFIG)
