"""Accepted objects as a data set: the photos and the alphas that count, in the form that its user needs.

Data comes first and the manifest `export.json` last, so a folder without one holds an export that broke off. Layouts
are described in docs/curation.md.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib import import_module
from typing import Any, Literal, TypeVar

import numpy as np

from pipeline import storage
from pipeline.curation.exports.base import ExportSettings, Form, Made, Subject
from pipeline.curation.schema import Decision
from pipeline.curation.selected import Fault, SelectedImage, SelectedObject, Selection
from pipeline.errors import BadInputError, ConfigurationError
from pipeline.folders import require_empty
from pipeline.ids import show
from pipeline.originals import Unavailable
from pipeline.provenance import code_version, library_versions
from pipeline.upright import Upright, upright
from sdmatte.errors import SDMatteError
from sdmatte.urls import redact

FormName = Literal["huggingface", "webdataset", "coco", "cutouts", "trimaps"]

MANIFEST = "export.json"
FAULTS = "faults.jsonl"

_FORMS = {
    "huggingface": "HuggingFace",
    "webdataset": "WebDataset",
    "coco": "Coco",
    "cutouts": "Cutouts",
    "trimaps": "Trimaps",
}  # by module of pipeline.curation.exports; loaded when they are needed, for what they import
_NO_MATTE = np.empty((0, 0), np.uint8)
_MOST_THREADS = 8
_NAMED = 5  # faults that people are told at once

_In = TypeVar("_In")
_Out = TypeVar("_Out")


@dataclass
class Exported:
    """What came of an export.

    Attributes:
        out: Its folder.
        form: Which form.
        images: Images in it.
        objects: Objects in it.
        reviewed: Of them, how many have an alpha that a reviewer corrected.
        without_alpha: Error records that were chosen, too, and have nothing to export.
        faults: Of objects that were chosen and are missing, or are not what they should be.
        files: What the form tells about its files.
    """

    out: str
    form: str
    images: int = 0
    objects: int = 0
    reviewed: int = 0
    without_alpha: int = 0
    faults: list[Fault] = field(default_factory=list)
    files: dict[str, Any] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every chosen object that has an alpha is there, and nothing is wrong with it."""
        return not self.faults

    def counts(self) -> dict[str, int]:
        """Return the counts, as the manifest has them."""
        names = ("images", "objects", "reviewed", "without_alpha")
        return {name: int(getattr(self, name)) for name in names} | {"faults": len(self.faults)}

    def __str__(self) -> str:
        lines = [f"{self.objects:,} objects of {self.images:,} images as {self.form} in {redact(self.out)}"]
        if self.reviewed:
            lines.append(f"  {self.reviewed:,} alphas are reviewers' corrections")
        if self.without_alpha:
            lines.append(f"  {self.without_alpha:,} chosen error records have no alpha, and were left out")
        if self.faults:
            missing = "their objects are missing unless a reason says otherwise"
            lines.append(f"  {len(self.faults):,} faults; {missing} ({FAULTS} lists them all):")
            lines += [f"    {show(fault.record_id)}: {fault.reason}" for fault in self.faults[:_NAMED]]
        return "\n".join(lines)


def export_accepted(
    decisions: str,
    out: str,
    form: FormName,
    *,
    decision: Decision = "accept",
    where: str | None = None,
    settings: ExportSettings | None = None,
) -> Exported:
    """Write the objects that were accepted as a data set.

    An object whose original or alpha can't be had (any more) is a fault in the result, not an error.

    Args:
        decisions: Folder with decisions.parquet, see jobs/curate.py.
        out: Folder to write, local or on any fsspec URL; must be empty or new.
        form: Which form.
        decision: Export other objects than the accepted ones.
        where: Condition on their records, besides (:mod:`pipeline.where`).
        settings: Sizes, margins and thresholds.

    Raises:
        ConfigurationError: There are no decisions or none like that, their runs are not there, the folder isn't
            empty, the condition can't be used, or the store refuses.
        TransientError: The store failed repeatedly.
        PipelineError: A data file of a run is damaged.
    """
    if form not in _FORMS:
        raise ConfigurationError(f"unknown form {form!r}: choose one of {', '.join(_FORMS)}")
    settings = settings or ExportSettings()
    out = storage.absolute(out)
    require_empty(out, "the export")
    selection = Selection.open(decisions, decision, where)
    if not len(selection) and not selection.faults:
        besides = f" and {where}" if where else ""
        raise ConfigurationError(
            f"{redact(decisions)} holds no object with an alpha and the decision {decision}{besides}: "
            "nothing to export"
        )
    done = Exported(out, form, without_alpha=selection.without_alpha, faults=list(selection.faults))
    writer = _form(form, out, selection, settings)
    try:
        for result in _in_order(lambda image: _make(writer, image), selection.images()):
            _take(writer, result, done)
        done.files = writer.close()
    except BaseException:
        writer.abort()
        raise
    _write_faults(done)
    about = {"decisions": redact(decisions), "decision": decision, "where": where, "settings": asdict(settings)}
    _write_manifest(done, about, selection)
    return done


def _form(form: str, out: str, selection: Selection, settings: ExportSettings) -> Form:
    try:
        kind = getattr(import_module(f"pipeline.curation.exports.{form}"), _FORMS[form])
        for library in kind.libraries:
            import_module(library)
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"{error}: this form needs pip install 'sdmatte[curate]'") from None
    made: Form = kind(out, selection, settings)
    return made


# --- one image -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Result:
    made: list[Made]
    faults: list[Fault]


def _make(form: Form, image: SelectedImage) -> _Result:
    """Fetch, check and encode one image with its objects; called by threads."""
    picture: Upright | None = None
    if form.needs != "nothing":
        fetched = image.original()
        if isinstance(fetched, Unavailable):
            return _Result([], [_fault(image, item, fetched) for item in image.objects])
        try:
            pixels = form.needs == "pixels"
            picture = upright(fetched, image.max_pixels, pixels=pixels, file=not pixels)
        except SDMatteError as error:
            return _Result([], [_fault(image, item, str(error)) for item in image.objects])
    made: list[Made] = []
    faults: list[Fault] = []
    for item in image.objects:
        try:
            subject = Subject(image, picture, item, item.matte(image.max_pixels))
            _check(subject)
            content = form.encode(subject)
        except (BadInputError, SDMatteError) as error:
            faults.append(_fault(image, item, str(error)))
        else:  # without the decoded alpha: of an image with a thousand objects they would fill the memory
            made.append(Made(replace(subject, matte=_NO_MATTE), content))
    if made:
        form.picture(made[0].subject)
    return _Result(made, faults)


def _check(subject: Subject) -> None:
    """Refuse alphas that don't lie over their photo."""
    if (picture := subject.upright) is None:
        return
    picture.check_unchanged(subject.item.record)
    height, width = subject.matte.shape
    if (width, height) != (picture.width, picture.height):
        raise SDMatteError(
            f"the alpha has {width} x {height} pixels, the photo {picture.width} x {picture.height}: "
            "label the image again"
        )


def _fault(image: SelectedImage, item: SelectedObject, reason: str) -> Fault:
    return Fault(item.record["record_id"], redact(image.uri), redact(reason))


def _take(form: Form, result: _Result, done: Exported) -> None:
    done.faults += result.faults
    if not result.made:
        return
    form.add(result.made)
    done.images += 1
    done.objects += len(result.made)
    done.reviewed += sum(one.subject.item.reviewed for one in result.made)


def _in_order(function: Callable[[_In], _Out], items: Iterable[_In]) -> Iterator[_Out]:
    """Apply a function in threads; results come in order, and no more of them are ahead than there are threads."""
    threads = min(os.cpu_count() or 1, _MOST_THREADS)
    ahead: deque[Future[_Out]] = deque()
    with ThreadPoolExecutor(threads, "export") as pool:
        try:
            for item in items:
                ahead.append(pool.submit(function, item))
                if len(ahead) > threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


# --- the end ---------------------------------------------------------------------------------------------------------


def _write_faults(done: Exported) -> None:
    if done.faults:
        lines = [json.dumps({**asdict(fault), "record_id": show(fault.record_id)}) for fault in done.faults]
        storage.write_bytes_atomic(storage.join(done.out, FAULTS), ("\n".join(lines) + "\n").encode())


def _write_manifest(done: Exported, about: dict[str, Any], selection: Selection) -> None:
    manifest = {
        "form": done.form,
        "complete": done.complete,
        "counts": done.counts(),
        "faults": [{**asdict(fault), "record_id": show(fault.record_id)} for fault in done.faults[:_NAMED]],
        "files": done.files,
        **about,
        "runs": selection.runs,
        "written_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "code": code_version(),
        "libraries": library_versions(),
    }
    content = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    storage.write_bytes_atomic(storage.join(done.out, MANIFEST), content.encode())
