"""The Ray cluster that a run uses: a given one, or one of its own on this machine."""

from __future__ import annotations

import logging
import math
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from pipeline.config import LabelConfig
from pipeline.errors import ConfigurationError, PipelineError
from sdmatte.errors import SDMatteError
from sdmatte.urls import redact

TASK_CPUS = 0.25
"""CPUs that a read or a write task reserves: they mostly wait."""

BLOCK_BYTES = 8 * 2**20
"""Size of Ray's blocks: small ones reach the model soon, and lose little when a worker dies."""

_FOR_DASHBOARDS = ("RAY_enable_metrics_collection", "RAY_task_events_report_interval_ms", "RAY_event_stats")
"""What every process of Ray's collects and sends for a dashboard; a Ray of our own has none, and it costs a quarter of
what Ray uses while the model computes (35 of 146 ms of CPU per second on one machine)."""

WAITING_SECONDS = 30.0
"""Seconds between messages while the cluster has no room for the model yet."""


@dataclass(frozen=True)
class ActorResources:
    """What an actor that holds the model reserves.

    Attributes:
        cpus: CPUs; also torch's threads, where the model computes on them.
        gpus: GPUs; 0 where the model computes on CPUs.
    """

    cpus: float
    gpus: float


def cluster_address(config: LabelConfig) -> str | None:
    """Return the address of the cluster to use; None for a Ray of our own on this machine."""
    return config.workers.ray_address or os.environ.get("RAY_ADDRESS") or None


@contextmanager
def connected(config: LabelConfig) -> Iterator[None]:
    """Connect to the configured Ray cluster, or start one on this machine and stop it at the end.

    SIGTERM, which cluster managers send, interrupts like Ctrl-C meanwhile.

    Raises:
        ConfigurationError: There is no such cluster, it refuses us, or none can be started.
    """
    with started_ray(cluster_address(config), _local_cpus(config), config.workers.object_store_mb):
        import ray.data

        context = ray.data.DataContext.get_current()
        context.target_max_block_size = BLOCK_BYTES
        context.max_errored_blocks = 0  # an errored block would drop all of its rows and report success
        context.execution_no_progress_timeout_s = -1  # waiting for a GPU may take hours
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # its tracebacks come as exceptions, too
        with _terminated_like_interrupted():
            yield


@contextmanager
def started_ray(address: str | None, cpus: int, object_store_mb: int) -> Iterator[None]:
    """Connect to a Ray cluster, or start one on this machine and stop it at the end; one that is connected is used.

    Args:
        address: Of the cluster; None for a Ray of our own.
        cpus: What to tell a Ray of our own.
        object_store_mb: Of a Ray of our own.

    Raises:
        ConfigurationError: There is no such cluster, it refuses us, or none can be started.
    """
    # Before Ray is imported. Nothing of ours is to listen beyond this machine, or to phone home.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address is None:
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # binds to loopback on every system
        # The model's thread then shares the main thread's memory, which keeps its pages (sdmatte/engine/memory.py).
        os.environ.setdefault("MALLOC_ARENA_MAX", "1")
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its complaint about every actor pool is harmless
        for name in _FOR_DASHBOARDS:
            os.environ.setdefault(name, "0")
    import ray

    started = not ray.is_initialized()
    if started:
        _start(address, cpus, object_store_mb)
    try:
        yield
    finally:
        if started:
            ray.shutdown()


def _start(address: str | None, cpus: int, object_store_mb: int) -> None:
    import ray

    try:
        if address is not None:
            ray.init(address=address, log_to_driver=False)
            return
        with _native_stderr_closed():
            ray.init(
                address="local",
                num_cpus=cpus,
                object_store_memory=object_store_mb * 10**6,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except Exception as error:  # Ray raises whatever its start met, even bare Exception
        reason = f"{type(error).__name__}: {redact(str(error))}"
        if address is not None:
            raise ConfigurationError(
                f"no connection to the Ray cluster at {redact(address)} ({reason}); check workers.ray_address or "
                "RAY_ADDRESS, and, where the cluster asks for a token, RAY_AUTH_MODE and RAY_AUTH_TOKEN_PATH"
            ) from error
        raise ConfigurationError(
            f"Ray did not start on this machine ({reason}); look for free memory and space in /tmp and /dev/shm, "
            "lower workers.object_store_mb, or try again on a less busy machine"
        ) from error


def usable_cpus() -> int:
    """Return the CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _local_cpus(config: LabelConfig) -> int:
    """Return the CPUs to tell a Ray of our own: at least what the run needs, or it would wait for ever."""
    needed = config.workers.actors * (config.workers.cpus_per_actor or 1) + 2 * TASK_CPUS
    return max(config.workers.local_cpus or usable_cpus(), math.ceil(needed))


@contextmanager
def _native_stderr_closed() -> Iterator[None]:
    """Keep what Ray's C++ says about its log level off the terminal; its faults are exceptions."""
    sys.stderr.flush()
    kept = os.dup(2)
    with Path(os.devnull).open("w") as nothing:
        os.dup2(nothing.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM; Ray's own handler would abort with a dump."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def actor_resources(config: LabelConfig) -> ActorResources:
    """Return what each actor reserves on the connected cluster.

    Raises:
        ConfigurationError: This machine's own Ray can never give that much. A given cluster may grow.
    """
    import ray

    workers = config.workers
    there = ray.cluster_resources()
    on_gpu = config.model.device == "cuda" or (config.model.device == "auto" and there.get("GPU", 0) > 0)
    gpus = workers.gpus_per_actor if on_gpu else 0.0
    local = cluster_address(config) is None
    if local and workers.actors * gpus > there.get("GPU", 0):
        raise ConfigurationError(
            f"workers.actors={workers.actors} with {gpus:g} GPU(s) each need more than the {there.get('GPU', 0):g} "
            "GPU(s) that Ray sees on this machine; lower them, set model.device=cpu, or name a cluster"
        )
    cpus = workers.cpus_per_actor
    if cpus is None:  # a model on CPUs takes them all where they are ours
        cpus = max(1.0, usable_cpus() // workers.actors) if local and not on_gpu else 1.0
        cpus = min(cpus, max(1.0, (there.get("CPU", 1) - 2 * TASK_CPUS) / workers.actors))
    return ActorResources(cpus, gpus)


def wait_for(result: Any, resources: ActorResources) -> Any:
    """Return a task's result; say so from time to time while the cluster has no room for it."""
    import ray

    while True:
        ready, _ = ray.wait([result], timeout=WAITING_SECONDS)
        if ready:
            return ray.get(result)
        there = ray.available_resources()
        sys.stderr.write(
            f"still loading the model, or waiting for {resources.cpus:g} CPUs and {resources.gpus:g} GPUs on one node "
            f"for it; the cluster has {there.get('CPU', 0):g} CPUs and {there.get('GPU', 0):g} GPUs free\n"
        )
        sys.stderr.flush()


@contextmanager
def faults_named() -> Iterator[None]:
    """Turn Ray's exceptions into the fault of ours that caused them, or into one that says the run can go on."""
    import ray

    try:
        yield
    except Exception as error:
        cause = _own_cause(error)
        if cause is error:
            raise
        if cause is not None:
            cause.args = tuple(_plain(part) if isinstance(part, str) else part for part in cause.args)
        if isinstance(cause, SDMatteError):
            raise ConfigurationError(f"the model can't be used: {cause}") from None
        if cause is not None:
            raise cause from None
        if isinstance(error, ray.exceptions.RayError):
            root = list(_causes(error))[-1]
            reason = " ".join(str(root).split())
            if not isinstance(root, ray.exceptions.RayError):
                reason = f"{type(root).__name__}: {_plain(str(root))}"
            raise PipelineError(f"the run stopped: {reason}") from error
        raise


def _plain(message: str) -> str:
    """Return a message without the advice on its retry settings that Ray Data appends to every exception."""
    return re.sub(r"\nFailed to [^\n]* after \d+/\d+ attempts.*", "", message, flags=re.DOTALL)


def _own_cause(error: BaseException) -> PipelineError | SDMatteError | None:
    """Find an exception of ours in what Ray wraps around it: its own classes, or a mixture of them with ours."""
    import ray

    for cause in _causes(error):
        if isinstance(cause, (PipelineError, SDMatteError)) and not isinstance(cause, ray.exceptions.RayError):
            return cause
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and what caused it, the root last."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = getattr(seen, "cause", None) or seen.__cause__
