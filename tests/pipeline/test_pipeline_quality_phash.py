import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage import data

from pipeline.quality.phash import hash_distance, phash

PHOTOS = {
    name: np.ascontiguousarray(getattr(data, name)())
    for name in ("astronaut", "coffee", "chelsea", "rocket", "retina")
}
NEAR, FAR = 6, 16


@pytest.mark.parametrize("name", PHOTOS)
@pytest.mark.parametrize("quality", [30, 60, 95])
def test_jpeg_hardly_changes_a_hash(name: str, quality: int) -> None:
    _, encoded = cv2.imencode(".jpg", PHOTOS[name], [cv2.IMWRITE_JPEG_QUALITY, quality])
    again = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    assert hash_distance(phash(PHOTOS[name]), phash(again)) <= NEAR


@pytest.mark.parametrize("name", PHOTOS)
@pytest.mark.parametrize("scale", [0.2, 0.5, 1.7, 6])
def test_size_hardly_changes_a_hash(name: str, scale: float) -> None:
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    again = cv2.resize(PHOTOS[name], None, fx=scale, fy=scale, interpolation=how)
    assert hash_distance(phash(PHOTOS[name]), phash(again)) <= NEAR


def test_different_photographs_have_different_hashes() -> None:
    hashes = [phash(photo) for photo in PHOTOS.values()]
    distances = [hash_distance(a, b) for rank, a in enumerate(hashes) for b in hashes[:rank]]
    assert min(distances) >= FAR


def test_a_turned_picture_is_another() -> None:
    photo = PHOTOS["astronaut"]
    assert hash_distance(phash(photo), phash(np.rot90(photo).copy())) >= FAR
    assert hash_distance(phash(photo), phash(photo[:, ::-1])) >= FAR


@pytest.mark.parametrize("shape", [(1, 1), (20_000, 2), (64, 64)])
@pytest.mark.parametrize("level", [0, 100, 255])
def test_plain_pictures_of_any_size_look_alike(shape: tuple[int, int], level: int) -> None:
    assert hash_distance(phash(np.full((*shape, 3), level, np.uint8)), phash(np.full((9, 9, 3), 50, np.uint8))) <= 1


@given(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1))
def test_distances_are_of_64_bits(first: int, second: int) -> None:
    assert 0 <= hash_distance(first, second) <= 64
    assert hash_distance(first, second) == hash_distance(second, first)
    assert hash_distance(first, ~first) == 64


@pytest.mark.parametrize("name", PHOTOS)
def test_a_hash_fits_a_signed_column(name: str) -> None:
    assert -(2**63) <= phash(PHOTOS[name]) < 2**63
