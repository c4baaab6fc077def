from dataclasses import replace

import pytest
import torch

from sdmatte import CheckpointError
from sdmatte.configs import PACKAGED, ModelConfigs
from sdmatte.embeddings import CoordinateFeatures, box_features
from sdmatte.network import Network
from sdmatte.vae import KLVAE, TinyVAE, build_vae
from support.parity import FIXTURES
from support.seeded import read_shapes

MINI = ModelConfigs.released("sdmatte-mini")
TINY = ModelConfigs.from_folder(FIXTURES / "sdmatte_tiny")
LITE_TINY = ModelConfigs.from_folder(FIXTURES / "litesdmatte_tiny")


def on_meta(configs: ModelConfigs) -> Network:
    with torch.device("meta"):
        return Network(configs)


def parameters(module: torch.nn.Module) -> int:
    return sum(each.numel() for each in module.parameters())


def test_the_released_configuration_has_the_released_size() -> None:
    network = on_meta(ModelConfigs.released("sdmatte"))
    assert network.text_encoder is not None
    assert parameters(network.unet) == 873_030_852
    assert parameters(network.vae) == 83_653_863
    assert parameters(network.text_encoder) == 340_387_840
    assert len(network.state_dict()) == 1316


@pytest.mark.parametrize(
    ("configs", "fixture"),
    [
        (ModelConfigs.released("sdmatte"), "sdmatte_full"),
        (TINY, "sdmatte_tiny"),
        (LITE_TINY, "litesdmatte_tiny"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_tensors_are_named_and_shaped_as_in_the_reference(configs: ModelConfigs, fixture: str) -> None:
    ours = {key: list(tensor.shape) for key, tensor in on_meta(configs).state_dict().items()}
    theirs = {key.replace("text_model.", ""): shape for key, shape in read_shapes(FIXTURES / fixture).items()}
    assert {key.replace("text_model.", ""): shape for key, shape in ours.items()} == theirs


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_configurations_take_multiples_of_64(name: str) -> None:
    network = on_meta(ModelConfigs.released(name))
    assert 64 % network.stride == 0
    assert (network.stride, network.vae.downsampling) == ((32, 4) if name == "sdmatte-nano" else (64, 8))


def test_the_lite_autoencoder_maps_its_input_twice() -> None:
    """Once here, once in diffusers' encoder: the released weights were trained so."""
    assert isinstance(on_meta(LITE_TINY).vae, TinyVAE)
    torch.manual_seed(0)
    vae = build_vae(LITE_TINY.vae).eval()
    pixels = torch.rand(1, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(vae.encode_latent(pixels), vae.encode((pixels + 1) / 2).latents)


def test_latents_are_the_mean_and_scaled() -> None:
    torch.manual_seed(0)
    vae = build_vae(MINI.vae).eval()
    assert isinstance(vae, KLVAE)
    pixels = torch.rand(2, 3, 64, 128) * 2 - 1
    with torch.no_grad():
        mean = vae.encode(pixels).latent_dist.mean
        latent = vae.encode_latent(pixels)
        alpha = vae.decode_alpha(latent)
        decoded = vae.decode(mean).sample
    assert latent.shape == (2, 4, 8, 16)
    torch.testing.assert_close(latent, mean * 0.18215)
    torch.testing.assert_close(alpha, (decoded.mean(1, keepdim=True).clip(-1, 1) + 1) / 2)


def test_alphas_are_clipped() -> None:
    torch.manual_seed(0)
    vae = build_vae(MINI.vae).eval()
    with torch.no_grad():
        alpha = vae.decode_alpha(torch.randn(1, 4, 8, 8) * 100)
        vae.decoder.conv_out.weight.mul_(100)
        extreme = vae.decode_alpha(torch.randn(1, 4, 8, 8))
    assert alpha.shape == (1, 1, 64, 64)
    assert (extreme.min(), extreme.max()) == (0, 1)


def test_one_call_is_its_three_steps() -> None:
    torch.manual_seed(0)
    network = Network(MINI).eval()
    image, prompt = torch.rand(1, 3, 64, 64) * 2 - 1, torch.ones(1, 1, 64, 64)
    prompt[:, :, :20] = -1
    box = box_features(torch.tensor([0, 20 / 64, 1, 1]), 320)[None]
    condition = CoordinateFeatures(box, torch.zeros(1, 1680), torch.tensor([False]))
    given = (prompt, condition, torch.ones(1), torch.zeros(1, 77, 128))
    with torch.no_grad():
        alpha = network(image, *given)
        latent = network.predict_latent(network.encode_image(image), *given)
        assert alpha.shape == (1, 1, 64, 64)
        torch.testing.assert_close(alpha, network.decode(latent))
        unmasked = network.predict_latent(network.encode_image(image), *given, masks_attention=torch.tensor([False]))
        assert (unmasked - latent).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("configs", "file", "reason"),
    [
        (replace(MINI, vae={"_class_name": "VQModel"}), "vae/config.json", "VQModel"),
        (replace(MINI, vae=MINI.vae | {"down_block_types": ["Nonsense"]}), "vae/config.json", "Nonsense"),
        (replace(MINI, unet={}), "unet/config.json", "KeyError"),
        (replace(MINI, unet=MINI.unet | {"up_block_types": ["Nonsense"] * 4}), "unet/config.json", "Nonsense"),
        # Stable Diffusion's own U-Net:
        (
            replace(MINI, unet={key: value for key, value in MINI.unet.items() if "bbox" not in key}),
            "unet/config.json",
            "bbox_time_embed_dim",
        ),
    ],
    ids=["vae class", "vae block", "empty", "unet block", "stable diffusion"],
)
def test_configurations_of_something_else_name_the_file(configs: ModelConfigs, file: str, reason: str) -> None:
    with pytest.raises(CheckpointError, match=reason) as caught:
        on_meta(configs)
    assert file in str(caught.value)
