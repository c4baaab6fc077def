"""YOLO labels: a text file per image, an object per line, in fractions of the image's width and height.

``class cx cy w h [confidence]`` is a box, ``class x1 y1 x2 y2 x3 y3 ... [confidence]`` an outline. Labels with
keypoints look like outlines; only ``kpt_shape`` in ``data.yaml`` tells them apart.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterator
from typing import Any

import yaml

from pipeline.config import LabelConfig
from pipeline.errors import BadInputError, ConfigurationError
from pipeline.prompt_formats.base import ClassNames, LabelContext, LabelFormat, malformed, text_number, unparsed
from pipeline.prompts import Entry, clean_text, filled_lines
from pipeline.storage import NotFoundError, RefusedError, public_uri, read_bytes


def _read(data: bytes, context: LabelContext) -> Iterator[Entry]:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise malformed(f"not UTF-8 (byte {error.start})") from None
    for number, raw in filled_lines(data):
        if line := raw.decode().strip():
            try:
                yield Entry("", number, _native(line.split(), context.class_names))
            except BadInputError as error:
                yield Entry("", number, unparsed(line), str(error))


YOLO = LabelFormat(".txt", "line", _read, numbered=True, passed_over=re.compile(r"classes\.txt|readme.*\.txt"))


def _native(fields: list[str], classes: ClassNames) -> dict[str, Any]:
    values = [text_number(field, "each field") for field in fields]
    if len(values) < 5:
        raise malformed(f"has {len(values)} fields, not 5 (class, centre, size), 6 (with confidence), or an outline")
    content: dict[str, Any] = {"label": _label(values[0], fields[0], classes), "units": "normalised"}
    if len(values) <= 6 or classes.keypoints:
        x, y, width, height = values[1:5]
        content["box"] = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
        score = values[5] if len(values) == 6 else None
    else:
        score = None if len(values) % 2 else values.pop()
        content["mask"] = {"polygon": [values[1:]]}
    return content if score is None else content | {"score": score}


def _label(value: float, field: str, classes: ClassNames) -> str | int:
    if not 0 <= value < 2**31 or value != int(value):
        raise malformed(f"the class must be a whole number, got {reprlib.repr(field)}")
    return classes.names.get(int(value), int(value))


def read_class_names(config: LabelConfig) -> ClassNames:
    """Read ``prompts.class_names``: YAML with ``names`` (a list, or by number), or text with a name per line.

    Returns:
        No names where none are configured.

    Raises:
        ConfigurationError: It isn't there, or isn't of that form.
        TransientError: The store failed repeatedly.
    """
    path = config.prompts.class_names
    if path is None:
        return ClassNames({})
    try:
        text = read_bytes(path, retries=config.workers.retries).decode("utf-8-sig")
        if not path.partition("?")[0].lower().endswith((".yaml", ".yml")):
            return ClassNames({n: clean_text(line.strip()) for n, line in enumerate(text.split("\n")) if line.strip()})
        # The base loader makes no objects, and takes no name for a number or a truth value.
        content = yaml.load(text, Loader=yaml.BaseLoader)  # noqa: S506
        names = content["names"]
        listed = dict(enumerate(names)) if isinstance(names, list) else {int(n): name for n, name in names.items()}
        return ClassNames({n: clean_text(name) for n, name in listed.items()}, keypoints="kpt_shape" in content)
    except (NotFoundError, RefusedError) as error:
        raise ConfigurationError(f"prompts.class_names: {error}; correct it") from None
    except (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ConfigurationError(
            f"prompts.class_names {public_uri(path)} can't be used ({error!s:.300}); it must be YAML with names, or "
            "text in UTF-8 with one name per line"
        ) from None
