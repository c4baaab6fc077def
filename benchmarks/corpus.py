"""A corpus in a real S3 server, labelled while its job is killed five times: `make corpus`.

5,000 small drawn images in 100 tar shards are put into Ceph's object gateway. `jobs/label.py` reads from there and
writes to there; at five points of the way the job and all of its processes get SIGKILL, and the same command starts
again. All requests pass a proxy that counts them. Prints what each kill cost, requests per image, the driver's memory,
what `jobs/runs.py reconcile` says, and last the figures that must be 0. Writes docs/corpus.md and
docs/images/corpus.png. Exits with 0 if nothing is lost, doubled or unexpected, 1 if not, 2 without the server.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))  # for `support`: servers that the tests use, too
sys.path.insert(0, str(Path(__file__).parent.parent))  # for `benchmarks`, when run as a script

from benchmarks.chaos_job import QUIET, ROOT, Job
from support.faulty_store import FaultyStore
from support.s3.radosgw import missing, radosgw_store
from support.s3.store import Store

SHARDS = 100
KILLS = 5
SETTINGS = (
    "output.file_mb=0.5",
    "workers.actors=1",
    "workers.cpus_per_actor=1",
    "workers.images_per_block=16",
    "workers.object_store_mb=200",
    "model.batch_size=8",
)
EVERY = 1.0  # second between two looks


@dataclass
class Watched:
    """What was seen while the jobs ran.

    Attributes:
        times: Seconds since the first job started, one per look.
        memory: Resident memory of the driver (MB); NaN while none runs.
        commits: Records that have a commit, of this or an earlier job.
        kills: When jobs were killed.
        gaps: For each kill, seconds until the next job's first commit.
    """

    times: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    commits: list[int] = field(default_factory=list)
    kills: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--kills", type=int, default=KILLS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="where the page and the picture go")
    arguments = parser.parse_args(argv)
    if reason := missing():
        print(f"corpus: {reason}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="corpus-") as name:
        folder = Path(name)
        with radosgw_store(folder / "radosgw") as store:
            return _measure(store, folder, arguments)


def _measure(store: Store, folder: Path, arguments: argparse.Namespace) -> int:
    sizes = {f"corpus/{name}": data for name, data in _shards(arguments.images, arguments.seed)}
    store.upload(sizes)
    print(f"{arguments.images} images in {len(sizes)} shards, {sum(map(len, sizes.values())) / 1e6:.1f} MB, uploaded")
    watched = Watched()
    with FaultyStore(store.endpoint) as proxy:
        env = QUIET | store.environment | {"AWS_ENDPOINT_URL": proxy.url}
        jobs = _label(store, folder, env, arguments, watched)
        requests = dict(proxy.counts)
        reconciled = subprocess.run(
            [sys.executable, str(ROOT / "jobs/runs.py"), "reconcile", store.url("out")],
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            check=False,
        )
        asked = sum(proxy.counts.values()) - sum(requests.values())
    output = reconciled.stdout.strip() or reconciled.stderr.strip()
    page = _page(arguments, watched, requests, asked, jobs, output)
    _draw(watched, arguments.docs / "images" / "corpus.png")
    (arguments.docs / "corpus.md").write_text(page)
    print(page)
    print(output.splitlines()[-1] + " (targets 0)")
    exact = reconciled.returncode == 0 and output.splitlines()[-1] == "lost 0, doubled 0, unexpected 0"
    return 0 if exact and len(watched.kills) == arguments.kills else 1


def _shards(images: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yield names and contents of tar shards of small drawn images, each with a box."""
    dice = np.random.default_rng(seed)
    each = -(-images // SHARDS)
    for shard in range(-(-images // each)):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as tar:
            for number in range(shard * each, min(images, (shard + 1) * each)):
                picture, box = _picture(dice)
                _add(tar, f"{number:06d}.jpg", picture)
                _add(tar, f"{number:06d}.prompts.jsonl", json.dumps({"box": box}).encode())
        yield f"{shard:05d}.tar", file.getvalue()


def _picture(dice: np.random.Generator) -> tuple[bytes, list[int]]:
    coarse = dice.integers(0, 256, (4, 6, 3), np.uint8)
    image = Image.fromarray(coarse).resize((96, 64), Image.Resampling.BICUBIC)
    x, y = int(dice.integers(4, 40)), int(dice.integers(4, 24))
    box = [x, y, x + int(dice.integers(24, 48)), y + int(dice.integers(20, 36))]
    ImageDraw.Draw(image).ellipse(box, fill=tuple(dice.integers(0, 256, 3).tolist()))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return file.getvalue(), box


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def _label(
    store: Store, folder: Path, env: dict[str, str], arguments: argparse.Namespace, watched: Watched
) -> list[str]:
    """Run the job to its end, killing it on the way; return what each job printed last."""
    dice = random.Random(arguments.seed)
    # In shares of the corpus; the first early, the last late.
    points = [(n + dice.uniform(0.2, 0.8)) / (arguments.kills + 0.2) for n in range(arguments.kills)]
    overrides = ["input.kind=webdataset", f"input.path={store.url('corpus')}", f"output.path={store.url('out')}"]
    outputs = []
    start = time.monotonic()
    for point in [*points, None]:
        job = Job([*overrides, *SETTINGS], folder, env)
        try:
            _follow(job, store, None if point is None else point * arguments.images, watched, start)
            outputs.append(job.output)
        finally:
            job.close()
    print(outputs[-1][-1500:])
    return outputs


def _follow(job: Job, store: Store, until: float | None, watched: Watched, start: float) -> None:
    """Look at a job until it ends, or has committed so many records: then kill all of it."""
    before = _committed(store)
    first = True
    while not job.ended:
        time.sleep(EVERY)
        now = time.monotonic() - start
        there = _committed(store)
        watched.times.append(now)
        watched.memory.append(_resident(job.process.pid))
        watched.commits.append(there)
        if first and there > before:
            first = False
            if len(watched.gaps) < len(watched.kills):
                watched.gaps.append(now - watched.kills[-1])
        if until is not None and there >= until:
            job.signal_all(9)
            watched.kills.append(time.monotonic() - start)
            return


_known: dict[str, int] = {}
_client = threading.local()


def _committed(store: Store) -> int:
    """Return how many records have a commit; asks the server itself, so that the proxy counts the job's requests."""
    client = store.client()
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=store.bucket, Prefix="out/commits/part-")
    for page in pages:
        for entry in page.get("Contents", []):
            key = entry["Key"].rpartition("/")[2]
            if key not in _known:
                with suppress(client.exceptions.NoSuchKey):
                    body = client.get_object(Bucket=store.bucket, Key=entry["Key"])["Body"].read()
                    _known[key] = json.loads(body)["rows"]
    return sum(_known.values())


def _resident(process: int) -> float:
    """Return the resident memory of a process (MB)."""
    with suppress(OSError, IndexError, ValueError):
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGESIZE") / 1e6
    return float("nan")


def _page(
    arguments: argparse.Namespace,
    watched: Watched,
    requests: dict[str, int],
    asked: int,
    jobs: list[str],
    output: str,
) -> str:
    images = arguments.images
    memory = np.asarray(watched.memory)
    total = sum(requests.values())
    made = watched.commits[-1] if watched.commits else 0
    kinds = ", ".join(f"{count:,} {method}" for method, count in sorted(requests.items()))
    gaps = ", ".join(f"{gap:.0f}" for gap in watched.gaps)
    marks = ", ".join(f"{kill:.0f}" for kill in watched.kills)
    kills = len(watched.kills)
    return f"""# A corpus in S3, killed {kills} times

Written by `make corpus` (benchmarks/corpus.py): {images:,} small images in tar shards in Ceph's object gateway,
labelled by the bundled model at 64 px on {os.cpu_count()} CPUs. The job and all of its processes were killed with
SIGKILL {kills} times; the same command started again at once. Files of 0.5 MB, so that there are many commits.

![Records committed and the driver's memory over the run](images/corpus.png)

| | |
|---|---|
| seconds from the first start to the end | {watched.times[-1]:.0f} |
| killed after (s) | {marks} |
| from each kill to the next job's first commit (s) | {gaps} |
| jobs started | {len(jobs)} |
| records committed, counting those of every job | {made:,} |
| requests of all jobs | {total:,}: {kinds} |
| requests per image | {total / images:.2f} |
| requests of `jobs/runs.py reconcile` | {asked:,} |
| driver's memory: median, largest (MB) | {np.nanmedian(memory):.0f}, {np.nanmax(memory):.0f} |

```
{output}
```
"""


def _draw(watched: Watched, path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 1, figsize=(8, 5), sharex=True)
    axes[0].plot(watched.times, watched.commits, color="tab:blue")
    axes[0].set_ylabel("records committed")
    axes[1].plot(watched.times, watched.memory, color="tab:green")
    axes[1].set_ylabel("driver's memory (MB)")
    axes[1].set_ylim(bottom=0)
    axes[1].set_xlabel("seconds; killed at the red lines")
    for axis in axes:
        axis.grid(alpha=0.3)
        for kill in watched.kills:
            axis.axvline(kill, color="tab:red", linewidth=1)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    sys.exit(main())
