"""Where training material comes from: foregrounds with alphas, and backgrounds.

A source is a sequence: ``len(source)`` items, ``source[index]`` reads one. Everything random happens later, from the
sample's own seed, so that a run can stop and continue anywhere.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sdmatte.errors import ImageError, SDMatteError
from sdmatte.images import decode_image
from sdmatte.synthetic.backgrounds import background, photo_crop
from sdmatte.synthetic.families import FAMILIES, TRAINING, render_object
from sdmatte.synthetic.layers import Layer, premultiplied, unpremultiply
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

    Args:
        path: Of the folder or tar file.

    Raises:
        SDMatteError: There is no picture in it; or, when it is read, a damaged one.
    """

    def __init__(self, path: str | Path) -> None:
        self._files = _Files(Path(path))

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Pixels:
        return self._files.decoded(index)


class Cutouts:
    """Foregrounds from RGBA pictures: a folder (searched through), or a tar file.

    Args:
        path: Of the folder or tar file.
        limit: Longer sides are scaled down to this many pixels.

    Raises:
        SDMatteError: There is no picture in it; or, when it is read, a damaged one, or one without an alpha channel.
    """

    def __init__(self, path: str | Path, *, limit: int = 1024) -> None:
        self._files = _Files(Path(path))
        self._limit = limit

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Layer:
        pixels = np.asarray(self._files.with_alpha(index), np.float32) / np.float32(255)
        return _limited(_trimmed(Layer(pixels[..., :3], pixels[..., 3], family="cutout")), self._limit)


class Pairs:
    """Foregrounds from two folders: colours, and alphas of the same name (whatever the suffix).

    This is how the public matting sets ship foregrounds (Composition-1K: ``fg/`` and ``alpha/``) and, with colours
    estimated beforehand or taken as they are, photographs with alphas (AM-2K, DIS-646, UHRSD).

    Args:
        colours: Folder of pictures.
        alphas: Folder of greyscale alphas, of 8 or 16 bits.
        transparent: Names (without suffix) of objects that are transparent.
        limit: Longer sides are scaled down to this many pixels.

    Raises:
        SDMatteError: A colour has no alpha, or two; or, when it is read, one of another size or a damaged one.
    """

    def __init__(
        self, colours: str | Path, alphas: str | Path, *, transparent: Sequence[str] = (), limit: int = 1024
    ) -> None:
        self._colours, self._alphas = _Files(Path(colours)), _Files(Path(alphas))
        by_name = {Path(name).stem: index for index, name in enumerate(self._alphas.names)}
        if len(by_name) < len(self._alphas):
            raise SDMatteError(f"two files in {alphas} have the same name but for folder or suffix; keep one of them")
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
        colour = np.asarray(self._colours.decoded(index), np.float32) / np.float32(255)
        alpha = np.asarray(self._alphas.decoded(self._alpha_of[index])[..., 0], np.float32) / np.float32(255)
        if colour.shape[:2] != alpha.shape:
            sizes = f"{colour.shape[1]} x {colour.shape[0]} pixels, its alpha {alpha.shape[1]} x {alpha.shape[0]}"
            raise SDMatteError(f"{name} has {sizes}; both must show the same frame")
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
    """Procedural backgrounds; item ``index`` is drawn from its own seed.

    Args:
        count: Number of pictures.
        side: Of each, pixels.
        seed: Other seeds give other pictures.
    """

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
    waits for its data. The objects come back with 8 bits per sample and without their empty margins.

    Args:
        source: What to keep.
        path: Of the ``.npy`` file. One that is there is used if it has as many objects of the same side and the same
            key. Else it is written; only one process may do so at a time.
        side: Objects are stored in squares of this many pixels; larger ones are scaled down.
        key: Says what the source is: a bank of another key is written anew.
        processes: That share the drawing; with more than one they are forked.
    """

    def __init__(self, source: Foregrounds, path: Path, *, side: int = 320, key: str = "", processes: int = 1) -> None:
        notes = path.with_suffix(".notes.npy")
        shape = (len(source), side, side, 4)
        if not _is_bank(path, shape, key):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)  # it would seem to fit as soon as the new notes lie beside it
            kept = np.lib.format.open_memmap(path.with_suffix(".part"), "w+", np.uint8, shape)
            remarks = np.zeros((len(source), 2), np.int16)
            for index, (pixels, remark) in enumerate(_drawn(source, side, processes)):
                rows, columns = pixels.shape[:2]
                top, left = (side - rows) // 2, (side - columns) // 2
                kept[index, top : top + rows, left : left + columns] = pixels
                remarks[index] = remark
            kept.flush()
            np.save(notes, remarks)
            path.with_suffix(".key").write_text(key, encoding="utf-8")
            os.replace(path.with_suffix(".part"), path)  # noqa: PTH105 - a file cut short never gets this name
        self._pixels = np.load(path, mmap_mode="r")
        self._notes = np.load(notes)

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitem__(self, index: int) -> Layer:
        stored = self._pixels[index]
        pixels = np.multiply(stored[_window(stored[..., 3] > 1)], np.float32(1 / 255), dtype=np.float32)
        transparent, code = self._notes[index]
        return Layer(pixels[..., :3], pixels[..., 3], bool(transparent), tuple(FAMILIES)[code] if code >= 0 else "")


def _is_bank(path: Path, shape: tuple[int, ...], key: str) -> bool:
    try:
        drawn_from = path.with_suffix(".key").read_text(encoding="utf-8")
        kept, notes = np.load(path, mmap_mode="r"), np.load(path.with_suffix(".notes.npy"))
    except (OSError, ValueError):  # not there, or damaged
        return False
    return drawn_from == key and kept.shape == shape and notes.shape == (shape[0], 2)


_Drawn = tuple[Pixels, tuple[bool, int]]  # (h, w, 4) RGBA; transparent, and the number of the family or -1


def _drawn(source: Foregrounds, side: int, processes: int) -> Iterator[_Drawn]:
    draw = _Draw(source, side)
    if processes == 1:
        yield from map(draw, range(len(source)))
        return
    cv2.setNumThreads(1)  # before the fork: a copy of OpenCV's thread pool has no threads, and waits for them for ever
    _DRAWING.append(draw)  # forked along: sources may hold hundreds of pictures
    try:
        with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("fork")) as pool:
            yield from pool.map(_draw_one, range(len(source)), chunksize=8)
    finally:
        _DRAWING.pop()


@dataclass(frozen=True)
class _Draw:
    source: Foregrounds
    side: int

    def __call__(self, index: int) -> _Drawn:
        layer = _limited(self.source[index], self.side)
        pixels = np.dstack([layer.colour, layer.alpha])
        code = _CODES.get(layer.family, -1)
        return np.asarray(np.rint(pixels * 255), np.uint8), (layer.transparent, code)


_DRAWING: list[_Draw] = []
_CODES = {name: code for code, name in enumerate(FAMILIES)}


def _draw_one(index: int) -> _Drawn:
    return _DRAWING[-1](index)


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
                raise SDMatteError(
                    f"{path} is not an uncompressed tar file ({error}); unpack it, or name a folder"
                ) from error
            self._offsets = {m.name: (m.offset_data, m.size) for m in members}
            self.names = sorted(self._offsets)
        else:
            raise SDMatteError(f"{path} does not exist; name a folder or a tar file of pictures")
        if not self.names:
            raise SDMatteError(f"{path} holds no pictures ({', '.join(_SUFFIXES)})")

    def __len__(self) -> int:
        return len(self.names)

    def decoded(self, index: int) -> Pixels:
        """Return a picture as upright RGB, ``(H, W, 3)``."""
        try:
            return decode_image(self._read(index)).pixels
        except ImageError as error:
            raise ImageError(error.code, f"{self.path / self.names[index]}: {error}") from error

    def with_alpha(self, index: int) -> Pixels:
        """Return a picture that has an alpha channel, ``(H, W, 4)``."""
        name = self.path / self.names[index]
        try:
            with Image.open(io.BytesIO(self._read(index))) as picture:
                if not picture.has_transparency_data:
                    raise SDMatteError(f"{name} has no alpha channel; foregrounds need one")
                return np.asarray(picture.convert("RGBA"))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # Pillow raises any of them
            raise SDMatteError(f"{name} can't be decoded ({error}); replace or remove it") from error

    def _read(self, index: int) -> bytes:
        name = self.names[index]
        offset, size = self._offsets.get(name, (0, -1))
        try:
            with (self.path if self._offsets else self.path / name).open("rb") as file:
                file.seek(offset)
                return file.read(size)
        except OSError as error:
            raise SDMatteError(f"{self.path / name} can't be read: {error.strerror}; was it moved?") from error


def _trimmed(layer: Layer) -> Layer:
    """Cut off the empty margin, so that the size of a layer is the size of its object."""
    window = _window(layer.alpha > 1 / 255)
    return layer.replaced(layer.colour[window], layer.alpha[window])


def _window(seen: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Return the rows and columns around all pixels ``(H, W)`` that are seen; all of them where none is."""
    x, y, width, height = cv2.boundingRect(seen.view(np.uint8))
    return (slice(y, y + height), slice(x, x + width)) if width else (slice(None), slice(None))


def _limited(layer: Layer, limit: int) -> Layer:
    rows, columns = layer.alpha.shape
    if max(rows, columns) <= limit:
        return layer
    scale = limit / max(rows, columns)
    size = max(1, round(columns * scale)), max(1, round(rows * scale))
    # Premultiplied, or the colours of invisible pixels would bleed into the outline.
    pixels = np.asarray(cv2.resize(premultiplied(layer), size, interpolation=cv2.INTER_AREA), np.float32)
    return layer.replaced(*unpremultiply(pixels[..., :3], pixels[..., 3]))
