"""The native form as JSON Lines: one prompt per line, with the key of its image."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.config import LabelConfig
from pipeline.prompt_formats.base import PromptFile
from pipeline.prompts import Entry, RawPrompt, clean_text, parse_line
from pipeline.storage import open_stream, read_lines


def read_jsonl(config: LabelConfig) -> PromptFile:
    """Read ``prompts.path``, a line at a time."""
    assert config.prompts.path is not None
    return PromptFile(_entries(config.prompts.path, config.workers.retries), "line")


def _entries(path: str, retries: int) -> Iterator[Entry]:
    with open_stream(path, retries=retries) as stream:
        for number, (_, line) in enumerate(read_lines(stream), 1):
            if line.strip():
                yield native_entry(parse_line(line.strip(), ""), number)


def native_entry(raw: RawPrompt, number: int) -> Entry:
    """Take the key of its image out of a prompt in the native form."""
    key = raw.content.get("image")
    if raw.fault is None and isinstance(key, str) and key:
        return Entry(clean_text(key), number, {name: part for name, part in raw.content.items() if name != "image"})
    return Entry(None, number, raw.content, raw.fault or 'has no "image" with the key of an image')
