"""Weights files: safe reading, strict loading, and conversion to safetensors.

The released ``.pth`` files are training checkpoints, ``{"model": state dict, "trainer": ..., "iteration": ...}``:
pickles, more than half of them optimiser state. They are memory-mapped and unpickled with an allow-list, so that no
code of theirs runs and no optimiser state is read; :func:`convert` turns one into weights-only safetensors for good.

*Released names* are the tensor names of the released checkpoints, with transformers 4's ``text_encoder.text_model.``.
:func:`read_state_dict` returns them whatever the file was written with, and :func:`load_into` loads them into modules
of either transformers version.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from sdmatte.configs import PARTS, ModelConfigs
from sdmatte.errors import CheckpointError
from sdmatte.locate import LITE_MARK, ModelFiles, locate

_CURE = "download it again"
_OLD_ATTENTION = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
_CLIP_TEXT_MODEL = ("embeddings.", "encoder.", "final_layer_norm.")
_SHOWN = 3  # tensor names per list in a message
_IGNORED = (
    *(f"omegaconf.base.{name}" for name in ("ContainerMetadata", "Metadata", "UnionNode")),
    *(f"omegaconf.nodes.{kind}Node" for kind in ("Any", "Boolean", "Bytes", "Float", "Integer", "Path", "String")),
    *("omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig", "typing.Any"),
    *(f"builtins.{name}" for name in ("bool", "dict", "float", "int", "list", "str", "tuple")),
)


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read the model's tensors from a weights file, under their released names.

    The kind of file is told from its content: safetensors, or what ``torch.save`` writes, which may hold the state
    dict itself or a training checkpoint with the state dict under ``"model"``. No code of a file is ever run.

    Args:
        path: A local file. It must not be changed in place while the tensors live (replacing it is fine).

    Returns:
        Tensors on the CPU, in the stored dtypes. They are mapped from the file and take memory only as they are read,
        except for the pre-2020 ``torch.save`` format, which can't be mapped.

    Raises:
        CheckpointError: The file can't be read, is damaged, is no weights file, would run code, or holds no tensors.
    """
    path = Path(path)
    kind = _sniff(path)
    content = _read_safetensors(path) if kind == "safetensors" else _unpickle(path, mapped=kind == "zip")
    state = content.get("model", content) if isinstance(content, Mapping) else content
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(
            f"{path} holds no state dict: expected tensors by name, at the top or under 'model', and found "
            f"{_describe(content)}; is it an SDMatte checkpoint?"
        )
    tensors = {released_name(str(name)): tensor.detach() for name, tensor in state.items() if not _is_constant(name)}
    if len(tensors) != sum(not _is_constant(name) for name in state):
        raise CheckpointError(f"{path} holds tensors twice, under old and new names; {_CURE} or export it again")
    return tensors


def released_name(name: str) -> str:
    """Return the released name of a tensor that another library version, or DDP's ``module.``, named differently."""
    name = name.removeprefix("module.")
    clip_name = name.removeprefix("text_encoder.")
    if clip_name != name and clip_name.startswith(_CLIP_TEXT_MODEL):
        return f"text_encoder.text_model.{clip_name}"
    if name.startswith("vae.") and ".attentions." in name:  # diffusers before 0.18
        for old, new in _OLD_ATTENTION.items():
            name = name.replace(old, new)
    return name


def load_into(module: nn.Module, state: Mapping[str, Tensor], *, where: str, dtype: torch.dtype) -> None:
    """Load weights strictly: every tensor of the module, and nothing else.

    The module's tensors are replaced, not overwritten, so it may be on the meta device, and the peak is about one copy
    of the weights; they are on the CPU afterwards, and share memory with ``state`` where the dtype already fits.

    Args:
        module: Module whose tensor names are the released ones, up to :func:`released_name`.
        state: Tensors as from :func:`read_state_dict`.
        where: The file, for messages.
        dtype: Floating-point dtype of the module after loading.

    Raises:
        CheckpointError: Tensors are missing, unexpected, of another shape or not finite. The module is then unchanged.
    """
    targets = {released_name(name): (name, tensor) for name, tensor in module.state_dict().items()}
    found = {released_name(name): tensor for name, tensor in state.items()}
    missing = [name for name in targets if name not in found]
    unexpected = [name for name in found if name not in targets]
    misfits = [
        f"{name}: {_form(found[name])}, expected {_form(target)}"
        for name, (_, target) in targets.items()
        if name in found and _form(found[name]) != _form(target)
    ]
    if missing or unexpected or misfits:
        counts = [("missing", missing), ("unexpected", unexpected), ("of another shape", misfits)]
        listed = "".join(f"\n  {len(names)} {what}: {_some(names)}" for what, names in counts if names)
        cure = _cure(targets, found, missing, misfits)
        raise CheckpointError(
            f"the weights in {where} do not fit the model ({len(found)} tensors in the file, {len(targets)} in the "
            f"model):{listed}\n{cure}"
        )
    cast = {targets[n][0]: t.to(dtype) if t.is_floating_point() else t for n, t in found.items()}
    # A diverged training or a damaged file spoils the short tensors too; reading the others would cost seconds.
    broken = [name for name, tensor in cast.items() if tensor.ndim <= 1 and not tensor.isfinite().all()]
    if broken:
        raise CheckpointError(
            f"{where} holds NaN or infinite weights in {len(broken)} tensors: {_some(broken)}; {_CURE}, "
            "or use a checkpoint from before the training diverged"
        )
    module.load_state_dict(cast, strict=True, assign=True)


def sha256_file(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_state(module: nn.Module) -> str:
    """Return the SHA-256 of a module's tensors and their names, for weights that come from no file."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class ConvertedWeights:
    """What :func:`convert` wrote.

    Attributes:
        path: The safetensors file; ``<path>.sha256`` lies beside it.
        sha256: SHA-256 of the file, 64 hexadecimal digits.
        tensors: How many tensors it holds.
        bytes: Its size.
    """

    path: Path
    sha256: str
    tensors: int
    bytes: int


def convert(
    checkpoint: str | Path, out: str | Path, *, weights: str | None = None, revision: str | None = None
) -> ConvertedWeights:
    """Convert a checkpoint to weights-only safetensors, under the released names and in the stored dtypes.

    Beside the file goes ``<file>.sha256``, which ``sha256sum --check`` reads. Each appears complete or not at all.

    Args:
        checkpoint: A weights file, or anything else that :func:`sdmatte.locate.locate` takes.
        out: A path that ends in ``.safetensors``; or else a folder, made if need be, which then receives
            ``<checkpoint's stem>.safetensors`` and the configuration and tokenizer folders that the checkpoint came
            with, so that it can be loaded as a model folder.
        weights: Which of several weights files, as in ``locate``.
        revision: Hub revision, as in ``locate``.

    Raises:
        CheckpointError: The checkpoint can't be found or read, holds no U-Net, or ``out`` can't be written.
    """
    files = locate(checkpoint, weights=weights, revision=revision)
    state = read_state_dict(files.weights)
    if not any(name.startswith("unet.") for name in state):
        raise CheckpointError(
            f"{files.weights} is no SDMatte checkpoint: none of its {len(state)} tensors is called unet.*, "
            f"but {_some(list(state))}"
        )
    target = Path(out).expanduser()
    into_folder = target.suffix != ".safetensors" or target.is_dir()
    if into_folder and target.suffix in {".pth", ".pt", ".bin", ".ckpt"}:
        raise CheckpointError(f"convert writes safetensors: give {target.with_suffix('.safetensors')}, or a folder")
    try:
        if into_folder:
            target.mkdir(parents=True, exist_ok=True)
            _copy_configs(files, target)
            target /= f"{files.weights.stem}.safetensors"
        return write_safetensors(state, target)
    except OSError as error:
        raise CheckpointError(f"{target} can't be written: {error}; check the disk's space and permissions") from error


def write_safetensors(state: Mapping[str, Tensor], target: Path) -> ConvertedWeights:
    """Write tensors, and ``<target>.sha256`` beside them; each file appears complete or not at all.

    Args:
        state: Tensors on the CPU.
        target: The file; its folder is made if need be.

    Raises:
        OSError: It can't be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    checksum = target.with_name(f"{target.name}.sha256")
    try:
        ready = {name: tensor.contiguous() for name, tensor in state.items()}
        partial.touch()
        mode = partial.stat().st_mode  # the umask's, where safetensors would leave the file unreadable to others
        save_file(ready, partial, metadata={"format": "pt"})  # no more: several have no fixed order
        partial.chmod(mode)
        digest = sha256_file(partial)
        size = partial.stat().st_size
        partial.replace(target)
        partial.write_text(f"{digest}  {target.name}\n")
        partial.replace(checksum)
    except SafetensorError as error:  # how a full disk shows
        raise OSError(str(error)) from error
    finally:
        partial.unlink(missing_ok=True)
    return ConvertedWeights(target, digest, len(ready), size)


def _sniff(path: Path) -> Literal["safetensors", "zip", "pickle"]:
    """Tell what a file is from its first bytes, and explain what people mistake for weights."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise CheckpointError(f"the weights file {path} can't be read: {error.strerror}") from error
    if size == 0:
        raise CheckpointError(f"{path} is empty: an interrupted download; {_CURE}")
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{path} is a Git LFS pointer ({size} bytes), not the weights themselves; run `git lfs install` and then "
            "`git lfs pull` in its repository, or download the file from the model's page"
        )
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<error")):
        raise CheckpointError(
            f"{path} is a web page, not weights: the download was answered by a login or error page; {_CURE} "
            "by the file's direct link (on the hub: /resolve/, not /blob/)"
        )
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if head[8:9] == b"{":  # behind the header's length
        return "safetensors"
    if head.startswith(b"\x80"):
        return "pickle"
    raise CheckpointError(
        f"{path} ({size} bytes) is neither safetensors nor a torch checkpoint: it starts with {head[:16]!r}; {_CURE}"
    )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} ({path.stat().st_size} bytes) is truncated or damaged: {error}; {_CURE}"
        ) from error
    return tensors


def _unpickle(path: Path, *, mapped: bool) -> Any:
    """Read what ``torch.save`` wrote without running its code; ``mapped`` for the zip format."""
    try:
        with _harmless_globals():
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL ([\w.]+)|class '([\w.]+)'", str(error))
        if refused is None:
            reason = str(error).rpartition("WeightsUnpickler error:")[2].strip()
            raise CheckpointError(
                f"{path} is damaged, or no torch checkpoint: {_first_line(reason)}; {_CURE}"
            ) from error
        raise CheckpointError(
            f"{path} was refused: unpickling it would call {refused[1] or refused[2]}, which is not on the list of "
            "harmless names, so it may run code on this machine. Use a .safetensors file of the model; nothing was run"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:  # what torch's readers raise
        reason = _first_line(str(error) or repr(error))
        raise CheckpointError(
            f"{path} ({path.stat().st_size} bytes) is truncated or damaged: {reason}; {_CURE}"
        ) from error


class _Ignored:
    """Stands for an object beside the weights that is not needed: it takes any state, and keeps none."""

    def __new__(cls, *_args: object) -> Self:
        return super().__new__(cls)

    def __init__(self, *_args: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def _plain_dict(*_factory: object) -> dict[object, object]:
    return {}


@contextmanager
def _harmless_globals() -> Iterator[None]:
    """Allow what trainers keep beside the weights.

    That is NumPy scalars and arrays; and OmegaConf's containers, which got into the released checkpoints from
    detectron2's configuration by way of the optimiser's options. These are not restored: a stand-in takes their place.
    """
    make_scalar, make_array = np.float64(0).__reduce__()[0], np.zeros(0).__reduce__()[0]
    allowed: list[Any] = [np.ndarray, np.dtype, (_plain_dict, "collections.defaultdict")]
    allowed += [kind for name in np.dtypes.__all__ if (kind := getattr(np.dtypes, name)) is not np.dtypes.ObjectDType]
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):  # NumPy 1 and 2
        allowed += [(make_scalar, f"{module}.scalar"), (make_array, f"{module}._reconstruct")]
    with torch.serialization.safe_globals(allowed + [(_Ignored, name) for name in _IGNORED]):
        yield


def _is_constant(name: str) -> bool:
    return str(name).endswith("embeddings.position_ids")  # older transformers stored 0, 1, 2, ...


def _copy_configs(files: ModelFiles, target: Path) -> None:
    """Copy the configuration and tokenizer folders that came with the weights, unless they are there already."""
    if files.folder is None:
        return
    if (target / PARTS[0]).exists():
        if not files.configs.same_model(ModelConfigs.from_folder(target)):
            raise CheckpointError(
                f"{target} already holds another model's configuration; convert into a new or empty folder"
            )
        return
    for part in (*PARTS, "tokenizer"):
        if (files.folder / part).is_dir():
            shutil.copytree(files.folder / part, target / part, dirs_exist_ok=True, ignore=_weights_in)


def _weights_in(_folder: str, names: list[str]) -> list[str]:
    return [name for name in names if not name.endswith((".json", ".txt"))]


def _cure(targets: Collection[str], found: Collection[str], missing: Collection[str], misfits: Collection[str]) -> str:
    """Say what a mismatch most likely means, and what to do about it."""
    if not any(name in targets for name in found):
        return f"Nothing in the file belongs to the model, whose tensors are called {_some(list(targets))}."
    lite_file = any(name.startswith(LITE_MARK) for name in found)
    lite_model = any(name.startswith(LITE_MARK) for name in targets)
    if lite_file != lite_model and any(name.startswith("vae.encoder.") for name in found):
        kinds = ("LiteSDMatte", "SDMatte") if lite_file else ("SDMatte", "LiteSDMatte")
        return (
            f"These are {kinds[0]} weights, but the configuration is {kinds[1]}'s: put the unet/, vae/ and "
            f"text_encoder/ folders of LongfeiHuang/{kinds[0]} beside them, or load them from a folder without any."
        )
    if "unet.aux_conv_in.weight" in missing and any(name.startswith("unet.") for name in found):
        return "These look like plain Stable Diffusion weights, without SDMatte's layers: use an SDMatte checkpoint."
    if misfits:
        return "The configuration is another model's: use the configuration folders that came with these weights."
    if missing:
        return f"The file is incomplete, or of another architecture: {_CURE}, with its configuration folders."
    return "The file holds more than the model: check that its configuration folders are those it came with."


def _form(tensor: Tensor) -> str:
    kind = "" if tensor.is_floating_point() else f" {str(tensor.dtype).removeprefix('torch.')}"
    return f"{tuple(tensor.shape)}{kind}"


def _some(names: Collection[str]) -> str:
    shown = ", ".join(list(names)[:_SHOWN])
    return f"{shown}, ..." if len(names) > _SHOWN else shown


def _describe(content: Any) -> str:
    if isinstance(content, Mapping):
        return f"a dict with {_some([str(key) for key in content])}" if content else "an empty dict"
    return f"a {type(content).__name__}"


def _first_line(text: str) -> str:
    return text.partition("\n")[0][:300]
