import os

import pytest

from pipeline.sources import make_source
from pipeline.sources.folder_versions import FolderVersions
from pipeline.storage import FileInfo
from support.corpora import BOX, lines, reading_config


@pytest.fixture
def folder(tmp_path):
    for name in ("a.jpg", "b.jpg", "sub/c.jpg", "masks/b-2.png", "sub/c.mask.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    for name in ("a", "b"):
        (tmp_path / f"{name}.prompts.jsonl").write_bytes(lines(BOX))
    return tmp_path


def fingerprints(folder, **sections):
    sections = {"input": {"images_per_shard": 1}} | sections
    shards = make_source(reading_config("folder", folder, **sections)).shards()
    return {shard.spec["items"][0]["path"]: shard.fingerprint for shard in shards}


def changed(folder, change, **sections):
    before = fingerprints(folder, **sections)
    change()
    after = fingerprints(folder, **sections)
    return {path for path in before | after if before.get(path) != after.get(path)}


def test_nothing_changes_by_itself_nor_by_another_place(folder, tmp_path_factory):
    before = fingerprints(folder)
    assert len(set(before.values())) == 3
    assert fingerprints(folder) == before
    other = tmp_path_factory.mktemp("elsewhere") / "moved"
    os.rename(folder, other)  # noqa: PTH104
    assert fingerprints(other) == before


@pytest.mark.parametrize(
    ("name", "shards"),
    [
        ("a.jpg", {"a.jpg"}),
        ("a.prompts.jsonl", {"a.jpg"}),
        ("sub/c.prompts.jsonl", {"sub/c.jpg"}),
        ("masks/b-2.png", {"b.jpg"}),
        ("masks/b.png", {"b.jpg"}),
        ("sub/c.mask.png", {"sub/c.jpg"}),
        ("masks/other.png", {"a.jpg", "b.jpg"}),  # of all that have prompts
        ("notes.mask.png", {"a.jpg", "b.jpg"}),  # there are notes, but no such image
        ("d.jpg", {"d.jpg"}),
        ("notes.md", set()),
        (".hidden.jpg", set()),
    ],
)
def test_a_file_that_is_written_changes_the_shards_that_are_read_from_it(folder, name, shards):
    assert changed(folder, lambda: (folder / name).write_bytes(b"22")) == shards


def test_a_file_of_the_same_size_written_later_is_another(folder):
    assert changed(folder, lambda: os.utime(folder / "a.jpg", ns=(1, 1))) == {"a.jpg"}


def test_a_file_that_is_deleted_changes_its_shard(folder):
    assert changed(folder, (folder / "b.prompts.jsonl").unlink) == {"b.jpg"}
    assert changed(folder, (folder / "masks/b-2.png").unlink) == {"b.jpg"}


def test_prompt_files_of_their_own_make_those_beside_the_images_irrelevant(folder):
    prompts = {"kind": "jsonl", "path": "unread"}
    assert changed(folder, lambda: (folder / "a.prompts.jsonl").write_bytes(b""), prompts=prompts) == set()


def test_shards_with_files_of_unknown_version_have_none():
    known, unknown = FileInfo("/a.jpg", "a.jpg", 1, None, "1"), FileInfo("/b.jpg", "b.jpg", 1, None)
    versions = FolderVersions([known, unknown], [])
    items = [{"path": name, "is_image": True, "prompts": [], "owner": None} for name in ("a.jpg", "b.jpg")]
    assert versions.of(items[:1])
    assert versions.of(items) == ""
