"""Image files below a folder; the prompts of ``cat.jpg`` stand beside it in ``cat.prompts.jsonl``."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from pipeline import storage
from pipeline.config import LabelConfig
from pipeline.errors import BadInputError, ErrorCode, TransientError
from pipeline.ids import image_id, key_hash, show
from pipeline.prompt_formats import label_files
from pipeline.prompt_formats.label_files import LabelFiles
from pipeline.prompts import MAX_BYTES, MAX_PROMPTS, RawPrompt, too_many_bytes, too_many_prompts, unreadable_prompts
from pipeline.sources.base import (
    Sample,
    Shard,
    check_first,
    fetch,
    fetch_mask,
    input_paths,
    no_inputs,
    parse_prompts,
)
from pipeline.sources.folder_versions import FolderVersions
from pipeline.sources.names import IMAGE_EXTENSIONS, PROMPT_EXTENSIONS, clean_name, foreign, image_kind
from pipeline.sources.references import inside
from pipeline.storage import FileInfo, NotFoundError, RefusedError, public_uri

_MASK = re.compile(r"\.mask[^./]*\.png$", re.IGNORECASE)
_MASK_FOLDER = "masks"


class FolderSource:
    """Images below one or several folders; keys are their paths relative to the folder.

    Shards are cut where the name of a file says so, not by counting: a file that is added or deleted while a run is
    interrupted changes the shard it is in, and no other.
    """

    def __init__(self, config: LabelConfig) -> None:
        self._config = config
        self._labels = LabelFiles.beside(config)
        self._inline = config.prompts.kind == "inline" or self._labels is not None

    def shards(self) -> list[Shard]:
        """See :class:`pipeline.sources.base.Source`."""
        roots = input_paths(self._config)
        names = [posixpath.basename(root.rstrip("/")) for root in roots]
        if len(roots) == 1:
            names = [""]
        elif len(set(names)) < len(names):
            names = [public_uri(root) for root in roots]
        return [shard for name, root in zip(names, roots, strict=True) for shard in self._shards_below(root, name)]

    def _shards_below(self, path: str, name: str) -> Iterator[Shard]:
        files = storage.list_files(path, retries=self._config.workers.retries)
        root = files[0].uri.removesuffix(files[0].name).rstrip("/") if files else path
        visible = [file for file in files if not _is_hidden(file.name)]
        items = _items(visible, inline=self._inline, labels=self._labels)
        if not any(item["is_image"] for item in items):
            raise no_inputs(path, f"no images ({', '.join(sorted(IMAGE_EXTENSIONS))})", self._config)
        check_first(visible, self._config)
        versions = FolderVersions(visible, [file for file in visible if _is_mask(file.name)])
        for boundary, chunk in _chunks(items, self._config.input.images_per_shard):
            spec = {"root": root, "name": name, "items": chunk}
            yield Shard(posixpath.join(clean_name(name), f"images-{boundary}"), spec, versions.of(chunk))

    def read(self, shard: Shard) -> Iterator[Sample]:
        """See :class:`pipeline.sources.base.Source`."""
        for item in shard.spec["items"]:
            yield self._sample(shard, item)

    def _sample(self, shard: Shard, item: dict[str, Any]) -> Sample:
        root, path = shard.spec["root"], item["path"]
        uri = storage.join(root, path)
        data: bytes | None = None
        error: BadInputError | TransientError | None = None
        prompts: list[RawPrompt] = []
        known = False
        try:
            for name in item["prompts"]:
                size = item.get("large", {}).get(name)  # plans of earlier versions have no such key
                prompts += self._prompts(storage.join(root, name), size, MAX_PROMPTS - len(prompts))
            known = True
            data = self._data(uri, item)
        except (BadInputError, TransientError) as fault:
            error = fault
        key = clean_name(path)
        return Sample(
            key=key,
            image_id=image_id(clean_name(shard.spec["name"]), key),
            uri=clean_name(public_uri(uri)),
            path=key,
            etag=item["etag"],
            data=data,
            prompts=prompts if self._inline else None,
            error=error,
            load_mask=partial(self._mask, root, posixpath.dirname(path)),
            prompts_known=known,
        )

    def _data(self, uri: str, item: dict[str, Any]) -> bytes:
        if item["owner"] is not None:
            raise BadInputError(
                ErrorCode.DUPLICATE_KEY,
                f"its prompts file is also that of {item['owner']}, which has them; rename one of the images",
            )
        if not item["is_image"]:
            raise BadInputError(ErrorCode.IMAGE_MISSING, "there are prompts, but no image beside them")
        if image_kind(item["path"]) == "foreign":
            raise foreign(item["path"])
        return fetch(uri, item["size"], self._config)

    def _prompts(self, uri: str, too_large: int | None, limit: int) -> list[RawPrompt]:
        where = clean_name(public_uri(uri))
        if too_large is not None:
            return [too_many_bytes(where, too_large, _most(self._labels))]
        try:
            data = storage.read_bytes(uri, retries=self._config.workers.retries)
        except (NotFoundError, RefusedError) as error:
            return [unreadable_prompts(where, str(error))]
        found = self._labels.parse(data, where) if self._labels else parse_prompts(uri, data, where)
        return found if len(found) <= limit else [too_many_prompts(where)]

    def _mask(self, root: str, folder: str, name: str) -> bytes:
        return fetch_mask(inside(root, folder, name), self._config)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or "/." in name


def _is_mask(name: str) -> bool:
    return _MASK.search(name) is not None or _MASK_FOLDER in name.lower().split("/")[:-1]


def _items(files: list[FileInfo], *, inline: bool, labels: LabelFiles | None) -> list[dict[str, Any]]:
    """Return images, and prompts files without one, sorted by path; as they stand in a shard's `items`."""
    beside: dict[str, list[str]] = {}
    images: list[FileInfo] = []
    for file in files:
        folder, slash, base = file.name.rpartition("/")
        ending = next((ending for ending in PROMPT_EXTENSIONS if base.lower().endswith(f".{ending}")), None)
        if labels and labels.holds_prompts(file.name):
            beside.setdefault(_stem(file.name), []).append(file.name)
        elif ending and inline and not labels:
            beside.setdefault(f"{folder}{slash}{base[: -len(ending) - 1]}", []).append(file.name)
        elif image_kind(base) and not _is_mask(file.name):
            images.append(file)
    readable = {_stem(image.name) for image in images if image_kind(image.name) == "image"}
    # A camera's raw file beside its JPEG is the same picture.
    images = [image for image in images if image_kind(image.name) == "image" or _stem(image.name) not in readable]
    if labels:
        _join_label_folders(beside, {_stem(image.name) for image in images})
    owners: dict[str, str] = {}
    items = []
    for image in images:
        stem = _stem(image.name)
        owner = owners.setdefault(stem, image.name) if stem in beside else image.name
        mine = beside.get(stem, []) if owner == image.name else []
        items.append(_item(image.name, image, mine, None if owner == image.name else owner))
    items += [_item(stem, None, names, None) for stem, names in beside.items() if stem not in owners]
    large = {file.name: file.size for file in files if (file.size or 0) > _most(labels)}
    for item in items:
        item["large"] = {name: large[name] for name in item["prompts"] if name in large}
    return sorted(items, key=lambda item: str(item["path"]))


def _join_label_folders(beside: dict[str, list[str]], images: set[str]) -> None:
    """Give ``images/x.jpg`` the file ``labels/x.txt``, as data sets for YOLO are laid out, unless one is beside it."""
    for stem in [stem for stem in beside if stem not in images]:
        head, labels, tail = f"/{stem}".rpartition("/labels/")
        image = f"{head}/images/{tail}".removeprefix("/")
        if labels and image in images and image not in beside:
            beside[image] = beside.pop(stem)


def _most(labels: LabelFiles | None) -> int:
    """Return how many bytes a prompts file may have."""
    return label_files.MAX_BYTES if labels else MAX_BYTES


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def _item(path: str, image: FileInfo | None, prompts: list[str], owner: str | None) -> dict[str, Any]:
    return {
        "path": path,
        "is_image": image is not None,
        "size": image.size if image else None,
        "etag": image.etag if image else None,
        "prompts": prompts,
        "owner": owner,  # the image that has the prompts which would be this one's, too
    }


def _chunks(items: Iterable[dict[str, Any]], size: int) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Cut at items whose hash is a multiple of `size`: chunks have that many on average, and a name of their own."""
    name = "first"
    chunk: list[dict[str, Any]] = []
    for item in items:
        digest = key_hash(clean_name(item["path"]))
        if digest % size == 0 and chunk:
            yield name, chunk
            chunk = []
        if digest % size == 0:
            name = show(digest)
        chunk.append(item)
    if chunk:
        yield name, chunk
