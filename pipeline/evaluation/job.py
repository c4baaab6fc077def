"""An evaluation from folders to tables: list, prompt, label with every model, score, report."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.config import LabelConfig, load_config
from pipeline.errors import ConfigurationError
from pipeline.evaluation.datasets import Dataset, Fault, Listing, find_cases
from pipeline.evaluation.protocol import Kind, PromptedCase, manifest, prompt_case, prompt_id
from pipeline.evaluation.scoring import REGIONS, ScoreTask, mapped, score, scores_table
from pipeline.evaluation.sheet import worst_sheet
from pipeline.evaluation.table import TableRow, render, summarise
from pipeline.label import label
from pipeline.provenance import code_version
from pipeline.runs import RunDirectory
from sdmatte.configs import BUNDLED, packaged_folder
from sdmatte.locate import WEIGHTS_SUFFIXES
from sdmatte.urls import redact

WORST = 12
"""Mattes on a method's contact sheet."""

_OURS = ("input.", "prompts.", "output.path", "output.contact_sheet", "model.source")
_RECORD = ["prompt_id", "status", "error_code", "error_message", "alpha"]
_ROWS = 16  # records read at a time: alphas are in them

_TRIMAPS = {
    "derived": "objects whose unknown region is derived from the true alpha",
    "none": "objects without an unknown region, in none of its means",
}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """What to evaluate.

    Attributes:
        datasets: The data sets.
        models: Sources, as of `model.source`.
        baselines: Names of :data:`pipeline.evaluation.baselines.BASELINES`.
        out: Folder to write to.
        kinds: Kinds of prompt.
        seed: Of what is random in the prompts.
        limit: Objects of each set, the first by name; None for all.
        processes: That score mattes.
        overrides: `section.key=value` of the runs' configuration, such as `model.input_size=512`.
    """

    datasets: tuple[Dataset, ...]
    models: tuple[str, ...]
    baselines: tuple[str, ...]
    out: Path
    kinds: tuple[Kind, ...]
    seed: int = 0
    limit: int | None = None
    processes: int = 1
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What an evaluation found; `str()` is made for people.

    Attributes:
        table: Means and published figures.
        faults: Files that are missing or can't be used.
        notes: What else a reader of the table should know.
        errors: Objects without a matte, by method, error code and a first message.
        files: What was written.
    """

    table: tuple[TableRow, ...]
    faults: tuple[Fault, ...]
    notes: tuple[str, ...]
    errors: tuple[str, ...]
    files: tuple[Path, ...] = field(default=())

    @property
    def complete(self) -> bool:
        """Whether every object of every set is in the means."""
        return not self.faults and not self.errors

    def __str__(self) -> str:
        parts = [text for region in REGIONS if (text := render(self.table, region))]
        parts.append("".join(f"- Note: {note}\n" for note in self.notes))
        if self.errors:
            parts.append("Without a matte, and in no mean:\n\n" + "".join(f"- {line}\n" for line in self.errors))
        if self.faults:
            parts.append(f"Files missing or not usable: {len(self.faults)}\n\n" + _listed(self.faults))
        return "\n".join(part for part in parts if part)


@dataclass(frozen=True)
class Labelled:
    """A model's run over all prompts.

    Attributes:
        method: What the model is called in tables.
        source: Its source, as of `model.source`.
        run: The run.
    """

    method: str
    source: str
    run: RunDirectory


def evaluate(settings: Settings) -> Outcome:
    """Evaluate models and baselines; started again, it goes on with runs that are there, and scores anew.

    Raises:
        ConfigurationError: Something must be changed first: a folder, a model, the runs' configuration.
        PipelineError: A run or a scoring process stopped; the same command goes on.
    """
    listings, prompted, faults = prompt_all(settings)
    models = label_all(settings, prompted)
    rows = [row for row in mapped(score, _tasks(settings, prompted, models), settings.processes) if row]
    ordered = _in_given_order(rows, [listing.dataset.title for listing in listings])
    outcome = Outcome(
        tuple(summarise(ordered)),
        tuple(faults),
        tuple(_notes(settings, listings, rows)),
        tuple(_errors(rows)),
    )
    files = _write(settings, listings, models, rows, outcome)
    files += _draw_worst(settings, prompted, models, rows)
    return Outcome(outcome.table, outcome.faults, outcome.notes, outcome.errors, tuple(files))


def prompt_all(settings: Settings) -> tuple[list[Listing], list[PromptedCase], list[Fault]]:
    """List the objects of all sets and derive their prompts.

    Returns:
        The sets' listings, the objects with their prompts, and all faults of both.

    Raises:
        ConfigurationError: A set or an option must be changed first, or no object has a prompt.
    """
    _check(settings)
    listings = [find_cases(dataset) for dataset in settings.datasets]
    cases = [case for listing in listings for case in listing.cases[: settings.limit]]
    derive = partial(prompt_case, kinds=settings.kinds, seed=settings.seed)
    prompted = list(mapped(derive, cases, settings.processes))
    faults = [fault for listing in listings for fault in listing.faults]
    faults += [fault for each in prompted for fault in each.faults]
    if not any(each.prompts for each in prompted):
        raise ConfigurationError("no object has a prompt; the first fault: " + str(faults[0] if faults else "none"))
    return listings, prompted, faults


def _check(settings: Settings) -> None:
    if not settings.models and not settings.baselines:
        raise ConfigurationError("nothing to evaluate: name at least one --model or --baseline")
    titles = [dataset.title for dataset in settings.datasets]
    doubled = sorted({title for title in titles if titles.count(title) > 1})
    if doubled:
        raise ConfigurationError(f"two data sets are called {', '.join(doubled)}; evaluate them one after the other")
    for override in settings.overrides:
        if override.startswith(_OURS):
            raise ConfigurationError(f"{redact(override)}: the evaluation sets this key itself; leave it out")


# --- labelling -------------------------------------------------------------------------------------------------------


def label_all(settings: Settings, prompted: Sequence[PromptedCase]) -> list[Labelled]:
    """Run the pipeline once per model, over all prompts of all sets; runs that are there are used again.

    Raises:
        ConfigurationError: Something must be changed first: a model, the runs' configuration.
        PipelineError: A run stopped; the same call goes on.
    """
    content = manifest(prompted)
    digest = hashlib.sha256(content).hexdigest()[:12]
    file = settings.out / f"prompts-{digest}.jsonl"  # its content never changes: runs are continued by their input
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    found: list[tuple[str, RunDirectory]] = []
    for source in settings.models:
        config = _run_config(settings, source, file, digest)
        summary = label(config)
        _log.info("%s", summary)
        if not summary.complete:
            _log.warning("the run of %s is not complete:\n%s", redact(source), summary)
        found.append((source, summary.run))
    names = [str(run.info["model"]["name"]) for _, run in found]
    return [
        Labelled(name if names.count(name) == 1 else f"{name} [{redact(source)}]", source, run)
        for name, (source, run) in zip(names, found, strict=True)
    ]


def _run_config(settings: Settings, source: str, file: Path, digest: str) -> LabelConfig:
    """Configure a model's run, in a folder that only the same prompts, settings and local weights lead to."""
    keys = ["input.kind=manifest", f"input.path={json.dumps(str(file))}", "output.contact_sheet=0"]
    keys += [f"model.source={json.dumps(source)}", *settings.overrides, "output.path=unknown"]
    config = load_config(None, keys)
    identity = json.dumps([config.identity(), digest, _weights_state(source)], sort_keys=True)
    slug = re.sub(r"[^\w.-]+", "-", redact(source)).strip("-.")[-60:]
    name = f"{slug}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
    return load_config(None, [*keys[:-1], f"output.path={json.dumps(str(settings.out / 'runs' / name))}"])


def _weights_state(source: str) -> list[tuple[str, int, int]]:
    """Return names, sizes and times of local weights: a model that is trained on gets a run of its own."""
    path = packaged_folder(BUNDLED) if source == BUNDLED else Path(source).expanduser()
    folder = path.parent if path.is_file() else path
    files = [path] if path.is_file() else sorted(path.iterdir()) if path.is_dir() else []
    files = [file for file in files if file.suffix in WEIGHTS_SUFFIXES] + sorted(folder.glob("*/config.json"))
    stats = [(str(file.relative_to(folder)), file.stat()) for file in files]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


# --- scoring ---------------------------------------------------------------------------------------------------------


def _tasks(settings: Settings, prompted: Sequence[PromptedCase], models: Sequence[Labelled]) -> Iterator[ScoreTask]:
    """Yield one task per object, kind of prompt and method; prompts that a run has no record of, too."""
    for model in models:
        missing = {prompt_id(each.case, kind): (each, kind) for each in prompted for kind in each.prompts}
        for batch in model.run.dataset().to_batches(columns=_RECORD, batch_size=_ROWS):
            for record in batch.to_pylist():
                each, kind = missing.pop(record["prompt_id"], (None, None))
                if each and kind:  # a fault of the manifest itself would be no prompt's record
                    yield _task(model, each, kind, record)
        yield from (_task(model, each, kind, None) for each, kind in missing.values())
    for baseline in settings.baselines:
        for each in prompted:
            for kind, native in each.prompts.items():
                yield ScoreTask(each.case, kind, native, baseline, baseline=baseline)


def _task(model: Labelled, each: PromptedCase, kind: Kind, record: dict[str, Any] | None) -> ScoreTask:
    alpha = record and record["alpha"] and record["alpha"]["bytes"]
    error = (record["error_code"], record["error_message"]) if record and record["status"] == "error" else None
    return ScoreTask(each.case, kind, each.prompts[kind], model.method, alpha=alpha or None, error=error)


def _in_given_order(rows: list[dict[str, Any]], titles: Sequence[str]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: titles.index(row["dataset"]))  # stable: methods stay as they came


# --- reporting -------------------------------------------------------------------------------------------------------


def _notes(settings: Settings, listings: Sequence[Listing], rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    for listing in listings:
        title, complete = listing.dataset.title, listing.dataset.layout.complete
        if settings.limit is not None and settings.limit < len(listing.cases):
            yield f"{title}: {settings.limit} of {len(listing.cases)} objects; published figures are over all"
        elif complete is not None and listing.images != complete:
            yield f"{title}: {listing.images} images, the complete set has {complete}; published figures are over that"
        for source, meaning in _TRIMAPS.items():
            keys = {row["key"] for row in rows if row["dataset"] == title and row["trimap"] == source}
            if keys:
                yield f"{title}: {meaning}: {len(keys)}"


def _errors(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Say per method and error code how many objects have no matte, with one of the messages."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row["status"] == "error":
            found.setdefault((row["method"], row["error_code"]), []).append(row["error_message"])
    return [f"{method}: {len(texts)} x {code}, such as: {texts[0]}" for (method, code), texts in found.items()]


def _listed(faults: Sequence[Fault], most: int = 20) -> str:
    lines = [f"- {fault}\n" for fault in faults[:most]]
    return "".join(lines) + (f"- and {len(faults) - most} more, in table.json\n" if len(faults) > most else "")


def _write(
    settings: Settings,
    listings: Sequence[Listing],
    models: Sequence[Labelled],
    rows: list[dict[str, Any]],
    outcome: Outcome,
) -> list[Path]:
    files = [settings.out / name for name in ("scores.parquet", "table.md", "table.json")]
    pq.write_table(scores_table(rows), files[0])
    files[1].write_text(f"# Evaluation\n\nSeed {settings.seed}.\n\n{outcome}", encoding="utf-8")
    content = {
        "code": code_version(),
        "seed": settings.seed,
        "limit": settings.limit,
        "sets": [
            {
                "title": listing.dataset.title,
                "folder": str(listing.dataset.root.absolute()),
                "objects": len(listing.cases),
                "images": listing.images,
            }
            for listing in listings
        ],
        "models": [
            {"method": model.method, "source": redact(model.source), "run": redact(model.run.path)}
            | {
                "weights_sha256": model.run.info["model"]["weights_sha256"],
                "settings": model.run.info["config"]["model"],
            }
            for model in models
        ],
        "table": [asdict(row) for row in outcome.table],
        "notes": outcome.notes,
        "errors": outcome.errors,
        "faults": [asdict(fault) for fault in outcome.faults],
    }
    files[2].write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return files


def _draw_worst(
    settings: Settings, prompted: Sequence[PromptedCase], models: Sequence[Labelled], rows: list[dict[str, Any]]
) -> list[Path]:
    """Write a contact sheet per method."""
    by_id = {prompt_id(each.case, kind): (each, kind) for each in prompted for kind in each.prompts}
    runs = {model.method: model for model in models}
    files = []
    for method in [model.method for model in models] + list(settings.baselines):
        ok = [row for row in rows if row["method"] == method and row["status"] == "ok"]
        worst = sorted(ok, key=lambda row: row["mad_whole"], reverse=True)[:WORST]
        if not worst:
            continue
        ids = [f"{row['dataset']}/{row['key']}/{row['prompt']}" for row in worst]
        if method in runs:
            wanted = pc.field("prompt_id").isin(ids)
            records = runs[method].run.dataset().to_table(columns=_RECORD, filter=wanted).to_pylist()
            tasks = {
                record["prompt_id"]: _task(runs[method], *by_id[record["prompt_id"]], record) for record in records
            }
        else:
            pairs = [(key, *by_id[key]) for key in ids]
            tasks = {key: ScoreTask(e.case, kind, e.prompts[kind], method, baseline=method) for key, e, kind in pairs}
        shown = [(tasks[key], row) for key, row in zip(ids, worst, strict=True)]
        slug = re.sub(r"[^\w.-]+", "-", method).strip("-.")
        files.append(settings.out / f"worst-{slug}.jpg")
        worst_sheet(shown, f"{method}: the {len(shown)} worst mattes").save(files[-1], quality=88)
    return files
