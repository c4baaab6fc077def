"""A run over the demo's corpus whose alphas are drawn, not predicted; no Ray, no model."""

import io
import json
import tarfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw

from pipeline.config import LabelConfig
from pipeline.demo import build_demo_corpus
from pipeline.ids import id_sum, image_id, record_id
from pipeline.parts import write_part
from pipeline.provenance import ModelIdentity
from pipeline.runs import RunDirectory
from pipeline.schema import LEDGER, RECORDS
from support.run_rows import begin

MODEL = ModelIdentity("sdmatte-mini", "ab" * 32, "float32", 64)


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def demo_run(
    run: str, corpus: Path, *, source: str = "untrained:sdmatte-mini", sheet: int = 24, objects: int = 200
) -> RunDirectory:
    """Builds the corpus and a run of one commit per shard, with an ok record per prompt; not finished."""
    config = LabelConfig.model_validate(
        {
            "input": {"kind": "webdataset", "path": str(corpus / "*.tar")},
            "model": {"source": source},
            "output": {"path": run, "contact_sheet": sheet, "report_objects": objects},
        }
    )
    directory = begin(config, MODEL)
    for index, shard in enumerate(build_demo_corpus(corpus).shards):
        add_records(directory, f"demo-{index:06d}", shard.name, list(_records(shard)))
    return directory


def add_records(run: RunDirectory, name: str, shard: str, records: list[dict[str, Any]]) -> None:
    """Commits records, and the ledger that asks for exactly these."""
    ids = [record["record_id"] for record in records]
    ledger = {"images": 1, "records": len(ids), "id_sum": id_sum(ids), "matched": []}
    rows = [*records, {"shard": shard, "ledger": ledger}]
    write_part(run.claim, name, pa.Table.from_pylist(rows, schema=RECORDS.append(pa.field("ledger", LEDGER))))


def error_record(shard: str, key: str, code: str, message: str, **columns: Any) -> dict[str, Any]:
    image = image_id(shard, key)
    return {
        "record_id": record_id(image, {"of": code}),
        "shard": shard,
        "image_key": key,
        "status": "error",
        "error_code": code,
        "error_message": message,
        **columns,
    }


def _records(shard: Path) -> Iterator[dict[str, Any]]:
    with tarfile.open(shard) as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    for name, data in members.items():
        if not name.endswith(".jpg"):
            continue
        key = name.removesuffix(".jpg")
        size = Image.open(io.BytesIO(data)).size
        image = image_id(shard.name, key)
        for line in members[f"{key}.prompts.jsonl"].splitlines():
            prompt = json.loads(line)
            alpha, kind, mask = _drawn(prompt, size, members, key)
            values = np.asarray(alpha) / 255
            yield {
                "record_id": record_id(image, prompt),
                "image_id": image,
                "shard": shard.name,
                "image_key": key,
                "image_uri": f"{shard}#{name}",
                "image_width": size[0],
                "image_height": size[1],
                "prompt_kind": kind,
                "label": prompt["label"],
                "transparent": prompt.get("transparent", False),
                "prompt_box": prompt.get("box"),
                "prompt_points": prompt.get("points"),
                "prompt_mask": mask,
                "status": "ok",
                "alpha": {"bytes": png(alpha), "path": None},
                "coverage": float(values.mean()),
                "definiteness": float((values > 0.9).sum() / (values > 0.1).sum()),
                "prompt_iou": None if kind == "points" else float(min(1, values.mean() * 2)),
                "labelled_at": datetime(2026, 1, 2, tzinfo=UTC),
            }


def _drawn(
    prompt: dict[str, Any], size: tuple[int, int], members: dict[str, bytes], key: str
) -> tuple[Image.Image, str, bytes | None]:
    alpha = Image.new("L", size)
    draw = ImageDraw.Draw(alpha)
    if "mask" in prompt:
        mask = members[f"{key}.{prompt['mask']}"]
        return Image.open(io.BytesIO(mask)).convert("L"), "mask", mask
    if "box" in prompt:
        draw.ellipse(prompt["box"], fill=255)
        return alpha, "box", None
    for x, y in prompt["points"]:
        draw.ellipse((x - 30, y - 30, x + 30, y + 30), fill=255)
    return alpha, "points", None
