"""The plain baseline: the same function as the model, computed without any of its code."""

from functools import cache

import numpy as np
import pytest
import torch

from benchmarks.engine_baseline import OUTSIDE, PlainMatter
from benchmarks.engine_objects import Asked, Weights
from benchmarks.engine_objects import weights as found_weights
from benchmarks.engine_process import plain_process
from sdmatte import Auto, Box, Mask, Points, SDMatte
from sdmatte.configs import BUNDLED, ModelConfigs
from sdmatte.prompts import Prompt
from support.models import photo
from support.parity import FIXTURES
from support.seeded import read_shapes, seeded_state_dict

SIZE = 64
IMAGE = photo(90, 120)
INSIDE = np.zeros((90, 120), bool)
INSIDE[20:70, 30:80] = True
PROMPTS: dict[str, Prompt] = {
    "box": Box(20, 10, 90, 60),
    "tiny box": Box(3, 3, 4, 4),
    "points": Points([(30, 20), (60, 50)]),
    "mask": Mask(INSIDE),
    "auto": Auto(),
    "transparent": Box(20, 10, 90, 60, transparent=True),
}


@cache
def weights(name: str) -> Weights:
    folder = FIXTURES / name
    return Weights(name, ModelConfigs.from_folder(folder), seeded_state_dict(read_shapes(folder)))


@cache
def plain(name: str) -> PlainMatter:
    return weights(name).plain(SIZE, "cpu")


@cache
def model(name: str) -> SDMatte:
    return weights(name).engine(SIZE, "cpu", "float32")


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("name", ["sdmatte_tiny", "litesdmatte_tiny"])
def test_its_alphas_are_the_models(name: str, prompt: str) -> None:
    expected = model(name)(IMAGE, PROMPTS[prompt])
    found = plain(name).matte(IMAGE, PROMPTS[prompt])
    assert found.shape == IMAGE.shape[:2]
    assert found.std() > 1e-3  # something is there to compare
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_its_alphas_of_the_bundled_model_are_the_models() -> None:
    bundled = found_weights(BUNDLED)
    found = bundled.plain(SIZE, "cpu").matte(IMAGE, PROMPTS["box"])
    np.testing.assert_allclose(found, bundled.engine(SIZE, "cpu", "float32")(IMAGE, PROMPTS["box"]), atol=1e-3)


@pytest.mark.slow  # the child imports torch and diffusers
def test_its_process_gives_the_same_alphas() -> None:
    bundled = found_weights(BUNDLED)
    asked = [Asked(IMAGE, [PROMPTS["box"], PROMPTS["points"]]), Asked(IMAGE[:50], [PROMPTS["tiny box"]])]
    matter = bundled.plain(SIZE, "cpu")
    with plain_process(bundled, "cpu", torch.get_num_threads()) as process:
        answer = process.side(SIZE)(asked)
    expected = [matter.matte(each.image, prompt) for each in asked for prompt in each.prompts]
    assert answer.seconds > 0
    for one, other in zip(answer.alphas, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_prompts_differ() -> None:
    alphas = [plain("sdmatte_tiny").matte(IMAGE, prompt) for prompt in PROMPTS.values()]
    for at, one in enumerate(alphas):
        for other in alphas[at + 1 :]:
            assert np.abs(one - other).max() > 1e-4


def test_it_encodes_the_image_and_runs_the_text_encoder_for_every_prompt() -> None:
    matter = weights("sdmatte_tiny").plain(SIZE, "cpu")
    calls = {"encoder": 0, "text": 0, "decoder": 0}
    network = matter.network
    for name, module in (
        ("encoder", network.vae.encoder),
        ("text", network.text_encoder),
        ("decoder", network.vae.decoder),
    ):
        module.register_forward_hook(lambda *_, name=name: calls.__setitem__(name, calls[name] + 1))
    matter(IMAGE, [PROMPTS["box"], PROMPTS["points"]])
    assert calls == {"encoder": 4, "text": 2, "decoder": 2}


def test_its_attention_holds_the_scores_of_all_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    softmax = torch.Tensor.softmax

    def watched(scores: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        seen.append(scores.detach())
        return softmax(scores, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "softmax", watched)
    plain("sdmatte_tiny").matte(IMAGE, PROMPTS["box"])
    squares = [each for each in seen if each.shape[-1] == each.shape[-2]]
    assert {each.shape[-1] for each in squares} >= {64}  # 8 x 8 latents
    assert any(float(each.min()) < OUTSIDE / 2 for each in squares)  # the bias is added, not the key left out


def test_it_computes_in_float32_and_shares_the_weights() -> None:
    parameters = dict(plain("sdmatte_tiny").network.named_parameters())
    assert {each.dtype for each in parameters.values()} == {torch.float32}
    name = "unet.conv_in.weight"
    assert parameters[name].data_ptr() == weights("sdmatte_tiny").state[name].data_ptr()
    assert parameters[name].is_contiguous()
