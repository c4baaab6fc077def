"""The report of a run: one static page and a contact sheet, readable wherever the run directory can be opened.

The page loads nothing from elsewhere and runs no script; what came from the input (keys, labels, messages) is escaped.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image

from pipeline import storage
from pipeline.contact_sheet import contact_sheet
from pipeline.reconcile import Reconciliation
from pipeline.runs import RunDirectory
from pipeline.schema import RECORDS
from pipeline.sheet_rows import collect
from sdmatte.urls import redact

ERRORS_LISTED = 100
"""Error records on the page; the others are in the Parquet files."""

SHEET_LIMIT = 400
"""Objects on the sheet, whatever `output.contact_sheet` asks for: JPEG ends at 65535 lines."""

_BINS = 20
_FEATURES = ("definiteness", "coverage", "prompt_iou")
_ERROR_COLUMNS = ("shard", "image_key", "prompt_kind", "label", "error_code", "error_message")


@dataclass(frozen=True)
class Histogram:
    """Distribution of one feature over the ok records.

    Attributes:
        name: Column of the records.
        description: What it is.
        bars: `(x, y, width, height)` rectangles in a 200 x 60 drawing, one per bin from 0 to 1.
        count: Records that have the feature.
        mean: Its mean, or None where no record has it.
    """

    name: str
    description: str
    bars: tuple[tuple[float, float, float, float], ...]
    count: int
    mean: float | None


def write_report(run_path: str, summary: Reconciliation) -> str:
    """Write `report/contact_sheet.jpg` and `report/index.html` of a run, replacing earlier ones.

    Args:
        run_path: The run directory; local or any fsspec URL.
        summary: What the run holds.

    Returns:
        Path or URL of the page.

    Raises:
        ConfigurationError: There is no run, a commit is damaged, or the store refuses the write.
        TransientError: The store failed repeatedly.
    """
    run = RunDirectory.open(run_path)
    shown = min(run.info["config"]["output"]["contact_sheet"], SHEET_LIMIT)
    if shown:
        sheet = storage.join(run_path, "report", "contact_sheet.jpg")
        storage.write_bytes_atomic(sheet, _jpeg(_sheet(run, summary, shown)))
    page = _environment().get_template("report.html.j2").render(**_content(run, summary, bool(shown)))
    uri = storage.join(run_path, "report", "index.html")
    storage.write_bytes_atomic(uri, page.encode())
    return uri


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _sheet(run: RunDirectory, summary: Reconciliation, limit: int) -> Image.Image:
    rows = collect(run.path, limit)
    model = run.info["model"]
    facts = [model["name"], f"weights {model['weights_sha256'][:12]}", model["precision"]]
    return contact_sheet(
        rows,
        title=f"Run {run.run_id}",
        subtitle=" · ".join([*facts, f"{len(rows)} of {summary.found} objects"]),
        warning="Untrained model: these are not mattes yet" if _untrained(run) else "",
    )


def _untrained(run: RunDirectory) -> bool:
    return str(run.info["config"]["model"]["source"]).startswith("untrained:")


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90, subsampling=0, optimize=True)  # thin coloured lines need full chroma
    return buffer.getvalue()


def _content(run: RunDirectory, summary: Reconciliation, has_sheet: bool) -> dict[str, Any]:
    """Gather what the template shows."""
    failed = pc.field("status") == "error"
    errors = run.dataset().scanner(columns=list(_ERROR_COLUMNS), filter=failed).head(ERRORS_LISTED)
    return {
        "run_path": redact(run.path),
        "records_path": json.dumps(storage.join(redact(run.path), "records"), ensure_ascii=False),
        "info": run.info,
        "summary": summary,
        "untrained": _untrained(run),
        "has_sheet": has_sheet,
        "histograms": _histograms(run),
        "codes": sorted(summary.by_code.items(), key=lambda item: (-item[1], item[0])),
        "errors": errors.to_pylist(),
    }


def _histograms(run: RunDirectory) -> list[Histogram]:
    counts = {name: np.zeros(_BINS, np.int64) for name in _FEATURES}
    sums = dict.fromkeys(_FEATURES, 0.0)
    for batch in run.dataset().to_batches(columns=list(_FEATURES), filter=pc.field("status") == "ok"):
        for name in _FEATURES:
            values = batch[name].drop_null().to_numpy(zero_copy_only=False)
            counts[name] += np.histogram(values, bins=_BINS, range=(0, 1))[0]
            sums[name] += float(values.sum(dtype=np.float64))
    return [_histogram(name, counts[name], sums[name]) for name in _FEATURES]


def _histogram(name: str, counts: NDArray[np.int64], total: float) -> Histogram:
    width, height = 200 / len(counts), 60.0
    tallest = max(1, int(counts.max()))
    # A bin that isn't empty is always seen.
    heights: Sequence[float] = [max(1.5, height * count / tallest) if count else 0.0 for count in counts.tolist()]
    bars = tuple((index * width + 0.5, height - tall, width - 1, tall) for index, tall in enumerate(heights))
    number = int(counts.sum())
    description = RECORDS.field(name).metadata[b"description"].decode()
    return Histogram(name, description, bars, number, total / number if number else None)
