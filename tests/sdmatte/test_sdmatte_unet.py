"""Self-attention that is masked by the prompt, and what the U-Net attends to."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from torch import Tensor

from sdmatte import CheckpointError, Points
from sdmatte.configs import ModelConfigs
from sdmatte.embeddings import CoordinateFeatures, box_features
from sdmatte.network import Network
from sdmatte.prompt_maps import prompt_map
from sdmatte.unet import OUTSIDE_BIAS, PARTS, PromptUNet, attention_bias

# --- the bias


def test_keys_outside_get_the_bias_of_the_paper() -> None:
    inside = torch.zeros(1, 1, 4, 4)
    inside[..., 1:3, 2:] = 1
    bias = attention_bias(inside, (4, 4), torch.float32)
    assert bias.shape == (1, 1, 16)
    torch.testing.assert_close(bias.reshape(4, 4), -10000 * (1 - inside[0, 0]))


def test_coarser_levels_see_the_nearest_cell() -> None:
    inside = (torch.rand(2, 1, 16, 24, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    bias = attention_bias(inside, (4, 6), torch.float32)
    torch.testing.assert_close(bias.reshape(2, 4, 6), -10000 * (1 - inside[:, 0, ::4, ::4]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_no_key_inside_is_the_same_as_no_mask(dtype: torch.dtype) -> None:
    """A tiny box can fall between the cells of a coarse level: equal biases for all keys change nothing."""
    inside = torch.zeros(2, 1, 16, 16)
    inside[:, :, 3, 3] = 1
    inside[1, :, 4, 4] = 1
    bias = attention_bias(inside, (4, 4), dtype)
    assert bias.dtype == dtype
    assert (bias[0] == 0).all()
    assert (bias[1] == 0).sum() == 1


def test_keys_outside_a_hard_mask_have_no_weight_at_all() -> None:
    random = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 2, 64, 32, generator=random) for _ in range(3))
    inside = (torch.rand(1, 1, 8, 8, generator=random) > 0.7).float()
    keep = inside.flatten() > 0
    assert 0 < keep.sum() < 64
    bias = attention_bias(inside, (8, 8), torch.float32)[:, None]
    alone = F.scaled_dot_product_attention(query, key[:, :, keep], value[:, :, keep])
    torch.testing.assert_close(F.scaled_dot_product_attention(query, key, value, attn_mask=bias), alone)

    changed = value.clone()
    changed[:, :, ~keep] = 1e6
    masked = F.scaled_dot_product_attention(query, key, changed, attn_mask=bias)
    torch.testing.assert_close(masked, alone)


def weights(bias: Tensor, scores: Tensor) -> Tensor:
    """The softmax over keys, exact but for the bias."""
    return torch.softmax(scores.double() + bias.double().flatten(), dim=-1)


def test_a_gaussian_map_survives_bfloat16() -> None:
    """The biases of points span thousands of logits: built carelessly in bfloat16, other keys win the softmax."""
    random = np.random.default_rng(0)
    scores = torch.randn(128 * 128, generator=torch.Generator().manual_seed(0))
    ours, naive, keys = [], [], []
    for _ in range(6):
        pixels = prompt_map(Points(random.integers(0, 1024, (10, 2))), 1024, 1024, (1024, 1024)).pixels
        inside = F.interpolate((torch.from_numpy(pixels)[None, None] + 1) / 2, size=(128, 128), mode="nearest")
        exact = weights(OUTSIDE_BIAS * (1 - inside), scores)
        careless = weights(OUTSIDE_BIAS * (1 - inside.bfloat16()), scores)
        careful = weights(attention_bias(inside, (128, 128), torch.bfloat16), scores)
        ours.append((careful - exact).abs().sum().item() / 2)  # the share of weight that sits on the wrong keys
        naive.append((careless - exact).abs().sum().item() / 2)
        keys.append([1 / each.square().sum().item() for each in (exact, careful, careless)])
    assert max(ours) < 0.02, ours
    assert max(naive) > 0.5, naive
    exact_keys, careful_keys, careless_keys = np.mean(keys, axis=0)
    assert careful_keys == pytest.approx(exact_keys, rel=0.02)
    assert careless_keys > 1.5 * exact_keys


# --- the U-Net


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    return Network(ModelConfigs.released("sdmatte-mini")).eval().requires_grad_(False)


class Attended:
    """What every attention of a U-Net was given during one call."""

    def __init__(self, unet: PromptUNet) -> None:
        self.calls: dict[str, dict[str, Any]] = {}
        self._handles = [
            module.register_forward_hook(self._note(name), with_kwargs=True)
            for name, module in unet.named_modules()
            if isinstance(module, Attention)
        ]

    def _note(self, name: str) -> Any:
        def hook(module: Attention, args: tuple[Tensor, ...], kwargs: dict[str, Any], output: Tensor) -> None:
            self.calls[name] = {"module": module, "hidden": args[0], "output": output, **kwargs}

        return hook

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()


LATENT = (16, 24)


@pytest.fixture(scope="module")
def inputs(network: Network) -> dict[str, Any]:
    random = torch.Generator().manual_seed(1)
    inside = torch.zeros(2, 1, *LATENT)
    inside[0, :, 2:8, 4:19] = 1  # between the rows of the coarsest level, which has no key inside then
    inside[1, :, 7:16] = 1
    box = torch.stack([box_features(torch.tensor(each), 320) for each in ([0.1, 0.2, 0.7, 0.8], [0, 0.4, 1, 1])])
    return {
        "image_latent": torch.randn(2, 4, *LATENT, generator=random),
        "prompt_latent": torch.randn(2, 4, *LATENT, generator=random),
        "inside": inside,
        "coordinates": CoordinateFeatures(box, torch.zeros(2, 1680), torch.tensor([False, False])),
        "opaque": torch.ones(2),
        "text": torch.randn(1, 77, network.unet.context_channels, generator=random),
    }


@pytest.fixture(scope="module")
def attended(network: Network, inputs: dict[str, Any]) -> dict[str, dict[str, Any]]:
    watcher = Attended(network.unet)
    network.unet(**inputs)
    watcher.remove()
    return watcher.calls


def test_every_self_attention_is_that_over_the_keys_inside(
    attended: dict[str, dict[str, Any]], inputs: dict[str, Any]
) -> None:
    selfs = {name: call for name, call in attended.items() if name.endswith("attn1")}
    fallbacks = []
    assert {name.split(".")[0] for name in selfs} == {"down_blocks", "mid_block", "up_blocks"}
    for name, call in selfs.items():
        module, hidden = call["module"], call["hidden"]
        tokens = hidden.shape[1]
        step = round((LATENT[0] * LATENT[1] / tokens) ** 0.5)
        keep = inputs["inside"][:, 0, ::step, ::step].flatten(1) > 0
        assert keep.shape == (2, tokens)
        for sample in range(2):
            heads = (hidden.shape[0], -1, module.heads, hidden.shape[2] // module.heads)
            query, key, value = (
                layer(hidden).view(heads).transpose(1, 2)[sample] for layer in (module.to_q, module.to_k, module.to_v)
            )
            kept = keep[sample]
            if not kept.any():
                kept = torch.ones(tokens, dtype=torch.bool)
                fallbacks.append((name, sample))
            expected = F.scaled_dot_product_attention(query, key[:, kept], value[:, kept])
            expected = module.to_out[0](expected.transpose(0, 1).flatten(1))
            torch.testing.assert_close(call["output"][sample], expected, msg=f"{name}, sample {sample}")
    assert fallbacks == [("mid_block.attentions.0.transformer_blocks.0.attn1", 0)]


def test_cross_attention_is_not_masked_and_sees_its_context(
    network: Network, attended: dict[str, dict[str, Any]], inputs: dict[str, Any]
) -> None:
    visual = network.unet.aux_conv_in(inputs["prompt_latent"])
    tokens = torch.stack([visual[:, :, row, column] for row in range(LATENT[0]) for column in range(LATENT[1])], dim=1)
    crosses = {name: call for name, call in attended.items() if name.endswith("attn2")}
    assert {name.split(".")[0] for name in crosses} == {"down_blocks", "mid_block", "up_blocks"}
    for name, call in crosses.items():
        expected = tokens if name.startswith("mid_block") else inputs["text"].expand(2, -1, -1)
        torch.testing.assert_close(call["encoder_hidden_states"], expected, msg=name)
        assert call["attention_mask"] is None, name


@pytest.mark.parametrize("key", ["image_latent", "prompt_latent", "inside", "coordinates", "opaque", "text"])
def test_every_input_matters(network: Network, inputs: dict[str, Any], key: str) -> None:
    value = inputs[key]
    if key == "coordinates":
        changed: Any = CoordinateFeatures(value.box.flip(0), value.points, value.is_points)
    else:
        changed = 1 - value
    difference = network.unet(**inputs) - network.unet(**(inputs | {key: changed}))
    assert difference.abs().max() > 1e-4


def test_points_take_their_own_embedding(network: Network, inputs: dict[str, Any]) -> None:
    old = inputs["coordinates"]
    random = torch.rand(2, 1680, generator=torch.Generator().manual_seed(0))
    mixed = CoordinateFeatures(old.box, random, torch.tensor([False, True]))
    plain, both = network.unet(**inputs), network.unet(**(inputs | {"coordinates": mixed}))
    torch.testing.assert_close(both[0], plain[0])
    assert (both[1] - plain[1]).abs().max() > 1e-4


# --- the configuration


def config(**changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(ModelConfigs.released("sdmatte-mini").unet), **changes}


@pytest.mark.parametrize(
    "changes",
    [
        {"class_embed_type": "timestep"},
        {"upcast_attention": True},
        {"bbox_embeddings_input_dim": 1000},
    ],
    ids=str,
)
def test_a_unet_of_another_kind_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=f"unet/config.json: {next(iter(changes))}"):
        PromptUNet(config(**changes))


def test_heads_may_be_one_number_for_all_levels() -> None:
    with torch.device("meta"):
        unet = PromptUNet(config(attention_head_dim=2, block_out_channels=[32, 64, 64, 128]))
    assert {module.heads for module in unet.modules() if isinstance(module, Attention)} == {2}


# --- trained without one of SDMatte's parts


@pytest.mark.parametrize("part", PARTS)
def test_a_unet_without_a_part_ignores_what_goes_into_it(network: Network, inputs: dict[str, Any], part: str) -> None:
    without = PromptUNet(config(without=[part])).eval().requires_grad_(False)
    without.load_state_dict(network.unet.state_dict())  # the tensors keep their names and shapes
    place = inputs["coordinates"]
    changes: dict[str, dict[str, Any]] = {
        "visual_prompt_attention": {},
        "coordinate_embedding": {"coordinates": CoordinateFeatures(1 - place.box, place.points, ~place.is_points)},
        "opacity_embedding": {"opaque": 1 - inputs["opaque"]},
        "masked_self_attention": {"inside": 1 - inputs["inside"]},
    }
    before = without(**inputs)
    assert (before - network.unet(**inputs)).abs().max() > 1e-4
    if part == "visual_prompt_attention":
        torch.nn.init.ones_(without.aux_conv_in.weight)
    torch.testing.assert_close(without(**(inputs | changes.pop(part))), before, rtol=0, atol=0)
    for change in changes.values():
        if change:  # the other parts work as ever
            assert (without(**(inputs | change)) - before).abs().max() > 1e-4


def test_only_the_parts_of_sdmatte_can_be_left_out() -> None:
    with pytest.raises(CheckpointError, match=r"without=\['attention'\] is unknown"):
        PromptUNet(config(without=["opacity_embedding", "attention"]))
