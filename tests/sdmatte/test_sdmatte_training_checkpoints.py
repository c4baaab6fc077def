"""Writing checkpoints where that fails."""

import os
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from sdmatte.errors import CheckpointError
from sdmatte.training import checkpoints
from sdmatte.training.checkpoints import save_tensors


@pytest.mark.parametrize(
    "fault", [SafetensorError("I/O error: No space left on device"), OSError(28, "No space left")]
)
def test_a_full_disk_is_named_and_the_earlier_file_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    path = tmp_path / "checkpoint.safetensors"
    save_tensors(path, {"a": torch.ones(1)})
    before = path.read_bytes()

    def full(_tensors: object, part: Path, **_: object) -> None:
        part.write_bytes(b"cut sho")
        raise fault

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(CheckpointError, match=r"checkpoint\.safetensors can't be written: .*No space left.*Make room"):
        save_tensors(path, {"a": torch.zeros(500_000)})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]  # noqa: PTH208 - names alone
