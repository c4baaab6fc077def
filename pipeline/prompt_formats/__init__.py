"""Formats that prompts come in, by the name they have in the configuration (``prompts.kind``).

Each format is one small module that brings its prompts to the native form (docs/prompts.md, "Adding a format");
look-up by image, choice by score and label, and the audit are the same for all.
"""

from __future__ import annotations

from collections.abc import Callable

from pipeline.config import LabelConfig
from pipeline.prompt_formats.base import LabelFormat, PromptFile
from pipeline.prompt_formats.coco import read_coco
from pipeline.prompt_formats.cvat import read_cvat
from pipeline.prompt_formats.jsonl import read_jsonl
from pipeline.prompt_formats.label_studio import read_label_studio
from pipeline.prompt_formats.labelme import LABELME
from pipeline.prompt_formats.parquet import read_parquet
from pipeline.prompt_formats.yolo import YOLO

__all__ = ["LABELS", "READERS", "LabelFormat", "PromptFile"]

READERS: dict[str, Callable[[LabelConfig], PromptFile]] = {
    "jsonl": read_jsonl,
    "parquet": read_parquet,
    "coco": read_coco,
    "label_studio": read_label_studio,
    "cvat": read_cvat,
}
"""Formats of one file for all images."""

LABELS: dict[str, LabelFormat] = {"yolo": YOLO, "labelme": LABELME}
"""Formats of one file per image."""
