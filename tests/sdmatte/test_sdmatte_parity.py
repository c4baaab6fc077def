"""Our outputs against the reference implementation's, on name-seeded weights (float32, CPU)."""

import resource
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sdmatte import Box, Mask, Points, Prompt, SDMatte
from sdmatte.network import Network
from support.models import SIZE, seeded_folder
from support.parity import ALPHA_TARGET, FIXTURES, KINDS, UNET_TARGET, Deviation, compare, deviations, seeded_network

TINY = ("sdmatte_tiny", "litesdmatte_tiny")


def within_targets(found: list[Deviation]) -> bool:
    return max(each.alpha for each in found) <= ALPHA_TARGET and max(each.unet for each in found) <= UNET_TARGET


def test_the_targets_are_the_agreed_ones() -> None:
    assert (ALPHA_TARGET, UNET_TARGET) == (1e-4, 1e-3)


@pytest.mark.parametrize("name", TINY)
def test_every_kind_of_prompt_as_a_batch_and_alone(name: str) -> None:
    found = list(deviations(FIXTURES / name))
    assert len(found) == 2 * 3 * len(KINDS)  # network and engine: the batch of two, and each of its samples
    assert within_targets(found), found


@pytest.mark.full
def test_the_released_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    start = time.perf_counter()
    found = list(deviations(FIXTURES / "sdmatte_full"))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    with capsys.disabled():
        print(f"\nsdmatte_full: {time.perf_counter() - start:.0f} s, peak memory of the tests {memory:.1f} GiB")
        print(*found, sep="\n")
    assert len(found) == 2 * len(KINDS)
    assert within_targets(found), found


# --- the check itself: it sees whatever SDMatte adds to Stable Diffusion, once that is a little off


@pytest.fixture(scope="module")
def tiny() -> tuple[Network, torch.Tensor]:
    return seeded_network(FIXTURES / "sdmatte_tiny")


@pytest.mark.parametrize(
    ("parameter", "factor", "blind"),
    [
        ("unet.aux_conv_in.weight", 0, ()),  # random weights hardly look at it: the deviation is 2e-4
        ("unet.time_embedding.linear_1.weight", 1.1, ()),
        ("unet.conv_in.bias", 1.1, ()),
        ("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k.weight", 1.1, ()),
        ("unet.bbox_embedding.linear_2.weight", 1.1, ("point_mask",)),
        ("unet.point_embedding.linear_2.weight", 1.1, ("bbox_mask", "mask")),
    ],
)
def test_a_changed_weight_is_seen(
    tiny: tuple[Network, torch.Tensor], parameter: str, factor: float, blind: tuple[str, ...]
) -> None:
    network, text = tiny
    weight = network.get_parameter(parameter)
    original = weight.clone()
    weight.mul_(factor)
    try:
        found = list(compare(network, text, FIXTURES / "sdmatte_tiny", singly=False))
    finally:
        weight.copy_(original)
    for kind in KINDS:
        of_kind = [each for each in found if f", {kind}," in each.case]
        assert within_targets(of_kind) == (kind in blind), of_kind


def _unmasked(inside: torch.Tensor, grid: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
    return torch.zeros(inside.shape[0], 1, grid[0] * grid[1], dtype=dtype)


@pytest.mark.parametrize(
    ("target", "replacement"),
    [
        ("sdmatte.unet.attention_bias", _unmasked),
        ("sdmatte.unet.OUTSIDE_BIAS", -3.0),
    ],
)
def test_a_changed_attention_mask_is_seen(
    tiny: tuple[Network, torch.Tensor], monkeypatch: pytest.MonkeyPatch, target: str, replacement: object
) -> None:
    monkeypatch.setattr(target, replacement)
    found = list(compare(*tiny, FIXTURES / "sdmatte_tiny", singly=False))
    assert not any(within_targets([each]) for each in found), found


def test_the_wrong_opacity_is_seen(tiny: tuple[Network, torch.Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    forward = Network.predict_latent

    def flipped(self: Network, *arguments: torch.Tensor) -> torch.Tensor:
        image, prompt, coordinates, opaque, text = arguments
        return forward(self, image, prompt, coordinates, 1 - opaque, text)

    monkeypatch.setattr(Network, "predict_latent", flipped)
    assert not any(within_targets([each]) for each in compare(*tiny, FIXTURES / "sdmatte_tiny", singly=False))


# --- the same through the front door: a model folder on the disk, prompts in pixels


@pytest.fixture(scope="module", params=TINY)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, SDMatte]:
    folder = seeded_folder(request.param, tmp_path_factory.mktemp("models"))
    return request.param, SDMatte.from_pretrained(folder, device="cpu", input_size=SIZE)


def prompts(expected: dict[str, torch.Tensor], index: int) -> dict[str, Prompt]:
    """The reference's prompts for one image, in pixels, by the name of the alpha that belongs to them."""
    transparent = bool(expected["is_trans"][index])
    pairs = (expected["point_coords"][index].reshape(-1, 2) * SIZE).tolist()
    return {
        "alpha_bbox_mask": Box(*(expected["bbox_coords"][index].double() * SIZE).tolist(), transparent),
        "alpha_point_mask": Points([pair for pair in pairs if pair != [0, 0]], transparent),
        "alpha_mask": Mask(expected["mask"][index, 0].numpy() > 0, transparent),
    }


def test_the_model_as_people_use_it(loaded: tuple[str, SDMatte], monkeypatch: pytest.MonkeyPatch) -> None:
    name, model = loaded
    expected = load_file(FIXTURES / name / "expected.safetensors")
    images = expected["image"].numpy()
    monkeypatch.setattr("sdmatte.prompt_maps.point_sigma", lambda grid: 35.0)  # as the outputs were made
    # Their images are random floats, which no 8-bit picture holds: the red channel names the one that is meant.
    monkeypatch.setattr("sdmatte.model.to_grid", lambda pixels, grid, size: images[pixels[0, 0, 0]])
    pictures = [np.full((SIZE, SIZE, 3), index, np.uint8) for index in range(len(images))]
    wanted = [prompts(expected, index) for index in range(len(images))]
    found = model.predict(pictures, [list(mine.values()) for mine in wanted], batch_size=6)
    for index, mine in enumerate(wanted):
        for case, alpha in zip(mine, found[index], strict=True):
            np.testing.assert_allclose(alpha, expected[case][index, 0], atol=ALPHA_TARGET, err_msg=f"{case} {index}")
