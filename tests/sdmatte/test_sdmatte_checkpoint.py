"""Weights files: safe reading, names of other library versions, strict loading, conversion."""

import collections
import os
import pickle
import shutil
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sdmatte.checkpoint import convert, load_into, read_state_dict, released_name, sha256_file
from sdmatte.configs import ModelConfigs
from sdmatte.errors import CheckpointError
from sdmatte.network import Network
from support.seeded import read_shapes, seeded_state_dict, seeded_tensor

FIXTURES = Path(__file__).parents[1] / "fixtures"
SMALL = {"unet.conv_in.weight": [4, 8, 3, 3], "unet.conv_in.bias": [4], "vae.encoder.conv_in.bias": [2]}


class Small(nn.Module):
    """Two layers with released-looking names."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.unet = nn.ModuleDict({"conv_in": nn.Conv2d(8, channels, 3)})
        self.text_encoder = nn.ModuleDict({"encoder": nn.Linear(3, 2)})


def small_state() -> dict[str, Tensor]:
    return seeded_state_dict(
        {
            "unet.conv_in.weight": [4, 8, 3, 3],
            "unet.conv_in.bias": [4],
            "text_encoder.text_model.encoder.weight": [2, 3],
            "text_encoder.text_model.encoder.bias": [2],
        }
    )


def on_meta() -> Small:
    with torch.device("meta"):
        return Small()


def same(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


class Evil:
    """Runs a shell command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


# Reading


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("nested", [True, False], ids=["training", "bare"])
def test_reads_torch_checkpoints(tmp_path: Path, zipped: bool, nested: bool) -> None:
    state = seeded_state_dict(SMALL)
    path = tmp_path / "weights.pth"
    content = {"model": state, "trainer": {"optimizer": {0: torch.ones(5)}}, "iteration": 3} if nested else state
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    assert same(read_state_dict(path), state)


def test_reads_safetensors_whatever_its_name(tmp_path: Path) -> None:
    state = seeded_state_dict(SMALL)
    save_file(state, tmp_path / "weights.pth")
    assert same(read_state_dict(tmp_path / "weights.pth"), state)


def test_reads_what_trainers_keep_beside_the_weights(tmp_path: Path) -> None:
    state = seeded_state_dict(SMALL)
    beside = {
        "numpy": [np.float64(3), np.int32(1), np.bool_(True), np.arange(3), np.dtype("float32")],
        "containers": [
            collections.OrderedDict(a=1),
            collections.defaultdict(int, a=1),
            {1, 2},
            collections.Counter("a"),
        ],
        "tensors": [nn.Parameter(torch.ones(1)), torch.Size([1]), torch.float16, torch.device("cpu")],
    }
    torch.save({"model": collections.OrderedDict(state), "trainer": beside}, tmp_path / "a.pth")
    assert same(read_state_dict(tmp_path / "a.pth"), state)


def test_reads_a_detectron2_checkpoint() -> None:
    """Written with OmegaConf 2.3: its containers are the optimiser's betas, as in the released checkpoints."""
    path = FIXTURES / "detectron2_checkpoint.pth"
    unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    assert {"omegaconf.listconfig.ListConfig", "omegaconf.base.ContainerMetadata", "typing.Any"} < set(unsafe)
    before = torch.serialization.get_safe_globals()
    state = read_state_dict(path)
    assert list(state) == ["unet.conv_in.bias"]
    assert set(torch.serialization.get_safe_globals()) == set(before)
    assert state["unet.conv_in.bias"].tolist() == [0, 1, 2, 3]


def test_reads_numpy_1_scalars(tmp_path: Path) -> None:
    """NumPy 1 called its scalars' module differently."""
    path = tmp_path / "a.pth"
    torch.save({"model": seeded_state_dict(SMALL), "x": np.float64(1)}, path, _use_new_zipfile_serialization=False)
    written = path.read_bytes()
    assert b"numpy._core.multiarray" in written
    path.write_bytes(written.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert len(read_state_dict(path)) == len(SMALL)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's memory figures")
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_memory_stays_free(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    weights, optimiser = torch.zeros(8, 2**20), torch.zeros(24, 2**20)
    if suffix == "pth":
        torch.save({"model": {"unet.a": weights}, "trainer": {"optimizer": optimiser}}, path)
    else:
        save_file({"unet.a": weights}, path)
    module = nn.Module()
    with torch.device("meta"):
        module.unet = nn.ParameterDict({"a": torch.empty(8, 2**20)})
    before = anonymous_memory()
    load_into(module, read_state_dict(path), where=str(path), dtype=torch.float32)
    assert anonymous_memory() - before < 8 * 2**20  # the weights have 32 MiB, the optimiser state 96
    assert module.unet["a"].sum() == 0


def anonymous_memory() -> int:
    """Bytes of memory that is not mapped from files."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_code_in_a_checkpoint_is_refused(tmp_path: Path, zipped: bool) -> None:
    path, trace = tmp_path / "weights.pth", tmp_path / "it-ran"
    content = {"model": seeded_state_dict(SMALL), "trainer": Evil(f"touch {trace}")}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"weights.pth was refused: .* call posix.system"):
        read_state_dict(path)
    assert not trace.exists()


def test_unlisted_classes_are_refused_by_name(tmp_path: Path) -> None:
    torch.save({"model": seeded_state_dict(SMALL), "x": threading.local}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"call _?thread(ing)?\._?local, which is not on the list"):
        read_state_dict(tmp_path / "a.pth")


def test_numpy_object_arrays_are_refused(tmp_path: Path) -> None:
    torch.save({"model": seeded_state_dict(SMALL), "x": np.array([{}], dtype=object)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"refused: .* call numpy.dtypes.ObjectDType"):
        read_state_dict(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty: an interrupted download"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 5190000000\n",
            "Git LFS pointer .*lfs pull",
        ),
        (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "is a web page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "is a web page"),
        (b'{"error": "Invalid username or password."}', "neither safetensors nor a torch checkpoint"),
        (b"\x80\x02}q\x00.", "is damaged, or no torch checkpoint|truncated or damaged"),
        (pickle.dumps({"a": 1}, protocol=2), "is damaged, or no torch checkpoint|truncated or damaged"),
    ],
)
def test_files_that_are_no_weights(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "SDMatte.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{path}.*({message})"):
        read_state_dict(path)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.7, 0.999])
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_truncated_files(tmp_path: Path, kind: str, share: float) -> None:
    path = tmp_path / "whole"
    state = {"unet.a": torch.randn(50, 50), "unet.b": torch.randn(50, 50)}
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    cut = tmp_path / "SDMatte.pth"
    cut.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(CheckpointError, match=r"SDMatte.pth .*bytes\) is truncated or damaged: .*; download it again"):
        read_state_dict(cut)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none.pth can't be read: No such file"):
        read_state_dict(tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match="can't be read: Is a directory"):
        read_state_dict(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3, "loss": 0.1}, "a dict with epoch, loss"),
        ([1], "a list"),
        ({}, "an empty dict"),
        ({"model": {}}, "model"),
    ],
)
def test_checkpoints_without_tensors(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=f"holds no state dict: .*{message}"):
        read_state_dict(tmp_path / "a.pth")


# Names


@pytest.mark.parametrize(
    ("name", "released"),
    [
        ("unet.conv_in.weight", "unet.conv_in.weight"),
        ("module.unet.conv_in.weight", "unet.conv_in.weight"),
        ("text_encoder.encoder.layers.0.mlp.fc1.bias", "text_encoder.text_model.encoder.layers.0.mlp.fc1.bias"),
        ("module.text_encoder.final_layer_norm.bias", "text_encoder.text_model.final_layer_norm.bias"),
        ("text_encoder.text_model.final_layer_norm.bias", "text_encoder.text_model.final_layer_norm.bias"),
        ("vae.decoder.mid_block.attentions.0.query.bias", "vae.decoder.mid_block.attentions.0.to_q.bias"),
        ("vae.decoder.mid_block.attentions.0.proj_attn.bias", "vae.decoder.mid_block.attentions.0.to_out.0.bias"),
        ("unet.mid_block.attentions.0.norm.weight", "unet.mid_block.attentions.0.norm.weight"),
    ],
)
def test_released_name(name: str, released: str) -> None:
    assert released_name(name) == released
    assert released_name(released) == released


def test_reading_gives_released_names_and_drops_constants(tmp_path: Path) -> None:
    state = {
        "module.unet.conv_in.bias": torch.ones(1),
        "module.text_encoder.embeddings.position_ids": torch.arange(77)[None],
        "module.text_encoder.embeddings.token_embedding.weight": torch.ones(2, 2),
    }
    torch.save({"model": state}, tmp_path / "a.pth")
    names = ["unet.conv_in.bias", "text_encoder.text_model.embeddings.token_embedding.weight"]
    assert list(read_state_dict(tmp_path / "a.pth")) == names


def test_tensors_under_two_names_are_refused(tmp_path: Path) -> None:
    save_file({"unet.a": torch.ones(1), "module.unet.a": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="twice"):
        read_state_dict(tmp_path / "a.safetensors")


# Loading


@pytest.mark.parametrize("old_names", [True, False])
@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("wanted", [torch.float32, torch.bfloat16])
def test_loads_into_the_meta_device(old_names: bool, stored: torch.dtype, wanted: torch.dtype) -> None:
    module = on_meta()
    state = {name: tensor.to(stored) for name, tensor in small_state().items()}
    given = state if old_names else {name.replace("text_model.", ""): tensor for name, tensor in state.items()}
    load_into(module, given, where="a.pth", dtype=wanted)
    assert {tensor.dtype for tensor in module.state_dict().values()} == {wanted}
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, state[released_name(name)].to(wanted))
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_a_mismatch_names_everything() -> None:
    state = small_state()
    del state["unet.conv_in.bias"]
    state["unet.conv_in.weight"] = torch.zeros(4, 4, 3, 3)
    state["unet.more.weight"] = torch.zeros(1)
    module = Small()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_into(module, state, where="/models/a.pth", dtype=torch.float32)
    message = str(caught.value)
    assert "the weights in /models/a.pth do not fit the model (4 tensors in the file, 4 in the model)" in message
    assert "1 missing: unet.conv_in.bias" in message
    assert "1 unexpected: unet.more.weight" in message
    assert "1 of another shape: unet.conv_in.weight: (4, 4, 3, 3), expected (4, 8, 3, 3)" in message
    assert "use the configuration folders that came with these weights" in message
    assert same(module.state_dict(), before)


def test_a_lost_text_encoder_is_noticed() -> None:
    state = {name: tensor for name, tensor in small_state().items() if not name.startswith("text_encoder")}
    with pytest.raises(
        CheckpointError, match=r"2 missing: text_encoder.text_model.encoder.weight(.|\n)*is incomplete"
    ):
        load_into(on_meta(), state, where="a.pth", dtype=torch.float32)


def test_weights_of_something_else() -> None:
    with pytest.raises(CheckpointError, match="Nothing in the file belongs to the model"):
        load_into(on_meta(), {"layer1.weight": torch.ones(1)}, where="a.pth", dtype=torch.float32)


def test_integer_weights_do_not_pass_for_floats() -> None:
    state = small_state() | {"unet.conv_in.bias": torch.zeros(4, dtype=torch.int8)}
    with pytest.raises(CheckpointError, match=r"unet.conv_in.bias: \(4,\) int8, expected \(4,\)"):
        load_into(on_meta(), state, where="a.pth", dtype=torch.float32)


def test_diverged_weights_are_refused() -> None:
    state = small_state() | {"unet.conv_in.bias": torch.tensor([0, float("nan"), 0, 0])}
    with pytest.raises(CheckpointError, match=r"a.pth holds NaN or infinite weights in 1 tensors: unet.conv_in.bias"):
        load_into(on_meta(), state, where="a.pth", dtype=torch.float32)


@pytest.mark.parametrize("kind", ["sdmatte_tiny", "litesdmatte_tiny"])
@pytest.mark.parametrize("transformers", [4, 5])
def test_loads_the_reference_models(kind: str, transformers: int) -> None:
    state = seeded_state_dict(read_shapes(FIXTURES / kind))
    if transformers == 5:
        state = {name.replace(".text_model.", "."): tensor for name, tensor in state.items()}
    with torch.device("meta"):
        network = Network(ModelConfigs.from_folder(FIXTURES / kind))
    load_into(network, state, where=kind, dtype=torch.float32)
    assert not any(tensor.is_meta for tensor in [*network.parameters(), *network.buffers()])
    name = "unet.conv_in.weight"
    assert np.array_equal(network.state_dict()[name].numpy(), seeded_tensor(name, state[name].shape))


@pytest.mark.parametrize(
    ("kind", "configs", "message"),
    [
        ("litesdmatte_tiny", "sdmatte_tiny", "These are LiteSDMatte weights, but the configuration is SDMatte's"),
        ("sdmatte_tiny", "litesdmatte_tiny", "These are SDMatte weights, but the configuration is LiteSDMatte's"),
    ],
)
def test_confused_models_are_told_apart(kind: str, configs: str, message: str) -> None:
    with torch.device("meta"):
        network = Network(ModelConfigs.from_folder(FIXTURES / configs))
        state = {name: torch.empty(shape) for name, shape in read_shapes(FIXTURES / kind).items()}
    with pytest.raises(CheckpointError, match=message):
        load_into(network, state, where=kind, dtype=torch.float32)


def test_plain_stable_diffusion_is_recognised() -> None:
    with torch.device("meta"):
        network = Network(ModelConfigs.from_folder(FIXTURES / "sdmatte_tiny"))
    state = {
        name: t for name, t in network.state_dict().items() if "aux_conv" not in name and "_embedding.l" not in name
    }
    with pytest.raises(CheckpointError, match="These look like plain Stable Diffusion weights"):
        load_into(network, state, where="sd2.safetensors", dtype=torch.float32)


# Converting


def checkpoint_file(folder: Path, name: str = "SDMatte.pth", **more: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"model": seeded_state_dict(SMALL), "iteration": 30501, **more}, folder / name)
    return folder / name


@pytest.mark.parametrize("out", ["new/weights.safetensors", "new/folder", "existing.v1"])
def test_convert(tmp_path: Path, out: str) -> None:
    (tmp_path / "existing.v1").mkdir()
    source = checkpoint_file(tmp_path / "from", trainer={"optimizer": torch.ones(10)})
    result = convert(source, str(tmp_path / out))
    expected = tmp_path / out if out.endswith(".safetensors") else tmp_path / out / "SDMatte.safetensors"
    assert result.path == expected
    assert same(load_file(result.path), seeded_state_dict(SMALL))
    assert (result.tensors, result.bytes) == (len(SMALL), result.path.stat().st_size)
    with safe_open(result.path, "pt") as file:
        assert file.metadata() == {"format": "pt"}
    assert result.sha256 == sha256_file(result.path)
    assert sorted(path.name for path in expected.parent.iterdir()) == [expected.name, f"{expected.name}.sha256"]
    assert expected.stat().st_mode == expected.with_name(f"{expected.name}.sha256").stat().st_mode
    if checker := shutil.which("sha256sum"):
        subprocess.run([checker, "--check", f"{expected.name}.sha256"], cwd=expected.parent, check=True)


def test_converting_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    source = checkpoint_file(tmp_path)
    first = convert(source, tmp_path)
    again = convert(first.path, tmp_path / "again")
    assert same(read_state_dict(again.path), read_state_dict(source))
    assert convert(source, tmp_path).sha256 == first.sha256


def test_converting_a_model_folder_keeps_its_configuration(tmp_path: Path) -> None:
    source = Path(shutil.copytree(FIXTURES / "litesdmatte_tiny", tmp_path / "Lite"))
    checkpoint_file(source, "Lite.pth")
    (source / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"large")
    result = convert(source, tmp_path / "out")
    assert result.path == tmp_path / "out" / "Lite.safetensors"
    assert ModelConfigs.from_folder(tmp_path / "out").same_model(ModelConfigs.from_folder(source))
    assert (tmp_path / "out" / "tokenizer" / "merges.txt").exists()
    assert not (tmp_path / "out" / "unet" / "diffusion_pytorch_model.safetensors").exists()
    assert convert(source, tmp_path / "out").sha256 == result.sha256


def test_models_are_not_mixed_in_one_folder(tmp_path: Path) -> None:
    source = Path(shutil.copytree(FIXTURES / "litesdmatte_tiny", tmp_path / "Lite"))
    checkpoint_file(source, "Lite.pth")
    target = Path(shutil.copytree(FIXTURES / "sdmatte_tiny", tmp_path / "target"))
    with pytest.raises(CheckpointError, match="already holds another model's configuration"):
        convert(source, target)


def test_convert_refuses_what_is_no_sdmatte(tmp_path: Path) -> None:
    torch.save({"layer1.weight": torch.ones(1)}, tmp_path / "resnet.pth")
    with pytest.raises(CheckpointError, match=r"is no SDMatte checkpoint: .* but layer1.weight"):
        convert(tmp_path / "resnet.pth", tmp_path / "out")


def test_convert_writes_safetensors_only(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"give .*out.safetensors, or a folder"):
        convert(checkpoint_file(tmp_path), tmp_path / "out.pth")


def test_convert_says_when_it_cannot_write(tmp_path: Path) -> None:
    source = checkpoint_file(tmp_path)
    with pytest.raises(CheckpointError, match="can't be written"):
        convert(source, source / "folder")
