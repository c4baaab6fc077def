"""Which files the configured paths name: folders, patterns of both kinds (``*``, ``{0..9}``), and lists of paths."""

from __future__ import annotations

import glob
import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from braceexpand import braceexpand

from pipeline import storage
from pipeline.config import LabelConfig
from pipeline.errors import BadInputError, ConfigurationError
from pipeline.sources.base import check_first, input_paths, no_inputs, some
from pipeline.sources.names import clean_name
from pipeline.sources.references import resolve
from pipeline.storage import FileInfo, NotFoundError, filesystem, is_local, is_url, is_web, public_uri, read_lines
from pipeline.storage_lookup import in_threads, look_up

MOST_PATHS = 1_000_000
"""Paths that a pattern with braces, or a list, may stand for."""

_NOT_READ = (
    *(".tar.lz4", ".tar.lzma", ".tar.br", ".tar.z", ".zip", ".7z", ".rar"),
    *(".jsonl.zst", ".ndjson.zst", ".csv.zst", ".jsonl.bz2", ".csv.bz2", ".jsonl.xz", ".csv.xz", ".xlsx"),
)  # what people may take for shards or manifests
_LIST = ".txt"
_MAGIC = re.compile(r"[*?\[{]")
_RANGE = re.compile(r"\{(-?\d+)\.\.(-?\d+)(?:\.\.-?\d+)?\}")

_log = logging.getLogger(__name__)


class _Path(NamedTuple):
    """One of several paths that a configured one stands for.

    Attributes:
        path: Path, URL or pattern without braces.
        base: What names are relative to, ending in ``/``; empty for whole paths and URLs.
    """

    path: str
    base: str


def list_inputs(config: LabelConfig, suffixes: tuple[str, ...]) -> dict[str, FileInfo]:
    """List the files of the configured paths, each once.

    A file that a list or a pattern with braces names is there even if the store has none (no size, no version): what
    reads it will find out, and say so. Only if none of a configured path's files is there is that a fault of the
    configuration.

    Returns:
        By name: relative to the folder or to the fixed part of the pattern (those of a list to its own folder), or,
        where that is ambiguous between several paths, the whole path or URL.

    Raises:
        ConfigurationError: A path has no such files, or they can't be read.
        TransientError: The store failed repeatedly.
    """
    files: dict[str, FileInfo] = {}
    for path in input_paths(config):
        several = _several(path, config)
        listed = _plain(path, suffixes, config) if several is None else _all_of(path, several, suffixes, config)
        passed_over = [file.name for file in listed if file.name.lower().endswith(_NOT_READ)]
        found = [file for file in listed if not file.name.lower().endswith(_NOT_READ)]
        if not found:
            raise no_inputs(path, f"no files that end in {', '.join(suffixes)}", config, passed_over)
        if passed_over:
            _log.warning("input.path %s: passed over %s", public_uri(path), some(passed_over))
        for file in found:
            files.setdefault(file.uri, file)
    check_first(files.values(), config)
    return _named(list(files.values()))


def _named(files: list[FileInfo]) -> dict[str, FileInfo]:
    counts = Counter(file.name for file in files)
    named: dict[str, FileInfo] = {}
    for file in files:
        name = clean_name(file.name if counts[file.name] == 1 else public_uri(file.uri))
        if name in named:
            raise ConfigurationError(
                f"input.path names two files as {name}: their URLs differ only in what stays out of records (user, "
                "password, query); keep one of them"
            )
        named[name] = file
    return named


def _plain(path: str, suffixes: tuple[str, ...], config: LabelConfig) -> list[FileInfo]:
    return storage.list_files(path, suffixes + _NOT_READ, retries=config.workers.retries)


def _all_of(path: str, several: list[_Path], suffixes: tuple[str, ...], config: LabelConfig) -> list[FileInfo]:
    """Return the files of all paths, in their order; such as are not there, too."""
    single = [one.path for one in several if _is_single(one.path, suffixes)]
    infos = look_up(single, retries=config.workers.retries)
    found: dict[str, list[FileInfo]] = {uri: [info] for uri, info in infos.items() if info}
    others = [one.path for one in several if one.path not in infos]
    found |= in_threads(lambda other: _plain(other, suffixes, config), dict.fromkeys(others))
    missing = list(dict.fromkeys(one.path for one in several if not found.get(one.path)))
    shown = some([public_uri(uri) for uri in missing])
    if len(missing) == len({one.path for one in several}):
        raise ConfigurationError(f"input.path {public_uri(path)}: none of its files is there: {shown}; correct it")
    if missing:
        _log.warning("input.path %s: not there, to become error records: %s", public_uri(path), shown)
    return [file for one in several for file in _renamed(one, found.get(one.path) or [_nothing(one)])]


def _is_single(path: str, suffixes: tuple[str, ...]) -> bool:
    name = path.lower()
    if is_web(name):  # nobody can list there, and ? begins a query
        return True
    return name.endswith(suffixes) and not glob.has_magic(path)


def _nothing(one: _Path) -> FileInfo:
    return FileInfo(one.path, public_uri(one.path).rpartition("/")[2], None, None)


def _renamed(one: _Path, files: list[FileInfo]) -> Iterator[FileInfo]:
    for file in files:
        name = public_uri(file.uri)
        base = one.base if name.startswith(one.base) else _canonical(one.base)
        yield FileInfo(file.uri, name.removeprefix(base), file.size, file.etag, file.version)


@cache
def _canonical(base: str) -> str:
    """Return the folder as listings call it, whatever alias of its protocol it was given with (``s3a://``)."""
    fs, inner = filesystem(base)
    return inner.rstrip("/") + "/" if is_local(fs) else fs.unstrip_protocol(inner).rstrip("/") + "/"


# --- patterns and lists ----------------------------------------------------------------------------------------------


def _several(path: str, config: LabelConfig) -> list[_Path] | None:
    """Return what a list or a pattern with braces stands for; None for other paths."""
    path = path if is_url(path) else Path(path).expanduser().absolute().as_posix()
    if path.partition("?")[0].lower().endswith(_LIST):
        return _of_list(path, config)
    expanded = _expanded(path)
    if expanded is None:
        return None
    base = public_uri(_MAGIC.split(path, maxsplit=1)[0].rpartition("/")[0] + "/")
    return [_Path(one, base) for one in expanded]


def _of_list(path: str, config: LabelConfig) -> list[_Path] | None:
    folder = public_uri(path.partition("?")[0].rpartition("/")[0] + "/")
    paths: list[_Path] = []
    try:
        with storage.open_stream(path, retries=config.workers.retries) as stream:
            for number, (_, line) in enumerate(read_lines(stream), 1):
                if line.strip() and not line.lstrip().startswith(b"#"):
                    paths += _of_line(path, folder, line.strip(), number, config)
                if len(paths) > MOST_PATHS:
                    raise _too_many(path)
    except NotFoundError:
        return None  # or it is a folder
    if not paths:
        raise ConfigurationError(f"input.path {public_uri(path)} is a list without a path; it has one per line")
    return paths


def _of_line(path: str, folder: str, line: bytes, number: int, config: LabelConfig) -> list[_Path]:
    where = f"input.path {public_uri(path)} line {number}"
    try:
        target = resolve(path, line.decode(), config.input.schemes)
        paths = _expanded(target) or [target]
    except (BadInputError, UnicodeDecodeError, ConfigurationError) as error:
        raise ConfigurationError(f"{where}: {error}") from None
    if target.lower().endswith(_LIST):
        raise ConfigurationError(f"{where}: {public_uri(target)!r} is a list again, which is not read")
    return [_Path(one, folder if public_uri(one).startswith(folder) else "") for one in paths]


def _expanded(path: str) -> Sequence[str] | None:
    """Return what a pattern with braces stands for; None for what is none, or the name of a local file."""
    if "{" not in path or (not is_url(path) and os.path.exists(path)):  # noqa: PTH110 - patterns may be too long
        return None
    try:
        if any(abs(int(last) - int(first)) >= MOST_PATHS for first, last in _RANGE.findall(path)):
            raise _too_many(path)
        paths = list(islice(braceexpand(path, escape=False), MOST_PATHS + 1))
    except ValueError as error:
        raise ConfigurationError(f"{public_uri(path)[:200]}: {str(error)[:200]}; correct its braces") from None
    if len(paths) > MOST_PATHS:
        raise _too_many(path)
    return paths


def _too_many(path: str) -> ConfigurationError:
    return ConfigurationError(f"{public_uri(path)[:200]} stands for more than {MOST_PATHS} paths; split it")
