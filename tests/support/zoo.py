"""A small corpus of photographs with everything that goes wrong in real ones, and what must become of each."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 120, 80
BOX = {"box": [20, 10, 90, 70]}


@dataclass(frozen=True)
class Animal:
    """One image of the zoo.

    Attributes:
        name: File name.
        data: Encoded image; None for prompts whose image is missing.
        prompts: In the native form; None for an image without prompts.
        codes: Error code of each expected record, None for ok.
        size: Width and height of the upright image, pixels.
        notes: What decoding must note.
    """

    name: str
    data: bytes | None
    prompts: list[dict[str, Any]] | None
    codes: list[str | None]
    size: tuple[int, int] = (WIDTH, HEIGHT)
    notes: list[str] = field(default_factory=list)


def _picture() -> Image.Image:
    """A bright disc on a gradient."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    pixels = np.stack([x * 2, y * 3, 255 - x * 2], axis=-1).clip(0, 255).astype(np.uint8)
    pixels[(x - 55) ** 2 + (y - 40) ** 2 < 25**2] = (250, 240, 60)
    return Image.fromarray(pixels)


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _rotated() -> bytes:
    """A photograph taken with the camera turned: stored on its side, to be shown upright."""
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise to see it upright
    return _encoded(_picture(), "JPEG", exif=exif, quality=95)


def _png_mask(inside: bool) -> bytes:
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
    pixels[15:65, 30:80] = 255 * inside
    return _encoded(Image.fromarray(pixels), "PNG")


MASKS = {"mask.png": _png_mask(inside=True), "empty.png": _png_mask(inside=False)}
"""Masks beside `masked.jpg`, by the name they have there behind the image's own."""


def zoo() -> list[Animal]:
    """Return the animals; keys are unique also without their endings."""
    picture = _picture()
    jpeg = _encoded(picture, "JPEG", quality=95)
    translucent = picture.copy()
    translucent.putalpha(Image.linear_gradient("L").resize(picture.size))
    deep = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    points = {"points": [[55, 40], [60, 45]], "label": "disc"}
    return [
        Animal("plain.jpg", jpeg, [BOX, points], [None, None]),
        Animal("alpha.png", _encoded(translucent, "PNG"), [BOX], [None], notes=["flattened_alpha"]),
        Animal("sixteen.png", _encoded(deep, "PNG"), [BOX], [None], notes=["reduced_16bit"]),
        Animal("cmyk.jpg", _encoded(picture.convert("CMYK"), "JPEG"), [BOX], [None], notes=["converted_cmyk"]),
        # Fits into the upright frame of 80 x 120 only.
        Animal("turned.jpg", _rotated(), [{"box": [10, 20, 70, 110]}], [None], (HEIGHT, WIDTH), ["exif_rotated"]),
        Animal("corrupt.jpg", jpeg[: len(jpeg) // 2], [BOX, points], ["image_truncated", "image_truncated"]),
        Animal("text.jpg", b"this is no image", [BOX], ["image_unsupported"]),
        Animal("empty.jpg", b"", [BOX], ["image_empty"]),
        Animal("outside.jpg", jpeg, [{"box": [500, 500, 600, 600]}, BOX], ["prompt_out_of_frame", None]),
        Animal("flat.jpg", jpeg, [{"box": [50, 50, 50, 70]}], ["prompt_degenerate"]),
        Animal("unprompted.jpg", jpeg, None, ["prompt_missing"]),
        Animal("masked.jpg", jpeg, [{"mask": "mask.png"}, {"mask": "empty.png"}], [None, "prompt_empty_mask"]),
        Animal("gone.jpg", None, [BOX], ["image_missing"]),
    ]


def expected(animals: list[Animal]) -> dict[str, list[str | None]]:
    """Return the error codes of each image's records by the stem of its name, sorted (None first)."""
    return {Path(each.name).stem: sorted(each.codes, key=str) for each in animals}


def write_tars(folder: Path, animals: list[Animal], shards: int = 2) -> None:
    """Pack the animals as WebDataset shards with prompts inside."""
    folder.mkdir(parents=True)
    for number in range(shards):
        with tarfile.open(folder / f"{number:04}.tar", "w") as tar:
            for animal in animals[number::shards]:
                for suffix, data in _members(animal).items():
                    info = tarfile.TarInfo(f"{Path(animal.name).stem}{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))


def _members(animal: Animal) -> dict[str, bytes]:
    members = {} if animal.data is None else {Path(animal.name).suffix: animal.data}
    if animal.prompts is not None:
        members[".prompts.jsonl"] = _lines(animal.prompts)
    if animal.name == "masked.jpg":
        members |= {f".{name}": data for name, data in MASKS.items()}
    return members


def write_folder(folder: Path, animals: list[Animal]) -> None:
    """Write the animals as image files."""
    folder.mkdir(parents=True)
    for animal in animals:
        if animal.data is not None:
            (folder / animal.name).write_bytes(animal.data)
    for name, data in MASKS.items():
        (folder / "masks").mkdir(exist_ok=True)
        (folder / "masks" / name).write_bytes(data)


def prompt_lines(animals: list[Animal], masks: str) -> bytes:
    """Return a prompt file for all animals; masks are named relative to it."""
    return b"".join(
        _lines([{"image": animal.name} | _with_masks(prompt, masks) for prompt in animal.prompts])
        for animal in animals
        if animal.prompts is not None
    )


def manifest_lines(animals: list[Animal], folder: str) -> bytes:
    """Return a manifest with prompts for all animals, images named relative to it."""
    return _lines(
        [
            {"image": f"{folder}/{animal.name}", "key": animal.name}
            | (
                {}
                if animal.prompts is None
                else {"prompts": [_with_masks(p, f"{folder}/masks") for p in animal.prompts]}
            )
            for animal in animals
        ]
    )


def _with_masks(prompt: dict[str, Any], folder: str) -> dict[str, Any]:
    return prompt | {"mask": f"{folder}/{prompt['mask']}"} if "mask" in prompt else prompt


def _lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()
