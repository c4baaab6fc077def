"""Exceptions of the pipeline, and the closed list of error codes that a record can carry.

Three kinds of fault, three fates (see docs/design.md):

* :class:`TransientError`: the same call may succeed later; retried with backoff.
* :class:`BadInputError`: this image or prompt will never work; becomes an ``error`` record with a code.
* :class:`ConfigurationError`: nothing will work until a person changes something; stops the job before it costs.
"""

from enum import StrEnum


class ErrorCode(StrEnum):
    """Why a record is an error. Codes are stable: add, never rename."""

    SHARD_UNREADABLE = "shard_unreadable"
    """A shard could not be opened, or broke off; one record stands for the unread rest."""
    IMAGE_MISSING = "image_missing"
    """A prompt or manifest row names an image that isn't there."""
    IMAGE_UNREADABLE = "image_unreadable"
    """Storage refuses to hand out the image (permission, a URL it can't use)."""
    IMAGE_EMPTY = "image_empty"
    """Zero bytes."""
    IMAGE_UNSUPPORTED = "image_unsupported"
    """Not an image, or not of a supported format."""
    IMAGE_CORRUPT = "image_corrupt"
    """The image's data is damaged."""
    IMAGE_TRUNCATED = "image_truncated"
    """The image's data ends too early."""
    IMAGE_TOO_LARGE = "image_too_large"
    """More pixels than the configured cap."""
    IMAGE_UNAVAILABLE = "image_unavailable"
    """The store kept failing (throttling, timeouts, broken connections); may work later."""
    DUPLICATE_KEY = "duplicate_key"
    """A second image under a key that its shard already used."""
    PROMPT_MISSING = "prompt_missing"
    """The image has no prompt."""
    PROMPT_MALFORMED = "prompt_malformed"
    """The prompt can't be parsed."""
    PROMPT_NOT_FINITE = "prompt_not_finite"
    """NaN or infinity among its numbers."""
    PROMPT_DEGENERATE = "prompt_degenerate"
    """A box without area."""
    PROMPT_SWAPPED = "prompt_swapped"
    """A box whose corners are in the wrong order."""
    PROMPT_TINY = "prompt_tiny"
    """A box or mask too small to be matted."""
    PROMPT_DUPLICATE = "prompt_duplicate"
    """An earlier prompt of the image says the same."""
    PROMPT_TOO_MANY = "prompt_too_many"
    """More prompts on one image than the configured cap."""
    PROMPT_FRAME_MISMATCH = "prompt_frame_mismatch"
    """The prompt was made for an image of another size."""
    PROMPT_SEVERAL_SUBJECTS = "prompt_several_subjects"
    """A mask of several separate parts of similar size."""
    PROMPT_UNAVAILABLE = "prompt_unavailable"
    """The store kept failing to hand out the mask file that the prompt names; may work later."""
    PROMPT_OUT_OF_FRAME = "prompt_out_of_frame"
    """The prompt lies outside the image."""
    PROMPT_EMPTY_MASK = "prompt_empty_mask"
    """A mask without a pixel inside."""
    PROMPT_SIZE_MISMATCH = "prompt_size_mismatch"
    """A mask of another size than its image."""
    PROMPT_UNSUPPORTED = "prompt_unsupported"
    """The model was not made for this kind of prompt."""
    MODEL_FAILED = "model_failed"
    """The model raised on this object alone."""
    MODEL_OUT_OF_MEMORY = "model_out_of_memory"
    """This object alone does not fit in the device's memory."""
    MODEL_CRASHED = "model_crashed"
    """The model's process died on this object, repeatedly, with nothing else in hand."""
    MODEL_TIMEOUT = "model_timeout"
    """The model did not come to an end on this object alone."""
    ALPHA_NOT_FINITE = "alpha_not_finite"
    """The model returned NaN or infinity."""


TRANSIENT_CODES = frozenset({ErrorCode.IMAGE_UNAVAILABLE, ErrorCode.PROMPT_UNAVAILABLE})
"""Codes of faults that may have gone away by themselves since."""


class PipelineError(Exception):
    """Base class of everything the pipeline raises on purpose."""


class TransientError(PipelineError):
    """A fault that may go away by itself: throttling, timeouts, dropped connections."""


class BadInputError(PipelineError):
    """An input that will never work.

    Attributes:
        code: What is wrong, from the closed list.
    """

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[type["BadInputError"], tuple[ErrorCode, str]]:
        """Keep ``code`` when the exception crosses a process boundary."""
        return type(self), (self.code, str(self))


class ConfigurationError(PipelineError):
    """The configuration, the credentials or the model can't work as given; says what to change."""
