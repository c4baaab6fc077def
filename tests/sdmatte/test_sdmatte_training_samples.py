"""Composed samples: the same from the same seed, and true to what they were composed of."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from sdmatte.errors import SDMatteError
from sdmatte.prompt_maps import prompt_map
from sdmatte.prompt_sampling import derive_box
from sdmatte.prompts import Box, Points
from sdmatte.synthetic.layers import Layer
from sdmatte.training.samples import Augmentation, Composer, Sample, jittered, unknown_region
from support.training import disc, flat

SIZE = 48
PLAIN = replace(
    Augmentation.paper(), twice=0.0, blurred_background=0.0, grayscale=0.0, box_jitter=0.0, prompts={"box": 1.0}
)
DISCS = [disc(), disc(30, colour=(0.1, 0.8, 0.2)), disc(50, transparent=True)]


def composer(how: Augmentation | None = None, *, seed: int = 0, discs: list[Layer] = DISCS) -> Composer:
    return Composer([(discs, 2.0), (discs[:1], 1.0)], [([flat(40), flat(120)], 1.0)], seed=seed, augmentation=how)


def same(one: Sample, other: Sample) -> bool:
    pairs = [(one.image, other.image), (one.alpha, other.alpha), (one.unknown, other.unknown)]
    pairs += [(one.map.pixels, other.map.pixels), (one.map.coordinates, other.map.coordinates)]
    return all(np.array_equal(a, b) for a, b in pairs) and one.transparent == other.transparent


def coverage(sample: Sample, level: int) -> NDArray[np.float32]:
    """How much of each pixel objects of one colour cover, read from a picture over one grey."""
    behind = np.float32(level / 255)
    difference = sample.image - behind
    solid = difference[sample.alpha > 0.9999].mean(axis=0)  # the object's colour, less the background's
    channel = int(np.abs(solid).argmax())
    return np.asarray(difference[..., channel] / solid[channel], np.float32)


# --- determinism


def test_a_sample_follows_from_seed_and_index() -> None:
    ours, theirs = composer(), composer()
    forwards = [ours.sample(index, SIZE) for index in range(12)]
    backwards = [theirs.sample(index, SIZE) for index in reversed(range(12))][::-1]
    for one, other in zip(forwards, backwards, strict=True):
        assert same(one, other)
    assert len({sample.image.tobytes() for sample in forwards}) == 12
    assert not same(composer(seed=1).sample(0, SIZE), forwards[0])


# --- what a sample holds


def test_samples_have_the_promised_shape() -> None:
    maker = composer()
    for index in range(16):
        sample = maker.sample(index, SIZE)
        assert sample.image.shape == (SIZE, SIZE, 3)
        assert sample.alpha.shape == sample.unknown.shape == sample.map.pixels.shape == (SIZE, SIZE)
        for plane in (sample.image, sample.alpha, sample.unknown):
            assert plane.dtype == np.float32
            assert plane.min() >= 0
            assert plane.max() <= 1
        assert set(np.unique(sample.unknown)) <= {0, 1}
        assert sample.alpha.mean() > 0.002


def test_the_alpha_is_the_weight_that_the_object_was_mixed_in_with() -> None:
    """Also of a blurred object, and in a frame that was squeezed."""
    how = replace(PLAIN, aspects=1.0, blurred_object=1.0, side=(0.5, 0.7))
    maker = Composer([([disc(64)], 1.0)], [([flat(60)], 1.0)], augmentation=how)
    for index in range(12):
        sample = maker.sample(index, SIZE)
        np.testing.assert_allclose(coverage(sample, 60), sample.alpha, atol=0.01)


def test_of_two_side_by_side_only_one_is_prompted() -> None:
    maker = Composer([([disc(64)], 1.0)], [([flat(60)], 1.0)], augmentation=replace(PLAIN, twice=1.0))
    sides = set()
    for index in range(12):
        sample = maker.sample(index, SIZE)
        twin = coverage(sample, 60) - sample.alpha
        assert twin.min() > -0.01
        assert twin.sum() > 0.3 * sample.alpha.sum()
        columns = np.arange(SIZE)
        ours, theirs = ((plane.sum(axis=0) * columns).sum() / plane.sum() for plane in (sample.alpha, twin))
        assert abs(ours - theirs) > 0.2 * SIZE
        sides.add(bool(ours < theirs))
        assert sample.prompt == derive_box(sample.alpha)  # the box knows nothing of the twin
    assert sides == {True, False}


def test_what_others_hide_is_not_in_the_alpha() -> None:
    """Every object has one colour, so where the alpha is 1 the picture has one colour."""
    how = replace(PLAIN, others=1.0, side=(0.5, 0.9))
    maker = composer(how, discs=[disc(64), disc(64, colour=(0.1, 0.8, 0.2)), disc(64, colour=(0.1, 0.1, 0.9))])
    hidden = 0
    for index in range(16):
        sample = maker.sample(index, SIZE)
        assert np.ptp(sample.image[sample.alpha > 0.9999], axis=0).max() < 0.002
        solid = derive_box(sample.alpha)
        round_area = np.pi / 4 * (solid.x1 - solid.x0) * (solid.y1 - solid.y0)
        hidden += bool(sample.alpha.sum() < 0.85 * round_area)
    assert hidden > 2


def test_transparency_is_that_of_the_prompted_object() -> None:
    for layers, expected in ((DISCS[:1], False), (DISCS[2:], True)):
        sample = composer(discs=layers).sample(3, SIZE)
        assert sample.transparent is expected
        assert sample.prompt.transparent is expected


def test_grey_pictures_have_no_colour() -> None:
    sample = composer(replace(PLAIN, grayscale=1.0)).sample(0, SIZE)
    assert np.ptp(sample.image, axis=2).max() < 1e-6
    assert np.ptp(composer(PLAIN).sample(0, SIZE).image, axis=2).max() > 0.1


def test_nothing_visible_is_an_error() -> None:
    nothing = Layer(np.zeros((8, 8, 3), np.float32), np.zeros((8, 8), np.float32))
    with pytest.raises(SDMatteError, match="sample 5: none of 8 foregrounds is visible"):
        composer(discs=[nothing]).sample(5, SIZE)


# --- the trimap


@pytest.mark.parametrize("seed", range(4))
def test_the_trimap_leaves_every_mixed_pixel_unknown(seed: int) -> None:
    sample = composer(seed=seed).sample(0, SIZE)
    mixed = (sample.alpha > 1 / 255) & (sample.alpha < 254 / 255)
    assert mixed.any()
    assert (sample.unknown[mixed] == 1).all()


def test_the_band_of_the_trimap_has_the_paper_s_width() -> None:
    alpha = np.zeros((512, 512), np.float32)
    alpha[:, 256:] = 1
    for seed in range(8):
        unknown = unknown_region(alpha, np.random.default_rng(seed))
        assert (unknown == unknown[:1]).all()
        columns = np.flatnonzero(unknown[0])
        assert 14 <= columns.size <= 30  # half of a disc of 15 to 30 px on either side
        assert abs(columns.mean() - 255.5) <= 1
    # In a smaller picture the band is thinner, but it never vanishes.
    assert unknown_region(alpha[::16, ::16].copy(), np.random.default_rng(0))[0].sum() == 2


# --- prompts


def test_prompts_fit_their_frame_and_their_map() -> None:
    maker = composer()
    kinds = set()
    for index in range(40):
        sample = maker.sample(index, SIZE)
        sample.prompt.validate(SIZE, SIZE)
        kinds.add(sample.prompt.kind)
        drawn = prompt_map(sample.prompt, SIZE, SIZE, (SIZE, SIZE))
        np.testing.assert_array_equal(drawn.pixels, sample.map.pixels)
        np.testing.assert_array_equal(drawn.coordinates, sample.map.coordinates)
        if isinstance(sample.prompt, Points):
            assert 1 <= len(sample.prompt.xy) <= 10
    assert kinds == {"box", "mask", "points"}


def test_a_jittered_box_stays_near_and_in_the_frame() -> None:
    box = Box(2, 10, 42, 30, transparent=True)
    edges = np.array(
        [
            (b.x0, b.y0, b.x1, b.y1)
            for b in (jittered(box, np.random.default_rng(s), 0.1, (31, 43)) for s in range(200))
        ]
    )
    shift = edges - (2, 10, 42, 30)
    assert (np.abs(shift) <= (4, 2, 4, 2)).all()
    assert edges[:, :2].min() == 0  # cut off by the left edge
    assert edges[:, 2].max() == 43
    assert edges[:, 3].max() == 31
    assert (shift.std(axis=0) > 0.3).all()
    assert jittered(box, np.random.default_rng(0), 0.0, (31, 43)) == box


def test_the_paper_s_recipe() -> None:
    how = Augmentation.paper()
    assert len(set(how.prompts.values())) == 1
    assert set(how.prompts) == {"box", "mask", "points"}
    maker = composer(how, discs=[disc(64)])
    twins = 0
    for index in range(30):
        sample = maker.sample(index, SIZE)
        if isinstance(sample.prompt, Points):
            assert len(sample.prompt.xy) == 10
        if isinstance(sample.prompt, Box):
            exact = derive_box(sample.alpha)
            high, wide = exact.y1 - exact.y0, exact.x1 - exact.x0
            assert abs(sample.prompt.x0 - exact.x0) <= 0.01 * wide
            assert abs(sample.prompt.y1 - exact.y1) <= 0.01 * high
        # A clean picture: objects of one colour over one grey, twice in about half of the samples.
        level = round(float(np.median(sample.image[sample.alpha == 0])) * 255)
        twins += bool((np.abs(sample.image - level / 255).max(axis=2)[sample.alpha == 0] > 0.1).mean() > 0.1)
    assert 7 <= twins <= 23


def test_a_mirrored_sample_is_the_same_picture_with_a_prompt_of_its_own() -> None:
    plain = composer(Augmentation(shadows=0.0, prompts={"points": 1.0}))
    sample = plain.sample(4, 48)
    mirrored, again = plain.mirrored(sample, 5), plain.mirrored(sample, 5)
    assert same(mirrored, again)
    np.testing.assert_array_equal(mirrored.image[:, ::-1], sample.image)
    np.testing.assert_array_equal(mirrored.alpha[:, ::-1], sample.alpha)
    assert isinstance(mirrored.prompt, Points)
    assert all(mirrored.alpha[int(y), int(x)] >= 0.8 * mirrored.alpha.max() for x, y in mirrored.prompt.xy)
    assert not np.array_equal(mirrored.map.pixels[:, ::-1], sample.map.pixels)
