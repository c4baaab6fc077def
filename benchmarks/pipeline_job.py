"""The driver that the pipeline's benchmarks watch: a labelling run with a stand-in for the model.

Started as a process of its own: `python benchmarks/pipeline_job.py REPORT SECONDS section.key=value ...`. SECONDS are
waited per object. Writes what it saw of itself and of Ray's object store into the file REPORT, as JSON; with `-` it
does not look.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))  # for `benchmarks`, when run as a script

EVERY = 0.25  # second between two looks


@dataclass
class Seen:
    """What was seen in the course of a run.

    Attributes:
        complete: Every image has its record, and none is an error.
        records: Number of records.
        driver_mb: Largest resident memory of the driver's process, as the kernel keeps it (MB).
        own_mb: Largest part of it that is neither files nor shared (MB).
        store_mb: Largest use of the object store (MB).
        spilled_mb: Written to disk because the store was full (MB).
        stored_mb: Sum of all objects that were put into the store (MB).
        stored: Their number.
    """

    complete: bool = False
    records: int = 0
    driver_mb: float = 0.0
    own_mb: float = 0.0
    store_mb: float = 0.0
    spilled_mb: float = 0.0
    stored_mb: float = 0.0
    stored: int = 0


def main(argv: Sequence[str]) -> int:
    """Label; returns the exit code."""
    report, seconds, *overrides = argv
    from ray import cloudpickle

    from benchmarks import pipeline_set
    from pipeline.config import load_config
    from pipeline.label import label

    cloudpickle.register_pickle_by_value(pipeline_set)  # Ray's workers can't import `benchmarks`
    seen, stop = Seen(), threading.Event()
    watching = threading.Thread(target=_watch, args=(seen, stop), daemon=True)
    if report != "-":
        watching.start()
    try:
        summary = label(load_config(None, overrides), model=pipeline_set.stand_in(float(seconds)))
        seen.complete = summary.complete and not summary.reconciliation.by_code
        seen.records = summary.reconciliation.found
    finally:
        stop.set()
    if report != "-":
        watching.join()
        seen.driver_mb = resident("VmHWM")
        Path(report).write_text(json.dumps(asdict(seen)))
    print(summary)
    return 0 if seen.complete else 1


def _watch(seen: Seen, stop: threading.Event) -> None:
    import ray

    state: Any = None
    while not stop.wait(EVERY):
        seen.own_mb = max(seen.own_mb, resident("RssAnon"))
        if not ray.is_initialized():
            continue
        try:
            state = state or _state()
            store = _store(state)
        except Exception:  # noqa: BLE001, S112 - Ray is just starting or ending
            continue
        seen.store_mb = max(seen.store_mb, store.object_store_bytes_used / 1e6)
        seen.spilled_mb = store.spilled_bytes_total / 1e6
        seen.stored_mb = store.cumulative_created_bytes / 1e6
        seen.stored = store.cumulative_created_objects


def _state() -> Any:
    import ray
    from ray._private.internal_api import get_state_from_address  # there is no public way without the dashboard

    return get_state_from_address(ray.get_runtime_context().gcs_address)


def _store(state: Any) -> Any:
    from ray._private.internal_api import get_memory_info_reply

    return get_memory_info_reply(state, timeout_seconds=2.0).store_stats


def resident(kind: str) -> float:
    """Return a figure of this process's memory from the kernel's account, such as `VmHWM` (MB)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{kind}:")) * 1024 / 1e6


if __name__ == "__main__":
    from pipeline.leaving import leave

    leave(main(sys.argv[1:]))
