"""What people did, into reviews: each object that came back becomes one row, or a fault that is named.

Nothing is lost silently: what came back equals what was imported, was known already, says nothing, or is a fault.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from typing import Any

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
from pipeline.review.schema import REVIEWS
from pipeline.review.store import ReviewKey, known_reviews, review_alpha, write_reviews
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
        notes: Imported, but not as was asked for: what could not be matted again.
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


@dataclass
class _Output:
    """An output that may hold what came back."""

    path: str
    chain: Chain
    finder: RecordFinder
    known: set[ReviewKey]
    written: list[tuple[int, str | None]] = field(default_factory=list)  # record_id and reviewed_run_id
    rows: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def open(cls, path: str) -> _Output:
        path = storage.absolute(path)
        chain = open_chain(path)
        if not chain.complete():
            raise ConfigurationError(f"{redact(path)} holds no complete run: finish it first, with the same command")
        return cls(path, chain, RecordFinder(chain), known_reviews(path))

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

    def records(self, batch: Sequence[Returned]) -> Iterator[tuple[tuple[int, str], dict[str, Any]]]:
        """Yield what was shown, by record_id and run_id: records, or corrected ones of earlier imports."""
        wanted = {(each.record_id, each.run_id) for each in batch}
        for row in self.finder.find({number for number, _ in wanted}):
            key = (row["record_id"], str(row["run_id"]))
            if key in wanted and row["status"] == "ok":
                yield key, row | {"reviewed_run_id": row["run_id"]}
        for number, run_id in wanted:
            if (review := review_alpha(self.path, run_id, number)) is not None:
                yield (number, run_id), review


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
        OSError: A data file can't be read.
    """
    importer = _Importer([_Output.open(path) for path in dict.fromkeys(outputs)], rematter, reviewer, dry_run)
    for batch in _batches(returned, importer.done):
        importer.take(batch)
    importer.flush()
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

    def take(self, batch: Sequence[Returned]) -> None:
        """Merge some objects; their rows are written once there are enough."""
        shown: dict[tuple[int, str], list[tuple[_Output, dict[str, Any]]]] = {}
        for output in self.outputs:
            for key, record in dict(output.records(batch)).items():
                shown.setdefault(key, []).append((output, record))
        images = self._images(batch, shown)
        for each in batch:
            holders = shown.get((each.record_id, each.run_id), [])
            try:
                if len(holders) == 1:
                    self._one(each, *holders[0], images)
                else:
                    self._fault(each, _not_one(holders))
            except BadInputError as error:
                self._fault(each, str(error))
        if self._bytes > _FILE_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what was merged."""
        for output in self.outputs:
            if output.rows and not self._dry_run:
                table = pa.Table.from_pylist(output.rows, schema=REVIEWS)
                uri = write_reviews(output.path, table)
                self.done.files += [uri] if uri else []
            output.rows.clear()
        self._bytes = 0

    def _one(
        self, each: Returned, output: _Output, record: dict[str, Any], images: dict[str, bytes | Unavailable]
    ) -> None:
        key = _key(each)
        if key in output.known:
            self.done.known += 1
            return
        alpha = record["alpha"]["bytes"]
        corrected = merge(alpha, each)
        if not (corrected.edited_pixels or each.verdict or each.comment or each.reviewer or each.reviewed_at):
            self.done.silent += 1
            return
        columns: dict[str, Any] = {"rematted": False}
        if corrected.edited_pixels and self._rematter is not None and not self._dry_run:
            corrected, columns = self._again(each, output, record, corrected, images)
        output.known.add(key)
        output.rows.append(
            record
            | {
                "alpha": {"bytes": corrected.png, "path": None},
                "verdict": each.verdict,
                "reviewer": each.reviewer or self._reviewer,
                "reviewed_at": key.reviewed_at,
                "review_tool": each.tool,
                "review_id": key.review_id,
                "review_comment": each.comment,
                "edited_pixels": corrected.edited_pixels,
            }
            | columns
        )
        self._bytes += len(corrected.png)
        self.done.imported += 1
        self.done.edited += corrected.edited_pixels > 0
        self.done.rematted += columns["rematted"]
        output.written.append((each.record_id, record["reviewed_run_id"]))

    def _again(
        self,
        each: Returned,
        output: _Output,
        record: dict[str, Any],
        corrected: Merged,
        images: dict[str, bytes | Unavailable],
    ) -> tuple[Merged, dict[str, Any]]:
        """Matte the edited region again; where that fails the correction counts as it was made."""
        assert self._rematter is not None
        image = images.get(record["image_uri"] or "", Unavailable("the record names no image"))
        try:
            if isinstance(image, Unavailable):
                raise _unchanged(f"its image can't be had: {image}")
            if record["image_sha256"] not in (None, hashlib.sha256(image).hexdigest()):
                raise _unchanged("its image was replaced since")
            alpha, transparent = record["alpha"]["bytes"], bool(record["transparent"])
            model = self._rematter.of(output.config(record["reviewed_run_id"]))
            again = model.rematte(alpha, corrected, image, transparent, _max_pixels(output))
        except BadInputError as error:
            self.done.notes.append(ReturnFault(_where(each), f"imported as it was corrected; {error}"))
            return corrected, {"rematted": False}
        return again, model.columns() | {"rematted": True}

    def _images(
        self, batch: Sequence[Returned], shown: dict[tuple[int, str], list[tuple[_Output, dict[str, Any]]]]
    ) -> dict[str, bytes | Unavailable]:
        """Fetch the originals that are needed to matte again."""
        if self._rematter is None or self._dry_run:
            return {}
        wanted = [(each.record_id, each.run_id) for each in batch if each.mask is not None]
        holders = [holder for key in wanted for holder in shown.get(key, [])]
        uris = [record["image_uri"] for _, record in holders if record["image_uri"]]
        return dict(read_originals(uris, max((_max_pixels(output) for output, _ in holders), default=1)))

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


def _not_one(holders: Sequence[tuple[_Output, dict[str, Any]]]) -> str:
    if holders:
        paths = ", ".join(redact(output.path) for output, _ in holders)
        return f"several outputs hold it ({paths}): import into one at a time"
    return "no output that was named holds an ok record of that id and run: name the output that it was exported from"


def _where(each: Returned) -> str:
    return f"record {each.record_id} of {printable(each.run_id[:100])}"


def _max_pixels(output: _Output) -> int:
    return int(output.chain.runs[""].info["config"]["input"]["max_pixels"])


def _unchanged(message: str) -> BadInputError:
    return BadInputError(ErrorCode.IMAGE_UNREADABLE, f"not matted again: {message}")
