"""Running the training loop: in this process, or on Ray Train with any number of workers."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from pipeline.cluster import started_ray, usable_cpus
from pipeline.errors import ConfigurationError, PipelineError
from pipeline.training.config import TrainConfig
from sdmatte.errors import SDMatteError

STOP = "stop"
"""File in the run's folder that asks the run to save a checkpoint and stop; anybody may put it there."""


@dataclass(frozen=True)
class Outcome:
    """What a training job came to.

    Attributes:
        run: The run's folder.
        step: Steps done, by this job and those before it.
        steps: Steps of the whole run.
        model: The exported model folder; None before the run is complete.
    """

    run: Path
    step: int
    steps: int
    model: Path | None = None

    @property
    def complete(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.steps

    def __str__(self) -> str:
        if self.model is not None:
            return f"trained {self.step} steps; the model is in {self.model}"
        return f"stopped after {self.step} of {self.steps} steps; the same command continues from {self.run}"


def train(config: TrainConfig, *, local: bool) -> Outcome:
    """Train, from the start or from where an earlier job stopped, and export the model at the end.

    Ctrl-C, SIGTERM and the file :data:`STOP` in the run's folder save a checkpoint and stop; a second Ctrl-C or
    SIGTERM stops at once.

    Args:
        config: Of the run.
        local: In this process, instead of on Ray.

    Raises:
        ConfigurationError: Something must be changed first: configuration, weights, data, cluster.
        PipelineError: The training stopped; the last checkpoint stays, and the same command continues.
        KeyboardInterrupt: At the second signal.
    """
    run = config.output.path
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"output.path={run} can't be used: {error.strerror}") from error
    steps = config.options.training_options().steps
    try:
        with FileLock(run / "lock", timeout=0):
            (run / STOP).unlink(missing_ok=True)
            step = _train_here(config) if local else _train_on_ray(config)
            (run / STOP).unlink(missing_ok=True)
            return Outcome(run, step, steps, export_model(config) if step >= steps else None)
    except Timeout:
        raise ConfigurationError(f"another job trains in {run}; wait for it, stop it, or choose output.path") from None


def export_model(config: TrainConfig) -> Path:
    """Export the model of the run's last checkpoint; returns its folder.

    Raises:
        ConfigurationError: There is no checkpoint, or the model can't be written.
    """
    from sdmatte.training.export import export

    folder = config.output.path / "export" / config.output.name
    try:
        export(config.output.path, folder, stored=config.output.stored)
    except SDMatteError as error:
        raise ConfigurationError(str(error)) from error
    return folder


def _train_here(config: TrainConfig) -> int:
    from pipeline.training.build import build_trainer
    from sdmatte.devices import choose_device

    device = config.workers.device
    try:
        trainer = build_trainer(config, device=choose_device(None if device == "auto" else device))
    except SDMatteError as error:
        raise ConfigurationError(str(error)) from error
    stop = config.output.path / STOP
    try:
        with _stopped_by_signals(stop):
            trainer.run(stop=stop.exists)
    except (SDMatteError, SafetensorError, OSError, RuntimeError) as error:  # damaged data, full disk, full GPU
        raise PipelineError(f"training stopped after {trainer.step} steps: {error}") from error
    return trainer.step


def _train_on_ray(config: TrainConfig) -> int:
    workers = config.workers
    address = workers.ray_address or os.environ.get("RAY_ADDRESS") or None
    cpus = max(usable_cpus(), math.ceil(workers.count * workers.cpus_per_worker))
    # Ray takes SIGTERM for itself when it starts, so we take it afterwards.
    with started_ray(address, cpus, workers.object_store_mb), _stopped_by_signals(config.output.path / STOP):
        result = _interruptibly(lambda: _fit(config, on_gpu=_on_gpu(config, local=address is None)))
    if fault := result["fault"]:
        raise ConfigurationError(fault)
    return int(result["step"])


def _on_gpu(config: TrainConfig, *, local: bool) -> bool:
    import ray

    there = ray.cluster_resources().get("GPU", 0)
    on_gpu = config.workers.device == "cuda" or (config.workers.device == "auto" and there > 0)
    if on_gpu and local and config.workers.count > there:
        raise ConfigurationError(
            f"workers.count={config.workers.count} needs a GPU each, and Ray sees {there:g} on this machine; lower "
            "it, set workers.device=cpu, or name a cluster"
        )
    return on_gpu


def _fit(config: TrainConfig, *, on_gpu: bool) -> dict[str, Any]:
    """Run the loop on Ray Train; returns what the first worker's function returned."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer

    workers = config.workers
    trainer = TorchTrainer(
        _work,
        train_loop_config={"config": config},
        torch_config=TorchConfig(backend="nccl" if on_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=workers.count,
            use_gpu=on_gpu,
            resources_per_worker={"CPU": workers.cpus_per_worker, **({"GPU": 1} if on_gpu else {})},
        ),
        # Checkpoints are the loop's own: Ray's notes are only about this job, so they have a new name each time.
        run_config=RunConfig(
            name=time.strftime("%Y%m%dT%H%M%S"),
            storage_path=str(config.output.path / "ray"),
            failure_config=FailureConfig(max_failures=workers.retries),
        ),
    )
    try:
        result: dict[str, Any] = trainer.fit().return_value
    except TrainingFailedError as error:
        raise PipelineError(f"training stopped: {_reason(error)}; the same command continues it") from error
    return result


def _reason(error: Exception) -> str:
    """Return the last line of the first worker's traceback, which says what was raised."""
    failures = getattr(error, "worker_failures", None) or {0: error}
    lines = [line.strip() for line in str(next(iter(failures.values()))).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


class _FailedElsewhereError(Exception):
    """Another worker could not be built; says why."""


def _work(given: dict[str, Any]) -> dict[str, Any]:
    """Train as one of Ray's workers; returns the steps done, or the fault that stopped it before the first one."""
    import ray.train
    import torch
    from ray.train.torch import get_device, prepare_model

    from pipeline.training.build import build_trainer
    from sdmatte.training.loop import Learner

    config: TrainConfig = given["config"]
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    device = get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)

    def wrap(module: torch.nn.Module) -> torch.nn.Module:
        if fault := next(filter(None, _gathered(None, world)), None):
            raise _FailedElsewhereError(fault)
        assert isinstance(module, Learner)
        unused = bool(module.network.unet.without)  # parts without use get no gradient, which DDP has to be told
        wrapped: torch.nn.Module = prepare_model(
            module, parallel_strategy_kwargs={"find_unused_parameters": unused} if world > 1 else None
        )
        return wrapped

    try:
        trainer = build_trainer(config, rank=rank, world=world, device=device, wrap=wrap)
    except _FailedElsewhereError as error:
        return {"fault": str(error)}
    except (SDMatteError, PipelineError) as error:
        faults = _gathered(str(error), world)
        return {"fault": next(fault for fault in faults if fault)}
    steps = _gathered(trainer.step, world)
    if len(set(steps)) > 1:
        raise PipelineError(f"the workers are at steps {steps}; output.path must be one folder on all nodes")
    stop = _agreed((config.output.path / STOP).exists, world, device)
    every, last = config.options.save_every, trainer.options.steps
    while trainer.step < last:
        goal = min(last, (trainer.step // every + 1) * every)
        trainer.run(until=goal, stop=stop)
        ray.train.report({"step": trainer.step, **_logged(config.output.path)})
        if trainer.step < goal:
            break
    return {"step": trainer.step, "fault": None}


def _gathered(value: Any, world: int) -> list[Any]:
    """Return every worker's value; all have to ask."""
    import torch.distributed as dist

    values = [value] * world
    if world > 1:
        dist.all_gather_object(values, value)
    return values


def _agreed(stop: Callable[[], bool], world: int, device: Any) -> Callable[[], bool]:
    """Make all workers hear the first one's answer, or some would wait for the others' gradients for ever."""
    import torch
    import torch.distributed as dist

    if world == 1:
        return stop

    def agreed() -> bool:
        answer = torch.tensor(int(dist.get_rank() == 0 and stop()), device=device)
        dist.broadcast(answer, src=0)
        return bool(answer)

    return agreed


def _logged(run: Path) -> dict[str, float]:
    """Return the numbers of the last step in the log."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        numbers: dict[str, float] = json.loads((run / "log.jsonl").read_text().splitlines()[-1])
        return numbers
    return {}


@contextlib.contextmanager
def _stopped_by_signals(stop: Path) -> Iterator[None]:
    """Put the stop file there at the first Ctrl-C or SIGTERM; raise KeyboardInterrupt at the second."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    us, asked = os.getpid(), threading.Event()

    def handle(_number: int, _frame: FrameType | None) -> None:
        if os.getpid() != us:  # a terminal's Ctrl-C reaches loader processes, too
            return
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        stop.touch()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interruptibly(work: Callable[[], Any]) -> Any:
    """Do work in a thread.

    In the main thread Ray Train would answer Ctrl-C itself, and drop the steps since the last checkpoint.
    """
    done: list[Any] = []
    fault: list[BaseException] = []

    def run() -> None:
        try:
            done.append(work())
        except BaseException as error:  # noqa: BLE001 - it is raised below
            fault.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.2)
    if fault:
        raise fault[0]
    return done[0]
