"""Labelling jobs on an object store, as users start them: in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from pathlib import Path

from benchmarks.chaos_job import ROOT, SETTINGS, Corpus
from support.s3.store import Store


def put_corpus(store: Store, corpus: Corpus, folder: str = "in") -> None:
    store.upload({f"{folder}/{name}": data for name, data in corpus.shards.items()})


def start_label(store: Store, folder: Path, *overrides: str) -> subprocess.Popen[str]:
    """Starts the job from `in/` to `run/` of the store; `folder` is where, and who asks whether Ray was started."""
    _ray_folder(folder).mkdir(exist_ok=True)
    settings = ["input.kind=webdataset", f"input.path={store.url('in', '*.tar')}", f"output.path={store.url('run')}"]
    return subprocess.Popen(
        [sys.executable, str(ROOT / "jobs" / "label.py"), *SETTINGS, *settings, *overrides],
        cwd=folder,
        env={**os.environ, **store.environment, "RAY_TMPDIR": str(_ray_folder(folder))},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def label(store: Store, folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    job = start_label(store, folder, *overrides)
    try:
        output, messages = job.communicate(timeout=200)
    finally:
        job.kill()
    return subprocess.CompletedProcess(job.args, job.returncode, output, messages)


def ray_was_started(folder: Path) -> bool:
    return any(_ray_folder(folder).iterdir())


def _ray_folder(folder: Path) -> Path:
    """Returns a folder of a short name: the paths of Ray's sockets must not be long."""
    return Path(os.environ["RAY_TMPDIR"]) / f"{zlib.crc32(str(folder).encode()):08x}"


def download_run(store: Store, folder: Path, prefix: str = "run") -> Path:
    """Copies a run directory to the disk; returns where it is."""
    for name, data in store.download(f"{prefix}/").items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder / prefix
