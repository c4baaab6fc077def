"""Running a checkout of the public implementation: what goes in, and what stands in for what is not installed."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.engine_objects import Asked, weights
from benchmarks.engine_process import ProcessError
from benchmarks.engine_public import StandIns, computing_on, inputs, public_process, require_checkout, write_configs
from sdmatte import Box, Points
from sdmatte.configs import BUNDLED, packaged_folder
from sdmatte.text import caption_ids
from support.models import photo


def test_a_folder_that_is_no_checkout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProcessError, match=r"has no modeling/SDMatte/meta_arch\.py: name a clone of"):
        require_checkout(tmp_path)


@pytest.mark.slow  # the child imports torch and transformers
def test_a_checkout_that_does_not_start_says_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    package = tmp_path / "modeling" / "SDMatte"
    package.mkdir(parents=True)
    (package / "meta_arch.py").write_text("import a_module_that_nobody_has\n")
    with pytest.raises(ProcessError, match="stopped with exit code 1"):
        public_process(tmp_path, weights(BUNDLED), tmp_path, "cpu", 1)
    assert "a_module_that_nobody_has" in capfd.readouterr().err


@pytest.mark.slow
def test_a_checkout_gets_its_weights_and_answers(tmp_path: Path) -> None:
    """A stand-in for the public model, with the interface that its code has: constant alphas, and nothing on a GPU."""
    package = tmp_path / "modeling" / "SDMatte"
    package.mkdir(parents=True)
    (package / "meta_arch.py").write_text(
        "import torch\n"
        "from benchmarks.engine_baseline import PlainNetwork\n"
        "from sdmatte.configs import ModelConfigs\n"
        "from detectron2.engine import HookBase\n"
        "class SDMatte(PlainNetwork):\n"
        "    def __init__(self, folder, **options):\n"
        "        super().__init__(ModelConfigs.from_folder(folder))\n"
        "        assert options['use_aux_input'] and not options['load_weight']\n"
        "    def forward(self, data):\n"
        "        assert self.aux_input == 'bbox_mask' and data['bbox_coords'].shape == (1, 4)\n"
        "        level = self.unet.conv_in.bias[0].cpu() + data['image'].cuda().mean() * 0\n"
        "        return torch.full((1, 1, 64, 64), float(level))\n"
    )
    model = weights("sdmatte-mini", tmp_path / "weights")
    with public_process(tmp_path, model, packaged_folder("sdmatte-mini"), "cpu", 1) as public:
        answer = public.side(64)([Asked(photo(60, 80), [Box(10, 10, 40, 30), Box(1, 1, 9, 9)])])
    level = float(model.state["unet.conv_in.bias"][0].clip(0, 1))
    assert [alpha.shape for alpha in answer.alphas] == [(60, 80)] * 2
    assert answer.seconds > 0
    np.testing.assert_allclose(answer.alphas[0], level, atol=1e-6)


def test_inputs_are_those_of_the_public_model() -> None:
    found = inputs(photo(60, 80), Box(10, 10, 40, 30, transparent=True), 64)
    assert found["image"].shape == (1, 3, 64, 64)
    assert found["bbox_mask"].shape == (1, 1, 64, 64)
    assert set(np.unique(found["bbox_mask"])) == {-1.0, 1.0}
    np.testing.assert_allclose(found["bbox_coords"], [[0.125, 1 / 6, 0.5, 0.5]], rtol=1e-6)
    assert found["is_trans"].tolist() == [1.0]
    assert inputs(photo(60, 80), Points([(5, 5)]), 64)["point_coords"].shape == (1, 20)


def test_the_written_tokenizer_gives_the_ids_of_the_empty_caption(tmp_path: Path) -> None:
    from transformers import CLIPTokenizer

    folder = write_configs(tmp_path / "configs")
    config = json.loads((folder / "text_encoder" / "config.json").read_text())
    tokenizer = CLIPTokenizer.from_pretrained(str(folder), subfolder="tokenizer")
    ids = tokenizer([""], padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
    assert tokenizer.model_max_length == 77
    assert torch.equal(ids, caption_ids("", None, config))
    assert (folder / "scheduler" / "scheduler_config.json").is_file()


def test_what_is_only_trained_with_gets_stand_ins() -> None:
    finder = StandIns()
    assert finder.find_spec("detectron2.engine.train_loop") is not None
    assert finder.find_spec("torch") is None
    code = (
        "import sys; sys.path.insert(0, '.'); from benchmarks.engine_public import StandIns; "
        "sys.meta_path.append(StandIns())\n"
        "from detectron2.engine.train_loop import HookBase\n"
        "class Hook(HookBase): pass\n"
        "print(Hook.__mro__[1].__name__)"
    )
    root = Path(__file__).parent.parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "HookBase\n"


def test_what_asks_for_cuda_stays_on_the_cpu() -> None:
    with computing_on("cpu"):
        assert torch.ones(1).cuda().device.type == "cpu"
        assert torch.ones(1).to("cuda").device.type == "cpu"
        assert torch.tensor([1], device="cuda").device.type == "cpu"
    assert torch.ones(1).to(torch.float64).dtype == torch.float64
