"""What files are, by their names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from pipeline.errors import BadInputError, ErrorCode
from pipeline.prompts import clean_text

IMAGE_EXTENSIONS = frozenset(
    {"jpg", "jpeg", "jpe", "jfif", "png", "webp", "bmp", "tif", "tiff", "gif", "ppm"},
)
"""Files that are taken for images, by extension in lower case; what they really are is seen when they are read."""

FOREIGN_EXTENSIONS = frozenset(
    {
        *("heic", "heif", "hif", "avif", "jxl", "jp2", "j2k"),
        *("arw", "cr2", "cr3", "dng", "nef", "orf", "pef", "raf", "rw2", "srw"),  # raw formats of cameras
    }
)
"""Images, too, but not of a format that is read: error records, so that none is lost without a word."""

PROMPT_EXTENSIONS = ("prompts.jsonl", "prompts.json")
"""Files beside an image that hold its prompts: one per line, or a list."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_BESIDE = re.compile(r"(.+?)\.(prompts\.jsonl?|mask[^.]*\.png)", re.IGNORECASE)
_LAST = re.compile(rf"(.+)\.({'|'.join(sorted(IMAGE_EXTENSIONS | FOREIGN_EXTENSIONS))})", re.IGNORECASE)

Kind = Literal["image", "foreign", "prompts", "other"]


@dataclass(frozen=True, slots=True)
class MemberName:
    """The name of a file in a tar.

    Attributes:
        family: Path up to the first dot of the file name; files of one image have it in common.
        key: Of the image it is, or belongs to.
        kind: What it is; masks are ``other`` or, where only prompts can tell them from images, ``image``.
    """

    family: str
    key: str
    kind: Kind


def clean_name(name: str) -> str:
    r"""Return a name as records, logs and terminals can take it.

    What UTF-8 can't hold, and control characters, become escapes such as ``\x1b``. Nothing else changes: a key is a
    name, and may look like any path.
    """
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", clean_text(name))


def member_name(path: str) -> MemberName | None:
    """Take a path in a tar apart; None for files without an extension, and for macOS's resource forks (``._a.jpg``).

    The key is the path up to the first dot of the file name, as in the WebDataset convention, unless what follows is
    no form known here and ends like an image (``photo.v2.jpg``), or the prompts or the mask of one: then it is the
    path up to that ending.
    """
    folder, slash, base = path.rpartition("/")
    hidden = base[: len(base) - len(base.lstrip("."))]  # the dot of .hidden.jpg is not the one before an extension
    stem, dot, _ = base[len(hidden) :].partition(".")
    if not stem or not dot or base.startswith("._"):
        return None
    head = f"{folder}{slash}{hidden}"
    family = f"{head}{stem}"
    if (beside := _BESIDE.fullmatch(base, len(hidden))) is not None:
        return MemberName(family, f"{head}{beside[1]}", "prompts" if "prompts" in beside[2].lower() else "other")
    if (image := _LAST.fullmatch(base, len(hidden))) is not None:
        return MemberName(family, f"{head}{image[1]}", image_kind(image[2]) or "other")
    return MemberName(family, family, "other")


def image_kind(name: str) -> Literal["image", "foreign"] | None:
    """Tell by the extension whether a file is an image, or one of a foreign format, or none."""
    extension = name.rpartition(".")[2].lower()
    return "image" if extension in IMAGE_EXTENSIONS else "foreign" if extension in FOREIGN_EXTENSIONS else None


def foreign(name: str) -> BadInputError:
    """Return the error of an image of a foreign format."""
    return BadInputError(
        ErrorCode.IMAGE_UNSUPPORTED,
        f"the format of {name.rpartition('/')[2]} is not read here; convert it to JPEG, PNG or WebP, 8 or 16 bits",
    )
