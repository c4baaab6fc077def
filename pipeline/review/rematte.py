"""Matting again where a reviewer edited: the corrected mask is the prompt, and only the edited region is taken."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.config import LabelConfig
from pipeline.errors import BadInputError, ConfigurationError, ErrorCode
from pipeline.review.merge import Merged, decode_alpha, merged
from sdmatte.errors import SDMatteError
from sdmatte.geometry import quantise
from sdmatte.images import decode_image
from sdmatte.prompts import Mask

if TYPE_CHECKING:
    from sdmatte.model import SDMatte

MARGIN = 16
"""Pixels around the edited ones over which the new matte fades into the old one."""


class Rematters:
    """The models that edited regions are matted again with; each is loaded when it is first needed.

    Args:
        source: Source of the model for all of them, with its own defaults; default: each run's own model.
    """

    def __init__(self, source: str | None = None) -> None:
        self._source = source
        self._loaded: dict[str, Rematter] = {}

    def of(self, config: LabelConfig) -> Rematter:
        """Return what mattes the records of a run again.

        Args:
            config: Of the run.

        Raises:
            ConfigurationError: The model can't be loaded.
        """
        from pipeline.stages.matte import load_model

        if self._source is not None:
            settings = type(config.model)(source=self._source, device=config.model.device)
            config = config.model_copy(update={"model": settings})
        key = config.model.model_dump_json()
        if key not in self._loaded:
            try:
                self._loaded[key] = Rematter(load_model(config))
            except SDMatteError as error:
                raise ConfigurationError(f"the model can't be used: {error}") from None
        return self._loaded[key]


class Rematter:
    """Mattes edited regions again, with one model."""

    def __init__(self, model: SDMatte) -> None:
        self._model = model

    def columns(self) -> dict[str, Any]:
        """Return the columns of a record that say which model made its matte."""
        from pipeline.stages.matte import identity

        made_by = identity(self._model)
        return {"model": made_by.name, "weights_sha256": made_by.weights_sha256, "precision": made_by.precision}

    def rematte(self, alpha: bytes, corrected: Merged, image: bytes, transparent: bool, max_pixels: int) -> Merged:
        """Matte an object again, and take the result where it was edited.

        The prompt is the corrected mask, alpha >= half. Where a pixel was edited the new matte counts; over
        :data:`MARGIN` pixels around it fades into the old one; beyond, the old alpha stays bit for bit.

        Args:
            alpha: PNG that the reviewer was shown.
            corrected: What became of it.
            image: The encoded original.
            transparent: The object is transparent.
            max_pixels: Limit on the original.

        Returns:
            The alpha that counts. `edited` says where it differs from the old one, not what the reviewer touched.

        Raises:
            BadInputError: The image can't be decoded or has another size, the corrected mask is empty, or the model
                fails on it, for whatever reason.
        """
        old = decode_alpha(alpha)
        full = np.iinfo(old.dtype).max
        try:
            pixels = decode_image(image, max_pixels=max_pixels).pixels
            prompt = Mask(corrected.pixels > full // 2, transparent=transparent)
            matte = self._model(pixels, prompt, dtype="float32")
        except SDMatteError as error:
            raise BadInputError(_code(error), f"not matted again: {error}") from None
        except Exception as error:  # noqa: BLE001 - of torch: one object must not cost what the others were given
            raise BadInputError(ErrorCode.MODEL_FAILED, f"not matted again: {_failure(error)}") from None
        new = quantise(matte, "uint16" if old.dtype == np.uint16 else "uint8")
        weight = _weights(corrected.edited)
        blended = np.rint(weight * new + (1 - weight) * corrected.pixels).astype(old.dtype)
        return merged(alpha, old, np.where(weight > 0, blended, old))


def _weights(edited: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return how much of the new matte is taken: 1 where edited, falling to 0 at :data:`MARGIN` pixels from there."""
    distance = cv2.distanceTransform((~edited).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.clip(1 - distance.astype(np.float64) / MARGIN, 0, 1)


def _failure(error: Exception) -> str:
    from pipeline.stages.hazards import is_out_of_memory

    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    return f"no memory left for it ({reason})" if is_out_of_memory(error) else f"the model failed ({reason})"


def _code(error: SDMatteError) -> ErrorCode:
    code = getattr(error, "code", None)
    return ErrorCode(code) if code in [str(each) for each in ErrorCode] else ErrorCode.MODEL_FAILED
