"""Plain Python that does by itself what a labelling run does with a stand-in for the model: no Ray, one process.

Tar shards are read from S3 with boto3; each image is decoded, hashed, scored with its alpha, the alpha encoded as a
PNG, and records are written as Parquet files of the same size, by the same functions of the pipeline. Started by
`benchmarks/pipeline.py` as a process of its own: says `ready`, waits for a line, prints what it did as JSON.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))  # for `benchmarks`, when run as a script

BATCH = 8
"""Images scored together, and rows made into a table at a time, as in an actor."""


def main(argv: Sequence[str]) -> int:
    """Label `s3://BUCKET/KEY ...`, writing to `s3://BUCKET/OUT`; returns the exit code."""
    bucket, out, megabytes, *keys = argv
    import boto3
    import cv2
    from botocore.config import Config

    from benchmarks.pipeline_set import stand_in
    from pipeline.config import LabelConfig
    from pipeline.quality.scoring import Scorer
    from pipeline.stages.matte import identity

    cv2.setNumThreads(1)  # one process, one core
    config = LabelConfig.model_validate(
        {"input": {"kind": "webdataset", "path": "-"}, "model": {"source": "-"}, "output": {"path": "-"}}
    )
    model = stand_in()
    score = Scorer(config, identity(model))
    style = Config(request_checksum_calculation="when_required", s3={"addressing_style": "path"})
    client = boto3.client("s3", config=style)
    print("ready", flush=True)
    sys.stdin.readline()
    start, spent = time.perf_counter(), time.process_time()
    done = label(client, bucket, keys, out, float(megabytes) * 1e6, model, score)
    print(json.dumps(done | {"seconds": time.perf_counter() - start, "cpu": time.process_time() - spent}))
    return 0


def label(
    client: Any, bucket: str, keys: Sequence[str], out: str, file_bytes: float, model: Any, score: Any
) -> dict[str, int]:
    """Read shards, make records and write them; returns counts of images, and of bytes in and out."""
    import pyarrow as pa

    from pipeline.parts import parquet

    counts = {"images": 0, "bytes_in": 0, "bytes_out": 0}
    tables: list[pa.Table] = []

    def write() -> None:
        data = parquet(pa.concat_tables(tables))
        client.put_object(Bucket=bucket, Key=f"{out}/{counts['images']:06d}.parquet", Body=data)
        counts["bytes_out"] += len(data)
        tables.clear()

    for key in keys:
        for pairs in batches(read(client, bucket, key)):
            tables.append(records(pairs, model, score, key))
            counts["images"] += len(pairs)
            counts["bytes_in"] += sum(len(image) for image, _ in pairs)
            if sum(table.nbytes for table in tables) >= file_bytes:
                write()
    if tables:
        write()
    return counts


def read(client: Any, bucket: str, key: str) -> Iterator[tuple[bytes, bytes]]:
    """Yield the encoded images of a shard with their prompts, as they stand in the tar."""
    import tarfile

    with tarfile.open(fileobj=client.get_object(Bucket=bucket, Key=key)["Body"], mode="r|", bufsize=2**20) as tar:
        image = b""
        for member in tar:
            data = tar.extractfile(member).read()  # type: ignore[union-attr]  # all are files
            if member.name.endswith(".jpg"):
                image = data
            else:
                yield image, data


def batches(pairs: Iterator[tuple[bytes, bytes]]) -> Iterator[list[tuple[bytes, bytes]]]:
    """Yield them by :data:`BATCH`."""
    batch: list[tuple[bytes, bytes]] = []
    for pair in pairs:
        batch.append(pair)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def records(pairs: Sequence[tuple[bytes, bytes]], model: Any, score: Any, shard: str) -> Any:
    """Return the records of some images with one box each, as a table."""
    import pyarrow as pa

    from pipeline.ids import image_id, record_id
    from pipeline.quality.features import features
    from pipeline.quality.image_terms import prepare
    from pipeline.quality.phash import phash
    from pipeline.schema import RECORDS
    from pipeline.stages.records import encode_png
    from sdmatte.geometry import quantise
    from sdmatte.images import decode_image
    from sdmatte.prompts import Box

    rows, scored = [], []
    for number, (image, prompts) in enumerate(pairs):
        spec = json.loads(prompts)
        prompt = Box(*spec["box"])
        pixels = decode_image(image).pixels
        (encoded,) = model.encode([pixels])
        (alpha,) = model.matte([(encoded, prompt)])
        found = asdict(features(alpha, prompt, prepare(pixels), None))
        identifier = image_id(shard, f"{number}-{len(image)}")
        scored.append(found | {"prompt_kind": "box", "transparent": False})
        rows.append(
            dict.fromkeys(RECORDS.names)
            | {"record_id": record_id(identifier, spec), "image_id": identifier, "shard": shard, "status": "ok"}
            | {"image_sha256": hashlib.sha256(image).hexdigest(), "image_phash": phash(pixels)}
            | {"image_width": pixels.shape[1], "image_height": pixels.shape[0], "model": model.name}
            | {"prompt_kind": "box", "prompt_box": spec["box"], "labelled_at": datetime.now(UTC)}
            | {"alpha": {"bytes": encode_png(quantise(alpha, "uint8")), "path": None}}
            | found
        )
    complete = [row | asdict(each) for row, each in zip(rows, score(scored), strict=True)]
    return pa.Table.from_pylist(complete, RECORDS)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
