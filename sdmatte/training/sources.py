"""Where training material comes from: foregrounds with alphas, and backgrounds.

A source is a sequence: ``len(source)`` items, ``source[index]`` reads one. Everything random happens later, from the
sample's own seed, so that a run can stop and continue anywhere.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sdmatte.errors import SDMatteError
from sdmatte.synthetic.backgrounds import background, photo_crop
from sdmatte.synthetic.families import FAMILIES, TRAINING, render_object
from sdmatte.synthetic.layers import Layer
from sdmatte.synthetic.textures import texture

Pixels = NDArray[np.uint8]

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
_PHOTO_PAINT = 0.4  # share of synthetic objects whose surface is cut from a photograph


class Foregrounds(Protocol):
    """Objects with exact alphas."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Layer: ...


class Backgrounds(Protocol):
    """Pictures ``(H, W, 3)`` uint8 RGB to put objects on."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Pixels: ...


class Pictures:
    """Backgrounds from a folder (searched through) or a tar file.

    Raises:
        SDMatteError: There is no picture in it.
    """

    def __init__(self, path: str | Path) -> None:
        self._files = _Files(Path(path))

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Pixels:
        return np.asarray(self._files.open(index).convert("RGB"))


class Cutouts:
    """Foregrounds from RGBA pictures: a folder (searched through), or a tar file.

    Args:
        path: Of the folder or tar file.
        limit: Longer sides are scaled down to this many pixels.

    Raises:
        SDMatteError: There is no picture in it; or, when it is read, one without an alpha channel.
    """

    def __init__(self, path: str | Path, *, limit: int = 1024) -> None:
        self._files = _Files(Path(path))
        self._limit = limit

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Layer:
        with self._files.open(index) as picture:
            if "A" not in picture.getbands() and "transparency" not in picture.info:
                raise SDMatteError(f"{self._files.names[index]} has no alpha channel; foregrounds need one")
            pixels = np.asarray(picture.convert("RGBA"), np.float32) / 255
        return _limited(_trimmed(Layer(pixels[..., :3], pixels[..., 3], family="cutout")), self._limit)


class Pairs:
    """Foregrounds from two folders: colours, and alphas of the same name (whatever the suffix).

    This is how the public matting sets ship foregrounds (Composition-1K: ``fg/`` and ``alpha/``) and, with colours
    estimated beforehand or taken as they are, photographs with alphas (AM-2K, DIS-646, UHRSD).

    Args:
        colours: Folder of pictures.
        alphas: Folder of greyscale alphas.
        transparent: Names (without suffix) of objects that are transparent.
        limit: Longer sides are scaled down to this many pixels.

    Raises:
        SDMatteError: A colour has no alpha, or, when it is read, one of another size.
    """

    def __init__(
        self, colours: str | Path, alphas: str | Path, *, transparent: Sequence[str] = (), limit: int = 1024
    ) -> None:
        self._colours, self._alphas = _Files(Path(colours)), _Files(Path(alphas))
        by_name = {Path(name).stem: index for index, name in enumerate(self._alphas.names)}
        missing = [name for name in self._colours.names if Path(name).stem not in by_name]
        if missing:
            raise SDMatteError(f"{len(missing)} of the pictures in {colours} have no alpha in {alphas}: {missing[:3]}")
        self._alpha_of = [by_name[Path(name).stem] for name in self._colours.names]
        self._transparent = frozenset(transparent)
        self._limit = limit

    def __len__(self) -> int:
        return len(self._colours)

    def __getitem__(self, index: int) -> Layer:
        name = self._colours.names[index]
        colour = np.asarray(self._colours.open(index).convert("RGB"), np.float32) / 255
        alpha = np.asarray(self._alphas.open(self._alpha_of[index]).convert("L"), np.float32) / 255
        if colour.shape[:2] != alpha.shape:
            raise SDMatteError(f"{name} is {colour.shape[1::-1]} pixels, its alpha {alpha.shape[::-1]}; fix one of them")
        layer = Layer(colour, alpha, transparent=Path(name).stem in self._transparent, family="pair")
        return _limited(_trimmed(layer), self._limit)


class Synthetic:
    """Procedural foregrounds; item ``index`` is drawn from its own seed.

    Args:
        count: Number of objects.
        side: Of each, pixels.
        seed: Other seeds give other objects.
        families: To draw from.
        photos: Photographs that some surfaces are cut from.
    """

    def __init__(
        self,
        count: int,
        *,
        side: int = 320,
        seed: int = 0,
        families: Sequence[str] = TRAINING,
        photos: Sequence[Pixels] = (),
    ) -> None:
        self._count, self._side, self._seed, self._families, self._photos = count, side, seed, families, photos

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Layer:
        rng = np.random.default_rng([self._seed, index])
        return render_object(self._families[index % len(self._families)], rng, self._side, self._paint)

    def _paint(self, rng: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
        if self._photos and rng.random() < _PHOTO_PAINT:
            return photo_crop(rng, height, width, self._photos, closest=0.15)
        return texture(rng, height, width)


class SyntheticPictures:
    """Procedural backgrounds; item ``index`` is drawn from its own seed."""

    def __init__(self, count: int, *, side: int = 384, seed: int = 0) -> None:
        self._count, self._side, self._seed = count, side, seed

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Pixels:
        drawn = background(np.random.default_rng([self._seed, index]), self._side, self._side)
        return np.asarray(np.rint(drawn * 255), np.uint8)


class Bank:
    """Foregrounds drawn or decoded once and kept in one file, which all loader processes map into memory.

    Drawing a synthetic object takes tens of milliseconds, composing a sample a few: without a bank, a small model
    waits for its data.

    Args:
        source: What to keep.
        path: Of the ``.npy`` file; a file that is there and fits is used, else it is written.
        side: Objects are stored in squares of this many pixels.
    """

    def __init__(self, source: Foregrounds, path: Path, *, side: int = 320) -> None:
        notes = path.with_suffix(".notes.npy")
        shape = (len(source), side, side, 4)
        if not path.exists() or np.load(path, mmap_mode="r").shape != shape:
            path.parent.mkdir(parents=True, exist_ok=True)
            kept = np.lib.format.open_memmap(path.with_suffix(".part"), "w+", np.uint8, shape)
            remarks = np.zeros((len(source), 2), np.int16)
            for index in range(len(source)):
                layer = _limited(source[index], side)
                rows, columns = layer.alpha.shape
                pixels = np.dstack([layer.colour, layer.alpha])
                top, left = (side - rows) // 2, (side - columns) // 2
                kept[index, top : top + rows, left : left + columns] = np.rint(pixels * 255)
                remarks[index] = layer.transparent, _FAMILY_CODES.get(layer.family, -1)
            kept.flush()
            np.save(notes, remarks)
            os.replace(path.with_suffix(".part"), path)  # noqa: PTH105 - a file cut short never gets this name
        self._pixels = np.load(path, mmap_mode="r")
        self._notes = np.load(notes)

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitem__(self, index: int) -> Layer:
        pixels = np.asarray(self._pixels[index], np.float32) * np.float32(1 / 255)
        transparent, code = self._notes[index]
        family = tuple(FAMILIES)[code] if code >= 0 else "cutout"
        return _trimmed(Layer(pixels[..., :3], pixels[..., 3], bool(transparent), family))


_FAMILY_CODES = {name: code for code, name in enumerate(FAMILIES)}


class _Files:
    """Pictures of a folder or a tar file, in the order of their names."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offsets: dict[str, tuple[int, int]] = {}
        if path.is_dir():
            found = (file for file in path.rglob("*") if file.suffix.lower() in _SUFFIXES)
            self.names = sorted(str(file.relative_to(path)) for file in found)
        elif path.is_file():
            try:
                with tarfile.open(path, "r:") as tar:
                    members = [m for m in tar if m.isfile() and m.name.lower().endswith(_SUFFIXES)]
            except tarfile.TarError as error:
                raise SDMatteError(f"{path} is not an uncompressed tar file ({error}); unpack it, or name a folder") from error
            self._offsets = {m.name: (m.offset_data, m.size) for m in members}
            self.names = sorted(self._offsets)
        else:
            raise SDMatteError(f"{path} does not exist; name a folder or a tar file of pictures")
        if not self.names:
            raise SDMatteError(f"{path} holds no pictures ({', '.join(_SUFFIXES)})")

    def __len__(self) -> int:
        return len(self.names)

    def open(self, index: int) -> Image.Image:
        name = self.names[index]
        if not self._offsets:
            return Image.open(self.path / name)
        offset, size = self._offsets[name]
        with self.path.open("rb") as file:
            file.seek(offset)
            return Image.open(io.BytesIO(file.read(size)))


def _trimmed(layer: Layer) -> Layer:
    """Cut off the empty margin, so that the size of a layer is the size of its object."""
    x, y, width, height = cv2.boundingRect((layer.alpha > 1 / 255).astype(np.uint8))
    if not width:
        return layer
    window: Any = np.s_[y : y + height, x : x + width]
    return layer.replaced(layer.colour[window], layer.alpha[window])


def _limited(layer: Layer, limit: int) -> Layer:
    rows, columns = layer.alpha.shape
    if max(rows, columns) <= limit:
        return layer
    scale = limit / max(rows, columns)
    size = max(1, round(columns * scale)), max(1, round(rows * scale))
    colour = cv2.resize(np.ascontiguousarray(layer.colour), size, interpolation=cv2.INTER_AREA)
    alpha = cv2.resize(np.ascontiguousarray(layer.alpha), size, interpolation=cv2.INTER_AREA)
    return layer.replaced(np.asarray(colour, np.float32), np.asarray(alpha, np.float32))
