"""What a store that fails for a while does to a run, and how the same command goes on with it."""

import functools
import http.server
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline import commits
from pipeline import label as job
from pipeline.config import LabelConfig, load_config
from pipeline.errors import TransientError
from pipeline.label import _commit_unmatched, label
from pipeline.prompt_files import load_prompt_index
from pipeline.provenance import ModelIdentity
from pipeline.runs import RunDirectory, read_records
from pipeline.sources import make_source
from pipeline.stages import read
from pipeline.stages.matte import OUTPUT
from support.corpora import BOX, image, lines, read_rows

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
def test_a_run_is_incomplete_after_an_outage_and_the_same_command_completes_it(tmp_path: Path) -> None:
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

    first = label(settings)  # one of the shards has no image at all for now
    assert not first.complete
    assert [fault.split(":")[0] for fault in first.reconciliation.faults] == [
        "shard m.jsonl#000000000",
        "shard m.jsonl#000000002",
    ]
    assert "start the job again" in first.reconciliation.faults[0]
    assert [r["status"] for r in read_records(str(tmp_path / "run")).to_pylist()] == ["ok"]

    with served(tmp_path / "photos", port):
        second = label(settings)
    assert second.complete, second
    assert second.before == 1
    records = read_records(str(tmp_path / "run")).to_pylist()
    assert sorted((r["image_uri"], r["status"], str(r["error_code"])) for r in records) == [
        (f"{tmp_path}/photos/near.png", "ok", "None"),
        (far, "error", "prompt_missing"),
        (far, "ok", "None"),
    ]


def test_unmatched_prompts_are_committed_in_parts_and_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(image())
    gone = [BOX | {"image": f"gone-{n}.png"} for n in range(8)]
    (tmp_path / "p.jsonl").write_bytes(lines(*gone, BOX | {"image": "a.png"}))
    prompts = ("prompts.kind=jsonl", f"prompts.path={tmp_path / 'p.jsonl'}")
    settings = config("folder", tmp_path / "in", tmp_path / "run", *prompts)
    run = RunDirectory.open_or_create(settings, MODEL)
    shards = make_source(settings).shards()
    index = load_prompt_index(settings)
    monkeypatch.setattr(read, "UNMATCHED_ROWS", 3)

    def commit() -> None:
        _commit_unmatched(settings, run, shards, index, MODEL)

    def committed() -> list[str]:
        return sorted(path.stem for path in (tmp_path / "run" / "commits").glob("part-unmatched-*.json"))

    commit()
    assert committed() == []  # not known while a shard is unread
    ledger = read_rows(settings)[-1]["ledger"] | {"records": 0, "id_sum": 0}
    commits.write_part(run.path, "part-a", pa.Table.from_pylist([{"shard": shards[0].name, "ledger": ledger}], OUTPUT))

    write, parts = job.write_part, []

    def failing(*arguments: Any, **options: Any) -> Any:
        parts.append(arguments)
        if len(parts) == 3:
            raise TransientError("503")
        return write(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(job, "write_part", failing)
        with pytest.raises(TransientError):
            commit()
    assert committed() == ["part-unmatched-000000", "part-unmatched-000001"]
    before = {path: path.read_bytes() for path in (tmp_path / "run" / "records").iterdir()}

    commit()
    assert committed() == [f"part-unmatched-{n:06d}" for n in range(3)]
    assert all(path.read_bytes() == content for path, content in before.items())
    keys = read_records(run.path, ["image_key"])["image_key"].to_pylist()
    assert sorted(keys) == [f"gone-{n}.png" for n in range(8)]
    assert run.reconcile([shard.name for shard in shards]).complete
    commit()
    assert len(committed()) == 3
