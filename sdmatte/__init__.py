"""SDMatte: prompt-driven image matting in one diffusion step (arXiv 2508.00443), in plain PyTorch.

>>> from sdmatte import SDMatte, Box
>>> model = SDMatte.from_pretrained("LongfeiHuang/SDMatte")  # doctest: +SKIP
>>> alpha = model("photo.jpg", Box(40, 60, 500, 700))  # doctest: +SKIP

Importing the package is cheap: torch and diffusers are loaded on first use of the model.
"""

from typing import TYPE_CHECKING, Any

from sdmatte.errors import CheckpointError, ImageError, PromptError, SDMatteError
from sdmatte.prompts import Auto, Box, Mask, Points, Prompt, Trimap

if TYPE_CHECKING:
    from sdmatte.model import SDMatte

__version__ = "0.1.0"

__all__ = [
    "Auto",
    "Box",
    "CheckpointError",
    "ImageError",
    "Mask",
    "Points",
    "Prompt",
    "PromptError",
    "SDMatte",
    "SDMatteError",
    "Trimap",
]


def __getattr__(name: str) -> Any:
    if name == "SDMatte":
        from sdmatte.model import SDMatte

        return SDMatte
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
