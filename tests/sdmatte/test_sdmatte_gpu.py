"""On a CUDA device. Needs the model's own dependencies only: ``pytest -m gpu tests/sdmatte/test_sdmatte_gpu.py``."""

from pathlib import Path

import numpy as np
import pytest
import torch

from sdmatte.devices import choose_dtype, exact_float32
from sdmatte.model import SDMatte
from sdmatte.prompts import Box, Mask, Points, Prompt
from support.models import SIZE, photo, seeded_folder
from support.parity import ALPHA_TARGET, UNET_TARGET, Deviation, compare

pytestmark = pytest.mark.gpu

CASES = ("sdmatte_tiny", "litesdmatte_tiny")
HEIGHT, WIDTH = 60, 100


def prompts() -> list[Prompt]:
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    return [Box(10, 5, 70, 55), Points([(50, 30), (20, 10)]), Mask((y - 30) ** 2 + (x - 50) ** 2 < 400)]


@pytest.fixture(scope="module", params=CASES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return seeded_folder(request.param, tmp_path_factory.mktemp("models"))


def load(folder: Path, device: str, precision: str) -> SDMatte:
    return SDMatte.from_pretrained(folder, device=device, precision=precision, input_size=SIZE)  # type: ignore[arg-type]


def test_float32_is_the_reference(folder: Path) -> None:
    """The network as it is loaded for use (its memory layout included), the reference's own inputs."""
    model = load(folder, "cuda", "float32")
    fixtures = Path(__file__).parents[1] / "fixtures" / folder.name
    with exact_float32(model.device, torch.float32):
        found: list[Deviation] = list(compare(model._network, model._text, fixtures, engine=model._engine))
    print(*found, sep="\n")
    assert max(each.alpha for each in found) <= ALPHA_TARGET, found
    assert max(each.unet for each in found) <= UNET_TARGET, found


def test_float32_equals_the_cpu(folder: Path) -> None:
    images = [photo(HEIGHT, WIDTH)] * 2
    on_gpu, on_cpu = (
        load(folder, device, "float32").predict(images, [prompts(), prompts()[::-1]]) for device in ("cuda", "cpu")
    )
    for mine, theirs in zip(on_gpu, on_cpu, strict=True):
        for alpha, expected in zip(mine, theirs, strict=True):
            np.testing.assert_allclose(alpha, expected, atol=2e-4)


@pytest.mark.parametrize(("precision", "mean", "largest"), [("bfloat16", 0.02, 0.2), ("float16", 0.004, 0.05)])
def test_half_precision_is_close_to_float32(folder: Path, precision: str, mean: float, largest: float) -> None:
    image = photo(HEIGHT, WIDTH)
    full, half = (load(folder, "cuda", each).predict([image], [prompts()])[0] for each in ("float32", precision))
    for prompt, expected, alpha in zip(prompts(), full, half, strict=True):
        difference = np.abs(alpha - expected)
        print(folder.name, precision, prompt.kind, difference.mean(), difference.max())
        assert np.isfinite(alpha).all()
        assert difference.mean() < mean, prompt.kind
        assert difference.max() < largest, prompt.kind


def test_the_gpu_and_its_best_precision_are_the_default() -> None:
    modern = torch.cuda.get_device_capability() >= (8, 0)
    best = "bfloat16" if modern else "float16"
    assert choose_dtype("auto", torch.device("cuda"), 1_000_000_000)[0] == best
    model = SDMatte.untrained(input_size=SIZE)  # small
    assert (model.device.type, model.precision) == ("cuda", "float32")
    assert {each.device.type for each in model._network.unet.parameters()} == {"cuda"}


def test_untrained_weights_leave_the_gpus_random_state_alone() -> None:
    before = torch.cuda.get_rng_state()
    SDMatte.untrained(input_size=SIZE)
    assert torch.equal(torch.cuda.get_rng_state(), before)


def test_exact_float32_keeps_the_users_settings() -> None:
    cudnn = torch.backends.cudnn
    before = (cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32)
    cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32 = True, True, True
    try:
        with exact_float32(torch.device("cuda"), torch.float32):
            assert (cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32) == (True, True, True, False)
        assert (cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32) == (True, True, True)
    finally:
        cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32 = before


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_attention_scores_are_never_materialised(precision: str) -> None:
    model = SDMatte.untrained(device="cuda", precision=precision, input_size=1024)  # type: ignore[arg-type]
    image = photo(HEIGHT, WIDTH)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    model.predict([image], [[prompts()[1]]])
    growth = torch.cuda.max_memory_allocated() - before
    tokens, bytes_per_score = 128**2, 4 if precision == "float32" else 2
    print(f"{precision}: {growth / 2**20:.0f} MiB")
    assert growth < tokens**2 * bytes_per_score  # of one head, at the first level


def test_devices_beyond_the_last_are_refused() -> None:
    from sdmatte.errors import SDMatteError

    beyond = f"cuda:{torch.cuda.device_count()}"
    with pytest.raises(SDMatteError, match="can't be used"):
        SDMatte.untrained(device=beyond)
    SDMatte.untrained(device="cuda", input_size=SIZE)(photo(HEIGHT, WIDTH), prompts()[0])  # the GPU still works
