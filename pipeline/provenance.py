"""What a run records about its origin: code, libraries, model and configuration, and never a credential."""

from __future__ import annotations

import platform
import shutil
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import sdmatte

LIBRARIES = (
    "diffusers",
    "fsspec",
    "numpy",
    "opencv-python-headless",
    "pillow",
    "pyarrow",
    "ray",
    "s3fs",
    "torch",
    "transformers",
)
"""Distributions that can change a matte or how it is stored."""

_GIT_SECONDS = 10  # a working tree on a hanging network drive must not hold up the job


@dataclass(frozen=True)
class ModelIdentity:
    """The model that makes a run's mattes.

    Attributes:
        name: For people.
        weights_sha256: SHA-256 of the weights, 64 hexadecimal digits.
        precision: What it computes in, resolved: float32, bfloat16 or float16.
        input_size: Side of its square input, resolved (unit: pixel).
        second_weights_sha256: Of the model of the second pass, where that is another (`quality.second: model`).
        second_size: Side of the second pass's input, resolved (unit: pixel); None without a second pass.
    """

    name: str
    weights_sha256: str
    precision: str
    input_size: int
    second_weights_sha256: str | None = None
    second_size: int | None = None


def code_version() -> dict[str, Any]:
    """Return the version of this program.

    Returns:
        `version` of the package; where the package is run from a git checkout also `commit`, the full hash, and
        `modified`, whether tracked files differ from it. Both are None elsewhere (as for `ray job submit`, which
        leaves `.git` behind).
    """
    commit, modified = _git_state(Path(__file__))
    return {"version": sdmatte.__version__, "commit": commit, "modified": modified}


def _git_state(file: Path) -> tuple[str | None, bool | None]:
    # A virtual environment often lies inside some other project's checkout: only a tracked file tells.
    if _git(file.parent, "ls-files", "--error-unmatch", file.name) is None:
        return None, None
    commit = _git(file.parent, "rev-parse", "HEAD")
    changes = _git(file.parent, "status", "--porcelain", "--untracked-files=no")
    return commit, None if changes is None else bool(changes)


def _git(folder: Path, *arguments: str) -> str | None:
    """Return what git prints; None where it fails, or isn't there."""
    program = shutil.which("git")
    if program is None:
        return None
    try:
        done = subprocess.run(  # noqa: S603 - constant arguments, no shell
            [program, "-C", str(folder), *arguments], capture_output=True, text=True, timeout=_GIT_SECONDS, check=True
        )
    except (subprocess.SubprocessError, OSError):
        return None
    return done.stdout.strip()


def library_versions() -> dict[str, str]:
    """Return the versions of Python and of the :data:`LIBRARIES` that are installed here, without importing them."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
