"""Prompts as they stand in files, brought into the engine's form.

The native form is described in docs/prompts.md; :mod:`pipeline.audit` holds prompts against their image. A prompt that
can't be used keeps its place, with a code and a message; nothing here raises for a bad prompt.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import reprlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

from pipeline.errors import BadInputError, ErrorCode

KINDS = ("box", "points", "mask")
"""Keys of which a prompt has exactly one."""

KEYS = (*KINDS, "id", "label", "score", "transparent", "image_size", "units")
"""All keys of the native form."""

UNITS = ("pixel", "normalised")
"""What coordinates can be in."""

MAX_BYTES = 64 * 2**20
"""Bytes of the prompts beside an image: of a file, a member of a tar, or a cell; larger ones are not read."""

MAX_PROMPTS = 100_000
"""Prompts beside an image. A prompt takes some hundred bytes of memory, however few it has in its file."""

_LARGEST = 2**31  # pixels of an image's side; no format has more
_DEEPEST = 30  # levels of lists and objects; the native form has five
_LINE = re.compile(rb"\S[^\n]*")  # from its first character that isn't blank
_SMALLER = "leave out prompts that aren't needed, or cut the image into several"
_BLANK = re.compile(r"[ \t\n\r]*")


@dataclass(frozen=True, slots=True)
class RawPrompt:
    """A prompt as it stands in its source, before any check.

    Attributes:
        content: Its JSON object, without keys that are null; what its record id is made from. Where it isn't a JSON
            object, a stand-in that is equal for equal text.
        where: File and line (or the like), for messages.
        fault: Why it isn't even a JSON object, if so.
    """

    content: dict[str, Any]
    where: str
    fault: str | None = None


class Entry(NamedTuple):
    """A prompt of a prompt file of its own.

    Attributes:
        key: Of its image; None where there is none that could be used.
        number: Of its line or annotation.
        content: As in :class:`RawPrompt`.
        fault: As in :class:`RawPrompt`.
    """

    key: str | None
    number: int
    content: dict[str, Any]
    fault: str | None = None


# --- reading ---------------------------------------------------------------------------------------------------------


def raw_prompt(value: object, where: str) -> RawPrompt:
    """Wrap a value that should be the JSON object of a prompt."""
    if isinstance(value, dict):
        return RawPrompt({str(key): part for key, part in without_nulls(value).items()}, where)
    return _unparsed(
        repr(value).encode(errors="backslashreplace"), where, f"a prompt must be an object, got {reprlib.repr(value)}"
    )


def parse_line(line: bytes, where: str) -> RawPrompt:
    """Read a prompt from its JSON text."""
    try:
        return raw_prompt(load_json(line), where)
    except BadInputError as error:
        return _unparsed(line, where, str(error))


def parse_lines(data: bytes, where: str) -> list[RawPrompt]:
    """Read a JSON Lines file: one prompt per line; empty lines, CRLF and a byte order mark do no harm.

    Returns:
        The prompts, or what :func:`unreadable_prompts` returns, alone, where it exceeds a limit.
    """
    if len(data) > MAX_BYTES:
        return [too_many_bytes(where, len(data))]
    lines = list(islice(filled_lines(data), MAX_PROMPTS + 1))
    if len(lines) > MAX_PROMPTS:
        return [too_many_prompts(where)]
    return [parse_line(line, f"{where} line {n}") for n, line in lines]


def filled_lines(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield number and text of a file's lines, one at a time; without blank lines, and the blanks around others."""
    data = data.removeprefix(b"\xef\xbb\xbf")
    number, counted = 1, 0
    for line in _LINE.finditer(data):
        number += data.count(b"\n", counted, line.start())
        counted = line.start()
        yield number, line.group().rstrip()


def parse_list(data: bytes | str, where: str) -> list[RawPrompt]:
    """Read a JSON list of prompts; returns as :func:`parse_lines`."""
    if len(data) > MAX_BYTES:  # of a text, characters: no more than it has bytes
        return [too_many_bytes(where, len(data))]
    text = data.encode(errors="surrogatepass") if isinstance(data, str) else data.removeprefix(b"\xef\xbb\xbf")
    if len(text) > MAX_BYTES:
        return [too_many_bytes(where, len(text))]
    if _is_longer(text, MAX_PROMPTS):
        return [too_many_prompts(where)]
    try:
        values = load_json(text)
    except BadInputError as error:
        return [_unparsed(text, where, str(error))]
    return from_values(values, where)


def from_values(values: object, where: str) -> list[RawPrompt]:
    """Wrap what should be a list of prompts; returns as :func:`parse_lines`."""
    if not isinstance(values, list):
        return [_unparsed(repr(values).encode(), where, f"expected a list of prompts, got {reprlib.repr(values)}")]
    if len(values) > MAX_PROMPTS:
        return [too_many_prompts(where)]
    return [raw_prompt(value, f"{where} prompt {n}") for n, value in enumerate(values, 1)]


def unreadable_prompts(where: str, reason: str) -> RawPrompt:
    """Return what stands for the prompts of a file that can't be read."""
    return RawPrompt({"unparsed": "file"}, where, reason)


def too_many_bytes(where: str, size: int, limit: int = MAX_BYTES) -> RawPrompt:
    """Return what stands for prompts beside an image that are larger than `limit`, and are not read."""
    reason = f"has {size} bytes, too many to be read: prompts beside an image may have {limit}; {_SMALLER}"
    return unreadable_prompts(where, reason)


def too_many_prompts(where: str) -> RawPrompt:
    """Return what stands for more prompts beside an image than :data:`MAX_PROMPTS`."""
    reason = f"brings the prompts beside its image to more than {MAX_PROMPTS}, which is the limit; {_SMALLER}"
    return unreadable_prompts(where, reason)


def load_json(data: bytes) -> Any:
    """Parse JSON text in UTF-8.

    Raises:
        BadInputError: ``prompt_malformed``, saying why it can't be parsed.
    """
    try:
        value = json.loads(data.decode())
        if not _is_deeper(value, _DEEPEST):
            return value
        reason = "nested too deeply"
    except UnicodeDecodeError as error:
        reason = f"not UTF-8 (byte {error.start})"
    except RecursionError:
        reason = "nested too deeply"
    except ValueError as error:  # also numbers of thousands of digits
        reason = f"not valid JSON: {error}"
    raise BadInputError(ErrorCode.PROMPT_MALFORMED, reason)


def _is_longer(data: bytes, limit: int) -> bool:
    """Tell whether a JSON list has more values than that; keeps none of them, and doesn't parse those beyond."""
    if data.count(b",") < limit:
        return False
    try:
        text = data.decode()
        at = _blank(text, 0)
        if text[at] != "[":
            return False
        decode = json.JSONDecoder().raw_decode
        for _ in range(limit):
            _, at = decode(text, _blank(text, at + 1))
            at = _blank(text, at)
            if text[at] != ",":
                return False
    except (ValueError, RecursionError, IndexError):  # loading it says so, and gets no further
        return False
    return True


def _blank(text: str, at: int) -> int:
    """Return where the blanks end that begin there, if any do."""
    blank = _BLANK.match(text, at)
    return blank.end() if blank else at


def _is_deeper(value: object, levels: int) -> bool:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels == 0 or any(isinstance(part, dict | list) and _is_deeper(part, levels - 1) for part in parts)


def clean_text(text: str) -> str:
    """Return a text that UTF-8 can hold: undecodable bytes and lone surrogates become escapes."""
    return text.encode(errors="backslashreplace").decode()


def without_nulls(value: Any) -> Any:
    """Return JSON-plain data without the keys whose value is null, at any depth."""
    if isinstance(value, dict):
        return {key: without_nulls(part) for key, part in value.items() if part is not None}
    return value


def _unparsed(text: bytes, where: str, fault: str) -> RawPrompt:
    return RawPrompt({"unparsed": hashlib.sha256(text).hexdigest()}, where, clean_text(fault))


# --- parsing ---------------------------------------------------------------------------------------------------------


def parse_prompt(raw: RawPrompt, record_id: int) -> dict[str, Any]:
    """Bring a prompt into the form of :data:`pipeline.schema.PROMPT`, as far as that goes without its image.

    Box and points hold the numbers of the source, which may be in other units and need not be finite, and a mask stays
    null, until :mod:`pipeline.audit` has seen them. What can't be parsed gets ``prompt_malformed``; the fields before
    the fault are filled in.
    """
    prompt: dict[str, Any] = {
        "record_id": record_id,
        **dict.fromkeys(("kind", "id", "label", "score"), None),
        "transparent": False,
        **dict.fromkeys(("box", "points", "mask"), None),
        "repairs": [],
        **dict.fromkeys(("error_code", "error_message"), None),
    }
    try:
        _parse(raw, prompt)
    except BadInputError as error:
        fail_prompt(prompt, error, raw.where)
    return prompt


def fail_prompt(prompt: dict[str, Any], error: BadInputError, where: str = "") -> None:
    """Make a prompt an error."""
    message = f"{where}: {error}" if where else str(error)
    prompt |= {"error_code": str(error.code), "error_message": clean_text(message)}


def _parse(raw: RawPrompt, prompt: dict[str, Any]) -> None:
    if raw.fault is not None:
        raise _malformed(raw.fault)
    content = raw.content
    given = [kind for kind in KINDS if kind in content]
    if len(given) == 1:
        prompt["kind"] = given[0]
    prompt["id"], prompt["label"] = _text(content, "id"), _text(content, "label")
    prompt["score"] = _score(content)
    prompt["transparent"] = _flag(content)
    if unknown := sorted(content.keys() - KEYS):
        hint = "; it belongs into separate prompt files only" if unknown == ["image"] else ""
        raise _malformed(f"unknown key {', '.join(map(reprlib.repr, unknown))}{hint}; known are {', '.join(KEYS)}")
    if len(given) != 1:
        raise _malformed(f"has {' and '.join(given) or 'neither'}; give exactly one of {', '.join(KINDS)}")
    if (units := content.get("units", "pixel")) not in UNITS:
        raise _malformed(f"units must be {' or '.join(UNITS)}, got {reprlib.repr(units)}")
    if "image_size" in content:
        _size(content["image_size"])
    if given == ["box"]:
        prompt["box"] = _numbers(content["box"], 4, "box must be four numbers such as [x0, y0, x1, y1]")
    elif given == ["points"]:
        prompt["points"] = _pairs(content["points"])


def _text(content: dict[str, Any], key: str) -> str | None:
    value = content.get(key)
    if isinstance(value, bool) or not isinstance(value, str | int | None):
        raise _malformed(f"{key} must be a string, got {reprlib.repr(value)}")
    return None if value is None else clean_text(str(value))


def _score(content: dict[str, Any]) -> float | None:
    if "score" not in content:
        return None
    (score,) = _numbers([content["score"]], 1, "score must be a number from 0 to 1")  # NaN isn't
    if not 0 <= score <= 1:
        raise _malformed(f"score must be a number from 0 to 1, got {score}")
    return score


def _flag(content: dict[str, Any]) -> bool:
    value = content.get("transparent", False)
    if not isinstance(value, bool):
        raise _malformed(f"transparent must be true or false, got {reprlib.repr(value)}")
    return value


def _size(value: object) -> None:
    sides = value if isinstance(value, list | tuple) else ()
    if len(sides) != 2 or not all(type(side) is int and 0 < side < _LARGEST for side in sides):
        raise _malformed(f"image_size must be [width, height] in pixels, got {reprlib.repr(value)}")


def _pairs(value: object) -> list[list[float]]:
    form = "points must be a list of pairs [[x, y], ...] of numbers"
    if not isinstance(value, list | tuple) or not value:
        raise _malformed(f"{form}, got {reprlib.repr(value)}")
    return [_numbers(pair, 2, form) for pair in value]


def _numbers(value: object, count: int, form: str) -> list[float]:
    parts = value if isinstance(value, list | tuple) else ()
    if len(parts) != count or not all(isinstance(part, int | float) and not isinstance(part, bool) for part in parts):
        raise _malformed(f"{form}, got {reprlib.repr(value)}")
    try:
        return [float(part) for part in parts]
    except OverflowError:  # integers of more than 300 digits
        return [_float(part) for part in parts]


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _malformed(message: str) -> BadInputError:
    return BadInputError(ErrorCode.PROMPT_MALFORMED, message)
