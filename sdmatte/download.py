"""Bringing remote models here: hub repositories through huggingface's cache, other URLs through a cache of our own.

Only the configuration folders, the tokenizer and the one chosen weights file are downloaded.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from sdmatte.errors import CheckpointError
from sdmatte.locate import WEIGHTS_SUFFIXES, choose_weights, config_names
from sdmatte.urls import redact

_log = logging.getLogger(__name__)

_Files = dict[str, Mapping[str, Any]]  # name in the model folder: what the filesystem says about the file
_VERSION_KEYS = ("ETag", "etag", "generation", "mtime", "LastModified", "last_modified", "created")
_PACKAGES = {  # of the filesystems that fsspec finds in other packages; for the rest fsspec's own words have to do
    **dict.fromkeys(("s3", "s3a"), "s3fs"),
    **dict.fromkeys(("gs", "gcs"), "gcsfs"),
    **dict.fromkeys(("az", "abfs", "abfss"), "adlfs"),
    **dict.fromkeys(("http", "https"), "aiohttp"),
}
_HUB_SECONDS = 5.0  # for one answer


def fetch_hub(repository: str, weights: str | None, revision: str | None) -> tuple[str, Path, Path]:
    """Download a model from the hub, or find it in the cache when the hub can't be reached.

    Args:
        repository: ``owner/name``.
        weights: Which weights file; see :func:`sdmatte.locate.choose_weights`.
        revision: Branch, tag or commit; ``main`` by default.

    Returns:
        The repository's name, the local folder, and the weights file in it.

    Raises:
        CheckpointError: There is no such repository or file, it is gated, or it is neither reachable nor cached.
    """
    import huggingface_hub as hub

    title = repository.split("/")[1]
    where = f"the hub repository {repository}" + (f" (revision {revision})" if revision else "")
    names, snapshot = _hub_names(repository, revision)
    if snapshot is not None:
        where = f"the cached copy of {where}"
    top = [name for name in names if "/" not in name]
    chosen = choose_weights(top, weights=weights, title=title, where=where, complete=snapshot is None)
    if snapshot is not None:
        return title, snapshot, snapshot / chosen
    try:
        configs = config_names(names)  # they are small, and first: a fault in them is found before the long download
        folder = Path(hub.snapshot_download(repository, revision=revision, allow_patterns=configs))
        return title, folder, Path(hub.hf_hub_download(repository, chosen, revision=revision))
    except Exception as error:  # noqa: BLE001 - disk, network, proxy: its exceptions differ between versions
        raise CheckpointError(
            f"{chosen} of {where} could not be downloaded: {redact(str(error))}; check the network and the disk's "
            "space, then try again: the download continues where it stopped"
        ) from None  # files come from signed URLs, which a traceback would print


def _hub_names(repository: str, revision: str | None) -> tuple[list[str], Path | None]:
    """List a repository's files: the hub's list, or what is cached, with the cache's folder."""
    from huggingface_hub import errors

    login = "log in with `hf auth login` or set HF_TOKEN"
    try:
        return _ask_hub(repository, revision), None
    except errors.GatedRepoError as error:
        raise CheckpointError(
            f"the hub repository {repository} is gated: accept its terms on https://huggingface.co/{repository}, "
            f"then {login}"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(f"the hub repository {repository} has no revision {revision!r}") from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise CheckpointError(
            f"{repository!r} is neither a folder here nor a repository on the hub. Check the path or the name; "
            f"if the repository is private, {login}"
        ) from error
    except Exception as error:  # noqa: BLE001 - offline, DNS, proxy, 5xx: whatever it is, the cache may do
        snapshot = _hub_snapshot(repository, revision, error)
    names = [path.relative_to(snapshot).as_posix() for path in sorted(snapshot.rglob("*")) if path.is_file()]
    return names, snapshot


def _ask_hub(repository: str, revision: str | None, *, retries: int = 1) -> list[str]:
    """Ask the hub for the names of a repository's files, and once more after a hiccup: 11 seconds at most."""
    import huggingface_hub as hub
    from huggingface_hub import errors

    try:  # not list_repo_files, which tries six times for half a minute where there is no network
        found = hub.HfApi().model_info(repository, revision=revision, timeout=_HUB_SECONDS)
        return [file.rfilename for file in found.siblings or ()]
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError):
        raise  # an answer, also for gated repositories
    except Exception as error:
        if not retries or isinstance(error, errors.OfflineModeIsEnabled):
            raise
    time.sleep(1.0)
    return _ask_hub(repository, revision, retries=retries - 1)


def _hub_snapshot(repository: str, revision: str | None, reason: Exception) -> Path:
    import huggingface_hub as hub
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:  # no pattern, so that no file counts as missing
        folder = hub.snapshot_download(repository, revision=revision, allow_patterns=[], local_files_only=True)
    except FileNotFoundError as error:
        at = f" at revision {revision!r}" if revision else ""
        raise CheckpointError(
            f"{repository!r} is not a folder here, and as a hub repository it is not in the cache{at}, while the hub "
            f"can't be reached ({type(reason).__name__}). Check the path; or, with a network, run "
            f"`hf download {repository}` once without HF_HUB_OFFLINE; HF_HUB_OFFLINE=1 then uses the cache at once"
        ) from error
    if not isinstance(reason, OfflineModeIsEnabled):
        _log.warning(
            "the hub can't be reached (%s): using the cached copy of %s; HF_HUB_OFFLINE=1 does so without asking",
            redact(str(reason)),
            repository,
        )
    return Path(folder)


def local_path(url: str) -> Path | None:
    """Return the path of a ``file://`` URL, and None for other URLs."""
    import fsspec.core
    from fsspec.implementations.local import LocalFileSystem

    if not url.startswith(("file://", "local://")):
        return None
    filesystem, path = fsspec.core.url_to_fs(url)
    assert isinstance(filesystem, LocalFileSystem)
    return Path(path)


def fetch_url(url: str, weights: str | None) -> tuple[str, Path, Path]:
    """Copy a model from any fsspec URL into the cache, once per version.

    The cache is ``$SDMATTE_CACHE``, ``~/.cache/sdmatte`` by default. A version is told by the files' sizes and ETags
    or, where the storage has none, times of change. Several processes may ask at once: one copies, the others wait.

    Args:
        url: A model folder, or a weights file whose configurations are looked for beside it.
        weights: Which weights file; see :func:`sdmatte.locate.choose_weights`.

    Returns:
        The folder's or file's name, the local folder, and the weights file in it.

    Raises:
        CheckpointError: It does not exist, or can't be read or copied.
    """
    shown = redact(url).rstrip("/")
    if urlsplit(shown).hostname in ("huggingface.co", "hf.co"):
        raise CheckpointError(f"{shown} is a page of the hub: give the repository as owner/name instead")
    try:
        return _copy_model(url, shown, weights)
    except CheckpointError:
        raise
    except FileNotFoundError as error:
        raise CheckpointError(f"{shown} does not exist, or is refused: {_reason(error, url)}; check the URL") from None
    except Exception as error:  # noqa: BLE001 - every fsspec filesystem brings exceptions of its own
        raise CheckpointError(
            f"the model at {shown} can't be copied: {_reason(error, url)}; check the URL, the credentials, "
            f"the network, and the space in {cache_folder()}"
        ) from None  # a traceback would print the original message


def cache_folder() -> Path:
    """Return the folder for copies of remote models: ``$SDMATTE_CACHE``, or ``~/.cache/sdmatte``."""
    return Path(os.environ.get("SDMATTE_CACHE") or "~/.cache/sdmatte").expanduser()


def _copy_model(url: str, shown: str, weights: str | None) -> tuple[str, Path, Path]:
    from filelock import FileLock

    filesystem, path = _filesystem(url, shown)
    filesystem.invalidate_cache()  # an earlier listing may be out of date
    title, chosen, files = _wanted(filesystem, path.rstrip("/"), shown, weights)
    version = json.dumps([shown, [(name, _version(info)) for name, info in sorted(files.items())]])
    folder = cache_folder() / f"{title}-{hashlib.sha256(version.encode()).hexdigest()[:16]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            partial = Path(f"{folder}.partial")
            shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
            for name, info in files.items():
                _copy_file(filesystem, info, partial / name)
            partial.rename(folder)
    return title, folder, folder / chosen


def _filesystem(url: str, shown: str) -> tuple[Any, str]:
    """Return the filesystem that a URL lies in, and the path there."""
    import fsspec
    import fsspec.core

    scheme = url.partition("://")[0].rpartition("::")[2]
    why, cure = f"fsspec knows no {scheme}:// URLs here", "check the URL, or install the package that reads them"
    try:
        if scheme in fsspec.available_protocols():
            filesystem, path = fsspec.core.url_to_fs(url)
            return filesystem, path
    except ImportError as error:  # its words name the package; its cause tells a missing one from a broken one
        why, cure = redact(str(error.__cause__ or error)), redact(str(error))
    if scheme in _PACKAGES:
        cure = f"pip install '{_PACKAGES[scheme]}'"
    raise CheckpointError(f"{shown} can't be read: {why}; {cure}")


def _wanted(filesystem: Any, path: str, shown: str, weights: str | None) -> tuple[str, str, _Files]:
    """Return the model's title, its weights file, and what to copy: local name to the file's info."""
    name = PurePosixPath(urlsplit(shown).path).name or urlsplit(shown).netloc
    if not name.endswith(WEIGHTS_SUFFIXES):
        entries = _entries(filesystem, path)
        chosen = choose_weights(list(entries), weights=weights, title=name, where=shown)
        return name, chosen, {chosen: entries[chosen], **_config_entries(filesystem, path)}
    if weights not in (None, name):
        raise CheckpointError(f"{shown} is a weights file already; leave out weights={weights!r}, or give its folder")
    files: _Files = {name: filesystem.info(path)}
    if not shown.startswith(("http://", "https://")):  # web servers have files, but no folders to look into
        files |= _config_entries(filesystem, path.rpartition("/")[0])
    return PurePosixPath(name).stem, name, files


def _config_entries(filesystem: Any, root: str) -> _Files:
    found: _Files = {}
    for part in ("unet", "vae", "text_encoder", "tokenizer"):
        try:
            entries = _entries(filesystem, f"{root}/{part}")
        except FileNotFoundError:
            continue
        found |= {f"{part}/{name}": info for name, info in entries.items()}
    return {name: found[name] for name in config_names(list(found))}


def _entries(filesystem: Any, folder: str) -> _Files:
    """Return the files of a remote folder, by name."""
    listing = filesystem.ls(folder, detail=True)
    return {PurePosixPath(info["name"]).name: info for info in listing if info["type"] == "file"}


def _version(info: Mapping[str, Any]) -> list[str]:
    """Say which version of a file this is: its size, and the first of ETag, generation or time of change there is."""
    mark = next((info[key] for key in _VERSION_KEYS if info.get(key)), "")
    return [str(info.get("size")), str(mark)]


def _copy_file(filesystem: Any, info: Mapping[str, Any], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    filesystem.get_file(info["name"], str(target))
    size, copied = info.get("size"), target.stat().st_size
    if size is not None and copied != size:
        raise OSError(f"{info['name']} has {size} bytes, and {copied} arrived")


def _reason(error: Exception, url: str) -> str:
    """Say what went wrong without the URL's secrets.

    Filesystems repeat a URL in many forms, decoded or without its scheme, and no pattern finds a password in them all:
    where the URL holds secrets, only the kind of fault is told.
    """
    # fsspec calls every refusal of a web server FileNotFoundError; the status is in the cause.
    statuses = [getattr(link, "status", None) for link in (error, error.__cause__)]
    kind = " ".join([type(error).__name__, *(f"(HTTP status {each})" for each in statuses if isinstance(each, int))])
    return f"{kind}: {redact(str(error))}" if redact(url) == url else kind
