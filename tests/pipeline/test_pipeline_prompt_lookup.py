import numpy as np
import pyarrow as pa

from pipeline.ids import key_hash
from pipeline.prompt_formats.base import path_endings
from pipeline.prompt_lookup import Aliases, hashes_of, image_names, not_in, sorted_by_hash


def table(*keys):
    return sorted_by_hash(pa.table({"hash": np.array([key_hash(key) for key in keys], np.int64), "key": list(keys)}))


def test_a_name_that_one_key_has():
    aliases = Aliases.of(table("x/cats/a.jpg", "x/dogs/a.jpg", "x/cats/b.jpg", "x/cats/b.jpg"), path_endings)
    assert aliases.only("cats/a.jpg") == key_hash("x/cats/a.jpg")
    assert aliases.only("b.jpg") == key_hash("x/cats/b.jpg")
    assert aliases.only("a.jpg") is None  # of two
    assert aliases.only("s/a.jpg") is None
    assert aliases.nbytes == 16 * 6


def test_no_keys():
    assert Aliases.of(table(), path_endings).only("a.jpg") is None
    assert len(hashes_of(table())) == 0


def test_what_is_not_in():
    hashes = np.array([1, 2, 2, 5, -7], np.int64)
    for matched in ({2, -7}, np.array([-7, 2]), frozenset({2, -7, 99})):
        assert not_in(hashes, matched).tolist() == [0, 3]
    assert not_in(hashes, set()).tolist() == [0, 1, 2, 3, 4]


def test_names_of_an_image():
    assert list(image_names("cats/a", "cats/a.jpg")) == ["cats/a", "cats/a.jpg", "a.jpg", "a"]
    assert list(image_names("17", "s3://b/x/a.jpg", bare=False)) == ["17", "s3://b/x/a.jpg", "s3://b/x/a"]


def test_endings_of_a_path():
    assert list(path_endings("a/b/c.jpg")) == ["b/c.jpg", "c.jpg"]
    assert list(path_endings("s3://bucket/a//c.jpg")) == ["bucket/a/c.jpg", "a/c.jpg", "c.jpg"]
    assert list(path_endings("c.jpg")) == []
    assert len(list(path_endings("x/" * 1000 + "a.jpg"))) == 32
