"""Foregrounds and backgrounds from folders, tar files, pairs of folders, and banks."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sdmatte.errors import SDMatteError
from sdmatte.synthetic.layers import Layer
from sdmatte.training.sources import Bank, Cutouts, Pairs, Pictures, Synthetic, SyntheticPictures
from support.training import disc, flat

RANDOM = np.random.default_rng(0)
COLOURS = RANDOM.integers(0, 256, (9, 12, 3), np.uint8)
ALPHA = np.zeros((9, 12), np.uint8)
ALPHA[2:7, 3:11] = RANDOM.integers(2, 256, (5, 8))


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write(folder: Path, **files: bytes) -> Path:
    """``a_png=b"..."`` becomes ``folder/a.png``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / ".".join(name.rsplit("_", 1))).write_bytes(data)
    return folder


# --- folders and tar files


def test_pictures_of_a_folder_and_of_its_tar_are_the_same(tmp_path: Path) -> None:
    folder = write(tmp_path / "photos", b_png=png(COLOURS), notes_txt=b"no picture")
    write(folder / "more", a_PNG=png(COLOURS[::-1].copy()), c_png=png(ALPHA))
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        tar.add(folder, ".")
    found = Pictures(folder)
    assert len(found) == 3  # b.png, more/a.PNG, more/c.png
    np.testing.assert_array_equal(found[0], COLOURS)
    np.testing.assert_array_equal(found[1], COLOURS[::-1])
    np.testing.assert_array_equal(found[2], np.dstack([ALPHA] * 3))
    packed = Pictures(tmp_path / "photos.tar")
    assert len(packed) == 3
    for index in range(3):
        np.testing.assert_array_equal(packed[index], found[index])


def test_cutouts_are_trimmed_to_their_object(tmp_path: Path) -> None:
    source = Cutouts(write(tmp_path, a_png=png(np.dstack([COLOURS, ALPHA]))))
    layer = source[0]
    np.testing.assert_allclose(layer.alpha * 255, ALPHA[2:7, 3:11], atol=1e-4)
    np.testing.assert_allclose(layer.colour * 255, COLOURS[2:7, 3:11], atol=1e-4)
    assert layer.colour.dtype == layer.alpha.dtype == np.float32
    small = Cutouts(tmp_path, limit=4)[0]
    assert small.alpha.shape == (2, 4)  # 5 x 8 pixels
    assert small.alpha.mean() == pytest.approx(layer.alpha.mean(), abs=0.1)


def test_sources_that_hold_nothing_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "squeezed.tar").write_bytes(b"\x1f\x8b no tar at all")
    with pytest.raises(SDMatteError, match="holds no pictures"):
        Pictures(tmp_path / "empty")
    with pytest.raises(SDMatteError, match="is not an uncompressed tar file"):
        Cutouts(tmp_path / "squeezed.tar")
    with pytest.raises(SDMatteError, match="absent does not exist"):
        Pictures(tmp_path / "absent")


def test_a_picture_that_is_no_use_is_named(tmp_path: Path) -> None:
    write(tmp_path, a_png=png(COLOURS), b_png=png(COLOURS)[:-40], c_png=png(COLOURS))
    with pytest.raises(SDMatteError, match=r"a\.png has no alpha channel"):
        Cutouts(tmp_path)[0]
    with pytest.raises(SDMatteError, match=r"b\.png"):
        Pictures(tmp_path)[1]
    cut = write(tmp_path / "cut", d_png=png(np.dstack([COLOURS, ALPHA]))[:-40], e_png=b"nothing")
    for index, name in enumerate("de"):
        with pytest.raises(SDMatteError, match=rf"{name}\.png can't be decoded"):
            Cutouts(cut)[index]
    found = Pictures(tmp_path)
    (tmp_path / "c.png").unlink()
    with pytest.raises(SDMatteError, match=r"c\.png can't be read"):
        found[2]


# --- pairs


def test_pairs_meet_by_name(tmp_path: Path) -> None:
    other = ALPHA[::-1].copy()
    colours = write(tmp_path / "fg", a_png=png(COLOURS), b_png=png(COLOURS))
    alphas = write(tmp_path / "alpha", a_tif=png(ALPHA), b_png=png(other), spare_png=png(ALPHA))
    pairs = Pairs(colours, alphas, transparent=["b"])
    assert len(pairs) == 2
    np.testing.assert_allclose(pairs[0].alpha * 255, ALPHA[2:7, 3:11], atol=1e-4)
    np.testing.assert_allclose(pairs[1].alpha * 255, other[2:7, 3:11], atol=1e-4)
    np.testing.assert_allclose(pairs[1].colour * 255, COLOURS[2:7, 3:11], atol=1e-4)
    assert [layer.transparent for layer in (pairs[0], pairs[1])] == [False, True]


def test_alphas_may_have_16_bits(tmp_path: Path) -> None:
    colours = write(tmp_path / "fg", a_png=png(COLOURS))
    alphas = write(tmp_path / "alpha", a_png=png(ALPHA.astype(np.uint16) * 257))
    np.testing.assert_allclose(Pairs(colours, alphas)[0].alpha * 255, ALPHA[2:7, 3:11], atol=1e-4)


def test_pairs_that_do_not_match_are_refused(tmp_path: Path) -> None:
    colours = write(tmp_path / "fg", a_png=png(COLOURS), b_png=png(COLOURS))
    with pytest.raises(SDMatteError, match=r"1 of the pictures in .*fg have no alpha in .*alpha: \['b.png'\]"):
        Pairs(colours, write(tmp_path / "alpha", a_png=png(ALPHA)))
    with pytest.raises(SDMatteError, match=r"two files in .*twice have the same name"):
        Pairs(colours, write(tmp_path / "twice", a_png=png(ALPHA), a_jpg=png(ALPHA), b_png=png(ALPHA)))
    odd = Pairs(colours, write(tmp_path / "odd", a_png=png(ALPHA), b_png=png(ALPHA.T.copy())))
    with pytest.raises(SDMatteError, match=r"b\.png has 12 x 9 pixels, its alpha 9 x 12"):
        odd[1]


# --- drawn ones


def test_drawn_objects_and_pictures_follow_from_seed_and_index() -> None:
    drawn, again, other = (Synthetic(40, side=32, seed=s, photos=[flat()]) for s in (1, 1, 2))
    assert len(drawn) == 40
    np.testing.assert_array_equal(drawn[3].colour, again[3].colour)
    np.testing.assert_array_equal(drawn[3].alpha, again[3].alpha)
    assert drawn[3].family == other[3].family != drawn[4].family
    assert not np.array_equal(drawn[3].alpha, other[3].alpha)
    pictures, same = SyntheticPictures(5, side=24, seed=1), SyntheticPictures(5, side=24, seed=1)
    assert len(pictures) == 5
    assert pictures[0].shape == (24, 24, 3)
    assert pictures[0].dtype == np.uint8
    np.testing.assert_array_equal(pictures[2], same[2])
    assert not np.array_equal(pictures[2], pictures[3])


# --- banks


class Counted:
    """A source that counts what is read from it."""

    def __init__(self, layers: list[Layer]) -> None:
        self.layers, self.reads = layers, 0

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, index: int, /) -> Layer:
        self.reads += 1
        return self.layers[index]


def test_a_bank_keeps_its_source_and_is_used_again(tmp_path: Path) -> None:
    drawn = Synthetic(40, side=32, seed=1)
    source = Counted([drawn[0], disc(30, transparent=True), disc(64)])
    path = tmp_path / "new" / "bank.npy"
    for bank in (Bank(source, path, side=32), Bank(source, path, side=32)):
        assert source.reads == len(bank) == 3
        rows, columns = (np.flatnonzero((drawn[0].alpha > 1.5 / 255).any(axis=axis)) for axis in (1, 0))
        window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        np.testing.assert_allclose(bank[0].alpha, drawn[0].alpha[window], atol=0.5001 / 255)
        np.testing.assert_allclose(bank[0].colour, drawn[0].colour[window], atol=0.5001 / 255)
        assert bank[0].alpha.dtype == bank[0].colour.dtype == np.float32
        assert [bank[index].transparent for index in range(3)] == [drawn[0].transparent, True, False]
        assert bank[0].family == drawn[0].family
        assert bank[2].alpha.shape == (30, 30)  # halved, and without the margin of a pixel
    assert sorted(file.name for file in path.parent.iterdir()) == ["bank.key", "bank.notes.npy", "bank.npy"]


def test_a_bank_that_does_not_fit_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "bank.npy"
    Bank(Counted([disc()]), path, side=32)
    source = Counted([disc(), disc(20)])
    assert len(Bank(source, path, side=32)) == source.reads == 2
    (tmp_path / "bank.notes.npy").unlink()  # a copy that was forgotten
    assert len(Bank(source, path, side=32)) == 2
    assert source.reads == 4


def test_a_bank_of_another_key_or_a_damaged_one_is_drawn_again(tmp_path: Path) -> None:
    path = tmp_path / "bank.npy"
    source = Counted([disc()])
    for key, reads in (("a", 1), ("a", 1), ("b", 2)):
        Bank(source, path, side=32, key=key)
        assert source.reads == reads
    path.write_bytes(b"no array")
    assert len(Bank(source, path, side=32, key="b")) == 1
    assert source.reads == 3


def test_a_bank_drawn_by_several_processes_is_the_same(tmp_path: Path) -> None:
    source = Synthetic(5, side=48, seed=3, families=("blob", "star"))
    one, two = (Bank(source, tmp_path / f"{n}.npy", side=48, processes=n) for n in (1, 2))
    for index in range(5):
        assert np.array_equal(one[index].alpha, two[index].alpha)
        assert np.array_equal(one[index].colour, two[index].colour)
        assert (one[index].family, one[index].transparent) == (two[index].family, two[index].transparent)


def test_shrinking_a_cutout_leaves_no_dark_fringe(tmp_path: Path) -> None:
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[16:48, 16:48] = (250, 240, 230, 255)  # black where nothing is seen
    Image.fromarray(pixels).save(tmp_path / "square.png")
    layer = Cutouts(tmp_path, limit=20)[0]
    assert layer.colour[layer.alpha > 0.02].min() > 0.85
