"""What a store that fails for a while does to a run, and how the same command goes on with it."""

import functools
import http.server
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline import label as job
from pipeline.assignments import Assignment
from pipeline.commit_log import read_commits
from pipeline.config import LabelConfig, load_config
from pipeline.errors import TransientError
from pipeline.ids import key_hash
from pipeline.label import _commit_unmatched, label
from pipeline.latest import Chain
from pipeline.parts import write_part
from pipeline.prompt_files import load_prompt_index
from pipeline.provenance import ModelIdentity
from pipeline.runs import RunDirectory, read_records
from pipeline.scopes import Selection
from pipeline.sources import make_source
from pipeline.stages import read
from pipeline.stages.records import OUTPUT
from pipeline.where import of_codes
from support.corpora import BOX, image, lines, read_rows
from support.run_rows import begin

MODEL = ModelIdentity("m", "ab" * 32, "float32", 64)


def config(kind: str, path: Path, run: Path, *more: str) -> LabelConfig:
    settings = [
        f"input.kind={kind}",
        f"input.path={path}",
        f"output.path={run}",
        "model.source=untrained:sdmatte-mini",
    ]
    small = ["model.input_size=64", "output.contact_sheet=0", "workers.cpus_per_actor=0.5", "workers.retries=0"]
    return load_config(None, [*settings, *small, *more])


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def served(folder: Path, port: int) -> Iterator[None]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), functools.partial(_Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield
    server.shutdown()
    server.server_close()


@pytest.mark.usefixtures("ray_session")
def test_images_that_an_outage_kept_back_are_records_that_a_retry_replaces(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for name in ("near.png", "far.png"):
        (tmp_path / "photos" / name).write_bytes(image())
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    far = f"http://127.0.0.1:{port}/far.png"
    rows = [
        {"image": "photos/near.png", "prompts": [BOX]},
        {"image": far, "prompts": [BOX]},
        {"image": far, "key": "2"},
    ]
    (tmp_path / "m.jsonl").write_bytes(lines(*rows))
    keys = ("input.images_per_shard=2", "input.schemes=[http]")
    settings = config("manifest", tmp_path / "m.jsonl", tmp_path / "run", *keys)

    def latest() -> list[tuple[str, str, str]]:
        records = Chain.open(str(tmp_path / "run")).records(["record_id", "image_uri", "status", "error_code"])
        assert len(set(records["record_id"].to_pylist())) == len(records)
        return sorted((r["image_uri"], r["status"], str(r["error_code"])) for r in records.to_pylist())

    near = f"{tmp_path}/photos/near.png"
    first = label(settings)
    assert first.complete, first
    assert "image_unavailable, 2 times, for example: can't read" in str(first)
    gone = (far, "error", "image_unavailable")
    assert latest() == [(near, "ok", "None"), gone, gone]

    with served(tmp_path / "photos", port):
        second = label(settings, Selection("again", of_codes("image_unavailable")))
    assert second.complete, second
    assert second.run.path == str(tmp_path / "run/followups/0001")
    assert second.reconciliation.found == 2
    assert latest() == [(near, "ok", "None"), (far, "error", "prompt_missing"), (far, "ok", "None")]
    assert len(read_records(str(tmp_path / "run"), ["record_id"])) == 3  # the first run stands as it was


def test_unmatched_prompts_are_committed_in_parts_and_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(image())
    gone = [BOX | {"image": f"gone-{n}.png"} for n in range(8)]
    (tmp_path / "p.jsonl").write_bytes(lines(*gone, BOX | {"image": "a.png"}))
    prompts = ("prompts.kind=jsonl", f"prompts.path={tmp_path / 'p.jsonl'}")
    settings = config("folder", tmp_path / "in", tmp_path / "run", *prompts)
    first = begin(settings, MODEL)
    shards = make_source(settings).shards()
    index = load_prompt_index(settings)
    monkeypatch.setattr(read, "UNMATCHED_ROWS", 3)

    def commit(run: RunDirectory) -> None:
        _commit_unmatched(settings, run, Assignment(shards), index, MODEL)

    def committed() -> list[int]:
        return [each.rows for each in read_commits(first.path) if "-unmatched-" in each.stem]

    commit(first)
    assert committed() == []  # not known while a shard is unread
    ledger = read_rows(settings)[-1]["ledger"] | {"records": 0, "id_sum": 0}
    write_part(first.claim, "a", pa.Table.from_pylist([{"shard": shards[0].name, "ledger": ledger}], OUTPUT))

    write, parts = job.write_part, []

    def failing(*arguments: Any, **options: Any) -> Any:
        parts.append(arguments)
        if len(parts) == 3:
            raise TransientError("503")
        return write(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(job, "write_part", failing)
        with pytest.raises(TransientError):
            commit(first)
    assert committed() == [3, 3]
    before = {path: path.read_bytes() for path in (tmp_path / "run" / "records").iterdir()}

    run = begin(settings, MODEL)  # the next job
    commit(run)
    assert committed() == [3, 3, 2]
    assert all(path.read_bytes() == content for path, content in before.items())
    keys = read_records(run.path, ["image_key"])["image_key"].to_pylist()
    assert sorted(keys) == [f"gone-{n}.png" for n in range(8)]
    assert run.reconcile([shard.name for shard in shards]).complete
    commit(run)
    assert len(committed()) == 3


def test_keys_that_matched_in_shards_of_earlier_runs_are_not_unmatched(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(image())
    (tmp_path / "p.jsonl").write_bytes(lines(*(BOX | {"image": name} for name in ("a.png", "b.png", "c.png"))))
    prompts = ("prompts.kind=jsonl", f"prompts.path={tmp_path / 'p.jsonl'}")
    settings = config("folder", tmp_path / "in", tmp_path / "run", *prompts)
    index = load_prompt_index(settings)
    assert index is not None
    run = begin(settings, MODEL)
    _commit_unmatched(settings, run, Assignment([], matched=np.array([key_hash("a.png")])), index, MODEL)
    assert sorted(read_records(run.path, ["image_key"])["image_key"].to_pylist()) == ["b.png", "c.png"]
