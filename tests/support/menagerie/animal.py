"""What an animal is: a bad or unusual input, and the records that it must become."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageFilter

from support.image_bytes import encode

WIDTH, HEIGHT = 120, 80
BOX: dict[str, Any] = {"box": [20, 10, 90, 70]}
"""A box around the disc of :func:`picture`."""

MAX_PER_IMAGE = 12
"""`prompts.max_per_image` of the zoo's runs."""

Home = Literal["tars", "folder", "manifest"]
EVERYWHERE: tuple[Home, ...] = ("tars", "folder", "manifest")
FILES: tuple[Home, ...] = ("tars", "folder")
"""Where prompts are lines of a file beside the image; a manifest would hold them as parsed values."""


@dataclass(frozen=True)
class Fate:
    """What a record says.

    Attributes:
        code: Error code; None for ok.
        notes: `image_notes` of an ok record.
        repairs: `prompt_repairs` of an ok record.
    """

    code: str | None = None
    notes: tuple[str, ...] = ()
    repairs: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.code or ", ".join(("ok", *self.notes, *self.repairs))


OK = Fate()


def ok(*notes: str) -> Fate:
    """An ok record with these image notes."""
    return Fate(notes=notes)


def repaired(*repairs: str) -> Fate:
    """An ok record with these prompt repairs."""
    return Fate(repairs=repairs)


@dataclass(frozen=True)
class Animal:
    """An image with its prompts, of which something is bad or unusual.

    Attributes:
        name: File name; unique without its extension.
        about: What it is, in one line.
        fates: What its records must say, in any order.
        image: Bytes of the file.
        prompts: In the native form; or the text of its prompts file; None for an image without one. A mask that is
            called ``mask...`` is one of `files`.
        files: Mask files beside it, by name.
        size: Width and height of the upright image in pixels, None where that doesn't matter.
        homes: Where it can live.
    """

    name: str
    about: str
    fates: tuple[Fate, ...]
    image: bytes
    prompts: Sequence[Any] | bytes | None = (BOX,)
    files: Mapping[str, bytes] = field(default_factory=dict)
    size: tuple[int, int] | None = None
    homes: tuple[Home, ...] = EVERYWHERE


@dataclass(frozen=True)
class Shard:
    """A whole tar that is bad or unusual.

    Attributes:
        name: File name.
        about: What it is, in one line.
        data: Its bytes.
        records: Key and fate of all the records that it must leave; ``""`` is the key of the shard's own fault.
        friends: Keys among them that are good images, there to see whether they survive.
    """

    name: str
    about: str
    data: bytes
    records: tuple[tuple[str, Fate], ...]
    friends: tuple[str, ...] = ("before", "after")


@dataclass(frozen=True)
class Row:
    """A line of a manifest that is bad or unusual.

    Attributes:
        name: What the table calls it.
        about: What it is, in one line.
        line: Its bytes, without line end; ``@photo`` stands for the name of a good image.
        key: Of its records; None for lines that name none, whose number is their key.
        fates: As of :class:`Animal`.
    """

    name: str
    about: str
    line: bytes
    key: str | None
    fates: tuple[Fate, ...]


def picture(width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """A bright disc on a gradient."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x * 255 // width, y * 255 // height, 255 - x * 255 // width], axis=-1).astype(np.uint8)
    pixels[(x - width * 0.46) ** 2 + (y - height / 2) ** 2 < (min(width, height) * 0.31) ** 2] = (250, 240, 60)
    return Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(0.7))


@cache
def jpeg() -> bytes:
    """:func:`picture` as a JPEG, as cameras write it."""
    return encode(picture(), "JPEG", quality=95)


@cache
def friend() -> bytes:
    """The good image that stands beside bad ones."""
    return encode(picture(96, 64), "JPEG", quality=90)


FRIEND_BOX: dict[str, Any] = {"box": [15, 8, 75, 56], "label": "friend"}


def lines(prompts: Sequence[Any] | bytes) -> bytes:
    """Return prompts as the text of a file, one per line; a text comes back as it is."""
    return prompts if isinstance(prompts, bytes) else "".join(json.dumps(each) + "\n" for each in prompts).encode()
