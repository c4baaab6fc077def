"""Small corpora, and what the reading stage makes of them."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from pipeline.config import LabelConfig
from pipeline.prompt_files import load_prompt_index
from pipeline.sources import make_source
from pipeline.sources.base import Sample
from pipeline.stages.read import ReadShards, plan_table

BOX = {"box": [1, 2, 30, 20]}
Members = Iterable[tuple[str, bytes]]


def image(kind: str = "PNG", size: tuple[int, int] = (40, 30), shade: int = 128) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (shade, 60, 200)).save(file, kind)
    return file.getvalue()


def lines(*prompts: Any) -> bytes:
    return "".join(json.dumps(prompt) + "\n" for prompt in prompts).encode()


def tar(members: Members, mode: str = "w") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def reading_config(kind: str, path: Path | str | list[str], /, **sections: dict[str, Any]) -> LabelConfig:
    tree: dict[str, Any] = {
        "input": {"kind": kind, "path": path if isinstance(path, list) else str(path)},
        "model": {"source": "untrained:sdmatte-mini"},
        "output": {"path": "unused"},
        "workers": {"retries": 0},
    }
    for name, keys in sections.items():
        tree[name] = {**tree.get(name, {}), **keys}
    return LabelConfig.model_validate(tree)


def samples(config: LabelConfig) -> list[Sample]:
    """Read all shards of the configured source."""
    source = make_source(config)
    return [sample for shard in source.shards() for sample in source.read(shard)]


def codes(found: Iterable[Sample]) -> list[tuple[str, str | None]]:
    """Return keys and error codes; ``transient`` stands for faults that have none."""
    return [(sample.key, sample.error and str(getattr(sample.error, "code", "transient"))) for sample in found]


def read_rows(config: LabelConfig, done: dict[str, bytes] | None = None) -> list[dict[str, Any]]:
    """Run the reading stage over all shards; return the rows of its tables."""
    shards = make_source(config).shards()
    tables = ReadShards(config, load_prompt_index(config))(plan_table(shards, done or {}))
    return [row for table in tables for row in table.to_pylist()]
