"""What a Label Studio project for mattes looks like, and whether a prediction fits it.

The server takes predictions that name no control of the project, or whose run lengths are damaged, and the editor then
shows an empty task. So everything is checked here first.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import BadInputError, ConfigurationError
from pipeline.prompt_formats.brush import decode_levels
from pipeline.review.schema import Verdict

IMAGE = "image"
MASK = "mask"
BOX = "prompt_box"
POINTS = "prompt_points"
VERDICT = "verdict"
COMMENT = "comment"

MODEL_VERSION = "matte"
"""Of every prediction: the editor starts from the predictions of the version that the project names."""

LABELS = {MASK: ("brushlabels", "Matte"), BOX: ("rectanglelabels", "Box"), POINTS: ("keypointlabels", "Point")}
"""By control: the type of its results, and the one label that it has.

The object's own label stands in the heading, so that a project needs no list of all categories, and nothing of the
input becomes part of the configuration.
"""

_VERDICTS = "\n".join(f'      <Choice value="{verdict}" hotkey="{verdict[0]}"/>' for verdict in get_args(Verdict))

CONFIG = f"""\
<View>
  <Header value="$title" size="4"/>
  <Header value="$about" size="6"/>
  <View style="display: flex; gap: 2em; flex-wrap: wrap; align-items: center">
    <BrushLabels name="{MASK}" toName="{IMAGE}" strokeWidth="15">
      <Label value="{LABELS[MASK][1]}" background="#ff00cc"/>
    </BrushLabels>
    <RectangleLabels name="{BOX}" toName="{IMAGE}" fillOpacity="0">
      <Label value="{LABELS[BOX][1]}" background="#00c8ff"/>
    </RectangleLabels>
    <KeyPointLabels name="{POINTS}" toName="{IMAGE}" strokeWidth="5">
      <Label value="{LABELS[POINTS][1]}" background="#ffd500"/>
    </KeyPointLabels>
    <Choices name="{VERDICT}" toName="{IMAGE}" choice="single" showInline="true" required="true"
             requiredMessage="Choose a verdict: accept, fix or reject">
{_VERDICTS}
    </Choices>
  </View>
  <Image name="{IMAGE}" value="$image" zoom="true" zoomControl="true" brightnessControl="true" contrastControl="true"/>
  <TextArea name="{COMMENT}" toName="{IMAGE}" placeholder="Comment" rows="1" maxSubmissions="1"/>
</View>
"""
"""The project's labelling configuration; the same for all, nothing of the input is in it."""


def check_config(text: object) -> None:
    """Make sure that a project was made for mattes.

    Args:
        text: Its labelling configuration.

    Raises:
        ConfigurationError: A control is missing.
    """
    given = text if isinstance(text, str) else ""
    if missing := [name for name in (MASK, BOX, POINTS, VERDICT, COMMENT) if f'name="{name}"' not in given]:
        raise ConfigurationError(
            f"the project's labelling configuration lacks {', '.join(missing)}: it was not made for mattes. Name "
            "another project, or none to make a new one"
        )


def check_prediction(prediction: Mapping[str, Any], mask: NDArray[np.uint8] | None, size: tuple[int, int]) -> None:
    """Hold a prediction against the configuration and what it is to show.

    Args:
        prediction: As it is to be imported.
        mask: ``(H, W)`` uint8 that its brush must decode to; None: it was read from a file, where nothing tells.
        size: Width and height of the upright image, pixels.

    Raises:
        ConfigurationError: Says what is wrong, in which result.
    """
    results = prediction.get("result")
    if not isinstance(results, list):
        raise _wrong("", "has no list of results")
    if prediction.get("model_version") != MODEL_VERSION:
        raise _wrong("", f"has the model_version {reprlib.repr(prediction.get('model_version'))}, not {MODEL_VERSION}")
    score = prediction.get("score")
    if score is not None and not _is_number(score):
        raise _wrong("", f"has the score {reprlib.repr(score)}, which is no finite number")
    brushes = 0
    for place, result in enumerate(results, 1):
        where = f"result {place}"
        if not isinstance(result, dict) or not isinstance(result.get("value"), dict):
            raise _wrong(where, "is no object with a value")
        name = result.get("from_name")
        if name not in LABELS:
            raise _wrong(where, f"is of {reprlib.repr(name)}, which is no control of {', '.join(LABELS)}")
        _check_result(where, name, result, size)
        if name == MASK:
            brushes += 1
            _check_brush(where, result["value"], mask, size)
    if brushes > 1 or (mask is not None and mask.any() and not brushes):
        raise _wrong("", f"has {brushes} brushes instead of one")


def _check_result(where: str, name: str, result: dict[str, Any], size: tuple[int, int]) -> None:
    kind, label = LABELS[name]
    expected = {
        "type": kind,
        "to_name": IMAGE,
        "original_width": size[0],
        "original_height": size[1],
        "image_rotation": 0,
    }
    for key, value in expected.items():
        if result.get(key) != value:
            raise _wrong(where, f"has {key} {reprlib.repr(result.get(key))} instead of {value!r}")
    value = result["value"]
    if value.get(kind) != [label]:
        raise _wrong(where, f"has the labels {reprlib.repr(value.get(kind))}, but {name} knows {label} only")
    for key in {BOX: ("x", "y", "width", "height"), POINTS: ("x", "y", "width")}.get(name, ()):
        if not _is_number(value.get(key)) or not 0 <= value[key] <= 100:
            raise _wrong(where, f"has {key} {reprlib.repr(value.get(key))}, which is no percentage from 0 to 100")
    for start, extent in (("x", "width"), ("y", "height")):
        if name == BOX and value[start] + value[extent] > 100 + 1e-6:
            raise _wrong(where, f"has a box that leaves the image: {start} + {extent} is more than 100")


def _check_brush(where: str, value: dict[str, Any], mask: NDArray[np.uint8] | None, size: tuple[int, int]) -> None:
    if value.get("format") != "rle":
        raise _wrong(where, f"has the format {reprlib.repr(value.get('format'))} instead of rle")
    try:
        shown = decode_levels(value.get("rle"), *size)
    except BadInputError as error:
        raise _wrong(where, str(error)) from None
    if mask is not None and not np.array_equal(shown, mask):
        raise _wrong(where, "has run lengths that decode to another mask than the record's alpha")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _wrong(where: str, message: str) -> ConfigurationError:
    subject = f"{where} of the prediction" if where else "the prediction"
    return ConfigurationError(f"{subject} {message}; export again, and leave the files as they are")
