"""Where a run came from, without what nobody may see."""

import subprocess
import sys
from pathlib import Path

import pytest

import sdmatte
from pipeline import provenance
from pipeline.provenance import code_version, library_versions


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git checkout in which the module lies as `pipeline/provenance.py`."""
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)  # set where the suite runs in a hook
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    module = tmp_path / "checkout/pipeline/provenance.py"
    module.parent.mkdir(parents=True)
    module.write_text("")
    git(tmp_path, "init", "-q", "checkout")
    monkeypatch.setattr(provenance, "__file__", str(module))
    return tmp_path / "checkout"


def test_the_commit_of_a_checkout(checkout: Path) -> None:
    git(checkout, "add", ".")
    git(checkout, "commit", "-qm", "first")
    commit = git(checkout, "rev-parse", "HEAD")
    assert code_version() == {"version": sdmatte.__version__, "commit": commit, "modified": False}
    (checkout / "untracked").write_text("")
    assert code_version()["modified"] is False
    (checkout / "pipeline/provenance.py").write_text("changed")
    assert code_version() == {"version": sdmatte.__version__, "commit": commit, "modified": True}


def test_another_projects_checkout_around_the_installed_package_is_not_ours(checkout: Path) -> None:
    (checkout / "readme").write_text("")
    git(checkout, "add", "readme")
    git(checkout, "commit", "-qm", "first")
    assert code_version() == {"version": sdmatte.__version__, "commit": None, "modified": None}


def test_without_git_there_is_a_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert code_version() == {"version": sdmatte.__version__, "commit": None, "modified": None}


def test_library_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "LIBRARIES", (*provenance.LIBRARIES, "no-such-distribution"))
    versions = library_versions()
    assert versions["python"] == sys.version.split()[0]
    assert {"ray", "torch", "pyarrow"} <= versions.keys()
    assert "no-such-distribution" not in versions
