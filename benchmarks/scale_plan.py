"""What a corpus takes, from coefficients that benchmarks/scale.py measured: a pure function, and its tables.

Nothing here measures anything, and no speed of a GPU is assumed: seconds per object is an input.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

FLOPS = {
    1024: {"image": 4.88e12, "prompt": 4.88e12, "unet": 4.78e12, "decode": 10.47e12},
    512: {"image": 1.12e12, "prompt": 1.12e12, "unet": 0.83e12, "decode": 2.51e12},
}
"""Counted work of the released model by side of its input: of an image once, the others of each object."""

LIST_PAGE = 1000
"""Names in one answer of S3 to a listing."""

READ_TASKS = 2000
"""`pipeline.label.MAX_READ_TASKS`."""

LOG_EVERY = 60.0
"""Seconds between two looks of a job at its commits: at most one log of them each (`COMPACT_SECONDS`)."""

LOG_ROWS = 100_000
"""Records in a log, at most."""

COMPACT_AT = 500
"""Commits of a log at least."""


@dataclass(frozen=True)
class Coefficients:
    """What a run costs the driver, as measured; the defaults are those of benchmarks/scale.json.

    Attributes:
        resume_record: Seconds per record to read commits and find out what is left.
        resume_commit: The same per commit.
        reconcile_record: Seconds per record to reconcile.
        reconcile_commit: The same per commit.
        follow_record: Seconds per record to prepare a follow-up run.
        follow_bytes: Bytes of memory per record for that.
        report_record: Seconds per record to look at all records for the report.
        decide_record: Seconds per record of `jobs/curate.py decide`.
        decide_bytes: Bytes of memory per record for that.
        shard_bytes: Bytes of the driver's memory per shard of the input.
        commit_bytes: The same per commit.
        listed_bytes: The same per data file that is listed.
        block_cpu: Seconds of the driver's process per block of images; Ray's scheduling loop is one thread.
        block_bytes: Bytes by which the driver's memory grew per block between the two largest jobs; an upper bound.
        commit_object: Bytes of a commit object without its ids.
        commit_record: Bytes in it per record.
        log_record: Bytes per record in a log of commits.
        plan_shard: Bytes per shard in plan.parquet.
    """

    resume_record: float
    resume_commit: float
    reconcile_record: float
    reconcile_commit: float
    follow_record: float
    follow_bytes: float
    report_record: float
    decide_record: float
    decide_bytes: float
    shard_bytes: float
    commit_bytes: float
    listed_bytes: float
    block_cpu: float
    block_bytes: float
    commit_object: float
    commit_record: float
    log_record: float
    plan_shard: float

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Coefficients:
        """Take those of a file of `benchmarks/scale.py --json`."""
        return cls(**{each.name: float(values[each.name]) for each in fields(cls)})


@dataclass(frozen=True)
class Corpus:
    """What is to be labelled, and with what.

    Attributes:
        images: Number of images.
        objects_per_image: Prompts of an image.
        image_kb: Encoded bytes of an image (kB).
        alpha_kb: Bytes of a record, which is nearly all alpha (kB).
        images_per_shard: Images in a tar.
        seconds_per_object: Of one GPU, all included that it waits for; measure it with `benchmarks/engine.py`.
        gpus: Number of GPUs, one actor each.
        gpus_per_node: GPUs in a node.
        efficiency: Share of the time in which the model is busy.
        price_gpu_hour: In any currency; 0 leaves money out.
        price_get: Per request to read.
        price_put: Per request to write or list.
        file_mb: `output.file_mb`.
        images_per_block: `workers.images_per_block`.
        readers: `workers.readers`.
        runs: Runs of equal size that it is cut into, each with an output, a driver and its share of the GPUs.
        get_ms: Time of one request to the store (ms).
        in_flight: Requests under way at a time while commits are read.
        driver_gb: Memory of a driver (GB).
        resume_hours: The longest that a resumed job may take before it starts.
    """

    images: float = 1e9
    objects_per_image: float = 2.0
    image_kb: float = 300.0
    alpha_kb: float = 200.0
    images_per_shard: float = 1000.0
    seconds_per_object: float = 0.05
    gpus: int = 512
    gpus_per_node: int = 8
    efficiency: float = 0.95
    price_gpu_hour: float = 0.0
    price_get: float = 0.0
    price_put: float = 0.0
    file_mb: float = 32.0
    images_per_block: int = 8
    readers: int = 64
    runs: int = 1
    get_ms: float = 30.0
    in_flight: int = 4
    driver_gb: float = 16.0
    resume_hours: float = 1.0

    @property
    def objects(self) -> float:
        """Records."""
        return self.images * self.objects_per_image

    @classmethod
    def parse(cls, words: Sequence[str]) -> Corpus:
        """Read ``name=number`` words.

        Raises:
            ValueError: A name is unknown, or a value is no positive number (0 for prices).
        """
        kinds = {each.name: each.type for each in fields(cls)}
        given: dict[str, Any] = {}
        for word in words:
            name, equals, text = word.partition("=")
            if not equals or name not in kinds:
                raise ValueError(f"{word!r}: write name=number, with a name of {', '.join(kinds)}")
            value = float(text)
            if not math.isfinite(value) or value < 0 or (value == 0 and not name.startswith("price")):
                raise ValueError(f"{word!r}: the number must be positive")
            given[name] = int(value) if kinds[name] == "int" else value
        return cls(**given)


@dataclass(frozen=True)
class Requests:
    """Requests to the store, by what costs differently: GET and HEAD, PUT, listings, and deletions (free)."""

    get: float = 0.0
    put: float = 0.0
    list: float = 0.0
    delete: float = 0.0

    def __add__(self, other: Requests) -> Requests:
        """Add."""
        return Requests(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))

    def __mul__(self, factor: float) -> Requests:
        """Multiply."""
        return Requests(*(getattr(self, each.name) * factor for each in fields(self)))


PER_SHARD = Requests(get=2)
"""A tar is opened (HEAD), and streamed with one GET where nothing breaks."""

PER_PART = Requests(get=3, put=2, list=1, delete=1)
"""The next claim is looked for (HEAD, and a listing where there is none), data and commit are put; the commit is read
(HEAD, GET) and deleted when it is gathered."""

PER_BEAT = Requests(get=1, put=1, list=1)
"""A sign of life and a look for the next claim, every 5 s."""

PER_FILE_LOOKED_AT = Requests(get=3)
"""The report opens every data file: HEAD twice and GET, more of both where files are large."""

PER_LOG = Requests(get=2)
"""Each time the commits are read (HEAD, GET)."""

READS_OF_COMMITS = 10
"""By a job that nothing interrupts: to reconcile, to find orphans, and for each part of the report."""


@dataclass(frozen=True)
class Plan:
    """What a corpus takes.

    Attributes:
        corpus: What was asked.
        gpu_hours: Of all GPUs, the model's share of the time considered.
        days: Of wall time, if GPUs are what bounds it.
        driver_days: Of wall time that one driver's scheduling takes at least, per run.
        nodes: Of GPUs.
        cost: GPU-hours and requests, in the currency of the prices.
        requests: Of the whole corpus.
        output_tb: Bytes of data files.
        shards: Of the input.
        files: Data files, and as many commits.
        blocks: That Ray schedules.
        logs: Of commits, at the end of a run.
        metadata_gb: Logs, plan and claims.
        listing: Seconds to list the input and the data files.
        resume: Seconds before a job that is resumed at the very end starts to work.
        reconcile: Seconds at the end of a run.
        report: Seconds for the report.
        driver_gb: Memory of the driver at that time, without the program itself and what Ray may keep of blocks.
        collision: Chance that any two records of a run share an id.
    """

    corpus: Corpus
    gpu_hours: float
    days: float
    driver_days: float
    nodes: int
    cost: float
    requests: Requests
    output_tb: float
    shards: float
    files: float
    blocks: float
    logs: float
    metadata_gb: float
    listing: float
    resume: float
    reconcile: float
    report: float
    driver_gb: float
    collision: float


def plan(corpus: Corpus, measured: Coefficients) -> Plan:
    """Say what a corpus takes; all times, files and memory are those of one of its runs, the rest of all of them."""
    one = replace(corpus, images=corpus.images / corpus.runs)  # a run
    records = one.objects
    shards = one.images / one.images_per_shard
    files = math.ceil(records * one.alpha_kb / 1e3 / one.file_mb)
    blocks = shards * math.ceil(one.images_per_shard / one.images_per_block)
    gpu_hours = corpus.objects * corpus.seconds_per_object / corpus.efficiency / 3600
    seconds = gpu_hours * 3600 / corpus.gpus
    logs = max(records / LOG_ROWS, min(files / COMPACT_AT, seconds / LOG_EVERY))
    wait = one.get_ms / 1e3
    listed = math.ceil(files / LIST_PAGE)
    listing = (math.ceil(shards / LIST_PAGE) + listed) * wait
    read_logs = PER_LOG.get * logs / one.in_flight * wait
    requests = (
        PER_SHARD * shards
        + (PER_PART + PER_FILE_LOOKED_AT) * files
        + PER_LOG * (READS_OF_COMMITS * logs)
        + PER_BEAT * (seconds / 5)
        + Requests(list=math.ceil(shards / LIST_PAGE) + 2 * listed + 2 * seconds / LOG_EVERY)
    ) * corpus.runs
    paid = requests.get * corpus.price_get + (requests.put + requests.list) * corpus.price_put
    driver = shards * measured.shard_bytes + files * (measured.commit_bytes + measured.listed_bytes)
    return Plan(
        corpus=corpus,
        gpu_hours=gpu_hours,
        days=seconds / 86400,
        driver_days=blocks * measured.block_cpu / 86400,
        nodes=math.ceil(corpus.gpus / corpus.gpus_per_node),
        cost=gpu_hours * corpus.price_gpu_hour + paid,
        requests=requests,
        output_tb=corpus.objects * corpus.alpha_kb / 1e9,
        shards=shards,
        files=files,
        blocks=blocks,
        logs=logs,
        metadata_gb=(records * measured.log_record + shards * measured.plan_shard) / 1e9,
        listing=listing,
        resume=listing + read_logs + records * measured.resume_record + files * measured.resume_commit,
        reconcile=listing + read_logs + records * measured.reconcile_record + files * measured.reconcile_commit,
        report=records * measured.report_record + 3 * files * wait / 4,  # four files at a time
        driver_gb=driver / 1e9,
        collision=-math.expm1(-(records**2) / 2**65),
    )


@dataclass(frozen=True)
class Limit:
    """A point at which something no longer holds.

    Attributes:
        what: What breaks.
        rows: Records of one run at which it does.
        because: The coefficient behind it.
        cure: What to change.
    """

    what: str
    rows: float
    because: str
    cure: str


def limits(corpus: Corpus, measured: Coefficients) -> list[Limit]:
    """Say what breaks first, in records of one run: the earliest first."""
    per_file = max(1.0, corpus.file_mb * 1e3 / corpus.alpha_kb)  # records
    per_shard = corpus.images_per_shard * corpus.objects_per_image
    per_block = corpus.images_per_block * corpus.objects_per_image
    memory = corpus.driver_gb * 1e9
    hour = 3600 * corpus.resume_hours
    wait = corpus.get_ms / 1e3
    kept = measured.shard_bytes / per_shard + (measured.commit_bytes + measured.listed_bytes) / per_file
    listing = wait / LIST_PAGE * (1 / per_file + 1 / per_shard)
    logs = PER_LOG.get * wait / corpus.in_flight / LOG_ROWS
    resume = measured.resume_record + measured.resume_commit / per_file + listing + logs
    report = measured.report_record + 3 * wait / 4 / per_file
    tasks = READ_TASKS * per_shard
    found = [
        Limit(
            f"decisions (curate decide) need {corpus.driver_gb:g} GB",
            _until(memory, measured.decide_bytes),
            f"{measured.decide_bytes:.0f} bytes per record in one table",
            "a machine with more memory, or decide per run",
        ),
        Limit(
            f"preparing a follow-up run needs {corpus.driver_gb:g} GB",
            _until(memory, measured.follow_bytes),
            f"{measured.follow_bytes:.0f} bytes per record",
            "several outputs; a driver with more memory",
        ),
        Limit(
            f"the driver holds {corpus.driver_gb:g} GB at the end of a run",
            _until(memory, kept),
            f"{kept:.1f} bytes per record: {measured.commit_bytes + measured.listed_bytes:.0f} per file, "
            f"{measured.shard_bytes:.0f} per shard",
            "output.file_mb up, larger shards",
        ),
        Limit(
            f"Ray's blocks fill {corpus.driver_gb:g} GB of the driver, if it grows by each at all",
            _until(memory, measured.block_bytes) * per_block,
            f"{measured.block_bytes:.0f} bytes per block of {per_block:g} records, hardly told from noise",
            "workers.images_per_block up, or several outputs",
        ),
        Limit(
            f"a resumed job takes {corpus.resume_hours:g} h to start",
            _until(hour, resume),
            f"{resume * 1e6:.1f} us per record",
            "output.file_mb up, several outputs",
        ),
        Limit(
            f"the report takes {24 * corpus.resume_hours:g} h",
            _until(24 * hour, report),
            f"{report * 1e6:.0f} us per record",
            "output.file_mb up: every data file is opened",
        ),
        Limit(
            "shards share read tasks, so a lost reader repeats more than one",
            tasks,
            f"{READ_TASKS} read tasks at most, {per_shard:g} records per shard",
            "larger shards",
        ),
        Limit(
            "two records share an id with a chance of 1 %",
            math.sqrt(-math.log1p(-0.01) * 2**65),
            "64-bit ids",
            "several outputs; the chance grows with the square",
        ),
    ]
    return sorted(found, key=lambda limit: limit.rows)


def _until(limit: float, each: float) -> float:
    """Return how many there may be of what costs so much; what costs nothing that could be measured, without end."""
    return limit / each if each else math.inf


def gpus_per_driver(corpus: Corpus, measured: Coefficients) -> float:
    """Return how many GPUs one driver's scheduling keeps busy."""
    return corpus.images_per_block * corpus.objects_per_image * corpus.seconds_per_object / measured.block_cpu


def floor_seconds(side: int, objects_per_image: float, flops: float, utilisation: float) -> float:
    """Return the least seconds per object, from counted work.

    Args:
        side: Of the model's input: 512 or 1024.
        objects_per_image: The image is encoded once for all of them.
        flops: Peak of the device (FLOP/s), as its maker or a measurement says.
        utilisation: Share of it that is reached; an assumption.
    """
    work = FLOPS[side]
    each = work["image"] / objects_per_image + work["prompt"] + work["unet"] + work["decode"]
    return each / (flops * utilisation)
