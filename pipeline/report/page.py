"""Puts the page together: what the survey found, the pictures, and the scripts and styles, all in one file.

The page loads its pictures and nothing else. It names the hashes of its own script and style in its content security
policy, so a browser runs no other, whatever keys and labels hold; these reach the page as escaped text or JSON only.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import pyarrow.compute as pc
from markupsafe import Markup
from PIL import Image

from pipeline import storage
from pipeline.contact_sheet import contact_sheet
from pipeline.reconcile import Reconciliation
from pipeline.report import facts, pictures
from pipeline.report.choose import WHY, Chooser
from pipeline.report.light import light
from pipeline.report.survey import Survey, look
from pipeline.report.thumbnails import Picture, Sheet
from pipeline.runs import RunDirectory
from pipeline.sheet_rows import collect
from sdmatte.urls import redact

ERRORS_LISTED = 100
"""Error records in the page's table; the others are in the Parquet files."""

LABELS_LISTED = 50
"""Labels in the page's table; the others are taken together."""

SHEET_LIMIT = 400
"""Objects on the sheet, whatever `output.contact_sheet` asks for: JPEG ends at 65535 lines."""

_LONGEST = 4000  # characters of a text on the page
_SCRIPTS = ("report_model.js", "report_tiles.js", "report_viewer.js", "report.js")
_ERROR_COLUMNS = ("shard", "image_key", "prompt_kind", "label", "error_code", "error_message")
_ESCAPES = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}
_TURNING = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # bidirectional controls
_VISIBLE = {ord(sign): f"\\u{ord(sign):04x}" for sign in _TURNING}


def write_report(run_path: str, summary: Reconciliation, timing: Mapping[str, Any] | None = None) -> str:
    """Write `report/index.html` of a run with its pictures, and `report/contact_sheet.jpg`, replacing earlier ones.

    Args:
        run_path: The run directory; local or any fsspec URL.
        summary: What the run holds.
        timing: Where its time went, see :func:`pipeline.timing.merged`; default what `run.json` says about it.

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
    chooser = Chooser(run.info["config"]["output"].get("report_objects", 200))
    survey = look(run, chooser)
    objects, sheets = pictures.collect(run, chooser.chosen())
    content = _content(run, summary, survey) | {"has_sheet": bool(shown), "shown": _shown(objects)}
    content |= {"light": light(timing or run.info.get("timing"))}
    uri = storage.join(run_path, "report", "index.html")
    storage.write_bytes_atomic(uri, _page(content, _data(objects, sheets)).encode())
    pictures.remove_others(run_path, sheets)
    return uri


# --- the sheet -------------------------------------------------------------------------------------------------------


def _sheet(run: RunDirectory, summary: Reconciliation, limit: int) -> Image.Image:
    rows = collect(run.path, limit)
    model = run.info["model"]
    names = [model["name"], f"weights {model['weights_sha256'][:12]}", model["precision"]]
    return contact_sheet(
        rows,
        title=f"Run {run.run_id}",
        subtitle=" · ".join([*names, f"{len(rows)} of {summary.found} objects"]),
        warning="Untrained model: these are not mattes yet" if _untrained(run) else "",
    )


def _untrained(run: RunDirectory) -> bool:
    return str(run.info["config"]["model"]["source"]).startswith("untrained:")


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90, subsampling=0, optimize=True)  # thin coloured lines need full chroma
    return buffer.getvalue()


# --- the page --------------------------------------------------------------------------------------------------------


def _page(content: dict[str, Any], data: dict[str, Any]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_visible,
    )
    environment.filters |= {"count": "{:,}".format, "cut": _cut}

    def source(name: str) -> str:
        assert environment.loader is not None
        return environment.loader.get_source(environment, name)[0]

    script = '"use strict";\n' + "\n".join(map(source, _SCRIPTS))
    style = source("report.css")
    return environment.get_template("report.html.j2").render(
        **content,
        script=Markup(script),  # noqa: S704 - our own files
        style=Markup(style),  # noqa: S704
        data=Markup(_json(data)),  # noqa: S704 - escaped there
        policy=(
            f"default-src 'none'; img-src 'self' file: data:; script-src {_hash(script)}; style-src {_hash(style)}; "
            "base-uri 'none'; form-action 'none'"
        ),
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _json(value: Any) -> str:
    """Return JSON that nothing in HTML takes for a tag, an entity or the end of a script."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    # Where they are visible the script must see escapes, not what these stand for: their backslash is escaped, too.
    return text.translate(_ESCAPES | {sign: f"\\{escape}" for sign, escape in _VISIBLE.items()})


def _visible(value: Any) -> Any:
    """Return a text with escapes in place of the signs by which it could pass for another."""
    return value.translate(_VISIBLE) if isinstance(value, str) else value


def _cut(text: str | None) -> str:
    text = text or ""
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}… ({len(text):,} characters)"


def _content(run: RunDirectory, summary: Reconciliation, survey: Survey) -> dict[str, Any]:
    """Gather what the template shows."""
    failed = pc.field("status") == "error"
    errors = run.dataset().scanner(columns=list(_ERROR_COLUMNS), filter=failed).head(ERRORS_LISTED)
    labels, others, more = survey.labels.top(LABELS_LISTED)
    scores, features = facts.histograms(survey)
    return {
        "run_path": redact(run.path),
        "records_path": json.dumps(storage.join(redact(run.path), "records"), ensure_ascii=False),
        "info": run.info,
        "summary": summary,
        "untrained": _untrained(run),
        "calibration": facts.calibration(survey),
        "pace": facts.pace(run, summary, survey),
        "scores": scores,
        "features": features,
        "mad": survey.distributions["predicted_mad"].mean,
        "quality": facts.median(survey, "quality"),
        "labels": labels,
        "others": others,
        "more_labels": more,
        "kinds": survey.kinds.top(len(("box", "points", "mask")) + 1)[0],
        "codes": sorted(summary.by_code.items(), key=lambda item: (-item[1], item[0])),
        "errors": errors.to_pylist(),
        "examples": survey.examples,
    }


def _shown(objects: Sequence[Picture]) -> dict[str, int]:
    return {why: number for why in WHY if (number := sum(picture.why == why for picture in objects))}


def _data(objects: Sequence[Picture], sheets: Sequence[Sheet]) -> dict[str, Any]:
    """Return what the script shows: a JSON-plain tree."""
    return {
        "sheets": [{"size": sheet.size, "photo": sheet.photo, "cut": sheet.cut} for sheet in sheets],
        "why": WHY,
        "objects": [_object(picture, number // pictures.PER_SHEET) for number, picture in enumerate(objects)],
    }


def _object(picture: Picture, sheet: int) -> dict[str, Any]:
    record = picture.record
    notes = [*(["transparent"] if record["transparent"] else []), *(record["prompt_repairs"] or [])]
    width, height = record["image_width"], record["image_height"]
    coverage = facts.plain(record["coverage"])
    found = {
        "id": str(record["record_id"]),  # JavaScript would round it
        "key": _cut(record["image_key"]),
        "label": _cut(record["label"]),
        "kind": record["prompt_kind"] or "",
        "code": (record["error_code"] or "unknown") if record["status"] == "error" else "",
        "message": _cut(record["error_message"]),
        "mad": facts.plain(record["predicted_mad"]),
        "quality": facts.plain(record["quality"]),
        "foreign": record["predicted_mad"] is not None and not record["calibration_matches"],
        "area": round(coverage * width * height) if coverage is not None and width and height else None,
        "image": [width, height] if width and height else None,
        "uri": _cut(redact(record["image_uri"] or "")),
        "shard": _cut(record["shard"]),
        "prompt": _cut(record["prompt_id"]),
        "notes": [*notes, *(record["image_notes"] or [])],
        "features": {name: value for name in facts.LISTED if (value := facts.plain(record[name])) is not None},
        "why": picture.why,
        "pic": [sheet, *picture.place, *picture.size],
        "crop": picture.crop,
        "alpha": picture.has_alpha,
        "fault": _cut(picture.fault),
        "box": picture.box,
        "points": picture.points,
        "mask": picture.mask,
    }
    return {name: value for name, value in found.items() if not (value is None or value is False or value in ("", []))}
