"""Decisions over a run of awkward originals: turned, animated, CMYK, 16 bits, in tars, gone.

Every photo shows one red rectangle on blue, and every alpha belongs to that rectangle, so whoever opens an exported
photo with its alpha can see whether they fit.
"""

import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from pipeline.curation.schema import DECISIONS, DECISIONS_FILE
from pipeline.ids import image_id, record_id
from pipeline.runs import RunDirectory
from pipeline.schema import RECORDS
from support.image_bytes import encode, exif, tiff
from support.run_rows import begin, complete, label_config, ledger_row, record_rows

WIDTH, HEIGHT = 64, 48
BOX = (8, 4, 30, 20)  # x0, y0, x1, y1 of the red rectangle, upright
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
)


def photo() -> NDArray[np.uint8]:
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[...] = (20, 40, 200)
    x0, y0, x1, y1 = BOX
    pixels[y0:y1, x0:x1] = (220, 30, 20)
    return pixels


def soft_alpha(inner: int = 255) -> NDArray[np.uint8]:
    """The rectangle, with a border of one pixel at half of it."""
    alpha = np.zeros((HEIGHT, WIDTH), np.uint8)
    x0, y0, x1, y1 = BOX
    alpha[y0:y1, x0:x1] = inner // 2
    alpha[y0 + 1 : y1 - 1, x0 + 1 : x1 - 1] = inner
    return alpha


def originals() -> dict[str, bytes]:
    """Files by the ending of their name, each with a picture that is the photo once it is upright 8-bit RGB."""
    image = Image.fromarray(photo())
    turned = image.transpose(Image.Transpose.ROTATE_90)  # what a camera stores that says: turn me clockwise
    clear = image.convert("RGBA")
    clear.putpixel((60, 40), (0, 0, 0, 0))
    good: dict[str, Any] = {"quality": 95, "subsampling": 0}
    return {
        "plain.jpg": encode(image, "JPEG", **good),
        "plain.png": encode(image, "PNG"),
        "plain.webp": encode(image, "WEBP", lossless=True),
        "turned.jpg": encode(turned, "JPEG", exif=b"Exif\0\0" + exif(6), **good),
        "turned.webp": encode(turned, "WEBP", lossless=True, exif=exif(6)),
        "xmp.jpg": encode(image, "JPEG", xmp=XMP, **good),
        "cmyk.jpg": encode(image.convert("CMYK"), "JPEG", quality=95),
        "deep.tif": tiff(photo().astype(np.uint16) * 257),
        "palette.png": encode(image.quantize(8), "PNG"),
        "clear.png": encode(clear, "PNG"),
        "moving.gif": encode(image, "GIF", save_all=True, append_images=[Image.new("RGB", image.size)], duration=50),
    }


KEPT = {"plain.jpg", "plain.png", "plain.webp"}
"""Of the originals, those that any reader shows as they are."""


def save_tar(path: Path, members: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def record(uri: str, key: str, prompt: str = "a", alpha: NDArray[Any] | None = None, **columns: Any) -> dict[str, Any]:
    """An ok record; the image is known by its key, as in runs."""
    number = image_id("shard", key)
    drawn = soft_alpha() if alpha is None else alpha
    return {
        "record_id": record_id(number, {"id": prompt}),
        "image_id": number,
        "image_key": key,
        "image_uri": uri,
        "image_width": WIDTH,
        "image_height": HEIGHT,
        "prompt_kind": "box",
        "prompt_box": [float(edge) for edge in BOX],
        "prompt_points": None,
        "label": "cat",
        "quality": 0.75,
        "predicted_mad": 0.01,
        "model": "sdmatte-mini",
        "alpha": {"bytes": encode(drawn, "PNG"), "path": None},
        **columns,
    }


def run_of(output: Path, records: Sequence[dict[str, Any]], *, row_group: int = 0, followup: str = "") -> RunDirectory:
    """A complete run of one shard with these records, in row groups of that many rows if asked for."""
    run = begin(label_config(output), followup=followup)
    rows = [record_rows("shard", [row["record_id"]], **{"run_id": run.run_id, **_rest(row)}) for row in records]
    complete(run, *rows, ledger_row("shard", [row["record_id"] for row in records]))
    if row_group:
        (file,) = (output / followup / "records").glob("*.parquet")
        pq.write_table(pq.read_table(file), file, row_group_size=row_group)
    return run


def _rest(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "record_id"}


def decide(folder: Path, *outputs: Path, decision: str = "accept", leave_out: Sequence[int] = ()) -> str:
    """Decisions about all records of these outputs' runs; returns the folder."""
    rows = []
    for output in outputs:
        paths = [output, *sorted(output.glob("followups/*"))]
        for path in paths:
            columns = [name for name in DECISIONS.names if name in RECORDS.names]
            found = RunDirectory.open(str(path)).dataset().to_table(columns=columns).to_pylist()
            rows += [{**row, "output": str(output), "decision": decision} for row in found]
    latest = {row["record_id"]: row for row in rows if row["record_id"] not in leave_out}
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(list(latest.values()), schema=DECISIONS)
    pq.write_table(table, folder / DECISIONS_FILE)
    return str(folder)


def awkward(tmp_path: Path) -> str:
    """Decisions about one object of each of the originals, half of them in a tar, and a second one of the first."""
    files = originals()
    (tmp_path / "in").mkdir()
    names = list(files)
    packed = {name: files[name] for name in names[1::2]}
    tar = save_tar(tmp_path / "in" / "shard.tar", packed)
    records = []
    for name, data in files.items():
        if name not in packed:
            (tmp_path / "in" / name).write_bytes(data)
        uri = f"{tar}#{name}" if name in packed else str(tmp_path / "in" / name)
        records.append(record(uri, f"../../{name}"))
    records.append(record(records[0]["image_uri"], f"../../{names[0]}", "b", soft_alpha(200), label=None))
    run_of(tmp_path / "run", records)
    return decide(tmp_path / "decisions", tmp_path / "run")


def fits(photograph: Image.Image, alpha: NDArray[Any]) -> bool:
    """Tell whether a photo, as any reader sees it, has its red where the alpha is."""
    pixels = np.asarray(photograph.convert("RGB")).astype(int)
    red = pixels[..., 0] - pixels[..., 2] > 60
    inside = np.asarray(alpha) > 0
    return red.shape == inside.shape and bool((red == inside).mean() > 0.98)
