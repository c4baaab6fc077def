from dataclasses import replace
from typing import Any

import pytest
import torch

from sdmatte.configs import ModelConfigs
from sdmatte.embeddings import coordinate_features
from sdmatte.engine.build import Engine, place
from sdmatte.network import Network


@pytest.mark.parametrize("changed", [{}, {"mid_block_scale_factor": 2.0}, {"downsample_padding": 0}], ids=str)
def test_rare_configurations_are_the_same_function(changed: dict[str, Any]) -> None:
    configs = ModelConfigs.released("sdmatte-mini")
    torch.manual_seed(0)
    network = Network(replace(configs, unet={**configs.unet, **changed})).eval().requires_grad_(False)
    unet = network.unet
    place(network, torch.device("cpu"), torch.float32)
    text = torch.randn(1, 77, unet.context_channels)
    prompt = torch.full((1, 1, 128, 128), -1.0)
    prompt[:, :, 30:90, 17:80] = 1
    features = coordinate_features(
        [torch.rand(4)], [False], box_channels=unet.box_channels, points_dim=unet.points_dim
    )
    with torch.inference_mode():
        image = network.encode_image(torch.randn(1, 3, 128, 128))
        expected = network.predict_latent(image, prompt, features, torch.ones(1), text)
        found = Engine(network, text).predict_latent(image, prompt, features, torch.ones(1))
    torch.testing.assert_close(found, expected, atol=2e-5 * expected.abs().max().item(), rtol=0)
