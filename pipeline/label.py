"""The labelling run, from configuration to commit marker."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import pyarrow as pa
import yaml

from pipeline.cluster import TASK_CPUS, cluster_address, connected, faults_named, gpus_per_actor
from pipeline.commits import Committed, write_part
from pipeline.config import LabelConfig
from pipeline.errors import ConfigurationError, PipelineError
from pipeline.progress import IMAGES, OBJECTS, SHARDS, ProgressBoard, ProgressDisplay, Reporter
from pipeline.prompt_files import PromptIndex, load_prompt_index
from pipeline.provenance import ModelIdentity, redact
from pipeline.reconcile import UNMATCHED_PROMPTS, Reconciliation
from pipeline.report import write_report
from pipeline.runs import AlreadyComplete, RunDirectory
from pipeline.sources import Shard, make_source
from pipeline.stages.matte import error_records, load_identity
from pipeline.stages.read import ReadShards, plan_table, unmatched_rows
from pipeline.summary import Summary
from sdmatte.errors import SDMatteError

MAX_READ_TASKS = 2000
"""Shards beyond this number share tasks; a task costs Ray about 20 ms."""

MODEL_RETRIES = 2
"""How often a block is given to another actor when its actor dies; then the job stops rather than dying for ever."""

_log = logging.getLogger(__name__)


def plan(config: LabelConfig) -> str:
    """Return what a run would do, for people; reads listings and headers, starts nothing.

    Raises:
        ConfigurationError: The input, the prompts or the output can't be used as configured.
    """
    shards = make_source(config).shards()
    index = load_prompt_index(config)
    listed = [shard.name for shard in shards]
    lines = [
        yaml.safe_dump(redact(config.model_dump(mode="json")), sort_keys=False, allow_unicode=True).rstrip(),
        "",
        f"shards    {len(listed)}: {', '.join(listed[:3])}{', ...' if len(listed) > 3 else ''}",
        f"prompts   {'beside the images' if index is None else f'{len(index)} keys in {redact(config.prompts.path)}'}",
        f"output    {redact(config.output.path)}: {_output_state(config)}",
    ]
    return "\n".join(lines)


def label(config: LabelConfig) -> Summary:
    """Label a corpus; continues the run that stands at the output path.

    Returns:
        What came out; `complete` says whether every input has exactly one record.

    Raises:
        ConfigurationError: Something must be changed first: input, prompts, model, output, cluster.
        PipelineError: The run stopped; what it committed stays, and the same command continues it.
    """
    start = time.monotonic()
    shards = make_source(config).shards()
    index = load_prompt_index(config)
    with connected(config):
        gpus = gpus_per_actor(config)
        model = _probe_model(config, gpus)
        try:
            run = RunDirectory.open_or_create(config, model)
        except AlreadyComplete as done:
            reconciliation = done.run.reconcile(shard.name for shard in shards)
            if not reconciliation.complete:
                raise ConfigurationError(
                    f"{done}, but the input is no longer what it was then: {reconciliation.faults[0]}\n"
                    "Label the present input under a new output.path"
                ) from None
            return Summary(done.run, reconciliation, seconds=time.monotonic() - start, already=True)
        committed = run.committed()
        before = sum(len(shard.record_ids) for shard in committed.values())
        try:
            _execute(config, run, shards, committed, index, gpus)
            _commit_unmatched(config, run, shards, index, model)
            reconciliation = run.reconcile(shard.name for shard in shards)
            report = _report(run, reconciliation) if reconciliation.complete else None
            run.finish(reconciliation)
        except BaseException as error:
            with suppress(PipelineError):  # the store may be what failed
                run.fail("interrupted" if isinstance(error, KeyboardInterrupt) else str(error))
            raise
    return Summary(run, reconciliation, seconds=time.monotonic() - start, before=before, report=report)


def _execute(
    config: LabelConfig,
    run: RunDirectory,
    shards: list[Shard],
    committed: Mapping[str, Committed],
    index: PromptIndex | None,
    gpus: float,
) -> None:
    """Read, matte and commit all shards that aren't finished."""
    import ray

    from pipeline.sink import CommitSink
    from pipeline.stages.matte import MatteImages

    pending = [shard for shard in shards if shard.name not in committed or not committed[shard.name].finished]
    if not pending:
        return
    rows = plan_table(pending, {name: shard.done for name, shard in committed.items()})
    size = -(-len(pending) // MAX_READ_TASKS)
    board = ray.remote(ProgressBoard).options(num_cpus=0).remote()
    reporter = Reporter(board)
    workers = config.workers
    with warnings.catch_warnings(), ProgressDisplay(board, len(pending)), faults_named():
        # Named parameters for retries don't exist in the Ray that pyproject.toml pins.
        warnings.filterwarnings("ignore", message="`ray_remote_args_fn` is deprecated")
        (
            ray.data.from_arrow([rows.slice(at, size) for at in range(0, len(pending), size)])
            .map_batches(
                _Read(config, None if index is None else ray.put(index), reporter),
                batch_size=1,
                batch_format="pyarrow",
                compute=ray.data.TaskPoolStrategy(size=workers.readers),
                num_cpus=TASK_CPUS,
            )
            .map_batches(
                MatteImages,
                fn_constructor_args=(config, run.run_id, None, reporter),
                batch_size=workers.images_per_block,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(size=workers.actors),
                num_cpus=workers.cpus_per_actor,
                num_gpus=gpus or None,
                ray_remote_args_fn=_actor_options,
            )
            .write_datasink(
                CommitSink(run.path, config.output.records_per_file, workers.retries),
                ray_remote_args={"num_cpus": TASK_CPUS},
            )
        )


def _actor_options() -> dict[str, int]:
    return {"max_restarts": -1, "max_task_retries": MODEL_RETRIES}


class _Read:
    """The reading stage as Ray runs it: the prompt index comes from the object store, and progress is told."""

    def __init__(self, config: LabelConfig, index: Any, progress: Reporter) -> None:
        self._config = config
        self._index = index
        self._progress = progress

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        import ray

        index = None if self._index is None else ray.get(self._index)
        for table in ReadShards(self._config, index)(batch):
            images = table.filter(table["ledger"].is_null())
            objects = sum(len(prompts) for prompts in images["prompts"].to_pylist())
            self._progress({IMAGES: len(images), OBJECTS: objects, SHARDS: len(table) - len(images)})
            yield table


def _commit_unmatched(
    config: LabelConfig, run: RunDirectory, shards: list[Shard], index: PromptIndex | None, model: ModelIdentity
) -> None:
    """Commit error records for the prompts of a separate file that found no image; only known once all is read."""
    if index is None:
        return
    committed = run.committed()
    if any(shard.name not in committed or not committed[shard.name].ledgers for shard in shards):
        return
    if UNMATCHED_PROMPTS in committed:
        return
    matched = {key for shard in committed.values() for ledger in shard.ledgers for key in ledger.matched}
    rows = unmatched_rows(index, matched)
    if rows is not None:
        write_part(run.path, "part-unmatched", error_records(rows, config, run.run_id, model))


def _probe_model(config: LabelConfig, gpus: float) -> ModelIdentity:
    """Load the model once where the actors will run: what is wrong with it shows before anything else starts."""
    if not gpus and cluster_address(config) is None:
        try:
            return load_identity(config)  # in this process, which saves starting another
        except SDMatteError as error:
            raise ConfigurationError(f"the model can't be used: {error}") from None
    import ray

    with faults_named():
        task = ray.remote(load_identity).options(num_cpus=config.workers.cpus_per_actor, num_gpus=gpus or None)
        found: ModelIdentity = ray.get(task.remote(config))
    return found


def _report(run: RunDirectory, reconciliation: Reconciliation) -> str | None:
    """Write the report; records that are complete don't become less so because it can't be drawn."""
    try:
        return write_report(run.path, reconciliation)
    except Exception:  # noqa: BLE001
        _log.exception("the report could not be written; the records are complete all the same")
        return None


def _output_state(config: LabelConfig) -> str:
    try:
        run = RunDirectory.open(config.output.path)
    except ConfigurationError:
        return "a new run"
    finished = len(run.finished_shards())
    return "complete, nothing to do" if run.succeeded else f"run {run.run_id} goes on; {finished} shards are finished"
