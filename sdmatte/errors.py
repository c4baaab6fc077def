"""Exceptions of the model package.

None of them derives from ``ValueError`` or ``OSError``: a broad handler in a caller's code can then not swallow
them by accident. Every message says what is wrong, where, and what to do about it.
"""


class SDMatteError(Exception):
    """Base class of everything this package raises on purpose."""


class CheckpointError(SDMatteError):
    """Weights or configuration files are missing, damaged, unsafe to load, or belong to another model."""


class ImageError(SDMatteError):
    """An image can't be used.

    Attributes:
        code: Short stable identifier of the fault, such as ``"image_truncated"``; see :mod:`sdmatte.images`.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[type["ImageError"], tuple[str, str]]:
        """Keep ``code`` when the exception crosses a process boundary."""
        return type(self), (self.code, str(self))


class PromptError(SDMatteError):
    """A prompt can't be used with this image or this model.

    Attributes:
        code: Short stable identifier of the fault, such as ``"prompt_out_of_frame"``; see :mod:`sdmatte.prompts`.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[type["PromptError"], tuple[str, str]]:
        """Keep ``code`` when the exception crosses a process boundary."""
        return type(self), (self.code, str(self))
