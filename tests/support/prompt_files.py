"""Prompt files of any format, read as a run reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.prompt_files import Prompts, load_prompt_index
from pipeline.prompt_lookup import Found
from support.corpora import reading_config


def load(folder: Path, data: Any, kind: str = "jsonl", *, max_pixels: int = 10**6, **keys: Any) -> Prompts:
    """Write a prompt file, bytes or what JSON can hold, and read it."""
    path = folder / "prompts.json"
    path.write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
    config = reading_config(
        "folder", folder, prompts={"kind": kind, "path": str(path), **keys}, input={"max_pixels": max_pixels}
    )
    index = load_prompt_index(config)
    assert index is not None
    return index


def contents(found: Found | None) -> list[dict[str, Any]] | None:
    return None if found is None else [raw.content for raw in found.prompts]


def faults(found: Found | None) -> list[str | None]:
    assert found is not None
    return [raw.fault for raw in found.prompts]
