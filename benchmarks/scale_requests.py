"""Requests of the commit protocol, counted by a proxy before a real S3 server (moto): how many each thing takes."""

from __future__ import annotations

import io
import os
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))  # for `support`

from benchmarks import scale_run
from benchmarks.scale_stage import IDENTITY
from pipeline import claims, commit_log, storage
from pipeline.parts import write_part
from pipeline.report.choose import Chooser
from pipeline.report.survey import look
from pipeline.runs import RunDirectory
from pipeline.sources import make_source
from support.faulty_store import FaultyStore
from support.run_rows import begin, ledger_row, record_rows
from support.s3.moto_store import moto_store
from support.s3.store import Store

PARTS = 12


class CountingStore(FaultyStore):
    """Counts listings apart from other reads."""

    def __init__(self, upstream: str) -> None:
        super().__init__(upstream)
        self.kinds: Counter[str] = Counter()

    def _strike(self, method: str, path: str) -> Any:
        self.kinds["LIST" if "list-type=" in path else method] += 1
        return super()._strike(method, path)


def count() -> dict[str, dict[str, int]]:
    """Return requests by what is done, and by method; that of parts is of :data:`PARTS`."""
    found: dict[str, dict[str, int]] = {}
    with tempfile.TemporaryDirectory(prefix="scale-") as name, moto_store(Path(name)) as store:  # noqa: SIM117
        with CountingStore(store.endpoint) as proxy, _environment(store.environment | {"AWS_ENDPOINT_URL": proxy.url}):

            @contextmanager
            def counted(what: str) -> Iterator[None]:
                before = proxy.kinds.copy()
                yield
                found[what] = dict(proxy.kinds - before)

            store.upload({"corpus/0.tar": _tar()})
            run_path = store.url("run")
            config = scale_run.config_of(run_path).model_copy(
                update={
                    "input": scale_run.config_of(run_path).input.model_copy(update={"path": store.url("corpus/*.tar")})
                }
            )
            with counted("input listed"):
                shards = make_source(config).shards()
            with counted("shard read"):
                list(make_source(config).read(shards[0]))
            with counted("run begun"):
                run = begin(config, IDENTITY)
                run.write_plan(["a"])
            with counted("parts written"):
                for part in range(PARTS):
                    write_part(run.claim, f"1-{part:06d}", record_rows("a", [2 * part, 2 * part + 1]))
            write_part(run.claim, "1-end", ledger_row("a", range(2 * PARTS)))
            with counted("parts gathered"):
                assert commit_log.compact(run.claim, 0, at=1)
            with counted("sign of life"):
                claims.Heartbeat(run.claim).beat()
                run.claim.check()
            with counted("commits read"):
                assert RunDirectory.open(run_path).progress()["a"].finished
            with counted("reconciled"):
                found_whole = run.reconcile(["a"])
            with counted("records looked at"):
                look(run, Chooser(10))
            with counted("finished"):
                run.finish(found_whole)
            assert storage.exists(storage.join(run_path, "_SUCCESS"))
            found["listing"] = {"bytes per file": _bytes_listed(store)}
    return found


def _bytes_listed(store: Store) -> int:
    """Return how many bytes of memory a listing takes at its peak, per object."""
    import tracemalloc

    many = 1000
    store.upload({f"run2/records/part-000001-0123ab-1-{number:06d}.parquet": b"-" for number in range(many)})
    commit_log.list_part_files(store.url("run2"), "records")  # what is loaded the first time
    tracemalloc.start()
    commit_log.list_part_files(store.url("run2"), "records")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return round(peak / many)


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    import fsspec

    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    try:
        yield
    finally:
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


def _tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for number in range(20):
            member = tarfile.TarInfo(f"{number}.jpg")
            member.size = 100_000
            tar.addfile(member, io.BytesIO(bytes(100_000)))
    return file.getvalue()
