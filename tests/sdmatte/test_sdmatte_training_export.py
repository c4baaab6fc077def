"""Exported models load like any other, and compute what was trained."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sdmatte import Box, SDMatte
from sdmatte.errors import CheckpointError
from sdmatte.training.checkpoints import save_tensors
from sdmatte.training.export import Stored, export, write_configs
from sdmatte.training.loop import WEIGHTS
from support.models import photo
from support.training import tiny_configs, tiny_learner

CONFIGS = tiny_configs(without=["opacity_embedding"])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_configs(CONFIGS, tmp_path)
    save_tensors(tmp_path / WEIGHTS, tiny_learner(without=["opacity_embedding"]).network.state_dict())
    return tmp_path


@pytest.mark.parametrize(("stored", "difference"), [("float32", 1e-6), ("float16", 5e-3)])
def test_a_model_folder_comes_out(run: Path, stored: Stored, difference: float) -> None:
    path = export(run, run / "mine", stored=stored)
    assert path == run / "mine" / "mine.safetensors"
    kinds = {tensor.dtype for tensor in load_file(path).values() if tensor.is_floating_point()}
    assert kinds == {getattr(torch, stored)}
    model = SDMatte.from_pretrained(run / "mine", device="cpu", input_size=64)
    assert (model.name, model.precision) == ("mine", "float32")

    # The weights that were trained, in the folder of the export: the same alphas, but for rounding. (That of float32:
    # a kernel may sum in another order where a buffer lies otherwise in memory.)
    save_tensors(run / "mine" / "mine.safetensors", tiny_learner(without=["opacity_embedding"]).network.state_dict())
    trained = SDMatte.from_pretrained(run / "mine", device="cpu", input_size=64)
    alphas = [each(photo(64, 64), Box(8, 8, 50, 50)) for each in (model, trained)]
    assert np.ptp(alphas[0]) > 0
    np.testing.assert_allclose(alphas[0], alphas[1], atol=difference)


def test_the_ablation_goes_with_the_model(run: Path) -> None:
    export(run, run / "mine")
    model = SDMatte.from_pretrained(run / "mine", device="cpu", input_size=64)
    opaque, transparent = (model(photo(64, 64), Box(8, 8, 50, 50, transparent=value)) for value in (False, True))
    np.testing.assert_array_equal(opaque, transparent)


def test_weights_beyond_float16_are_refused(run: Path) -> None:
    state = tiny_learner().network.state_dict()
    state["unet.conv_out.bias"] = torch.full((4,), 1e5)
    save_tensors(run / WEIGHTS, state)
    with pytest.raises(CheckpointError, match=r"unet\.conv_out\.bias .* export as float32"):
        export(run, run / "mine")
    export(run, run / "mine", stored="float32")


def test_a_run_without_a_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has not saved a checkpoint"):
        export(tmp_path, tmp_path / "mine")
