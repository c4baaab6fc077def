"""The Ray cluster that a run uses: a given one, or one of its own on this machine."""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.config import LabelConfig
from pipeline.errors import ConfigurationError, PipelineError
from sdmatte.errors import SDMatteError

TASK_CPUS = 0.25
"""CPUs that a read or a write task reserves: they mostly wait."""

BLOCK_BYTES = 8 * 2**20
"""Size of Ray's blocks: small ones reach the model soon, and lose little when a worker dies."""


def cluster_address(config: LabelConfig) -> str | None:
    """Return the address of the cluster to use; None for a Ray of our own on this machine."""
    return config.workers.ray_address or os.environ.get("RAY_ADDRESS") or None


@contextmanager
def connected(config: LabelConfig) -> Iterator[None]:
    """Connect to the configured Ray cluster, or start one on this machine and stop it at the end."""
    # Before Ray is imported. Nothing of ours is to listen beyond this machine, or to phone home.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = cluster_address(config)
    if address is None:
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # binds to loopback on every system
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its complaint about every actor pool is harmless
    import ray
    import ray.data

    started = not ray.is_initialized()
    if started and address is not None:
        ray.init(address=address, log_to_driver=False)
    elif started:
        needed = config.workers.actors * config.workers.cpus_per_actor + 2 * TASK_CPUS
        with _native_stderr_closed():
            ray.init(
                address="local",
                num_cpus=max(round(config.workers.local_cpus or os.cpu_count() or 1), math.ceil(needed)),
                object_store_memory=config.workers.object_store_mb * 10**6,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    context = ray.data.DataContext.get_current()
    context.target_max_block_size = BLOCK_BYTES
    context.max_errored_blocks = 0  # an errored block would drop all of its rows and report success
    context.execution_no_progress_timeout_s = -1  # waiting for a GPU may take hours
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # warns that the progress bars are off
    try:
        yield
    finally:
        if started:
            ray.shutdown()


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


def gpus_per_actor(config: LabelConfig) -> float:
    """Return the GPUs that each actor reserves on the connected cluster; 0 where the model computes on CPUs."""
    import ray

    gpus = ray.cluster_resources().get("GPU", 0)
    if config.model.device == "cpu" or (config.model.device == "auto" and not gpus):
        return 0.0
    return config.workers.gpus_per_actor


@contextmanager
def faults_named() -> Iterator[None]:
    """Turn Ray's exceptions into the fault of ours that caused them, or into one that says the run can go on."""
    import ray

    try:
        yield
    except (PipelineError, KeyboardInterrupt):
        raise
    except ray.exceptions.RayError as error:
        cause = _own_cause(error)
        if isinstance(cause, SDMatteError):
            raise ConfigurationError(f"the model can't be used: {cause}") from None
        if cause is not None:
            raise cause from None
        raise PipelineError(
            f"the run stopped: {error}\nWhat it committed stays; the same command continues it"
        ) from error


def _own_cause(error: BaseException) -> PipelineError | SDMatteError | None:
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, (PipelineError, SDMatteError)) and not hasattr(seen, "traceback_str"):
            return seen
        seen = getattr(seen, "cause", None) or seen.__cause__
    return None
