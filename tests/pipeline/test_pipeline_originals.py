"""Originals of records: files, members of tars, rows of Parquet manifests, and what became of them since."""

import io
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import originals
from pipeline.originals import Unavailable, read_originals, split_member

MAX = 10_000


def save_tar(path: Path, members: dict[str, bytes]) -> str:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return str(path)


def save_manifest(path: Path, images: list[Any], name: str = "image", **options: Any) -> str:
    pq.write_table(pa.table({name: images, "key": [f"k{n}" for n in range(len(images))]}), path, **options)
    return str(path)


def test_files_come_first_then_what_lies_in_tars_and_manifests(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"file")
    tar = save_tar(tmp_path / "t.tar", {"x.jpg": b"x", "y.jpg": b"y"})
    manifest = save_manifest(tmp_path / "m.parquet", [b"zero", b"one", b"two"], row_group_size=2)
    uris = [f"{manifest} row 2", f"{tar}#y.jpg", f"{tmp_path}/a.jpg", f"{tar}#x.jpg", f"{manifest} row 0"]
    expected = [
        (uris[2], b"file"),
        (uris[4], b"zero"),
        (uris[0], b"two"),
        (uris[3], b"x"),
        (uris[1], b"y"),
    ]
    assert list(read_originals([*uris, uris[0]], MAX)) == expected


def test_images_of_datasets_are_structs(tmp_path: Path) -> None:
    manifest = save_manifest(
        tmp_path / "m.parquet", [{"bytes": b"zero", "path": None}, {"bytes": b"one", "path": "p"}]
    )
    assert [data for _, data in read_originals([f"{manifest} row 0", f"{manifest} row 1"], MAX)] == [b"zero", b"one"]


def test_a_manifest_is_opened_once_and_each_row_group_decoded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [bytes([n]) * 10 for n in range(60)]
    manifest = save_manifest(tmp_path / "m.parquet", images, row_group_size=20)
    opened, decoded = [], []
    real = pq.ParquetFile.iter_batches

    def batches(self: Any, *arguments: Any, **options: Any) -> Any:
        decoded.append(options["row_groups"])
        return real(self, *arguments, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", batches)
    monkeypatch.setattr(
        originals.storage,
        "open_stream",
        lambda uri, _open=originals.storage.open_stream, **options: opened.append(uri) or _open(uri, **options),
    )
    wanted = [*range(19, -1, -2), *range(40, 60)]
    found = dict(read_originals([f"{manifest} row {n}" for n in wanted], MAX))
    assert {int(uri.rpartition(" ")[2]): data for uri, data in found.items()} == {n: images[n] for n in wanted}
    assert opened == [manifest]
    assert decoded == [[0], [2]]


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ([b"zero", None, b"two"], "row 1 holds no image any more"),
        ([{"bytes": b"zero"}, {"bytes": None}, {"bytes": b"two"}], "row 1 holds no image any more"),
        ([b"zero", b"x" * 3_000_000, b"two"], "bytes"),
    ],
)
def test_a_manifest_written_anew_costs_one_image_not_the_others(tmp_path: Path, images: list[Any], said: str) -> None:
    manifest = save_manifest(tmp_path / "m.parquet", images)
    found = [data for _, data in read_originals([f"{manifest} row {n}" for n in range(3)], MAX)]
    assert [found[0], found[2]] == [b"zero", b"two"]
    assert isinstance(found[1], Unavailable)
    assert said in found[1]


@pytest.mark.parametrize(
    ("images", "name", "said"),
    [
        ([b"zero"], "image", "row 1 is not there any more"),
        ([b"zero", b"one"], "picture", "has no column image any more"),
        ([1, 2], "image", "row 1 holds no image any more"),
        (["a.jpg", "b.jpg"], "image", "row 1 holds no image any more"),
    ],
)
def test_a_manifest_that_became_another_is_told(tmp_path: Path, images: list[Any], name: str, said: str) -> None:
    manifest = save_manifest(tmp_path / "m.parquet", images, name)
    ((_, found),) = read_originals([f"{manifest} row 1"], MAX)
    assert isinstance(found, Unavailable)
    assert said in found


def test_what_is_gone_or_damaged_says_so(tmp_path: Path) -> None:
    (tmp_path / "m.parquet").write_bytes(b"nonsense")
    tar = save_tar(tmp_path / "t.tar", {"x.jpg": b"x"})
    uris = [f"{tmp_path}/gone.jpg", f"{tmp_path}/m.parquet row 0", f"{tmp_path}/gone.tar#a", f"{tar}#y.jpg"]
    found = dict(read_originals(uris, MAX))
    assert set(found) == set(uris)
    assert all(isinstance(reason, Unavailable) and reason for reason in found.values())


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        ("s3://b/a.tar#x/y.jpg", ("s3://b/a.tar", "x/y.jpg")),
        ("s3://b/m.parquet row 12", ("s3://b/m.parquet", "12")),
        ("s3://b/M.PQ row 0", ("s3://b/M.PQ", "0")),
        ("s3://b/a.jpg", ("s3://b/a.jpg", "")),
        ("m.parquet row x", ("m.parquet row x", "")),
        ("m.jsonl row 3", ("m.jsonl row 3", "")),
    ],
)
def test_parts_of_files(uri: str, parts: tuple[str, str]) -> None:
    assert split_member(uri) == parts
