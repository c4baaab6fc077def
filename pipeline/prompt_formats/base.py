"""What a prompt format is, and the reading of documents and numbers that the formats share."""

from __future__ import annotations

import hashlib
import json
import math
import re
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pipeline.errors import BadInputError, ConfigurationError, ErrorCode
from pipeline.prompts import Entry
from pipeline.storage import public_uri, read_bytes

_DIGITS = 4000  # of an integer; Python refuses to parse more than 4300
_DEEPEST_PATH = 32  # folders of a path that endings are made of
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


@dataclass(frozen=True)
class PromptFile:
    """A file that holds the prompts of many images.

    Attributes:
        entries: Its prompts in the native form, in the order of the file; read as they are asked for.
        unit: What :attr:`pipeline.prompts.Entry.number` counts, for messages.
        categories: Names of its labels by the id that the file has for them; empty where it has ids only, None where
            labels stand in it as they are.
        numeric: Keys are image ids in decimal digits, not file names.
        aliases: What else an image of such a key may be called; for files with paths of another machine.
    """

    entries: Iterator[Entry]
    unit: str
    categories: Mapping[str, str] | None = None
    numeric: bool = False
    aliases: Callable[[str], Iterable[str]] | None = None


class LabelContext(Protocol):
    """What a format of one file per image may ask for while it reads a file."""

    @property
    def class_names(self) -> ClassNames:
        """Of ``prompts.class_names``."""

    @property
    def max_pixels(self) -> int:
        """Pixels that an image may have, and thus a mask."""


@dataclass(frozen=True)
class ClassNames:
    """Names of the classes that a file has by number.

    Attributes:
        names: By number.
        keypoints: Boxes are followed by keypoints.
    """

    names: Mapping[int, str]
    keypoints: bool = False


@dataclass(frozen=True)
class LabelFormat:
    """A format of one file per image.

    Attributes:
        suffix: Ending of the files' names, in lower case, with its dot.
        unit: What :attr:`pipeline.prompts.Entry.number` counts, for messages.
        read: Yields the prompts of a file; their keys are not looked at. Raises ``prompt_malformed`` where the file as
            a whole can't be read.
        numbered: Labels are numbers of classes, to which ``prompts.class_names`` has the names.
        passed_over: Matches names of files (in lower case, without folders) that end alike, but hold no prompts.
    """

    suffix: str
    unit: str
    read: Callable[[bytes, LabelContext], Iterable[Entry]]
    numbered: bool = False
    passed_over: re.Pattern[str] | None = None

    def holds_prompts(self, path: str) -> bool:
        """Tell by its name whether a file is one of the format."""
        name = path.rpartition("/")[2].lower()
        return name.endswith(self.suffix) and not (self.passed_over and self.passed_over.fullmatch(name))


# --- documents -------------------------------------------------------------------------------------------------------


def load_document(path: str, retries: int) -> Any:
    """Load a JSON document, all of it into memory.

    Raises:
        ConfigurationError: It isn't JSON.
        NotFoundError, TransientError: See :func:`pipeline.storage.read_bytes`.
    """
    data = read_bytes(path, retries=retries)
    try:
        return parse_document(data)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{public_uri(path)} is not valid JSON: {error}") from None


def parse_document(data: bytes) -> Any:
    """Parse JSON; integers of thousands of digits become infinity, so that one of them doesn't cost all the others.

    Raises:
        ValueError, RecursionError: It can't be parsed.
    """
    data = data.removeprefix(b"\xef\xbb\xbf")
    try:
        return json.loads(data)
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise
    except ValueError:
        return json.loads(data, parse_int=lambda digits: int(digits) if len(digits) < _DIGITS else math.inf)


# --- values ----------------------------------------------------------------------------------------------------------


def malformed(message: str) -> BadInputError:
    """Return the error of a prompt that can't be read."""
    return BadInputError(ErrorCode.PROMPT_MALFORMED, message)


def unparsed(value: object) -> dict[str, Any]:
    """Return what stands for the content of a prompt that can't be read: equal for equal values."""
    try:
        text = json.dumps(value, sort_keys=True, default=repr)
    except (ValueError, TypeError, RecursionError):
        text = reprlib.repr(value)
    return {"unparsed": hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()}


def number(value: object, what: str) -> float:
    """Return a finite or infinite number, or NaN, which the audit sorts out; those beyond all bounds are infinite.

    Raises:
        BadInputError: ``prompt_malformed``: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise malformed(f"{what} must be a number, got {reprlib.repr(value)}")
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def text_number(value: str | None, what: str) -> float:
    """Read a number from text; see :func:`number`."""
    try:
        return float(value or "")
    except ValueError:
        raise malformed(f"{what} must be a number, got {reprlib.repr(value)}") from None


def pairs(value: object, what: str) -> list[list[float]]:
    """Return a list of points, at least one.

    Raises:
        BadInputError: ``prompt_malformed``.
    """
    if not isinstance(value, list) or not value:
        raise malformed(f"{what} must be a list of points [x, y], got {reprlib.repr(value)}")
    for pair in value:
        if not isinstance(pair, list) or len(pair) != 2:
            raise malformed(f"{what} must be a list of points [x, y], got {reprlib.repr(pair)} among them")
    return [[number(x, what), number(y, what)] for x, y in value]


def image_size(width: object, height: object) -> dict[str, list[int]]:
    """Return the native key for the size of the image that a prompt was made for; nothing where it isn't told."""
    sides = [_side(side) for side in (width, height)]
    return {"image_size": [side for side in sides if side]} if all(sides) else {}


def _side(value: object) -> int | None:
    if isinstance(value, str) and value.isdecimal() and len(value) < 10:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 2**31:
        return None
    return int(value) if value == int(value) else None


# --- shapes ----------------------------------------------------------------------------------------------------------


def bounds(points: Iterable[Iterable[float]]) -> list[float]:
    """Return the box around points; all NaN where one isn't finite."""
    xs, ys = zip(*points, strict=True)
    if not all(map(math.isfinite, (*xs, *ys))):
        return [math.nan] * 4
    return [min(xs), min(ys), max(xs), max(ys)]


def turned(points: Iterable[Iterable[float]], centre: tuple[float, float], degrees: float) -> list[list[float]]:
    """Turn points about another, clockwise as seen on the screen (y grows downwards)."""
    if not math.isfinite(degrees):
        return [[math.nan, math.nan] for _ in points]
    # Exact for right angles, which are the usual ones.
    cos, sin = (round(f(math.radians(degrees % 360)), 15) for f in (math.cos, math.sin))
    x0, y0 = centre
    return [[x0 + (x - x0) * cos - (y - y0) * sin, y0 + (x - x0) * sin + (y - y0) * cos] for x, y in points]


def ellipse_box(x: float, y: float, radius_x: float, radius_y: float, degrees: float) -> list[float]:
    """Return the box around an ellipse that is turned clockwise about its centre."""
    if not all(map(math.isfinite, (x, y, radius_x, radius_y, degrees))):
        return [math.nan] * 4
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    half_x, half_y = math.hypot(radius_x * cos, radius_y * sin), math.hypot(radius_x * sin, radius_y * cos)
    return [x - half_x, y - half_y, x + half_x, y + half_y]


# --- keys ------------------------------------------------------------------------------------------------------------


def path_endings(key: str) -> Iterator[str]:
    """Yield the paths that a longer path or URL ends in: ``b/c.jpg`` and ``c.jpg`` of ``a/b/c.jpg``."""
    scheme = _SCHEME.match(key)
    parts = [part for part in key[scheme.end() if scheme else 0 :].split("/") if part]
    for start in range(0 if scheme else 1, len(parts)):
        if len(parts) - start <= _DEEPEST_PATH:
            yield "/".join(parts[start:])
