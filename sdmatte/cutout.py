"""Cut-outs: foreground colours without a fringe of the old background, and pictures to judge an alpha by.

The matting equation ``image = alpha * foreground + (1 - alpha) * background`` is taken over plain sRGB values, neither
linearised nor gamma-corrected: that is the space in which the published mattes were composed and the model was
trained, and in which most software blends.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
import threading
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdmatte.errors import SDMatteError
from sdmatte.geometry import quantise

_LIGHT, _DARK = 255, 204
_one_at_a_time = threading.Lock()


def estimate_foreground(pixels: NDArray[np.uint8], alpha: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Estimate what colour the object itself has, where the photo shows a mixture of object and background.

    Multi-level foreground estimation (Germer et al. 2020, arXiv 2006.14970) as implemented in pymatting. Where alpha
    rounds to 255 of 255 the photo's own colour is kept, as the matting equation has it. The first call in a
    process takes seconds, the first one on a machine about a minute: pymatting compiles its code then.

    Args:
        pixels: ``(H, W, 3)`` uint8 RGB, the photo.
        alpha: ``(H, W)`` floats in [0, 1].

    Returns:
        ``(H, W, 3)`` uint8 RGB, plausible (continued from the object) also where alpha is 0.

    Raises:
        SDMatteError: Shapes or types don't fit together.
    """
    _check(pixels, alpha)
    if max(alpha.shape) == 1:  # nothing around to learn from, and pymatting divides by log2 of the size
        return pixels.copy()
    with _one_at_a_time:  # numba's fallback threading layer aborts the process when two threads enter it
        estimated = _pymatting().estimate_foreground_ml(pixels.astype(np.float32) / 255, alpha.astype(np.float32))
    foreground: NDArray[np.uint8] = np.rint(estimated * 255).astype(np.uint8)
    opaque = quantise(alpha, "uint8") == 255
    foreground[opaque] = pixels[opaque]
    return foreground


def is_compiled() -> bool:
    """Say whether :func:`estimate_foreground` was compiled on this machine before, without importing anything.

    It looks into the folders where numba keeps compiled code: ``$NUMBA_CACHE_DIR``, else pymatting's own, else the
    user's cache.
    """
    spec = find_spec("pymatting")
    assert spec is not None
    assert spec.origin is not None
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    user = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    usual = [Path(spec.origin).parent, user / "numba", Path("~/Library/Caches/numba").expanduser()]
    name = f"**/estimate_foreground_ml.*py{sys.version_info.major}{sys.version_info.minor}*.nbi"
    return any(any(folder.glob(name)) for folder in ([Path(chosen)] if chosen else usual))


def cutout(
    pixels: NDArray[np.uint8], alpha: NDArray[np.float32], *, foreground: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """Cut the object out.

    Fully transparent pixels keep their estimated colour: set to black, they would darken the border as soon as
    somebody resizes the cut-out.

    Args:
        pixels: ``(H, W, 3)`` uint8 RGB, the photo.
        alpha: ``(H, W)`` floats in [0, 1].
        foreground: What :func:`estimate_foreground` returned, if it was already called.

    Returns:
        ``(H, W, 4)`` uint8 RGBA, alpha not premultiplied.

    Raises:
        SDMatteError: Shapes or types don't fit together.
    """
    colours = estimate_foreground(pixels, alpha) if foreground is None else foreground
    _check(colours, alpha)
    return np.dstack([colours, quantise(alpha, "uint8")])


def checkerboard(width: int, height: int, cell: int = 16) -> NDArray[np.uint8]:
    """Draw the usual sign of transparency.

    Args:
        width: Pixels.
        height: Pixels.
        cell: Side of a square, pixels.

    Returns:
        ``(height, width, 3)`` uint8 RGB, white and light gray, white in the top left corner.
    """
    odd = (np.arange(height)[:, None] // cell + np.arange(width) // cell) % 2
    gray = np.where(odd, _DARK, _LIGHT).astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=2)


def composite(
    foreground: NDArray[np.uint8], alpha: NDArray[np.float32], background: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Put a foreground over a background: the matting equation over plain sRGB values, rounded.

    Args:
        foreground: ``(H, W, 3)`` uint8 RGB, not premultiplied.
        alpha: ``(H, W)`` floats in [0, 1].
        background: ``(H, W, 3)`` uint8 RGB, or one colour of shape ``(3,)``.

    Returns:
        ``(H, W, 3)`` uint8 RGB.

    Raises:
        SDMatteError: Shapes or types don't fit together.
    """
    _check(foreground, alpha)
    if background.shape != (3,):
        _check(background, alpha)
    weight = alpha.astype(np.float32)[..., None]
    return np.rint(foreground * weight + background * (1 - weight)).astype(np.uint8)


def preview(
    pixels: NDArray[np.uint8], alpha: NDArray[np.float32], *, foreground: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """Show the cut-out over a checkerboard of about 32 squares along the longer side.

    Args:
        pixels: ``(H, W, 3)`` uint8 RGB, the photo.
        alpha: ``(H, W)`` floats in [0, 1].
        foreground: What :func:`estimate_foreground` returned, if it was already called.

    Returns:
        ``(H, W, 3)`` uint8 RGB.

    Raises:
        SDMatteError: Shapes or types don't fit together.
    """
    colours = estimate_foreground(pixels, alpha) if foreground is None else foreground
    height, width = alpha.shape
    return composite(colours, alpha, checkerboard(width, height, max(4, max(width, height) // 32)))


def _check(pixels: NDArray[Any], alpha: NDArray[Any]) -> None:
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise SDMatteError(f"expected (H, W, 3) uint8 RGB pixels, got {pixels.dtype} {pixels.shape}")
    if alpha.shape != pixels.shape[:2]:
        raise SDMatteError(f"the alpha has shape {alpha.shape}, the pixels {pixels.shape[:2]}; they must be equal")
    if alpha.dtype.kind != "f" or not (alpha.size and alpha.min() >= 0 and alpha.max() <= 1):  # NaN fails as well
        raise SDMatteError(f"expected an alpha of floats in [0, 1], got {alpha.dtype}; divide 8-bit alphas by 255")


def _pymatting() -> Any:
    """Import pymatting, which compiles its code with numba or loads it from numba's cache."""
    try:
        return import_module("pymatting")
    except RuntimeError as error:
        if "no locator available" not in str(error):
            raise
    # Neither site-packages nor the home directory can be written to, as in many containers.
    numba: Any = sys.modules["numba"]  # pymatting's dependency, not ours; whoever raised this error has imported it
    folder = tempfile.mkdtemp(prefix="sdmatte-numba-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    numba.config.CACHE_DIR = folder
    return import_module("pymatting")
