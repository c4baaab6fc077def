"""What a model has to beat: mattes from the same prompt without one.

Three baselines with one signature, by name in :data:`BASELINES`:

``prompt``
    The prompt itself as a matte.
``grabcut``
    GrabCut (Rother et al., SIGGRAPH 2004) as in OpenCV: a binary segmentation.
``closed_form``
    Closed-form matting (Levin et al., CVPR 2006) as in pymatting, with a trimap made from the prompt.

All are deterministic: the same picture and prompt give the same matte. GrabCut and closed-form matting get slow with
size, so they work on a copy of limited side, and their mattes are resized bilinearly: pictures above the limit lose
strands that the method could have kept. State the limit next to the figures, or raise it where time allows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import BadInputError, ErrorCode, PipelineError
from sdmatte.errors import PromptError
from sdmatte.geometry import from_grid, nearest
from sdmatte.prompt_maps import prompt_map
from sdmatte.prompts import Box, Mask, Points, Prompt, require_prompt

Pixels = NDArray[np.uint8]
Alpha = NDArray[np.float32]

Baseline = Callable[[Pixels, Prompt], Alpha | None]
"""From ``(H, W, 3)`` uint8 RGB and a box, points or a mask in its pixels to ``(H, W)`` float32 alpha in [0, 1]; None
where the method can't use this kind of prompt."""

GRABCUT_SIDE = 512
"""Longer side that GrabCut works at, pixels. One thread needs about 1 s on a photograph at 512 px, and 9 s on a noisy
one (24 s at 1024 px)."""

CLOSED_FORM_SIDE = 1024
"""Longer side that closed-form matting works at, pixels. One thread needs 4 to 7 s and 0.9 GB for 1024 px with a tenth
of the picture unknown, 0.6 s for 512 px; GrabCut comes on top for boxes."""

BAND = 30 / 1024
"""How far the unknown band reaches to either side of an outline, as a share of the side of a square of the picture's
area. The evaluation's rough masks are off by up to 29 px at 1024 px, so the true outline lies about within."""

_ROUNDS = 5  # of GrabCut: OpenCV's usual number
_COLOURS = 5  # of the mixture that GrabCut fits to either side; k-means needs at least one pixel for each
_FOREGROUND, _UNKNOWN, _BACKGROUND = 255, 128, 0


def prompt_matte(image: Pixels, prompt: Prompt) -> Alpha:
    """Take the prompt itself as the matte: the lower bound.

    A box is filled, a mask is taken as it is, and points become the Gaussians that the model itself sees, drawn at the
    picture's size (:func:`sdmatte.prompt_maps.prompt_map`).

    Args:
        image: ``(H, W, 3)`` uint8 RGB; only its size matters.
        prompt: Box, points or mask.

    Returns:
        ``(H, W)`` float32 in [0, 1].

    Raises:
        PipelineError: Not such an image.
        PromptError: The prompt doesn't fit the image, or is of another kind (``prompt_unsupported``).
    """
    _check(image, prompt)
    return _drawn(prompt, image, (image.shape[0], image.shape[1]))


def grabcut(image: Pixels, prompt: Prompt, limit_side: int = GRABCUT_SIDE) -> Alpha | None:
    """Segment with GrabCut.

    A box: its outside is background for certain, its inside foreground at first. A mask: its inside is foreground at
    first, and what lies further than :data:`BAND` from the outline is certain. Where that leaves almost nothing to
    learn one of the sides from (a box as large as the picture), the result is the prompt itself.

    Sets the seed of OpenCV's random numbers in the calling thread.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        prompt: Box or mask.
        limit_side: Longer side that larger pictures are reduced to, pixels.

    Returns:
        ``(H, W)`` float32 in [0, 1]: 0 or 1 unless the picture was reduced. None for points: GrabCut needs to know
        some background.

    Raises:
        PipelineError: Not such an image.
        PromptError: The prompt doesn't fit the image, or is of another kind (``prompt_unsupported``).
    """
    _check(image, prompt)
    if isinstance(prompt, Points):
        return None
    grid = _limited(image, limit_side)
    inside = _drawn(prompt, image, grid) > 0.5
    labels = np.where(inside, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    if isinstance(prompt, Box):
        labels[~inside] = cv2.GC_BGD
    else:
        trimap = _trimap(inside)
        labels[trimap == _FOREGROUND] = cv2.GC_FGD
        labels[trimap == _BACKGROUND] = cv2.GC_BGD
    if min(np.count_nonzero(inside), np.count_nonzero(~inside)) >= _COLOURS:
        cv2.setRNGSeed(0)
        background, foreground = np.zeros((1, 65)), np.zeros((1, 65))  # the mixtures that it fits
        nowhere = (0, 0, 0, 0)
        cv2.grabCut(_reduced(image, grid), labels, nowhere, background, foreground, _ROUNDS, cv2.GC_INIT_WITH_MASK)
    found = (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)
    return from_grid(found.astype(np.float32), image.shape[1], image.shape[0])


def closed_form(image: Pixels, prompt: Prompt, limit_side: int = CLOSED_FORM_SIDE) -> Alpha | None:
    """Solve for the matte in closed form, inside a trimap that is made from the prompt.

    The trimap is a band of :data:`BAND` to either side of an outline: that of the mask, or, for a box, that of
    :func:`grabcut` (of the box itself where GrabCut finds nothing). Inside objects thinner than the band it stops
    halfway to their innermost pixel, so that some foreground is always known; likewise outside.

    The first call on a machine takes about a minute: pymatting compiles its code then.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        prompt: Box or mask.
        limit_side: Longer side that larger pictures are reduced to, pixels.

    Returns:
        ``(H, W)`` float32 in [0, 1]. None for points: no background is known. The prompt itself where it covers the
        whole picture.

    Raises:
        PipelineError: Not such an image.
        PromptError: The prompt doesn't fit the image, or is of another kind (``prompt_unsupported``).
        BadInputError: ``model_failed``: the solver found no solution.
    """
    _check(image, prompt)
    grid = _limited(image, limit_side)
    inside = _drawn(prompt, image, grid) > 0.5
    if isinstance(prompt, Box):
        found = grabcut(image, prompt)
        assert found is not None
        segment = nearest((found > 0.5).astype(np.uint8), grid) > 0
        inside = segment if segment.any() else inside
    elif isinstance(prompt, Points):
        return None
    alpha = inside.astype(np.float32) if inside.all() else _solve(_reduced(image, grid), _trimap(inside))
    return from_grid(alpha, image.shape[1], image.shape[0])


BASELINES: Mapping[str, Baseline] = {"prompt": prompt_matte, "grabcut": grabcut, "closed_form": closed_form}


def _solve(image: Pixels, trimap: NDArray[np.uint8]) -> Alpha:
    if not (trimap == _UNKNOWN).any():  # a picture of a few pixels: the solver would divide by zero
        return np.asarray(trimap == _FOREGROUND).astype(np.float32)
    import pymatting  # takes seconds, and a minute where it was never compiled

    scaled = np.where(trimap == _UNKNOWN, 0.5, trimap / 255)
    try:
        alpha: NDArray[Any] = pymatting.estimate_alpha_cf(image / 255, scaled)
    except ValueError as error:  # no convergence, or no decomposition
        raise BadInputError(
            ErrorCode.MODEL_FAILED,
            f"closed-form matting found no solution ({error}); leave this prompt out of its average, and say so",
        ) from error
    return alpha.astype(np.float32)


def _trimap(inside: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Make a trimap: foreground, background, and an unknown band along the outline.

    Args:
        inside: ``(h, w)``, at least one pixel inside.

    Returns:
        ``(h, w)`` uint8 in 0, 128, 255; at least one pixel is foreground, and one background unless all are inside.
    """
    reach = BAND * math.sqrt(inside.size)
    depth = cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    distance = cv2.distanceTransform((~inside).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    trimap = np.full(inside.shape, _UNKNOWN, np.uint8)
    trimap[depth > min(reach, depth.max() / 2)] = _FOREGROUND
    trimap[distance > min(reach, distance.max() / 2)] = _BACKGROUND
    return trimap


def _drawn(prompt: Prompt, image: Pixels, grid: tuple[int, int]) -> Alpha:
    """Draw a prompt as ``grid`` (height, width) float32 in [0, 1]."""
    return np.asarray((prompt_map(prompt, image.shape[1], image.shape[0], grid).pixels + 1) / 2, np.float32)


def _limited(image: Pixels, limit_side: int) -> tuple[int, int]:
    """Return the height and width to work at."""
    height, width = image.shape[:2]
    scale = min(1.0, limit_side / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _reduced(image: Pixels, grid: tuple[int, int]) -> Pixels:
    if image.shape[:2] == grid:
        return np.ascontiguousarray(image)
    return np.asarray(cv2.resize(image, (grid[1], grid[0]), interpolation=cv2.INTER_AREA), np.uint8)


def _check(image: Pixels, prompt: Prompt) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise PipelineError(
            f"expected (H, W, 3) uint8 RGB pixels, got {image.dtype} {image.shape}; convert them first"
        )
    require_prompt(prompt)
    if not isinstance(prompt, Box | Points | Mask):
        raise PromptError(
            "prompt_unsupported", f"a baseline needs a box, points or a mask, got {prompt.kind}; leave it out"
        )
    prompt.validate(image.shape[1], image.shape[0])
