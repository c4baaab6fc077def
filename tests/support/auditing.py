"""Prompts audited without a run."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.audit import ImageAudit
from pipeline.config import PromptsConfig
from pipeline.errors import BadInputError, ErrorCode
from pipeline.prompts import raw_prompt
from sdmatte.images import ImageInfo

WIDTH, HEIGHT = 40, 30
WHERE = "a.jsonl line 7"


def no_masks(name: str) -> bytes:
    """A loader that has no mask files."""
    raise BadInputError(ErrorCode.PROMPT_MALFORMED, f"no {name}")


def audit_all(
    *contents: Any,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    orientation_of_image: int = 1,
    load_mask: Callable[[str], bytes] = no_masks,
    max_pixels: int = 10**6,
    **prompts: Any,
) -> list[dict[str, Any]]:
    """Audit prompts of one image.

    Args:
        contents: The prompts, in the native form.
        size: Width and height of the upright image.
        orientation_of_image: Its EXIF orientation.
        load_mask: Fetches mask files.
        max_pixels: Limit on larger masks.
        prompts: Settings under ``prompts``.
    """
    config = PromptsConfig.model_validate(prompts)
    audit = ImageAudit(config, ImageInfo(*size, "JPEG", (), orientation_of_image), load_mask, max_pixels)
    return [audit(raw_prompt(content, WHERE), 5) for content in contents]


def audited(content: Any, **options: Any) -> dict[str, Any]:
    """Audit one prompt; see :func:`audit_all`."""
    (prompt,) = audit_all(content, **options)
    return prompt


def refused(content: Any, **options: Any) -> tuple[str, str]:
    """Return code and message of a prompt that must be an error, and say where it stands."""
    prompt = audited(content, **options)
    assert prompt["error_code"] is not None, prompt
    assert prompt["error_message"].startswith(f"{WHERE}: ")
    return prompt["error_code"], prompt["error_message"]


def png(pixels: NDArray[Any], mode: str | None = None) -> bytes:
    """Encode an array, in another of Pillow's modes if need be."""
    file = io.BytesIO()
    picture = Image.fromarray(pixels)
    (picture.convert(mode) if mode else picture).save(file, "PNG")
    return file.getvalue()


def pixels_of(prompt: dict[str, Any]) -> NDArray[np.bool_]:
    """Return the mask of an audited prompt."""
    with Image.open(io.BytesIO(prompt["mask"])) as picture:
        assert picture.mode == "1"
        return np.asarray(picture)


def blob() -> NDArray[np.bool_]:
    """A mask of one large part and one speck."""
    inside = np.zeros((HEIGHT, WIDTH), bool)
    inside[5:12, 7:30] = True
    inside[20, 3] = True
    return inside
