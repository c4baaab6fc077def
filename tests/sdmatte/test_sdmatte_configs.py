"""Model configurations: the packaged ones, and those of folders."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sdmatte.configs import PACKAGED, PARTS, ModelConfigs
from sdmatte.errors import CheckpointError

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of a model folder that tests may damage."""
    return Path(shutil.copytree(FIXTURES / "sdmatte_tiny", tmp_path / "tiny"))


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_configurations_agree_with_themselves(name: str) -> None:
    configs = ModelConfigs.released(name)
    unet = configs.unet
    assert configs.name == name
    assert unet["cross_attention_dim"] == configs.text_encoder["hidden_size"]
    assert unet["in_channels"] == configs.vae["latent_channels"] == (16 if name == "sdmatte-nano" else 4)
    assert unet["bbox_time_embed_dim"] == (64 if name == "sdmatte-nano" else 320)
    assert unet["point_embeddings_input_dim"] == 1680
    for channels, heads in zip(unet["block_out_channels"], unet["attention_head_dim"], strict=True):
        assert channels % unet["norm_num_groups"] == 0
        assert channels % heads == 0


def test_released_configuration_has_the_published_sizes() -> None:
    configs = ModelConfigs.released("sdmatte")
    assert configs.unet["block_out_channels"] == [320, 640, 1280, 1280]
    assert configs.unet["attention_head_dim"] == [5, 10, 20, 20]
    assert configs.vae["scaling_factor"] == 0.18215
    assert configs.text_encoder["num_hidden_layers"] == 23
    assert ModelConfigs.released("litesdmatte").vae["_class_name"] == "AutoencoderTiny"


def test_released_configuration_names_the_released_tensors() -> None:
    import torch

    from sdmatte.checkpoint import released_name
    from sdmatte.network import Network
    from support.seeded import read_shapes

    with torch.device("meta"):
        network = Network(ModelConfigs.released("sdmatte"))
    shapes = {released_name(name): list(tensor.shape) for name, tensor in network.state_dict().items()}
    assert shapes == read_shapes(FIXTURES / "sdmatte_full")


def test_unknown_packaged_name() -> None:
    with pytest.raises(CheckpointError, match="'sdmate'; there are: sdmatte, litesdmatte, sdmatte-nano, sdmatte-mini"):
        ModelConfigs.released("sdmate")


def test_from_folder(folder: Path) -> None:
    configs = ModelConfigs.from_folder(str(folder))
    assert configs.name == "tiny"
    assert configs.unet == json.loads((folder / "unet" / "config.json").read_text())
    assert configs.same_model(ModelConfigs.from_folder(FIXTURES / "sdmatte_tiny"))
    assert not configs.same_model(ModelConfigs.from_folder(FIXTURES / "litesdmatte_tiny"))


@pytest.mark.parametrize("part", PARTS)
def test_missing_configuration_is_named(folder: Path, part: str) -> None:
    (folder / part / "config.json").unlink()
    with pytest.raises(CheckpointError, match=f"{part}/config.json is missing"):
        ModelConfigs.from_folder(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"{", "is not valid JSON"), (b"\xff\xfe\x00", "is not valid JSON"), (b"[1]", "holds a JSON list")],
)
def test_damaged_configuration_is_named(folder: Path, content: bytes, message: str) -> None:
    (folder / "vae" / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=f"vae/config.json {message}"):
        ModelConfigs.from_folder(folder)


def test_modules_for_finding_models_do_not_load_torch() -> None:
    code = "import sys, sdmatte.configs, sdmatte.locate, sdmatte.download; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
