"""The ``sdmatte`` command: one picture, one prompt, one alpha; and the conversion of checkpoints."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import sdmatte
from sdmatte.configs import BUNDLED
from sdmatte.errors import SDMatteError
from sdmatte.prompts import Auto, Box, Mask, Points, Prompt
from sdmatte.urls import redact

if TYPE_CHECKING:
    from sdmatte.model import SDMatte

DEFAULT_MODEL = BUNDLED
RELEASED = "LongfeiHuang/SDMatte"

_DESCRIPTION = "Cut an object out of a photo: write its alpha matte as a PNG of the photo's size."
_EPILOG = """\
Coordinates are pixels of the upright photo (turned as its EXIF says), from the top left corner.

  sdmatte photo.jpg --box 40 60 500 700 -o alpha.png --cutout cutout.png
  sdmatte photo.jpg --points 250,300 260,420 --preview preview.png
  sdmatte glass.jpg --mask rough.png --transparent --bits 16
  sdmatte convert SDMatte.pth SDMatte.safetensors

'sdmatte convert CHECKPOINT OUT' makes plain safetensors of a training checkpoint ('sdmatte convert --help').
A photo of that name is './convert'.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Arguments without the program's name; default those of the process.

    Returns:
        Exit code: 0, or 1 with one line on stderr. Wrong usage leaves as ``SystemExit(2)``, as is argparse's way.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if arguments[:1] == ["convert"]:
            _convert(_convert_parser().parse_args(arguments[1:]))
        else:
            parser = _matte_parser()
            options = parser.parse_args(arguments)
            _check_outputs(parser, options)
            _matte(options)
    except SDMatteError as error:
        return _fail(str(error))
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, which may not be imported for its name's sake
            raise
        return _fail("the GPU's memory is too small; try a smaller --size, or --device cpu")
    except KeyboardInterrupt:
        return 130
    return 0


# --- options ---------------------------------------------------------------------------------------------------------


def _matte_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "sdmatte", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photo", type=Path, help="JPEG, PNG, WebP, TIFF, BMP, GIF or PPM")
    parser.add_argument("--version", action="version", version=f"sdmatte {sdmatte.__version__}")

    what = parser.add_argument_group("which object (one of these)").add_mutually_exclusive_group(required=True)
    what.add_argument("--box", type=float, nargs=4, metavar=("X0", "Y0", "X1", "Y1"), help="rectangle around it")
    what.add_argument(
        "--points", type=_point, nargs="+", metavar="X,Y", help="clicks on it; released weights learned from ten"
    )
    what.add_argument("--mask", type=Path, metavar="FILE", help="rough mask of the photo's size, white on black")
    what.add_argument("--auto", action="store_true", help="the whole frame (released weights never learned it)")
    parser.add_argument("--transparent", action="store_true", help="it lets light through: glass, smoke, veils")

    out = parser.add_argument_group("what to write (PNG)")
    out.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="alpha; default: <stem of photo>_alpha.png, here"
    )
    out.add_argument("--bits", type=int, choices=(8, 16), default=8, help="depth of the alpha; default: 8")
    out.add_argument("--cutout", type=Path, metavar="FILE", help="the object in RGBA, with its own colours estimated")
    out.add_argument("--preview", type=Path, metavar="FILE", help="the cut-out over a checkerboard")

    model = parser.add_argument_group("model")
    default = os.environ.get("SDMATTE_MODEL") or DEFAULT_MODEL
    model.add_argument(
        "--model",
        metavar="SOURCE",
        help="sdmatte-nano (bundled: small), LongfeiHuang/SDMatte or another hub id, folder, weights file, URL, "
        "or untrained:sdmatte-mini; "
        f"default: $SDMATTE_MODEL, here {redact(default).replace('%', '%%')}",
    )
    model.add_argument("--weights", metavar="FILE", help="which weights file, where the model has several")
    model.add_argument("--precision", choices=("auto", "float32", "bfloat16", "float16"), default="auto")
    model.add_argument("--size", type=int, metavar="N", help="side of the model's input, pixels; default: the model's")
    model.add_argument("--aspect", action="store_true", help="keep the photo's aspect ratio instead of a square input")
    model.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1; default: the GPU if there is one")
    return parser


def _convert_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "sdmatte convert", description="Convert a checkpoint to weights-only safetensors, with its SHA-256 beside it."
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="weights file, model folder, hub id or URL")
    parser.add_argument("out", metavar="OUT", help="a .safetensors file, or a folder that becomes a complete model")
    parser.add_argument("--weights", metavar="FILE", help="which weights file, where the checkpoint has several")
    return parser


def _point(text: str) -> tuple[float, float]:
    x, comma, y = text.partition(",")
    try:
        if comma:
            return float(x), float(y)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"expected X,Y such as 250,300 for each point, got {text!r}")


def _check_outputs(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Refuse, before anything is computed, outputs that can't be written or would destroy an input."""
    if options.output is None:
        options.output = Path(f"{options.photo.stem}_alpha.png")
    taken = [path for path in (options.photo, options.mask) if path is not None]
    for path in (options.output, options.cutout, options.preview):
        if path is None:
            continue
        if path.suffix.lower() != ".png":
            parser.error(f"{path}: outputs are PNG files, give a name that ends in .png")
        if not path.parent.is_dir():
            parser.error(f"{path}: there is no folder {path.parent}, make it first")
        if path.is_dir():
            parser.error(f"{path}: this is a folder, give the name of a file")
        if any(_same(path, other) for other in taken):
            parser.error(f"{path}: this would overwrite an input or another output, choose another name")
        taken.append(path)


def _same(path: Path, other: Path) -> bool:
    linked = path.exists() and other.exists() and path.samefile(other)
    return linked or path.resolve() == other.resolve()


# --- commands --------------------------------------------------------------------------------------------------------


def _matte(options: argparse.Namespace) -> None:
    from sdmatte.images import decode_image

    photo = decode_image(options.photo)
    if photo.notes:
        _tell(f"{options.photo}: {', '.join(note.replace('_', ' ') for note in photo.notes)}")
    height, width, _ = photo.pixels.shape
    prompt = _prompt(options)
    prompt.validate(width, height)  # before a model is loaded in vain

    alpha = _load(options)(photo.pixels, prompt)
    _write(options.output, _depth(alpha, options.bits), f"{width} x {height}, {options.bits}-bit alpha")
    if options.cutout or options.preview:
        _write_colours(options, photo.pixels, alpha)


def _prompt(options: argparse.Namespace) -> Prompt:
    if options.box:
        x0, y0, x1, y1 = options.box
        return Box(x0, y0, x1, y1, transparent=options.transparent)
    if options.points:
        return Points(options.points, transparent=options.transparent)
    if options.mask:
        return Mask(_read_mask(options.mask), transparent=options.transparent)
    return Auto(transparent=options.transparent)


def _read_mask(path: Path) -> NDArray[np.uint8]:
    from sdmatte.images import decode_image

    mask = decode_image(path)
    if "flattened_alpha" in mask.notes:
        raise SDMatteError(f"{path}: a mask with transparency can be read in two ways; save it as white on black")
    return np.asarray(mask.pixels.max(axis=2))


def _load(options: argparse.Namespace) -> SDMatte:
    from sdmatte.model import SDMatte

    chosen = options.model or os.environ.get("SDMATTE_MODEL")
    model = SDMatte.from_pretrained(
        chosen or DEFAULT_MODEL,
        weights=options.weights,
        device=options.device,
        precision=options.precision,
        input_size=options.size,
        resize="aspect" if options.aspect else "square",
    )
    if not model.trained:
        _tell("warning: this model is untrained: what it writes is noise, good for trying out the command only")
    elif not chosen:
        _tell(f"note: {DEFAULT_MODEL} is small and coarse; --model {RELEASED} is the paper's (downloads 12 GB)")
    return model


def _depth(alpha: NDArray[np.float32], bits: int) -> NDArray[Any]:
    from sdmatte.geometry import quantise

    return quantise(alpha, "uint16" if bits == 16 else "uint8")


def _write_colours(options: argparse.Namespace, pixels: NDArray[np.uint8], alpha: NDArray[np.float32]) -> None:
    from sdmatte.cutout import cutout, estimate_foreground, is_compiled, preview

    if not is_compiled():
        _tell("compiling the foreground estimation; once per machine, takes about a minute")
    foreground = estimate_foreground(pixels, alpha)
    size = f"{alpha.shape[1]} x {alpha.shape[0]}"
    if options.cutout:
        _write(options.cutout, cutout(pixels, alpha, foreground=foreground), f"{size}, RGBA")
    if options.preview:
        _write(options.preview, preview(pixels, alpha, foreground=foreground), f"{size}, RGB")


def _convert(options: argparse.Namespace) -> None:
    from sdmatte.checkpoint import convert

    written = convert(options.checkpoint, options.out, weights=options.weights)
    _say(f"wrote {written.path} ({_size(written.bytes)}, {written.tensors} tensors)", f"sha256 {written.sha256}")


# --- files and messages ----------------------------------------------------------------------------------------------


def _write(path: Path, pixels: NDArray[Any], what: str) -> None:
    """Write a PNG that is there as a whole or not at all, and say so."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            temporary.write_bytes(buffer.getbuffer())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise SDMatteError(f"can't write {path} ({error.strerror}); choose another place with room in it") from error
    _say(f"wrote {path} ({what}, {_size(buffer.tell())})")


def _size(count: int) -> str:
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= limit:
            return f"{count / limit:.1f} {unit}"
    return f"{count} bytes"


def _say(*lines: str) -> None:
    print(*lines, sep="\n", flush=True)


def _tell(line: str) -> None:
    print(f"sdmatte: {line}", file=sys.stderr, flush=True)


def _fail(message: str) -> int:
    _tell(f"error: {' '.join(message.split())}")
    return 1
