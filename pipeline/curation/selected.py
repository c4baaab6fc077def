"""The objects that decisions chose, with alphas and originals, one image after the other.

Memory: about 100 bytes per chosen object and the URI of each image, :data:`pipeline.row_groups.CACHE_BYTES`
of records, and what the caller keeps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline import storage
from pipeline.curation.decisions import read_curation, read_decisions
from pipeline.curation.schema import Decision
from pipeline.errors import ConfigurationError
from pipeline.ids import key_hash, show
from pipeline.latest import Chain
from pipeline.masks import decode_png
from pipeline.originals import Unavailable, read_originals, split_member
from pipeline.review.store import reviews_of
from pipeline.row_groups import RESTORE, RowGroups, parquet_dataset
from pipeline.runs import RunDirectory
from pipeline.schema import RECORDS
from pipeline.where import parse
from sdmatte.urls import redact

_PLANNED = ["record_id", "image_id", "image_uri", "label", "status"]
_REVIEWED = ["record_id", "reviewed_run_id", "reviewed_at", "run_id"]
_AGAIN = "decide again, with jobs/curate.py"
_FOLLOWS = {"accept": "accept", "fix": "review", "reject": "reject"}  # from a verdict
_ALPHA = pa.schema([RECORDS.field("alpha")])
_NO_PLACE = -1


@dataclass(frozen=True)
class Fault:
    """What is wrong with an object that was chosen; in general it can't be had.

    Attributes:
        record_id: Its id.
        image_uri: Where its image is said to be.
        reason: For people; without credentials.
    """

    record_id: int
    image_uri: str
    reason: str


@dataclass(frozen=True)
class SelectedObject:
    """One object that was chosen.

    Attributes:
        record: Its row of :data:`pipeline.schema.RECORDS`, with the alpha that counts.
        decision: What was decided.
        reviewed: The alpha is that of a reviewer, and differs from the model's.
    """

    record: dict[str, Any]
    decision: Decision
    reviewed: bool

    @property
    def name(self) -> str:
        """The record's id, 16 hexadecimal digits: a file name that no input has any say in."""
        return show(self.record["record_id"])

    @property
    def alpha(self) -> bytes:
        """PNG."""
        return bytes((self.record["alpha"] or {}).get("bytes") or b"")

    def matte(self, max_pixels: int) -> NDArray[Any]:
        """Decode the alpha: ``(H, W)`` bool, uint8 or uint16.

        Raises:
            BadInputError: It is damaged, or has more pixels than that.
        """
        return decode_png(self.alpha, max_pixels)


@dataclass(frozen=True)
class SelectedImage:
    """One image with the objects that were chosen of it.

    Attributes:
        name: From its id; unique in the selection.
        uri: Where its bytes are.
        max_pixels: Limit on width x height.
        objects: At least one.
        fetched: What came of reading it; None where that is still to be done.
    """

    name: str
    uri: str
    max_pixels: int
    objects: tuple[SelectedObject, ...]
    fetched: bytes | Unavailable | None

    def original(self) -> bytes | Unavailable:
        """Return the encoded original, or why there is none; may read it from storage."""
        if self.fetched is not None:
            return self.fetched
        if not self.uri:
            return Unavailable("the record doesn't say where its image is")
        return next(data for _, data in read_originals([self.uri], self.max_pixels))


class Selection:
    """What decisions chose, by its place in the runs' files.

    Attributes:
        decision: Which of the decisions.
        labels: All labels of the chosen objects, sorted; None at the end, if some have none.
        faults: Of what was chosen and isn't what was decided about any more, and of records that are there twice.
        without_alpha: How many of the chosen are error records, and so have nothing to export.
        runs: How many objects come from each run, by its id.
        max_pixels: Limit on width x height of the images, from the runs' configurations.
        curation: Settings and counts of the curation, where they stand beside the decisions.
    """

    def __init__(self, decision: Decision) -> None:
        self.decision = decision
        self.labels: list[str | None] = []
        self.faults: list[Fault] = []
        self.without_alpha = 0
        self.runs: dict[str, int] = {}
        self.max_pixels = 0
        self.curation: dict[str, Any] | None = None
        self._rows = RowGroups()
        self._plan = pa.table({})
        self._uris: list[str] = []

    def __len__(self) -> int:
        return len(self._plan)

    @classmethod
    def open(cls, decisions: str, decision: Decision = "accept", where: str | None = None) -> Selection:
        """Find the chosen objects; reads decisions and records, no alphas and no images.

        Args:
            decisions: Folder with decisions.parquet, see jobs/curate.py.
            decision: Which of them.
            where: Condition on the records, besides (:mod:`pipeline.where`).

        Raises:
            ConfigurationError: There are no decisions, their runs are not there (any more), or the condition can't be
                used.
            TransientError: The store failed repeatedly.
            PipelineError: A data file is damaged.
        """
        self = cls(decision)
        condition = None if where is None else parse(where)
        chosen = read_decisions(decisions, decision, ["record_id", "output", "run_id", "reason"])
        self.curation = read_curation(decisions)
        tables: list[pa.Table] = []
        for output in sorted(pc.unique(chosen["output"]).to_pylist()):
            of_output = chosen.filter(pc.equal(chosen["output"], output))
            tables += self._find(output, of_output, condition)
        if tables:
            self._arrange(pa.concat_tables(tables))
        return self

    def images(self) -> Iterator[SelectedImage]:
        """Yield the images in an order that depends on the runs' files and the tars alone.

        Files come first, unread, in the order of their records; then tars and Parquet manifests, each read once, in
        theirs.

        Raises:
            PipelineError: A data file of a run is damaged.
        """
        groups = self._groups()
        for shard, of_shard in groupby(groups, key=lambda group: group[0]):
            if not shard:
                for _, uri, rows in of_shard:
                    yield self._image(uri, rows, None)
                continue
            members: dict[str, list[NDArray[np.int64]]] = {}
            for _, uri, rows in of_shard:
                members.setdefault(uri, []).append(rows)
            for uri, data in read_originals(members, self.max_pixels):
                for rows in members[uri]:
                    yield self._image(uri, rows, data)

    # --- planning ----------------------------------------------------------------------------------------------------

    def _find(self, output: str, chosen: pa.Table, where: pc.Expression | None) -> Iterator[pa.Table]:
        """Yield the places of an output's chosen records."""
        chain = Chain.open(output)
        runs = {run.run_id: run for run in chain.runs.values()}
        ids = set(pc.unique(chosen["run_id"]).to_pylist())
        if unknown := sorted(ids - set(runs)):
            raise ConfigurationError(
                f"the decisions name the run {unknown[0]} in {redact(output)}, which isn't there (any more): "
                "decide again with jobs/curate.py, which names the runs that are"
            )
        chosen = self._still_true(chain, chosen)
        tables: list[pa.Table] = []
        for name, run in runs.items():
            if name in ids:
                tables += self._find_in_run(run, chosen.filter(pc.equal(chosen["run_id"], name)), where)
        if tables:
            found = _last_of_each(pa.concat_tables(tables))
            for row in pc.value_counts(found["run_id"].combine_chunks()).to_pylist():
                self.runs[row["values"]] = row["counts"]
            yield self._with_corrections(output, found)

    def _still_true(self, chain: Chain, chosen: pa.Table) -> pa.Table:
        """Leave out what is gone, has been labelled again, or was judged otherwise, since the decisions."""
        now = chain.records(["record_id", "run_id"], pc.field("record_id").isin(chosen["record_id"]))
        reviews = reviews_of(chain.path, now, ["record_id", "verdict"])
        runs = pa.array([run.run_id for run in chain.complete().values()], pa.string())
        at = pc.index_in(chosen["record_id"], now["record_id"].combine_chunks())
        anew = pc.not_equal(
            pc.index_in(now["run_id"], runs).take(at), pc.fill_null(pc.index_in(chosen["run_id"], runs), -1)
        )
        verdict = reviews["verdict"].take(pc.index_in(chosen["record_id"], reviews["record_id"].combine_chunks()))
        faults = {
            f"no complete run holds it any more: {_AGAIN}": pc.is_null(at),
            f"another run has labelled it since: {_AGAIN}": pc.fill_null(anew, False),
            f"a review has come since that says otherwise: {_AGAIN}": self._contradicts(verdict, chosen["reason"]),
        }
        keep = np.ones(len(chosen), np.bool_)
        for reason, where in faults.items():
            rows = np.flatnonzero(np.asarray(where.to_numpy(), np.bool_) & keep)
            keep[rows] = False
            self.faults += [
                Fault(number, "", reason) for number in chosen["record_id"].take(pa.array(rows)).to_pylist()
            ]
        return chosen.filter(pa.array(keep))

    def _contradicts(self, verdict: pa.ChunkedArray, reason: pa.ChunkedArray) -> pa.ChunkedArray:
        """Tell where the verdict of a person, or that there is none any more, leads to another decision."""
        agreeing = [said for said, decision in _FOLLOWS.items() if decision == self.decision]
        judged = pc.is_in(verdict, pa.array([*_FOLLOWS]))
        against = pc.and_(judged, pc.invert(pc.is_in(verdict, pa.array(agreeing, pa.string()))))
        was_judged = pc.starts_with(pc.fill_null(reason, ""), "verdict: ")
        return pc.or_(against, pc.and_(pc.invert(judged), was_judged))

    def _find_in_run(self, run: RunDirectory, chosen: pa.Table, where: pc.Expression | None) -> Iterator[pa.Table]:
        self.max_pixels = max(self.max_pixels, int(run.info["config"]["input"]["max_pixels"]))
        self.runs[run.run_id] = 0
        wanted = np.sort(chosen["record_id"].to_numpy())
        seen = np.zeros(len(wanted), np.int64)
        for ids, table in self._rows.add(run.dataset(), wanted, _PLANNED, where):
            np.add.at(seen, np.searchsorted(wanted, ids), 1)
            ok = table.filter(pc.equal(table["status"], "ok"))
            self.without_alpha += len(table) - len(ok)
            yield ok.append_column("run_id", pa.array([run.run_id] * len(ok), pa.string()))
        doubled = f"it is in the run {run.run_id} twice, of which the last one was taken; see jobs/runs.py reconcile"
        self.faults += [Fault(int(number), "", doubled) for number in wanted[seen > 1]]

    def _with_corrections(self, output: str, found: pa.Table) -> pa.Table:
        """Add the places of the reviews that count, which hold alphas, as `alpha_group` and `alpha_row`."""
        reviews = reviews_of(output, found, _REVIEWED)
        places: dict[int, tuple[int, int]] = {}
        for name in sorted(set(reviews["run_id"].to_pylist())):
            counting = reviews.filter(pc.equal(reviews["run_id"], name)).to_pylist()
            wanted = {row["record_id"]: (row["reviewed_run_id"], row["reviewed_at"]) for row in counting}
            file = parquet_dataset(storage.join(output, f"{name}.parquet"))
            for _, table in self._rows.add(file, np.sort(np.fromiter(wanted, np.int64)), _REVIEWED, cure=RESTORE):
                for row in table.to_pylist():
                    if wanted[row["record_id"]] == (row["reviewed_run_id"], row["reviewed_at"]):
                        places[row["record_id"]] = row["group"], row["row"]
        at = np.full((len(found), 2), _NO_PLACE, np.int64)
        if places:
            ids = found["record_id"].to_numpy()
            for index in np.flatnonzero(np.isin(ids, np.fromiter(places, np.int64))):
                at[index] = places[int(ids[index])]
        found = found.append_column("alpha_group", pa.array(at[:, 0]))
        return found.append_column("alpha_row", pa.array(at[:, 1]))

    def _arrange(self, found: pa.Table) -> None:
        """Order the objects by tar, then image; both in the order in which records name them first."""
        self.labels = sorted(pc.unique(found["label"]).to_pylist(), key=lambda label: (label is None, label))
        # Large strings: all URIs of a corpus may be more than the 2 GiB that an array of others can hold.
        uris = pc.fill_null(found["image_uri"].cast(pa.large_string()), "").combine_chunks().dictionary_encode()
        self._uris = uris.dictionary.to_pylist()
        shards = [shard if member else "" for shard, member in map(split_member, self._uris)]
        number: dict[str, int] = {"": -1}
        of_uri = np.array([number.setdefault(shard, len(number)) for shard in shards], np.int64)
        codes = uris.indices.to_numpy()
        images = found["image_id"].to_numpy()
        order = np.lexsort((np.arange(len(found)), images, codes, of_uri[codes]))
        places = ["group", "row", "alpha_group", "alpha_row"]
        plan = pa.table({"uri": codes, "image_id": images, **{name: found[name] for name in places}})
        self._plan = plan.take(pa.array(order))

    # --- reading -----------------------------------------------------------------------------------------------------

    def _groups(self) -> Iterator[tuple[str, str, NDArray[np.int64]]]:
        """Yield the tar (empty for other files), the URI, and the rows of the plan, of each image."""
        if not len(self._plan):
            return
        codes, images = self._plan["uri"].to_numpy(), self._plan["image_id"].to_numpy()
        starts = np.flatnonzero((np.diff(codes) != 0) | (np.diff(images) != 0)) + 1
        for start, stop in zip([0, *starts.tolist()], [*starts.tolist(), len(codes)], strict=True):
            uri = self._uris[codes[start]]
            shard, member = split_member(uri)
            yield shard if member else "", uri, np.arange(start, stop)

    def _image(self, uri: str, rows: NDArray[np.int64], fetched: bytes | Unavailable | None) -> SelectedImage:
        objects = tuple(self._object(row) for row in self._plan.take(pa.array(rows)).to_pylist())
        # The id alone doesn't do: two corpora may use the same names for different images.
        identity = self._plan["image_id"][int(rows[0])].as_py()
        name = f"{show(identity)}-{show(key_hash(uri))[:8]}"
        return SelectedImage(name, uri, self.max_pixels, objects, fetched)

    def _object(self, place: dict[str, int]) -> SelectedObject:
        record = self._rows.row(place["group"], place["row"], RECORDS)
        if place["alpha_group"] == _NO_PLACE:
            return SelectedObject(record, self.decision, reviewed=False)
        alpha = self._rows.row(place["alpha_group"], place["alpha_row"], _ALPHA)["alpha"]
        # That a reviewer changed nothing doesn't tell: what they were shown may have been an earlier correction.
        reviewed = bool(alpha and alpha["bytes"]) and alpha != record["alpha"]
        return SelectedObject(record | {"alpha": alpha} if reviewed else record, self.decision, reviewed)


def _last_of_each(found: pa.Table) -> pa.Table:
    """Keep the last row of each record_id, as :mod:`pipeline.curation.view` does."""
    ids = found["record_id"].to_numpy()
    last = len(ids) - 1 - np.unique(ids[::-1], return_index=True)[1]
    return found if len(last) == len(ids) else found.take(pa.array(np.sort(last)))
