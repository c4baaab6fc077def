"""Files that hold the prompts of one image each, wherever they stand."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from itertools import islice

from pipeline.config import LabelConfig
from pipeline.errors import BadInputError
from pipeline.prompt_formats import LABELS
from pipeline.prompt_formats.base import ClassNames, LabelFormat
from pipeline.prompt_formats.yolo import read_class_names
from pipeline.prompts import MAX_PROMPTS, RawPrompt, too_many_prompts, unreadable_prompts

MAX_BYTES = 512 * 2**20
"""Bytes of a file; LabelMe's hold the image, in base64. Larger ones are not read."""


class LabelFiles:
    """Reads files of the configured format (a :class:`pipeline.prompt_formats.base.LabelContext`)."""

    def __init__(self, config: LabelConfig) -> None:
        self.format: LabelFormat = LABELS[config.prompts.kind]
        self.max_pixels = config.input.max_pixels
        self._config = config

    @classmethod
    def beside(cls, config: LabelConfig) -> LabelFiles | None:
        """Return what reads the files beside the images; None where such are not configured."""
        here = config.prompts.kind in LABELS and config.prompts.path is None
        return cls(config) if here else None

    @cached_property
    def class_names(self) -> ClassNames:
        """Of ``prompts.class_names``; read once.

        Raises:
            ConfigurationError, TransientError: See :func:`pipeline.prompt_formats.yolo.read_class_names`.
        """
        return read_class_names(self._config)

    @property
    def categories(self) -> Mapping[str, str] | None:
        """As in :class:`pipeline.prompt_formats.base.PromptFile`; raises as :attr:`class_names`."""
        if not self.format.numbered:
            return None
        return {str(number): name for number, name in self.class_names.names.items()}

    def holds_prompts(self, path: str) -> bool:
        """Tell by its name whether a file is one of the format; hidden ones are not, nor are the class names."""
        parts = path.split("/")
        names = (self._config.prompts.class_names or "").rpartition("/")[2]
        return self.format.holds_prompts(path) and not any(p.startswith(".") for p in parts) and parts[-1] != names

    def parse(self, data: bytes, where: str) -> list[RawPrompt]:
        """Return the prompts of a file; one malformed one where it can't be read, or has more than are allowed.

        Args:
            data: Of the file.
            where: What messages call it.
        """
        try:
            found = [
                RawPrompt(content, f"{where} {self.format.unit} {number}", fault)
                for _, number, content, fault in islice(self.format.read(data, self), MAX_PROMPTS + 1)
            ]
        except BadInputError as error:
            return [unreadable_prompts(where, str(error))]
        return found if len(found) <= MAX_PROMPTS else [too_many_prompts(where)]
