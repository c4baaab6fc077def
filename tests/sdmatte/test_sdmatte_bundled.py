"""The model that ships with the package: there, within its limits, and a matting model rather than noise."""

from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sdmatte import SDMatte
from sdmatte.configs import BUNDLED, packaged_folder
from sdmatte.errors import CheckpointError
from sdmatte.locate import locate
from sdmatte.metrics import UNKNOWN, mad
from sdmatte.prompt_sampling import derive_box, derive_mask, derive_points
from sdmatte.prompts import Prompt

REFERENCES = Path(__file__).parents[2] / "benchmarks" / "photographs"


@pytest.fixture(scope="module")
def nano() -> SDMatte:
    return SDMatte.from_pretrained(device="cpu")


def coin() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Photograph, reference matte in [0, 1] of one of many coins, and where the matte is known."""
    with (resources.files("skimage") / "data" / "coins.png").open("rb") as file, Image.open(file) as opened:
        image = np.asarray(opened.convert("RGB"))
    with Image.open(REFERENCES / "coin.png") as opened:
        alpha, counted = np.moveaxis(np.asarray(opened), -1, 0)
    return image, alpha.astype(np.float32) / 255, np.where(counted > 0, np.uint8(UNKNOWN), np.uint8(0))


def test_it_is_found_by_its_name_and_needs_no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    files = locate(BUNDLED)
    assert files.name == BUNDLED
    assert files.folder == packaged_folder(BUNDLED)
    assert files.weights == packaged_folder(BUNDLED) / "sdmatte-nano.safetensors"
    assert files.prompt_kinds == ("box", "points", "mask")


@pytest.mark.parametrize("source", [f"./{BUNDLED}", Path(BUNDLED)])
def test_a_folder_of_the_same_name_needs_a_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str | Path
) -> None:
    """What the default is must not depend on the folder that somebody works in."""
    (tmp_path / BUNDLED).mkdir()
    monkeypatch.chdir(tmp_path)
    assert locate(BUNDLED).folder == packaged_folder(BUNDLED)
    with pytest.raises(CheckpointError, match="no weights file"):
        locate(source)


def test_another_models_weights_are_not_looked_for_in_it() -> None:
    with pytest.raises(CheckpointError, match=r"'SDMatte_plus.pth' is no file of sdmatte-nano.*LongfeiHuang/SDMatte"):
        locate(BUNDLED, weights="SDMatte_plus.pth")


def test_an_incomplete_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sdmatte.locate.packaged_folder", lambda name: tmp_path / name)
    with pytest.raises(CheckpointError, match="the package is incomplete; reinstall sdmatte"):
        locate(BUNDLED)


def test_the_bundled_model_has_no_revisions() -> None:
    with pytest.raises(CheckpointError, match="revision='v2' is for hub repositories"):
        locate(BUNDLED, revision="v2")


def test_it_stays_within_its_limits(nano: SDMatte) -> None:
    assert nano.input_size == 192
    assert locate(BUNDLED).weights.stat().st_size <= 25_000_000
    used = [*nano._network.unet.parameters(), *nano._network.vae.parameters()]
    assert sum(each.numel() for each in used) <= 12_000_000


@pytest.mark.parametrize("kind", ["box", "mask", "points"])
def test_it_mattes_the_prompted_coin_and_no_other(nano: SDMatte, kind: str) -> None:
    image, truth, known = coin()
    rng = np.random.default_rng(0)
    prompts: dict[str, Prompt] = {
        "box": derive_box(truth), "mask": derive_mask(truth, rng), "points": derive_points(truth, rng),
    }  # fmt: skip
    error = mad(nano(image, prompts[kind]), truth, known)
    box = derive_box(truth)
    filled = np.zeros_like(truth)
    filled[round(box.y0) : round(box.y1), round(box.x0) : round(box.x1)] = 1
    assert error < 0.5 * mad(filled, truth, known)
    assert error < 0.5 * mad(np.zeros_like(truth), truth, known)
