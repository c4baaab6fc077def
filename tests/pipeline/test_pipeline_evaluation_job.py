"""Which run an evaluation uses again."""

from pathlib import Path

import pytest

from pipeline.evaluation import job


@pytest.mark.parametrize("bundled", [True, False])
def test_a_model_that_is_trained_on_gets_a_run_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundled: bool
) -> None:
    weights = tmp_path / "model.safetensors"
    monkeypatch.setattr(job, "packaged_folder", lambda name: tmp_path)
    source = "sdmatte-nano" if bundled else str(tmp_path)
    weights.write_bytes(b"1234")
    before = job._weights_state(source)
    assert [name for name, *_ in before] == ["model.safetensors"]
    assert job._weights_state(source) == before
    weights.write_bytes(b"12345")
    assert job._weights_state(source) != before
