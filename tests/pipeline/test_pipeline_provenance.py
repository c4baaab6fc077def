"""Where a run came from, without what nobody may see."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import sdmatte
from pipeline import provenance
from pipeline.provenance import code_version, library_versions, redact


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


@pytest.mark.parametrize(
    ("secret", "public"),
    [
        ("https://me:pass@host/a.jsonl", "https://host/a.jsonl"),
        ("https://token@host/a.jsonl", "https://host/a.jsonl"),
        ("https://me:p@ss@host/a.jsonl", "https://host/a.jsonl"),
        ("https://me:pa/ss@host/a.jsonl", "https://host/a.jsonl"),
        ("https://host/a.jsonl?X-Amz-Signature=abc&X-Amz-Date=1", "https://host/a.jsonl"),
        ("simplecache::s3://key:secret@bucket/a?versionId=3", "simplecache::s3://bucket/a"),
        ("abfs://container:key@account/a?sig=abc", "abfs://account/a"),
        ("can't read s3://k:s@bucket/a: denied", "can't read s3://bucket/a: denied"),
        (["s3://k:s@bucket", {"path": "s3://k:s@bucket"}, 1, None], ["s3://bucket", {"path": "s3://bucket"}, 1, None]),
    ],
)
def test_credentials_are_taken_out(secret: Any, public: Any) -> None:
    assert redact(secret) == public


@pytest.mark.parametrize(
    "plain",
    [
        "s3://bucket/shard-?.tar",
        "s3://bucket/shard-0000?/*.tar",
        "s3://bucket/me@work/a=1/b.tar",
        "http://host:8080/a@b.jpg",
        "abfs://container@account.dfs.core.windows.net/a.tar",
        "/data/what?/x=1.tar",
        "me@host",
        "file:///data/a.tar",
    ],
)
def test_other_text_stays(plain: str) -> None:
    assert redact(plain) == plain
