"""The labelling run, from configuration to commit marker."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.assignments import Assignment, Target, assignment, find_target, sources
from pipeline.budget import canary_limits, canary_verdict
from pipeline.claims import Claim
from pipeline.cluster import (
    TASK_CPUS,
    ActorResources,
    actor_resources,
    cluster_address,
    connected,
    faults_named,
    wait_for,
)
from pipeline.commits import Committed
from pipeline.config import LabelConfig
from pipeline.errors import ConfigurationError, PipelineError
from pipeline.holding import holding
from pipeline.parts import write_part
from pipeline.plan import check_paths
from pipeline.progress import IMAGES, OBJECTS, SHARDS, ProgressDisplay, Reporter, start_board
from pipeline.prompt_files import Prompts, load_prompt_index
from pipeline.provenance import ModelIdentity
from pipeline.reconcile import UNMATCHED_PROMPTS, Reconciliation
from pipeline.report import write_report
from pipeline.runs import RunDirectory
from pipeline.scopes import ALL_OF_IT, Selection
from pipeline.sources import Shard, make_source
from pipeline.stages.matte import identity, load_identity, second_pass
from pipeline.stages.parcels import BLOCK_BYTES, pack
from pipeline.stages.read import ReadShards, plan_table, unmatched_rows
from pipeline.stages.records import error_records
from pipeline.summary import Summary
from pipeline.timing import BYTES_READ, READ, measured, merged
from sdmatte.errors import SDMatteError
from sdmatte.urls import redact

if TYPE_CHECKING:
    from sdmatte.model import SDMatte

MAX_READ_TASKS = 2000
"""Shards beyond this number share tasks; a task costs Ray about 20 ms."""

_PATIENCE = 10.0  # seconds that a job waits for figures about itself

_log = logging.getLogger(__name__)


def label(config: LabelConfig, selection: Selection = ALL_OF_IT, *, model: SDMatte | None = None) -> Summary:
    """Label a corpus; continues the run that stands at the output path, or follows it.

    Args:
        config: Of the job.
        selection: What to label: all of the input, what is new in it, or some records again.
        model: Ready model, a copy of which goes to each actor; by default each loads the configured one.

    Returns:
        What came out; `complete` says whether every input has exactly one record.

    Raises:
        ConfigurationError: Something must be changed first: input, prompts, model, output, cluster.
        ClaimedError: Another job is writing to the output.
        PipelineError: The run stopped; what it committed stays, and the same command continues it.
    """
    start = time.monotonic()
    check_paths(config)
    shards = make_source(config).shards()
    index = load_prompt_index(config)
    _check_fits(config, index)
    versions = sources(config, shards, index)
    while True:
        target = find_target(config, selection)
        if target.there is not None and target.there.succeeded:  # only what a job without options would go on with
            RunDirectory.find(config)
            return _already(target.there, [shard.name for shard in shards], start)
        # Claimed before anything costs: another job, a store that can't be written to, a full disk show at once.
        with holding(target.path, exclusively=config.output.exclusive) as claim:
            target, before = find_target(config, selection), target
            if target.path != before.path or (target.there is not None and target.there.succeeded):
                continue  # another job was faster, and is done
            with connected(config):
                return _label(config, claim, target, shards, index, versions, start, model)


def _label(
    config: LabelConfig,
    claim: Claim,
    target: Target,
    shards: Sequence[Shard],
    index: Prompts | None,
    versions: Mapping[str, str],
    start: float,
    ready: SDMatte | None,
) -> Summary:
    resources = actor_resources(config)
    model = identity(ready, second_pass(config, ready)) if ready else _probe_model(config, resources)
    scope = target.scope(config, model)
    job = assignment(target.earlier, scope, shards, versions)
    if not job.shards and target.there is None:
        last = list(target.chain.runs.values())[-1]
        return _already(last, last.plan(), start)
    run = RunDirectory.begun(claim, config, model, scope)
    return _run(config, run, job, versions, index, model, resources, start, ready)


def _run(
    config: LabelConfig,
    run: RunDirectory,
    job: Assignment,
    versions: Mapping[str, str],
    index: Prompts | None,
    model: ModelIdentity,
    resources: ActorResources,
    start: float,
    ready: SDMatte | None,
) -> Summary:
    try:
        names = [shard.name for shard in job.shards]
        run.write_plan(names)
        committed = run.progress()
        before = sum(shard.count for shard in committed.values())
        faults = _execute(config, run, job, versions, committed, index, resources, ready, start)
        if run.scope.kind != "again":
            _commit_unmatched(config, run, job, index, model)
        reconciliation = run.reconcile(names)
        report = _report(run, reconciliation)
        run.finish(reconciliation)
    except BaseException as error:
        try:
            run.fail("interrupted" if isinstance(error, KeyboardInterrupt) else str(error))
        except PipelineError as second:  # the store may be what failed
            _log.error("run.json could not be updated: %s", second)  # the first fault is raised
        raise
    notes = (*faults, *_not_found(job, reconciliation), *_commonest_error(run, reconciliation))
    return Summary(run, reconciliation, time.monotonic() - start, before=before, report=report, notes=notes)


def _not_found(job: Assignment, reconciliation: Reconciliation) -> list[str]:
    gone = (job.selected or 0) - reconciliation.found
    if gone <= 0:
        return []
    return [f"{gone:,} of {job.selected:,} selected records are no longer in the input; they stay as they were"]


def _check_fits(config: LabelConfig, index: Prompts | None) -> None:
    if index is not None and cluster_address(config) is None and index.nbytes > config.workers.object_store_mb * 5e5:
        raise ConfigurationError(
            f"the prompt file takes {index.nbytes / 1e6:.0f} MB in Ray's object store; set workers.object_store_mb to "
            f"at least {3 * index.nbytes / 1e6:.0f}"
        )


def _already(run: RunDirectory, names: Sequence[str], start: float) -> Summary:
    reconciliation = run.reconcile(names)
    if not reconciliation.complete:
        raise ConfigurationError(
            f"{redact(run.path)} is complete since {run.info['finished_at']}, but the input is no longer what it was "
            f"then: {reconciliation.faults[0]}\nWith --incremental, what is new is labelled in a follow-up of that run"
        )
    return Summary(run, reconciliation, time.monotonic() - start, already=True)


def _execute(
    config: LabelConfig,
    run: RunDirectory,
    job: Assignment,
    versions: Mapping[str, str],
    committed: Mapping[str, Committed],
    index: Prompts | None,
    resources: ActorResources,
    ready: SDMatte | None,
    start: float,
) -> list[str]:
    """Read, matte and commit all shards that aren't finished; return the faults of storage that left some unread."""
    import ray

    pending = _pending(job, committed)
    if not pending:
        return []
    board = start_board(config, time.monotonic() - start)
    plan = _Plan(config, run, board, None if index is None else ray.put(index), ray.put(job.seen), resources, ready)
    with ProgressDisplay(board, len(pending)), faults_named():
        images = config.failures.canary_images
        if images:
            limits = canary_limits([shard.name for shard in pending], images)
            first = [shard for shard in pending if shard.name in limits]
            plan.execute(plan_table(first, _done(committed), versions, limits), actors=1, phase=0)
            counts, examples = ray.get([board.read.remote(), board.examples.remote()])
            canary_verdict(counts, config.failures, examples)
            committed = run.progress()
            pending = _pending(job, committed)
        if pending:
            plan.execute(plan_table(pending, _done(committed), versions), config.workers.actors, phase=1)
    faults: list[str]
    faults, deaths = ray.get([board.faults.remote(), board.deaths.remote()])
    return [
        *faults,
        *([f"the model's process died {deaths} times with images in hand, and was replaced"] * bool(deaths)),
    ]


def _pending(job: Assignment, committed: Mapping[str, Committed]) -> list[Shard]:
    return [shard for shard in job.shards if shard.name not in committed or not committed[shard.name].finished]


def _done(committed: Mapping[str, Committed]) -> dict[str, bytes]:
    return {name: shard.done for name, shard in committed.items()}


@dataclass(frozen=True)
class _Plan:
    """What the plans of one job have in common."""

    config: LabelConfig
    run: RunDirectory
    board: Any
    index: Any
    seen: Any
    resources: ActorResources
    ready: SDMatte | None

    def execute(self, rows: pa.Table, actors: int, phase: int) -> None:
        """Read, matte and commit shards (:data:`pipeline.stages.read.PLAN`); phases are commits of different names.

        Where the time went is noted in the run's `info`, even if it fails.
        """
        try:
            self._stream(rows, actors, phase)
        finally:
            self._note_times(actors, min(self.config.workers.readers, len(rows)), phase)

    def _note_times(self, actors: int, readers: int, phase: int) -> None:
        import ray

        try:
            lap = ray.get(self.board.lap.remote(actors, readers), timeout=_PATIENCE)
        except ray.exceptions.RayError as error:  # of no weight for the records
            _log.warning("where the time went is not known: %s", error)
            return
        same_job = phase > 0 and self.config.failures.canary_images > 0
        self.run.info["timing"] = merged(self.run.info.get("timing"), lap, same_job=same_job)

    def _stream(self, rows: pa.Table, actors: int, phase: int) -> None:
        import ray

        from pipeline.readahead import bound_reading
        from pipeline.sink import CommitSink
        from pipeline.stages.matte import MatteImages

        config, workers, reporter = self.config, self.config.workers, Reporter(self.board)
        size = -(-len(rows) // MAX_READ_TASKS)
        blocks = [rows.slice(at, size) for at in range(0, len(rows), size)]
        ray.data.DataContext.get_current().target_max_block_size = BLOCK_BYTES
        bound_reading(actors)
        with warnings.catch_warnings():
            # There is no other way to say how often a task is repeated; pyproject.toml pins a Ray that still has it.
            warnings.filterwarnings("ignore", message="`ray_remote_args_fn` is deprecated")
            (
                ray.data.from_arrow(blocks)
                .map_batches(
                    _Read(config, self.index, reporter, self.seen),
                    batch_size=1,
                    batch_format="pyarrow",
                    compute=ray.data.TaskPoolStrategy(size=min(workers.readers, len(blocks))),
                    num_cpus=TASK_CPUS,
                )
                .map_batches(
                    MatteImages,
                    fn_constructor_args=(
                        config,
                        self.run.run_id,
                        self.ready,
                        reporter,
                        max(1, round(self.resources.cpus)),
                    ),
                    batch_size=1,  # parcel, of workers.images_per_block images
                    batch_format="pyarrow",
                    compute=_actor_pool(actors, workers.blocks_in_hand or (2 if self.resources.gpus else 1)),
                    num_cpus=self.resources.cpus,
                    num_gpus=self.resources.gpus or None,
                    ray_remote_args_fn=_actor_options,
                )
                .write_datasink(
                    CommitSink(
                        self.run.claim, round(config.output.file_mb * 1e6), workers.retries, phase, reporter.spent
                    ),
                    ray_remote_args={"num_cpus": TASK_CPUS},
                )
            )


def _actor_pool(actors: int, blocks: int) -> Any:
    """Return how Ray keeps actors that work on so many blocks at a time; the next one is on its way meanwhile."""
    import ray

    return ray.data.ActorPoolStrategy(
        size=actors,
        max_concurrent_calls_per_actor=blocks,
        max_tasks_in_flight_per_actor=blocks + 1,
        enable_true_multi_threading=blocks > 1,
    )


def _actor_options() -> dict[str, int]:
    """Repeat without end: what ends it is the account that the board keeps of images and deaths."""
    return {"max_restarts": -1, "max_task_retries": -1}


class _Read:
    """The reading stage as Ray runs it: what is large comes from the object store, and progress is told."""

    def __init__(self, config: LabelConfig, index: Any, progress: Reporter, seen: Any) -> None:
        self._config = config
        self._index = index
        self._progress = progress
        self._seen = seen

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        import ray

        index = None if self._index is None else ray.get(self._index)
        stage = ReadShards(self._config, index, self._progress.fault, ray.get(self._seen))
        for table, seconds in measured(stage(batch)):
            shards = len(table) - table["ledger"].null_count
            objects = pc.sum(pc.list_value_length(table["prompts"])).as_py() or 0
            self._progress({IMAGES: len(table) - shards, OBJECTS: objects, SHARDS: shards})
            self._progress.spent({READ: seconds, BYTES_READ: pc.sum(pc.binary_length(table["image"])).as_py() or 0})
            yield pack(table)


def _commit_unmatched(
    config: LabelConfig, run: RunDirectory, job: Assignment, index: Prompts | None, model: ModelIdentity
) -> None:
    """Commit error records for the prompts of a separate file that found no image; only known once all is read."""
    if index is None:
        return
    committed = run.progress()
    if any(shard.name not in committed or not committed[shard.name].ledgers for shard in job.shards):
        return
    there = committed.get(UNMATCHED_PROMPTS)
    if there is not None and there.finished:
        return
    done = frozenset(there.record_ids.tolist() if there else ())
    here = (key for shard in committed.values() for ledger in shard.ledgers for key in ledger.matched)
    matched = np.union1d(np.fromiter(here, np.int64), job.matched)
    for number, rows in enumerate(unmatched_rows(index, matched, done, config.prompts)):
        records = error_records(rows, config, run.run_id, model)
        write_part(run.claim, f"unmatched-{number:06d}", records, retries=config.workers.retries)


def _probe_model(config: LabelConfig, resources: ActorResources) -> ModelIdentity:
    """Matte one test image where the actors will run: what is wrong with the model shows before all else starts."""
    if not resources.gpus and cluster_address(config) is None:
        try:
            return load_identity(config)  # in this process, which saves starting another
        except SDMatteError as error:
            raise ConfigurationError(f"the model can't be used: {error}") from None
    import ray

    with faults_named():
        task = ray.remote(load_identity).options(num_cpus=resources.cpus, num_gpus=resources.gpus or None)
        found: ModelIdentity = wait_for(task.remote(config), resources)
    return found


def _report(run: RunDirectory, reconciliation: Reconciliation) -> str | None:
    """Write the report; records that are complete don't become less so because it can't be drawn."""
    try:
        return write_report(run.path, reconciliation, run.info.get("timing"))
    except Exception:  # noqa: BLE001 - drawing, encoding, a template: whatever it is, the records stand
        _log.exception("the report could not be written; the records are complete all the same")
        return None


def _commonest_error(run: RunDirectory, reconciliation: Reconciliation) -> list[str]:
    """Return the commonest error code with one of its messages, which often says what to change for all of them."""
    if not reconciliation.by_code:
        return []
    code = max(reconciliation.by_code, key=reconciliation.by_code.__getitem__)
    rows = run.dataset().head(1, columns=["error_message"], filter=pc.field("error_code") == code, batch_size=1024)
    message = rows["error_message"].to_pylist()[0] if len(rows) else ""
    head = "no object is ok; " if not reconciliation.by_status.get("ok") else ""
    return [f"{head}{code}, {reconciliation.by_code[code]:,} times, for example: {message}"]
