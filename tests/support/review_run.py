"""A small complete run over real picture files, with soft alphas, for tests of reviews; no model, no Ray."""

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from pipeline.ids import image_id
from pipeline.runs import RunDirectory
from pipeline.stages.records import encode_png
from support.run_rows import begin, complete, label_config, ledger_row, record_rows

SIZE = (40, 30)
"""Width and height of the upright pictures."""


def soft_alpha(seed: int, kind: type = np.uint8) -> NDArray[Any]:
    """A disc with a wide soft edge, elsewhere for each seed."""
    x, y = np.meshgrid(np.arange(SIZE[0]), np.arange(SIZE[1]))
    distance = np.hypot(x - 12 - seed * 3 % 16, y - 10 - seed * 2 % 10)
    return np.rint(np.clip((12 - distance) / 8, 0, 1) * np.iinfo(kind).max).astype(kind)


def picture(path: Path, seed: int, *, turned: bool = False) -> bytes:
    """Writes a JPEG of noise; `turned`: stored lying, with an EXIF orientation that makes it upright."""
    pixels = np.random.default_rng(seed).integers(0, 255, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    file = io.BytesIO()
    if turned:
        exif = Image.Exif()
        exif[0x0112] = 6
        image.rotate(90, expand=True).save(file, "JPEG", exif=exif)
    else:
        image.save(file, "JPEG")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(file.getvalue())
    return file.getvalue()


def review_run(folder: Path, **columns: Any) -> RunDirectory:
    """Builds `folder/run` with the records 1 to 5: two on the first picture, the last one of 16 bits, and an error.

    The third picture is turned by EXIF; predicted_mad is worst for 3, and missing for 4 and 5.
    """
    run = begin(label_config(folder / "run"))
    errors = {1: 0.01, 2: 0.03, 3: 0.2}
    tables = []
    for number in range(1, 6):
        at = 1 if number == 2 else number
        path = folder / f"pictures/{at}.jpg"
        data = picture(path, at, turned=at == 3)
        alpha = soft_alpha(number, np.uint16 if number == 5 else np.uint8)
        own = {
            "run_id": run.run_id,
            "image_id": image_id("a", str(at)),
            "image_key": f"../{at}<&>.jpg",
            "image_uri": str(path),
            "image_sha256": hashlib.sha256(data).hexdigest(),
            "image_width": SIZE[0],
            "image_height": SIZE[1],
            "prompt_kind": "box",
            "label": ["cat", None, 'veil <&"\x07> ö'][number % 3],
            "alpha": {"bytes": encode_png(alpha), "path": None},
            "predicted_mad": errors.get(number),
            "definiteness": number / 10,
        }
        tables.append(record_rows("a", [number], **(own | columns)))
    tables.append(record_rows("a", [6], error="image_corrupt", run_id=run.run_id))
    return complete(run, *tables, ledger_row("a", range(1, 7)))


def data_file(run: RunDirectory) -> Path:
    """Returns the one file that holds the records of such a run."""
    (path,) = Path(run.path, "records").glob("*.parquet")
    return path


def double_record(run: RunDirectory, number: int, alpha: bytes) -> None:
    """Writes a record a second time behind itself, with another alpha: a fault that a curation reports."""
    path = data_file(run)
    table = pq.read_table(path)
    rows = table.to_pylist()
    at = table["record_id"].to_pylist().index(number)
    rows.insert(at + 1, rows[at] | {"alpha": {"bytes": alpha, "path": None}})
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
