"""The run directory: what one labelling run leaves behind, and how a job that is started again finds its place.

Layout and guarantees are described in docs/runs.md.
"""

from __future__ import annotations

import io
import json
import logging
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any, Self

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.fs
import pyarrow.parquet as pq
from pydantic import ValidationError

from pipeline import commit_log, exclusive, reconcile, storage
from pipeline.claims import Claim, SupersededError
from pipeline.commits import VERSION, ByShard, Committed
from pipeline.config import LabelConfig
from pipeline.errors import ConfigurationError, PipelineError
from pipeline.holding import holding
from pipeline.provenance import ModelIdentity, code_version, library_versions
from pipeline.reconcile import Reconciliation
from pipeline.schema import RECORDS
from pipeline.scopes import ALL, Scope
from sdmatte.urls import redact

logger = logging.getLogger(__name__)

PLAN = "plan.parquet"
"""In a run directory: the names of the shards that it is to label."""

FILES_AT_ONCE = 64
"""Data files in one dataset, where all of them are read."""

_FAULTS = 20  # that run.json names


class AlreadyComplete(PipelineError):  # noqa: N818 - no fault: there is nothing left to do
    """The output holds a complete run of the same configuration.

    Attributes:
        run: That run.
    """

    def __init__(self, run: RunDirectory) -> None:
        super().__init__(f"{redact(run.path)} is complete since {run.info['finished_at']}: nothing to do")
        self.run = run


class RunDirectory:
    """One run's directory, local or on any fsspec URL; open it with :meth:`claimed` to write, :meth:`open` to read.

    Attributes:
        path: Where it is: a URL or an absolute path, the same for workers in other working directories.
        info: What `run.json` holds.
        resumed: Whether an earlier job began the run.
    """

    def __init__(self, path: str, info: dict[str, Any], *, resumed: bool) -> None:
        self.path = path
        self.info = info
        self.resumed = resumed
        self._claim: Claim | None = None

    @classmethod
    def open(cls, path: str) -> Self:
        """Open an existing run for reading.

        Raises:
            ConfigurationError: There is none, or it was written by another version of this program.
            TransientError: The store failed repeatedly.
        """
        path = storage.absolute(path)
        info = _read_info(path)
        if info is None:
            raise ConfigurationError(f"{redact(path)} is not a run directory: it has no run.json")
        return cls(path, info, resumed=True)

    @classmethod
    @contextmanager
    def claimed(cls, config: LabelConfig, model: ModelIdentity, path: str | None = None) -> Iterator[Self]:
        """Take charge of a run directory, and begin a run there, or go on with the one that is there.

        Args:
            config: The job's configuration.
            model: The model it will use.
            path: The directory; default `output.path`.

        Raises:
            PipelineError: See :func:`pipeline.holding.holding` and :meth:`begun`.
        """
        with holding(path or config.output.path, exclusively=config.output.exclusive) as claim:
            yield cls.begun(claim, config, model)

    @classmethod
    def begun(cls, claim: Claim, config: LabelConfig, model: ModelIdentity, scope: Scope = ALL) -> Self:
        """Begin a run, or go on with the one that is there.

        Args:
            claim: To its directory, see :func:`pipeline.holding.holding`.
            config: The job's configuration.
            model: The model it will use.
            scope: What a new run is about.

        Raises:
            AlreadyComplete: A complete run of the same configuration and model is there.
            ConfigurationError: A run of another configuration or model is there (the differences are named), or
                files that are no run.
            TransientError: The store failed repeatedly.
        """
        run = cls.find(config, model, claim.run)
        if run is not None and run.succeeded:
            raise AlreadyComplete(run)
        run = run or cls(claim.run, _new_info(config, model, scope), resumed=False)
        run.hold(claim)
        return run

    @classmethod
    def find(cls, config: LabelConfig, model: ModelIdentity | None = None, path: str | None = None) -> Self | None:
        """Return the run that a job would go on with; None where it would begin one.

        Args:
            config: The job's configuration.
            model: The model it will use; by default the run's is not compared.
            path: The directory; default `output.path`.

        Raises:
            ConfigurationError: A run of another configuration or model is there (the differences are named), or
                files that are no run, or the store refuses access.
            TransientError: The store failed repeatedly.
        """
        path = storage.absolute(path or config.output.path)
        info = _read_info(path)
        if info is None:
            if _holds_files(path):
                raise ConfigurationError(
                    f"{redact(path)} holds files, but no run.json: choose an empty or new folder as output.path"
                )
            return None
        _refuse_differences(path, info, config, model)
        return cls(path, info, resumed=True)

    def hold(self, claim: Claim) -> None:
        """Write `run.json` as a job's that is in charge now, and clear away what doesn't count any more.

        Raises:
            SupersededError: Another job has taken the run over meanwhile.
            TransientError: The store failed repeatedly.
        """
        claim.check()
        self._claim = claim
        if not self.resumed:
            self._save()
            return
        code, libraries = code_version(), library_versions()
        if code != self.info["code"] or libraries != self.info["libraries"]:
            logger.warning(
                "run %s was begun with other versions of the code or of libraries; run.json lists both", self.run_id
            )
        again = {"at": _text(datetime.now(UTC)), "code": code, "libraries": libraries}
        for key in ("error", "faults"):
            self.info.pop(key, None)
        self._save(state="running", finished_at=None, counts=None, resumed=[*self.info["resumed"], again])
        commit_log.remove_outdated(self.claim)

    @property
    def claim(self) -> Claim:
        """What this job may write; only of runs opened with :meth:`claimed`."""
        assert self._claim is not None, "this run was opened for reading"
        return self._claim

    @property
    def scope(self) -> Scope:
        """What the run is about."""
        return Scope.from_dict(self.info["scope"])

    def _save(self, **changes: Any) -> None:
        self.info |= changes
        content = json.dumps(self.info, indent=2, ensure_ascii=False) + "\n"
        storage.write_bytes_atomic(storage.join(self.path, "run.json"), content.encode())

    @property
    def run_id(self) -> str:
        """The run's id: when it was begun (UTC), and six random digits."""
        return str(self.info["run_id"])

    @property
    def succeeded(self) -> bool:
        """Whether the marker of a complete run is there."""
        return storage.exists(storage.join(self.path, "_SUCCESS"))

    def committed(self) -> dict[str, Committed]:
        """Return what the run holds, by name of the shard, with all ids.

        Memory: about 8 bytes per record and 100 per prompt-file key; :meth:`progress` does with less.

        Raises:
            ConfigurationError: A commit is damaged.
            TransientError: The store failed repeatedly.
        """
        return commit_log.fold(self.path, ByShard).shards()

    def progress(self) -> dict[str, Committed]:
        """Return what the run holds, by name of the shard, with the ids of those only that are not whole.

        Memory: about 700 bytes per shard, 230 per commit and 100 per prompt-file key, whatever the records.

        Raises:
            ConfigurationError: A commit is damaged.
            TransientError: The store failed repeatedly.
        """
        keep: set[str] = set()
        while True:
            gathered = commit_log.fold(self.path, partial(ByShard, frozenset(keep)))
            if gathered.reopened <= keep:
                return gathered.shards()
            keep |= gathered.reopened  # more came of a shard than it needs: its ids are wanted after all

    def finished_shards(self) -> set[str]:
        """Return the shards that left behind exactly what their ledgers ask for: a resumed job skips them."""
        return {name for name, shard in self.progress().items() if shard.finished}

    def write_plan(self, shards: Sequence[str]) -> None:
        """Note which shards the run is to label, by name; an earlier plan is replaced.

        Raises:
            SupersededError: Another job has taken the run over.
            TransientError: The store failed repeatedly.
        """
        self.claim.check()
        file = io.BytesIO()
        pq.write_table(pa.table({"shard": pa.array(shards, pa.string())}), file, compression="zstd")
        storage.write_bytes_atomic(storage.join(self.path, PLAN), file.getvalue())

    def plan(self) -> list[str]:
        """Return the names of the shards that the run is to label.

        Raises:
            ConfigurationError: The run stopped before it had a plan, or it is damaged.
            TransientError: The store failed repeatedly.
        """
        uri = storage.join(self.path, PLAN)
        try:
            names = pq.read_table(io.BytesIO(storage.read_bytes(uri)))["shard"].to_pylist()
        except (storage.NotFoundError, pa.ArrowException, KeyError):
            raise ConfigurationError(
                f"{redact(uri)} is missing or damaged: start the job again, which writes it anew"
            ) from None
        return [str(name) for name in names]

    def reconcile(self, expected: Iterable[str]) -> Reconciliation:
        """Compare inputs with records, from the commits and one listing; no data file is opened.

        Args:
            expected: Names of all the shards that the run is to label.

        Raises:
            ConfigurationError: A commit is damaged.
            TransientError: The store failed repeatedly.
        """

        def files() -> set[str]:
            return {f"records/{file.name}" for file in commit_log.list_part_files(self.path, "records")}

        return reconcile.reconciled(partial(commit_log.fold, self.path), expected, files)

    def orphans(self, claim: Claim | None = None) -> list[storage.FileInfo]:
        """Return what killed writes left behind: data files without a commit that counts, and unfinished files.

        While a job writes to the run, the data file of a write that is under way looks the same.

        Args:
            claim: Files of jobs that came after it are left alone; default this job's own, if it has one.
        """
        kept = set(commit_log.data_files(self.path))
        unfinished = [file for file in commit_log.list_part_files(self.path, "commits") if file.name.startswith(".")]
        data = [
            file for file in commit_log.list_part_files(self.path, "records") if f"records/{file.name}" not in kept
        ]
        # Nothing that a person put there, and nothing of a job that came after this one.
        claim = claim or self._claim
        last = claim.epoch if claim else None
        return [
            file
            for file in data + unfinished
            if (epoch := commit_log.epoch_of(file.name)) is not None and (last is None or epoch <= last)
        ]

    def finish(self, reconciliation: Reconciliation) -> None:
        """End the run, after all its writes (and its report).

        A complete one loses its orphans and gets its marker, last of all. Any other is left as it is, for a job that
        goes on with it.

        Raises:
            SupersededError: Another job has taken the run over.
            TransientError: The store failed repeatedly.
        """
        self.claim.check()
        outcome = {"finished_at": _text(datetime.now(UTC)), "counts": reconciliation.counts()}
        if not reconciliation.complete:
            self._save(state="incomplete", **outcome, faults=list(reconciliation.faults[:_FAULTS]))
            return
        commit_log.remove_outdated(self.claim)
        commit_log.delete_all(file.uri for file in self.orphans())
        self._save(state="complete", **outcome)
        marker = json.dumps({"run_id": self.run_id, "epoch": self.claim.epoch, **outcome}, indent=2) + "\n"
        self.claim.check()
        uri = storage.join(self.path, "_SUCCESS")
        if not self.info["config"]["output"]["exclusive"]:
            storage.write_bytes_atomic(uri, marker.encode())
        elif not exclusive.create(uri, marker.encode()):
            raise SupersededError(f"another job has completed {redact(self.path)} meanwhile; nothing is lost")
        try:
            self.claim.check()
        except SupersededError:  # since the last look, perhaps by one that opens the run again
            storage.delete(uri)
            raise

    def fail(self, message: str) -> None:
        """Note in `run.json` that a fault stopped the job; what is committed stays valid, and the run can go on.

        Args:
            message: What went wrong; URLs in it are stripped of credentials.
        """
        self.claim.check(retries=0)
        self._save(state="failed", finished_at=_text(datetime.now(UTC)), error=redact(message))

    def dataset(self) -> ds.Dataset:
        """Return the committed records for reading in parts; see :func:`read_records`.

        Arrow keeps the footer of each file that it has read as long as the dataset: about 200 kB. Where all records
        are read, :meth:`datasets` takes less memory.
        """
        return self._dataset(commit_log.data_files(self.path))

    def datasets(self) -> Iterator[ds.Dataset]:
        """Yield the committed records in portions of :data:`FILES_AT_ONCE` data files, at least one."""
        names = commit_log.data_files(self.path)
        for start in range(0, max(1, len(names)), FILES_AT_ONCE):
            yield self._dataset(names[start : start + FILES_AT_ONCE])

    def _dataset(self, names: Sequence[str]) -> ds.Dataset:
        filesystem, root = fsspec.core.url_to_fs(self.path, use_listings_cache=False)  # workers write, too
        return ds.dataset(
            [f"{root.rstrip('/')}/{name}" for name in names],
            schema=RECORDS,
            format="parquet",
            filesystem=pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(filesystem)),
        )


def read_records(path: str, columns: Sequence[str] | None = None, where: pc.Expression | None = None) -> pa.Table:
    """Read the committed records of a run that may still be going on; orphans stay unseen.

    Args:
        path: The run directory.
        columns: Columns of :data:`pipeline.schema.RECORDS`; default all. Leave `alpha` out where it isn't needed: it
            is most of the bytes.
        where: Rows to keep, such as `pyarrow.compute.field("status") == "ok"`; default all.

    Raises:
        ConfigurationError: There is no run, or a commit is damaged.
        TransientError: The store failed repeatedly while commits were read.
        OSError: A data file can't be read.
    """
    return RunDirectory.open(path).dataset().to_table(columns=columns and list(columns), filter=where)


def _new_info(config: LabelConfig, model: ModelIdentity, scope: Scope) -> dict[str, Any]:
    now = datetime.now(UTC)
    return {
        "version": VERSION,
        "run_id": f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}",
        "state": "running",
        "started_at": _text(now),
        "finished_at": None,
        "scope": scope.to_dict(),
        "config": redact(config.model_dump(mode="json")),
        "config_hash": config.matte_hash(),
        "model": redact(vars(model)),
        "code": code_version(),
        "libraries": library_versions(),
        "resumed": [],
        "counts": None,
    }


def _read_info(path: str) -> dict[str, Any] | None:
    uri = storage.join(path, "run.json")
    if not storage.exists(uri):
        return None
    try:
        info = json.loads(storage.read_bytes(uri))
        version = info["version"]
    except (ValueError, KeyError, TypeError):
        raise ConfigurationError(
            f"{redact(uri)} is not the JSON of a run: choose another output.path, or restore that file"
        ) from None
    if version != VERSION:
        raise ConfigurationError(f"{redact(uri)} is of version {version}, this program reads version {VERSION}")
    assert isinstance(info, dict)
    return info


def _refuse_differences(path: str, info: dict[str, Any], config: LabelConfig, model: ModelIdentity | None) -> None:
    """Compare a run with a job that wants to go on with it."""
    try:
        identity = LabelConfig.recorded(info["config"]).identity()
        used = {key: info["model"][key] for key in ("weights_sha256", "precision", "input_size")}
    except (ValidationError, KeyError, TypeError):
        raise ConfigurationError(
            f"{redact(path)} holds a run of another version of this program: choose another output.path"
        ) from None
    # Of the model as it was loaded, not its name: that follows from the settings.
    loaded = used if model is None else {key: getattr(model, key) for key in used}
    here = dict(_flat({**redact(config.identity()), "loaded model": loaded}))
    there = dict(_flat({**redact(identity), "loaded model": used}))
    differences = [
        f"  {key}: {there.get(key)!r} there, {here.get(key)!r} here"
        for key in {**here, **there}
        if here.get(key) != there.get(key)
    ]
    if differences:
        raise ConfigurationError(
            f"{redact(path)} holds the run {info['run_id']} ({info['state']}), which differs from this job:\n"
            + "\n".join(differences)
            + "\nChoose another output.path, or the same settings to go on with that run"
        )


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested mappings under dotted keys, as they are written on the command line."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _holds_files(path: str) -> bool:
    files = storage.list_files(path, pattern=False)
    return any(not file.name.startswith("claims/") for file in files)  # of a job that died early


def _text(time: datetime) -> str:
    return time.isoformat(timespec="seconds")
