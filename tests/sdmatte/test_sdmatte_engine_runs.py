import pytest
import torch

from sdmatte.engine.build import Engine
from sdmatte.engine.runs import first_axis
from sdmatte.model import SDMatte

SIZE = 256


@pytest.fixture(scope="module")
def engine() -> Engine:
    return SDMatte.untrained("sdmatte-mini", device="cpu", input_size=SIZE)._engine


def box(left: int, top: int, right: int, bottom: int) -> torch.Tensor:
    picture = torch.full((1, SIZE, SIZE), -1.0)
    picture[:, top:bottom, left:right] = 1
    return picture


def disc() -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    return ((y - 90) ** 2 + (x - 140) ** 2 < 30**2).float()[None] * 2 - 1


CASES = {
    "in the middle": box(70, 60, 190, 201),
    "odd": box(33, 101, 35, 102),
    "at the border": box(0, 17, 101, SIZE),
    "everything": box(0, 0, SIZE, SIZE),
    "thin": box(0, 131, SIZE, 132),
    "a mask": disc(),
    "no row twice": torch.linspace(-1, 1, SIZE * SIZE).view(1, SIZE, SIZE),
}


@pytest.mark.parametrize("name", CASES)
def test_a_shrunk_prompt_image_has_the_latent_of_the_whole_one(engine: Engine, name: str) -> None:
    with torch.inference_mode():
        expected = engine.encode_image(CASES[name][None])
        found = engine._encode_prompt(CASES[name][None])
    torch.testing.assert_close(found, expected, atol=5e-6, rtol=0)


def test_a_batch_of_them_too(engine: Engine) -> None:
    prompts = torch.stack(list(CASES.values()))
    with torch.inference_mode():
        torch.testing.assert_close(engine._encode_prompt(prompts), engine.encode_image(prompts), atol=5e-6, rtol=0)


def test_a_long_stretch_keeps_few_rows_and_counts_them_all() -> None:
    axis = first_axis(CASES["in the middle"][0], 5)
    assert len(axis.kept) < SIZE / 4
    assert axis.counts.sum() == SIZE
    assert {0, 59, 60, 200, 201, SIZE - 1} <= set(axis.kept.tolist())
    lower = axis.below(4)
    assert lower.counts.sum() == SIZE / 2
    assert len(lower.kept) > len(axis.kept) / 2
