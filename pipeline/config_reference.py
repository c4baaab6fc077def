"""Writes docs/configuration.md from the schema: `python -m pipeline.config_reference > docs/configuration.md`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from pipeline.config import LabelConfig

_HEAD = """# Configuration

One YAML file with the sections below; `python jobs/label.py --config FILE section.key=value ...` replaces single keys.
Unknown keys are refused. `--dry-run` prints the resolved configuration and the plan, and starts nothing.

This page is generated from `pipeline/config.py` (`python -m pipeline.config_reference > docs/configuration.md`).

```yaml
input:
  kind: webdataset
  path: s3://bucket/shards/*.tar
prompts:
  kind: coco
  path: s3://bucket/detections.json
  min_score: 0.4
model:
  source: LongfeiHuang/SDMatte
output:
  path: s3://bucket/mattes/2026-11-22
workers:
  actors: 8
```
"""


def reference() -> str:
    """Return the page as Markdown."""
    return _HEAD + "".join(_sections(LabelConfig, ""))


def _sections(schema: type[BaseModel], prefix: str) -> Iterator[str]:
    """Yield a table for each section of a schema, and for the sections inside of it."""
    for name, section in schema.model_fields.items():
        kind: Any = section.annotation
        if not _is_section(kind):
            continue
        plain = {key: field for key, field in kind.model_fields.items() if not _is_section(field.annotation)}
        text = " ".join(str(kind.__doc__).split())
        head = f"\n## `{prefix}{name}`\n\n{text}\n\n| key | values | default | meaning |\n|---|---|---|---|\n"
        yield head + "".join(_row(key, field, kind) for key, field in plain.items())
        yield from _sections(kind, f"{prefix}{name}.")


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _row(key: str, field: FieldInfo, section: type[BaseModel]) -> str:
    schema = section.model_json_schema()["properties"][key]
    default = "required" if field.default is PydanticUndefined else f"`{_plain(field.default)}`"
    meaning = " ".join((field.description or "").split())
    return f"| `{key}` | {_values(schema)} | {default} | {meaning} |\n"


def _values(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_values(option) for option in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema["type"] == "array":
        return f"list of {_values(schema['items'])}"
    if schema["type"] == "object":
        return f"mapping to {_values(schema['additionalProperties'])}"
    limits = {"minimum": "at least", "maximum": "at most", "exclusiveMinimum": "above", "multipleOf": "multiple of"}
    words = [f"{word} {schema[limit]:g}" for limit, word in limits.items() if limit in schema]
    return " ".join([schema["type"], ", ".join(words)]).strip()


def _plain(value: object) -> str:
    return "null" if value is None else '""' if value == "" else str(value)


if __name__ == "__main__":
    sys.stdout.write(reference())
