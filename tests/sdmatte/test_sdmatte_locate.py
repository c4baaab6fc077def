"""Where a model comes from: folders, files, and the choice among several weights files."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sdmatte.configs import ModelConfigs
from sdmatte.errors import CheckpointError
from sdmatte.locate import choose_weights, config_names, locate

FIXTURES = Path(__file__).parents[1] / "fixtures"


def add_weights(folder: Path, name: str, tensor: str = "unet.conv_in.bias") -> Path:
    save_file({tensor: torch.ones(1)}, folder / name)
    return folder / name


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder called MyMatte, still without weights."""
    return Path(shutil.copytree(FIXTURES / "litesdmatte_tiny", tmp_path / "MyMatte"))


def choose(*names: str, weights: str | None = None, complete: bool = True) -> str:
    return choose_weights(names, weights=weights, title="SDMatte", where="here", complete=complete)


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["a.safetensors"], "a.safetensors"),
        (["README.md", "a.pth", "a.sha256"], "a.pth"),
        (["a.pth", "a.safetensors"], "a.safetensors"),
        (["SDMatte.pth", "SDMatte_plus.pth"], "SDMatte.pth"),
        (["sdmatte.pt", "SDMatte_plus.safetensors"], "sdmatte.pt"),
        (["other.pth", "model.safetensors"], "model.safetensors"),
        (["model.safetensors", "SDMatte.pth"], "SDMatte.pth"),
    ],
)
def test_choice_by_default(names: list[str], chosen: str) -> None:
    assert choose(*names) == chosen


@pytest.mark.parametrize(
    ("weights", "chosen"),
    [
        ("SDMatte_plus.pth", "SDMatte_plus.pth"),
        ("SDMatte_plus", "SDMatte_plus.safetensors"),
        ("SDMatte", "SDMatte.pth"),
        ("weights.bin", "weights.bin"),
    ],
)
def test_choice_by_name(weights: str, chosen: str) -> None:
    names = ("SDMatte.pth", "SDMatte_plus.pth", "SDMatte_plus.safetensors", "weights.bin")
    assert choose(*names, weights=weights) == chosen


def test_unclear_choice_lists_the_candidates() -> None:
    with pytest.raises(CheckpointError, match=r"several weights files: a.pth, b.pth; choose one with weights="):
        choose("b.pth", "a.pth", "c.txt")


def test_no_weights() -> None:
    with pytest.raises(CheckpointError, match="here has no weights file at its top"):
        choose("README.md")


def test_wrong_name_lists_the_candidates() -> None:
    with pytest.raises(CheckpointError, match=r"no weights file 'SDMate.pth'; weights files there: SDMatte.pth"):
        choose("SDMatte.pth", weights="SDMate.pth")


@pytest.mark.parametrize("weights", ["../SDMatte.pth", "/etc/passwd", "unet/model.safetensors", "..", "a\\b.pth", ""])
def test_weights_must_stay_in_the_folder(weights: str) -> None:
    with pytest.raises(CheckpointError, match=r"must be the name of a file at the top of here|has no weights file"):
        choose("SDMatte.pth", weights=weights)


def test_a_partly_cached_repository_is_not_guessed_at() -> None:
    assert choose("SDMatte.pth", complete=False) == "SDMatte.pth"
    with pytest.raises(CheckpointError, match=r"of another name only: SDMatte_plus.pth"):
        choose("SDMatte_plus.pth", complete=False)


def test_config_names() -> None:
    names = ["unet/config.json", "vae/config.json", "unet/x.safetensors", "tokenizer/merges.txt", "tokenizer/a/b.txt"]
    assert config_names([*names, "config.json"]) == ["unet/config.json", "vae/config.json", "tokenizer/merges.txt"]


def test_folder(folder: Path) -> None:
    weights = add_weights(folder, "MyMatte.safetensors")
    add_weights(folder, "MyMatte_plus.safetensors")
    add_weights(folder / "unet", "diffusion_pytorch_model.safetensors")
    for source in (folder, str(folder), f"file://{folder}"):
        files = locate(source)
        assert files.weights == weights
        assert files.configs.same_model(ModelConfigs.from_folder(folder))
        assert files.tokenizer == folder / "tokenizer"
        assert files.folder == folder
        assert files.name == files.configs.name == "MyMatte"
        assert files.prompt_kinds == ("box", "points", "mask")


def test_plus_is_for_boxes(folder: Path) -> None:
    add_weights(folder, "MyMatte.safetensors")
    plus = add_weights(folder, "MyMatte_plus.safetensors")
    files = locate(folder, weights="MyMatte_plus")
    assert (files.weights, files.name, files.prompt_kinds) == (plus, "MyMatte_plus", ("box",))


def test_model_is_called_like_its_folder(folder: Path) -> None:
    add_weights(folder, "model.safetensors")
    assert locate(folder).name == "MyMatte"


def test_file_with_configurations_beside_it(folder: Path) -> None:
    add_weights(folder, "MyMatte.safetensors")
    other = add_weights(folder, "other.safetensors")
    files = locate(other)
    assert (files.weights, files.folder, files.name) == (other, folder, "other")


@pytest.mark.parametrize(
    ("tensor", "configs"),
    [("vae.encoder.layers.0.weight", "litesdmatte"), ("vae.encoder.conv_in.weight", "sdmatte")],
)
@pytest.mark.parametrize("as_folder", [True, False])
def test_weights_alone_use_packaged_configurations(tmp_path: Path, tensor: str, configs: str, as_folder: bool) -> None:
    weights = add_weights(tmp_path, "a.safetensors", tensor)
    files = locate(tmp_path if as_folder else weights)
    assert files.configs == ModelConfigs.released(configs)
    assert (files.weights, files.tokenizer, files.folder) == (weights, None, None)


def test_incomplete_configurations_are_not_replaced(folder: Path) -> None:
    add_weights(folder, "MyMatte.safetensors")
    (folder / "vae" / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"vae/config.json is missing"):
        locate(folder)


def test_weights_of_a_file(folder: Path) -> None:
    weights = add_weights(folder, "MyMatte.safetensors")
    assert locate(weights, weights="MyMatte.safetensors").weights == weights
    with pytest.raises(CheckpointError, match="is a weights file already"):
        locate(weights, weights="other.pth")


@pytest.mark.parametrize("source", ["./missing", "missing", "/nowhere/at/all", "a/b/c", Path("owner/name")])
def test_missing_path(source: str | Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no file or folder .*; expected a local model folder"):
        locate(source)


def test_revision_is_for_the_hub(folder: Path) -> None:
    add_weights(folder, "MyMatte.safetensors")
    for source in (folder, f"file://{folder}", "memory://bucket/model"):
        with pytest.raises(CheckpointError, match="revision='main' is for hub repositories"):
            locate(source, revision="main")


def test_home_is_expanded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_weights(folder, "MyMatte.safetensors")
    monkeypatch.setenv("HOME", str(folder.parent))
    assert locate("~/MyMatte").folder == folder
