"""Initial weights: latents that show the picture."""

import torch

from sdmatte.configs import ModelConfigs
from sdmatte.training.initial import seeded_network

NANO = ModelConfigs.released("sdmatte-nano")


def pictures(seed: int) -> torch.Tensor:
    """Smooth colours with some grain: ``(4, 3, 64, 64)`` in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(4, 3, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=64, mode="bilinear")
    return (smooth + 0.1 * torch.rand(4, 3, 64, 64, generator=generator)).clip(0, 1) * 2 - 1


def test_equal_seeds_give_equal_weights() -> None:
    one, same, other = (seeded_network(NANO, seed, pictures(0)).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


@torch.no_grad()
def test_latents_are_white_and_the_decoder_answers_with_unit_variance() -> None:
    vae = seeded_network(NANO, 0, pictures(0)).vae
    latents = vae.encode_latent(pictures(0))
    flat = latents.transpose(0, 1).flatten(1)
    torch.testing.assert_close(flat.mean(dim=1), torch.zeros(16), atol=1e-3, rtol=0)
    # Directions of next to no variance stay weaker than the others, but none is a copy of another.
    covariance = torch.cov(flat)
    assert (covariance - torch.diag(covariance.diagonal())).abs().max() < 1e-2
    assert covariance.diagonal().median() > 0.5
    assert covariance.diagonal().max() < 1.1
    assert abs(float(vae.decoder(latents).add(1).div(2).std()) - 1) < 0.05
