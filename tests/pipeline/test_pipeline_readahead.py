"""Reading ahead of the model, bounded in blocks."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.readahead import BLOCKS_PER_ACTOR, bound_reading
from pipeline.stages.parcels import BLOCK_BYTES, pack

BLOCKS = 60


class Reader:
    """Yields small parcels, and leaves a file for each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        for number in range(BLOCKS):
            (self._folder / f"{batch['shard'][0].as_py()}-{number:03}").touch()
            yield pack(pa.table({"number": [number]}))


class Model:
    """Notes how many blocks have been read whenever it is handed one; the first time it takes as long as loading."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._handed = 0

    def __call__(self, parcel: pa.Table) -> pa.Table:
        import time

        if not self._handed:
            before = -1
            while (now := len(list(self._folder.iterdir()))) != before:  # until reading has come to a stop
                before = now
                time.sleep(1.0)
        read = len(list(self._folder.iterdir()))
        self._handed += 1
        return pa.table({"ahead": [read - self._handed]})


def furthest(folder: Path, *, bound: bool) -> tuple[int, int]:
    """Returns how many blocks reading was ahead at most, and how many blocks arrived."""
    import ray

    ray.data.DataContext.get_current().target_max_block_size = BLOCK_BYTES
    if bound:
        bound_reading(1)
    rows: Any = (
        ray.data.from_arrow(pa.table({"shard": ["a"]}))
        .map_batches(Reader(folder), batch_size=1, batch_format="pyarrow", num_cpus=0.25)
        .map_batches(
            Model,
            fn_constructor_args=(folder,),
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=1),
            num_cpus=1,
        )
        .take_all()
    )
    return max(row["ahead"] for row in rows), len(rows)


@pytest.mark.slow
def test_readers_wait_for_the_model_and_every_block_arrives(tmp_path: Path, ray_session: None) -> None:
    ahead, arrived = furthest(tmp_path, bound=True)
    assert arrived == BLOCKS
    # What waits for the actor, two that it has been given, and two that the read task has made meanwhile.
    assert ahead <= BLOCKS_PER_ACTOR + 6


@pytest.mark.slow
def test_without_the_bound_they_read_all_there_is(tmp_path: Path, ray_session: None) -> None:
    ahead, arrived = furthest(tmp_path, bound=False)
    assert arrived == BLOCKS
    assert ahead > BLOCKS // 2
