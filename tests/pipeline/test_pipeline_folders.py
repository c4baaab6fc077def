"""Folders that a job writes into."""

from pathlib import Path

import pytest

from pipeline.errors import ConfigurationError
from pipeline.folders import require_empty


@pytest.mark.parametrize("name", ["new", "set[1]", "what?*"])
def test_new_and_empty_folders_will_do(tmp_path: Path, name: str) -> None:
    (tmp_path / "set1").mkdir()
    (tmp_path / "set1" / "file").write_bytes(b"")  # what set[1] would mean as a pattern
    require_empty(str(tmp_path / name), "the export")
    (tmp_path / name).mkdir()
    require_empty(str(tmp_path / name), "the export")


@pytest.mark.parametrize("name", ["full", "set[1]", "what?*"])
def test_a_folder_that_holds_something_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name / "below").mkdir(parents=True)
    (tmp_path / name / "below" / "file").write_bytes(b"")
    with pytest.raises(ConfigurationError, match=r"is not empty, and the export overwrites nothing"):
        require_empty(str(tmp_path / name), "the export")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigurationError):
        require_empty(str(tmp_path / "file"), "the export")


def test_object_stores_too() -> None:
    import fsspec

    fsspec.filesystem("memory").pipe("/full/file", b"x")
    try:
        with pytest.raises(ConfigurationError, match="memory://full is not empty"):
            require_empty("memory://full", "the export")
    finally:
        fsspec.filesystem("memory").rm("/full", recursive=True)
