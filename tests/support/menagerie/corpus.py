"""The zoo as a corpus: every bad input stands between good ones, and all that must come of it is known."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from support.menagerie import damaged, places, prompts, tars, unusual
from support.menagerie.animal import FRIEND_BOX, MAX_PER_IMAGE, OK, Animal, Fate, Home, Row, Shard, friend, lines
from support.menagerie.places import Entry
from support.menagerie.tar_bytes import member, tar

SETTINGS = (f"prompts.max_per_image={MAX_PER_IMAGE}", "input.images_per_shard=24")
"""What all corpora are labelled with, as overrides of the configuration."""

_PER_SHARD = 24
FRIENDS = "good neighbours"


@dataclass(frozen=True)
class Placed:
    """An input that stands somewhere in a corpus.

    Attributes:
        name: Of the animal; :data:`FRIENDS` for a good image beside it.
        about: What it is, in one line.
        fates: By place (shard or ``""``, and key), what the records there must say.
        size: Of the upright image in pixels, where that is to be looked at.
    """

    name: str
    about: str
    fates: Mapping[tuple[str, str], tuple[Fate, ...]]
    size: tuple[int, int] | None = None


@dataclass
class Corpus:
    """A corpus on disk.

    Attributes:
        home: What it is made of.
        overrides: Of the configuration, to label it with.
        groups: Animals by the heading they stand under; good neighbours under :data:`FRIENDS`.
    """

    home: Home
    overrides: tuple[str, ...]
    groups: dict[str, list[Placed]] = field(default_factory=dict)

    def add(self, group: str, placed: Placed) -> None:
        """Note what was placed."""
        self.groups.setdefault(group, []).append(placed)

    def befriend(self, shard: str, key: str) -> None:
        """Note a good neighbour."""
        self.add(FRIENDS, Placed(FRIENDS, "a photograph and its box", {(shard, key): (OK,)}))


def animals() -> dict[str, list[Animal]]:
    """Return all images and prompts of the zoo by heading."""
    return {
        "Images that end too early": damaged.cut_off(),
        "Damaged images": damaged.broken(),
        "Not an image, or none that is read": damaged.no_images(),
        "Bombs": damaged.bombs(),
        "Unusual samples": unusual.colours(),
        "Several pictures in one file": unusual.frames(),
        "EXIF": unusual.turned(),
        "Metadata": unusual.metadata(),
        "Shapes and names": unusual.shapes(),
        "Boxes": prompts.boxes(),
        "Points": prompts.points(),
        "Masks": prompts.masks(),
        "Mask files": prompts.mask_files(),
        "Prompts as a whole": prompts.objects(),
        "Text of prompt files": prompts.texts(),
    }


def shards() -> dict[str, list[Shard]]:
    """Return all tars of the zoo by heading."""
    return {
        "Damaged tars": tars.broken_off(),
        "Strange members of tars": tars.strange_members(),
        "Names and order in tars": tars.names_and_order(),
    }


def write_corpus(home: Home, folder: Path) -> Corpus:
    """Write the whole zoo in one form into a new folder."""
    folder.mkdir(parents=True)
    match home:
        case "tars":
            return _write_tars(folder)
        case "folder":
            return _write_folder(folder)
        case "manifest":
            return _write_manifest(folder)


def _at_home(home: Home) -> Iterator[tuple[str, Animal]]:
    for group, members in animals().items():
        yield from ((group, animal) for animal in members if home in animal.homes)


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


# --- tars ------------------------------------------------------------------------------------------------------------


def _write_tars(folder: Path) -> Corpus:
    corpus = Corpus("tars", ("input.kind=webdataset", f"input.path={folder}", *SETTINGS))
    living = list(_at_home("tars"))
    for number, start in enumerate(range(0, len(living), _PER_SHARD)):
        write_animals(corpus, folder / f"animals-{number:02}.tar", living[start : start + _PER_SHARD])
    for group, tars_of_group in shards().items():
        for shard in tars_of_group:
            write_shard(corpus, folder, group, shard)
    return corpus


def write_animals(corpus: Corpus, path: Path, some: Iterable[tuple[str, Animal]]) -> None:
    """Write a tar in which animals and good images take turns, and note them."""
    parts = []
    number = count()

    def befriend() -> None:
        key = f"friend-{next(number):02}"
        parts.append(tars.mate(key))
        corpus.befriend(path.name, key)

    befriend()
    for at, (group, animal) in enumerate(some):
        key = f"{at:02}-{_stem(animal.name)}"
        parts += _members(animal, key)
        corpus.add(group, Placed(animal.name, animal.about, {(path.name, key): animal.fates}, animal.size))
        befriend()
    path.write_bytes(tar(*parts))


def write_shard(corpus: Corpus, folder: Path, group: str, shard: Shard) -> None:
    """Write a tar as it is, and note what it holds."""
    (folder / shard.name).write_bytes(shard.data)
    fates: dict[tuple[str, str], tuple[Fate, ...]] = {}
    for key, fate in shard.records:
        if key in shard.friends:
            corpus.befriend(shard.name, key)
        else:
            place = (shard.name, key)
            fates[place] = (*fates.get(place, ()), fate)
    corpus.add(group, Placed(shard.name, shard.about, fates))


def _members(animal: Animal, key: str) -> list[bytes]:
    image = f"{key}{Path(animal.name).suffix}"
    beside = {} if animal.prompts is None else {"prompts.jsonl": lines(animal.prompts)}
    files = beside | dict(animal.files)
    return [member(image, animal.image), *(member(f"{key}.{name}", data) for name, data in files.items())]


# --- folders ---------------------------------------------------------------------------------------------------------


def _write_folder(folder: Path) -> Corpus:
    images = folder / "images"
    (images / "odd").mkdir(parents=True)
    corpus = Corpus("folder", ("input.kind=folder", f"input.path={images}", *SETTINGS))
    _befriend(corpus, images, "000-friend")
    for number, (group, animal) in enumerate(_at_home("folder"), 1):
        name = f"{number:03}-{animal.name}"
        (images / name).write_bytes(animal.image)
        beside = _beside(animal, _stem(name))
        for file, data in beside.items():
            (images / file).write_bytes(data)
        if animal.prompts is not None:
            texts = animal.prompts if isinstance(animal.prompts, bytes) else _named(animal, _stem(name))
            (images / f"{_stem(name)}.prompts.jsonl").write_bytes(lines(texts))
        corpus.add(group, Placed(animal.name, animal.about, {("", name): animal.fates}, animal.size))
        _befriend(corpus, images, f"{number:03}-zz-friend")
    outside = folder / "outside.jpg"
    outside.write_bytes(friend())
    for number, entry in enumerate(places.entries(outside)):
        _put(corpus, images / "odd", entry)
        _befriend(corpus, images, f"odd/friend-{number:02}")
    return corpus


def _put(corpus: Corpus, folder: Path, entry: Entry) -> None:
    path = Path(os.fsdecode(os.fsencode(folder) + b"/" + entry.name))
    entry.put(path)
    if entry.prompts is not None:
        path.with_name(f"{_stem(path.name)}.prompts.jsonl").write_bytes(entry.prompts)
    fates = {} if entry.key is None else {("", f"odd/{entry.key}"): entry.fates}
    name = entry.name.decode(errors="backslashreplace").replace("\n", "\\n")
    corpus.add("Odd entries of folders", Placed(name, entry.about, fates))


def _befriend(corpus: Corpus, folder: Path, stem: str) -> None:
    (folder / f"{stem}.jpg").write_bytes(friend())
    (folder / f"{stem}.prompts.jsonl").write_bytes(lines([FRIEND_BOX]))
    corpus.befriend("", f"{stem}.jpg")


def _beside(animal: Animal, stem: str) -> dict[str, bytes]:
    return {f"{stem}.{name}": data for name, data in animal.files.items()}


def _named(animal: Animal, stem: str) -> Sequence[Any]:
    """Return prompts whose masks have the names that they have in a folder."""
    assert not isinstance(animal.prompts, bytes)
    return [
        each | {"mask": f"{stem}.{each['mask']}"}
        if isinstance(each, dict) and each.get("mask") == "mask.png"
        else each
        for each in animal.prompts or ()
    ]


# --- manifests -------------------------------------------------------------------------------------------------------


def _write_manifest(folder: Path) -> Corpus:
    images = folder / "images"
    images.mkdir()
    corpus = Corpus("manifest", ("input.kind=manifest", f"input.path={folder / 'manifest.jsonl'}", *SETTINGS))
    (images / "photo.jpg").write_bytes(friend())
    (folder / "circle.jpg").symlink_to("circle.jpg")
    written: list[bytes] = []

    def befriend() -> None:
        key = f"friend-{len(written):03}"
        written.append(json.dumps({"image": "images/photo.jpg", "key": key, "prompts": [FRIEND_BOX]}).encode())
        corpus.befriend("", key)

    befriend()
    for group, animal in _at_home("manifest"):
        (images / animal.name).write_bytes(animal.image)
        for file, data in _beside(animal, _stem(animal.name)).items():
            (images / file).write_bytes(data)
        row: dict[str, Any] = {"image": f"images/{animal.name}", "key": animal.name}
        if animal.prompts is not None:
            row["prompts"] = _named(animal, f"images/{_stem(animal.name)}")
        written.append(json.dumps(row).encode())
        corpus.add(group, Placed(animal.name, animal.about, {("", animal.name): animal.fates}, animal.size))
        befriend()
    for line in places.rows():
        _add_row(corpus, written, line)
        befriend()
    (folder / "manifest.jsonl").write_bytes(b"\n".join(written) + b"\n")
    return corpus


def _add_row(corpus: Corpus, written: list[bytes], row: Row) -> None:
    key = row.key or f"line-{len(written) + 1}"
    written.extend(row.line.replace(b"@photo", b"images/photo.jpg").split(b"\n"))
    corpus.add("Rows of manifests", Placed(row.name, row.about, {("", key): row.fates}))
