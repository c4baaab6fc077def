"""What people did, into reviews: each object that came back becomes one row, or a fault that is named.

Nothing is lost silently: what came back equals what was imported, was known already, says nothing, or is a fault.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.config import LabelConfig
from pipeline.errors import BadInputError, ConfigurationError, ErrorCode
from pipeline.inspection import open_chain
from pipeline.latest import Chain
from pipeline.originals import Unavailable, read_originals
from pipeline.review.binary import printable
from pipeline.review.finder import RecordFinder
from pipeline.review.items import Returned, ReturnFault
from pipeline.review.merge import Merged, merge
from pipeline.review.rematte import Rematters
from pipeline.review.schema import REVIEWS, REVIEWS_FOLDER
from pipeline.review.store import ReviewKey, counting_names, known_reviews, shown_reviews, write_reviews
from sdmatte.urls import redact

_BATCH = 32  # objects whose records are looked up together
_BATCH_BYTES = 256 * 2**20  # of their masks, at most about
_FILE_BYTES = 256 * 2**20  # of alphas in one file of reviews; an import of more adds several files


@dataclass
class Imported:
    """Counts of an import; :attr:`returned` is the sum of the next four.

    Attributes:
        returned: Objects and faults that came back.
        imported: Rows that were added, or would be in a dry run.
        known: Imported earlier, and unchanged since.
        silent: Neither edited nor given a verdict or a comment, in a tool that doesn't say who looked at what.
        faults: What can't be used, and why.
        edited: Of the imported, how many alphas differ from the old ones.
        rematted: Of these, how many were matted again.
        outdated: Of the imported, how many are about a record that was made anew since: kept, but they don't count.
        notes: Imported, but not as was asked for: what could not be matted again, or is about an older matte than the
            one that counts.
        files: What was written.
    """

    returned: int = 0
    imported: int = 0
    known: int = 0
    silent: int = 0
    faults: list[ReturnFault] = field(default_factory=list)
    edited: int = 0
    rematted: int = 0
    outdated: int = 0
    notes: list[ReturnFault] = field(default_factory=list)
    files: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"FAULT: {each.where}: {each.message}" for each in self.faults]
        lines += [f"NOTE: {each.where}: {each.message}" for each in self.notes]
        lines += [f"wrote {redact(uri)}" for uri in self.files]
        lines.append(
            f"{self.returned:,} came back: {self.imported:,} imported, {self.known:,} known already, "
            f"{self.silent:,} say nothing, {len(self.faults):,} faults"
        )
        about = f"{self.edited:,} of the imported have edited alphas, {self.rematted:,} of these matted again"
        if self.outdated:
            about += f"; {self.outdated:,} are about records that were made anew since, and don't count"
        return "\n".join([*lines, about])


class _Shown(NamedTuple):
    """What was shown of an object, and the review of it that counts by now, if that is another matte's."""

    output: _Output
    record: dict[str, Any]
    newer: dict[str, Any] | None


@dataclass
class _Output:
    """An output that may hold what came back."""

    path: str
    chain: Chain
    finder: RecordFinder
    known: set[ReviewKey]
    names: dict[tuple[int, str | None], str]  # of the files of reviews that count, by record_id and reviewed_run_id
    written: list[tuple[int, str | None]] = field(default_factory=list)  # record_id and reviewed_run_id
    rows: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def open(cls, path: str) -> _Output:
        chain = open_chain(path)
        if not chain.complete():
            raise ConfigurationError(f"{redact(path)} holds no complete run: finish it first, with the same command")
        return cls(path, chain, RecordFinder(chain), known_reviews(path), counting_names(path))

    def outdated(self) -> int:
        """Return how many reviews are about records that don't count any more."""
        ids = pa.array(sorted({number for number, _ in self.written}), pa.int64())
        table = self.chain.records(["record_id", "run_id"], pc.field("record_id").isin(ids))
        runs = dict(zip(table["record_id"].to_pylist(), table["run_id"].to_pylist(), strict=True))
        return sum(number not in runs or runs[number] != run_id for number, run_id in self.written)

    def config(self, run_id: str | None) -> LabelConfig:
        """Return the configuration of a run; of the last one where none has this id."""
        runs = list(self.chain.complete().values())
        run = next((run for run in runs if run.run_id == run_id), runs[-1])
        return LabelConfig.model_validate(run.info["config"])

    def shown(self, batch: Sequence[Returned]) -> dict[tuple[int, str], _Shown]:
        """Return what was shown, by record_id and run_id: records, or corrected ones of earlier imports."""
        wanted = {(each.record_id, each.run_id) for each in batch}
        rows: dict[tuple[int, str], dict[str, Any]] = {}
        counting: dict[int, str] = {}  # the rows of the latest run come last
        for row in self.finder.find({number for number, _ in wanted}):
            if row["status"] == "ok":
                key = (row["record_id"], str(row["run_id"]))
                counting[key[0]] = key[1]
                if key in wanted:
                    rows[key] = row | {"reviewed_run_id": row["run_id"]}
        rows |= shown_reviews(self.path, wanted, counting)
        newest = {
            key: self.names.get((key[0], row["reviewed_run_id"]), key[1])
            for key, row in rows.items()
            if row["reviewed_run_id"] == counting.get(key[0])  # reviews of other runs don't count
        }
        others = {(key[0], name) for key, name in newest.items() if name != key[1]}
        newer = dict(shown_reviews(self.path, others, counting))
        return {key: _Shown(self, row, newer.get((key[0], newest.get(key, "")))) for key, row in rows.items()}


@dataclass
class _Correction:
    """What came back of one object, and what becomes of it."""

    returned: Returned
    output: _Output
    record: dict[str, Any]
    key: ReviewKey
    merged: Merged
    columns: dict[str, Any] = field(default_factory=lambda: {"rematted": False})

    def row(self, reviewer: str | None) -> dict[str, Any]:
        each = self.returned
        return (
            self.record
            | {
                "alpha": {"bytes": self.merged.png, "path": None},
                "shown_run_id": each.run_id,
                "verdict": each.verdict,
                "reviewer": each.reviewer or reviewer,
                "reviewed_at": self.key.reviewed_at,
                "review_tool": each.tool,
                "review_id": self.key.review_id,
                "review_comment": each.comment,
                "edited_pixels": self.merged.edited_pixels,
            }
            | self.columns
        )


def import_reviews(
    outputs: Sequence[str],
    returned: Iterable[Returned | ReturnFault],
    *,
    rematter: Rematters | None = None,
    reviewer: str | None = None,
    dry_run: bool = False,
) -> Imported:
    """Add reviews to the outputs that hold their records.

    Args:
        outputs: Each an output.path.
        returned: What a tool holds.
        rematter: Mattes edited regions again.
        reviewer: Who, for tools that don't say.
        dry_run: Write nothing; nothing is matted again either.

    Raises:
        ConfigurationError: An output is none, or can't be written to.
        TransientError: The store failed repeatedly; what was written is known, and the same import goes on.
        PipelineError: A data file can't be read.
    """
    paths = dict.fromkeys(storage.absolute(path).rstrip("/") for path in outputs)
    importer = _Importer([_Output.open(path) for path in paths], rematter, reviewer, dry_run)
    for batch in _batches(returned, importer.done):
        importer.take(batch)
    importer.flush()
    importer.note_older()
    importer.done.outdated = sum(output.outdated() for output in importer.outputs if output.written)
    return importer.done


class _Importer:
    def __init__(
        self, outputs: list[_Output], rematter: Rematters | None, reviewer: str | None, dry_run: bool
    ) -> None:
        self.done = Imported()
        self.outputs = outputs
        self._rematter = rematter
        self._reviewer = reviewer
        self._dry_run = dry_run
        self._bytes = 0
        self._older: list[int] = []  # record_ids
        self._older_edited: list[int] = []

    def take(self, batch: Sequence[Returned]) -> None:
        """Merge some objects; their rows are written once there are enough."""
        shown: dict[tuple[int, str], list[_Shown]] = {}
        for output in self.outputs:
            for key, one in output.shown(batch).items():
                shown.setdefault(key, []).append(one)
        corrections = []
        for each in batch:
            holders = shown.get((each.record_id, each.run_id), [])
            try:
                if len(holders) != 1:
                    self._fault(each, _not_one(holders))
                elif (correction := self._merge(each, holders[0])) is not None:
                    corrections.append(correction)
            except BadInputError as error:
                self._fault(each, str(error))
        if self._rematter is not None and not self._dry_run:
            self._matte_again([each for each in corrections if each.merged.edited_pixels], self._rematter)
        for correction in corrections:
            self._add(correction)
        if self._bytes > _FILE_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what was merged."""
        for output in self.outputs:
            if output.rows and not self._dry_run:
                table = pa.Table.from_pylist(output.rows, schema=REVIEWS)
                uri = write_reviews(output.path, table)
                if uri:
                    self.done.files.append(uri)
                    name = f"{REVIEWS_FOLDER}/{PurePosixPath(uri).stem}"
                    output.names |= {(row["record_id"], row["reviewed_run_id"]): name for row in output.rows}
            output.rows.clear()
        self._bytes = 0

    def note_older(self) -> None:
        """Say what came back of mattes that others have corrected since."""
        for ids, kind, becomes in (
            (self._older, "", "their verdicts count, the corrected alphas stay"),
            (self._older_edited, "edited ", "their alphas count now, without the corrections made in between"),
        ):
            if ids:
                some = ", ".join(map(str, ids[:5])) + (", ..." if len(ids) > 5 else "")
                about = f"{len(ids):,} {kind}reviews are about an older matte than the one that counts"
                self.done.notes.append(ReturnFault(about, f"{becomes} (record {some})"))

    def _merge(self, each: Returned, shown: _Shown) -> _Correction | None:
        """Return what is to be imported of an object; None where that is nothing, which is counted."""
        key = _key(each)
        output, record, newer = shown
        if key in output.known:
            self.done.known += 1
            return None
        merged = merge(record["alpha"]["bytes"], each)
        if not (merged.edited_pixels or each.verdict or each.comment or each.reviewer or each.reviewed_at):
            self.done.silent += 1
            return None
        output.known.add(key)
        if newer is not None and not _goes_on(each, newer) and newer["alpha"]["bytes"] != merged.png:
            if merged.edited_pixels:
                self._older_edited.append(each.record_id)
            else:  # nobody asked for the older matte back
                self._older.append(each.record_id)
                record, merged = newer, merge(newer["alpha"]["bytes"], replace(each, mask=None))
        return _Correction(each, output, record, key, merged)

    def _add(self, correction: _Correction) -> None:
        output = correction.output
        output.rows.append(correction.row(self._reviewer))
        output.written.append((correction.returned.record_id, correction.record["reviewed_run_id"]))
        self._bytes += len(correction.merged.png)
        self.done.imported += 1
        self.done.edited += correction.merged.edited_pixels > 0
        self.done.rematted += correction.columns["rematted"]

    def _matte_again(self, edited: Sequence[_Correction], rematters: Rematters) -> None:
        """Matte edited regions again, with one original in memory at a time."""
        by_uri: dict[str, list[_Correction]] = {}
        for each in edited:
            by_uri.setdefault(each.record["image_uri"] or "", []).append(each)
        for each in by_uri.pop("", ()):
            self._again(each, Unavailable("the record names no image"), rematters)
        most = max((_max_pixels(each.output) for each in edited), default=1)
        for uri, image in read_originals(by_uri, most):
            for each in by_uri[uri]:
                self._again(each, image, rematters)

    def _again(self, each: _Correction, image: bytes | Unavailable, rematters: Rematters) -> None:
        """Matte the edited region again; where that fails the correction counts as it was made."""
        record = each.record
        try:
            if isinstance(image, Unavailable):
                raise _unchanged(f"its image can't be had: {image}")
            if record["image_sha256"] not in (None, hashlib.sha256(image).hexdigest()):
                raise _unchanged("its image was replaced since")
            alpha, transparent = record["alpha"]["bytes"], bool(record["transparent"])
            model = rematters.of(each.output.config(record["reviewed_run_id"]))
            each.merged = model.rematte(alpha, each.merged, image, transparent, _max_pixels(each.output))
            each.columns = model.columns() | {"rematted": True}
        except BadInputError as error:
            self.done.notes.append(ReturnFault(_where(each.returned), f"imported as it was corrected; {error}"))

    def _fault(self, each: Returned, message: str) -> None:
        self.done.faults.append(ReturnFault(_where(each), message))


def _batches(returned: Iterable[Returned | ReturnFault], done: Imported) -> Iterator[list[Returned]]:
    """Count what comes back, and gather the objects in lists of bounded size."""
    batch: list[Returned] = []
    size = 0
    for each in returned:
        done.returned += 1
        if isinstance(each, ReturnFault):
            done.faults.append(each)
            continue
        batch.append(each)
        size += 0 if each.mask is None else each.mask.nbytes
        if len(batch) == _BATCH or size > _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _key(each: Returned) -> ReviewKey:
    """Tell the annotation from others; tools without ids of their own get one that follows from the content."""
    at = each.reviewed_at
    if at is not None:
        at = (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC)
        at = at.replace(microsecond=at.microsecond // 1000 * 1000)  # what reviews are stored with
    identifier = each.review_id
    if identifier is None:
        digest = hashlib.sha256(repr((each.run_id, each.verdict, each.comment, each.reviewer)).encode())
        digest.update(b"" if each.mask is None else each.mask.tobytes())
        identifier = digest.hexdigest()[:32]
    return ReviewKey(each.record_id, each.tool, identifier, at)


def _goes_on(each: Returned, newer: dict[str, Any]) -> bool:
    """Tell whether the review that counts is an earlier state of this very annotation, which may take it back."""
    same = (newer["review_tool"], newer["review_id"], newer["shown_run_id"])
    return each.review_id is not None and same == (each.tool, each.review_id, each.run_id)


def _not_one(holders: Sequence[_Shown]) -> str:
    if holders:
        paths = ", ".join(redact(each.output.path) for each in holders)
        return f"several outputs hold it ({paths}): import into one at a time"
    return "no output that was named holds an ok record of that id and run: name the output that it was exported from"


def _where(each: Returned) -> str:
    return f"record {each.record_id} of {printable(each.run_id[:100])}"


def _max_pixels(output: _Output) -> int:
    return int(output.chain.runs[""].info["config"]["input"]["max_pixels"])


def _unchanged(message: str) -> BadInputError:
    return BadInputError(ErrorCode.IMAGE_UNREADABLE, f"not matted again: {message}")
