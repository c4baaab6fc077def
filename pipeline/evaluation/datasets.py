"""The public data sets as their authors ship them, and generic folders: which image belongs to which true alpha.

A layout says where images, alphas and trimaps lie and how their names go together; nothing is opened here but the
small lists of names that some sets bring along. What is missing becomes a :class:`Fault`, and never an exception. What
is known of the layouts, and from where, is written in docs/evaluation.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.errors import ConfigurationError
from pipeline.sources.names import image_kind

TRANSPARENT_LIST = "transparent.txt"
"""A file in any set's folder that names the transparent objects, one per line, with or without extension."""

_NUMBERED = re.compile(r"(.+)_\d+")


@dataclass(frozen=True, slots=True)
class Layout:
    """How a data set lies on the disk.

    Attributes:
        title: Of the set, as in the paper's table; empty for generic folders, which are called like themselves.
        images: Name of the folder of images; of several the first that is there.
        alphas: Likewise of true alphas.
        trimaps: Likewise of trimaps; may be missing altogether.
        below: Where these folders lie below the set's; the first place that has images and alphas is taken.
        complete: Images of the complete set; None where it has no fixed size.
        numbered: An image may have several objects: `<image>_0.png`, `<image>_1.png`, ...
        labels: JSON that names the image of each alpha: `{"<alpha>": {"image_name": "<image>"}}`.
        categories: JSON with the category of each image: `{"<image>": {"category": "transparent"}}`.
    """

    title: str
    images: tuple[str, ...]
    alphas: tuple[str, ...]
    trimaps: tuple[str, ...]
    below: tuple[str, ...] = ("",)
    complete: int | None = None
    numbered: bool = False
    labels: str | None = None
    categories: str | None = None


LAYOUTS: Mapping[str, Layout] = {
    "aim-500": Layout(
        *("AIM-500", ("original",), ("mask",), ("trimap",)),
        below=("", "validation"),
        complete=500,
        categories="aim_category_type.json",
    ),
    "am-2k": Layout("AM-2K", ("original",), ("mask",), ("trimap",), below=("validation", ""), complete=200),
    "p3m-500-np": Layout(
        *("P3M-500-NP", ("original_image",), ("mask",), ("trimap",)),
        below=("", "P3M-500-NP", "validation/P3M-500-NP"),
        complete=500,
    ),
    "refmatte-rw-100": Layout(
        *("RefMatte-RW-100", ("image", "img"), ("mask",), ("trimap",)),
        complete=100,
        numbered=True,
        labels="refmatte_rw100_label.json",
    ),
    "folder": Layout("", ("image",), ("alpha",), ("trimap",), numbered=True),
}
"""The layouts by the names that the command line knows them by."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A file that is missing, or can't be used.

    Attributes:
        where: The set's title and the file, for people.
        message: What is wrong, and what follows from it.
    """

    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


@dataclass(frozen=True, slots=True)
class Case:
    """One object with its true alpha.

    Attributes:
        dataset: Title of its set.
        key: Stem of the alpha file; unique in the set.
        image: File of the photograph.
        alpha: File of the true alpha.
        trimap: File of the trimap, if the set has one for it.
        transparent: The object lets light through.
    """

    dataset: str
    key: str
    image: Path
    alpha: Path
    trimap: Path | None = None
    transparent: bool = False


@dataclass(frozen=True)
class Dataset:
    """A data set in a folder.

    Attributes:
        layout: How it lies there.
        root: The folder.
    """

    layout: Layout
    root: Path

    @property
    def title(self) -> str:
        """Its name in tables."""
        return self.layout.title or self.root.resolve().name


@dataclass(frozen=True)
class Listing:
    """What a folder holds of a set.

    Attributes:
        dataset: The set.
        cases: Its objects, sorted by key.
        images: How many photographs they are on.
        faults: What is missing.
    """

    dataset: Dataset
    cases: tuple[Case, ...]
    images: int
    faults: tuple[Fault, ...] = field(default=())


def parse_dataset(
    text: str, *, image: str | None = None, alpha: str | None = None, trimap: str | None = None
) -> Dataset:
    """Read a data set as the command line names it.

    Args:
        text: `<layout>=<folder>`, such as `aim-500=/data/AIM-500`.
        image: Name of the folder of images, for the layout `folder` alone.
        alpha: Likewise of the alphas.
        trimap: Likewise of the trimaps.

    Raises:
        ConfigurationError: No such layout.
    """
    name, equals, root = text.partition("=")
    layout = LAYOUTS.get(name.lower())
    if layout is None or not equals or not root:
        raise ConfigurationError(
            f"{text!r} is not of the form <layout>=<folder>; layouts are {', '.join(LAYOUTS)}, "
            "such as folder=/data/mine for image/ and alpha/"
        )
    if name.lower() == "folder":
        layout = replace(
            layout,
            images=(image,) if image else layout.images,
            alphas=(alpha,) if alpha else layout.alphas,
            trimaps=(trimap,) if trimap else layout.trimaps,
        )
    return Dataset(layout, Path(root).expanduser())


def find_cases(dataset: Dataset) -> Listing:
    """List a set's objects.

    Raises:
        ConfigurationError: The folder is not there, lacks the layout's folders, or holds no image with an alpha.
    """
    layout, top = dataset.layout, _top(dataset)
    faults: list[Fault] = []
    images = _by_stem(dataset, _folder(top, layout.images), faults)
    alphas = _by_stem(dataset, _folder(top, layout.alphas), faults)
    trimap_folder = _folder(top, layout.trimaps)
    trimaps = _by_stem(dataset, trimap_folder, faults) if trimap_folder else {}
    image_names = _image_names(dataset, top, faults)
    transparent = _transparent(dataset, top, faults)

    cases: list[Case] = []
    used: set[str] = set()
    for key, alpha in alphas.items():
        name = _image_of(key, images, image_names, layout)
        if name is None:
            faults.append(_fault(dataset, alpha, "no image belongs to this alpha; it is left out"))
            continue
        used.add(name)
        trimap = trimaps.get(key)
        if trimap is None and trimap_folder:
            faults.append(_fault(dataset, trimap_folder / f"{key}.png", "missing; a trimap is derived from the alpha"))
        is_transparent = bool({key, name} & transparent)
        cases.append(Case(dataset.title, key, images[name], alpha, trimap, is_transparent))
    faults += [
        _fault(dataset, images[name], "no true alpha belongs to this image; it is left out")
        for name in images
        if name not in used
    ]
    if not cases:
        first = faults[0] if faults else "its folders are empty"
        raise ConfigurationError(f"{dataset.root}: no image has an alpha of the same name; {first}")
    return Listing(dataset, tuple(cases), len(used), tuple(faults))


def _top(dataset: Dataset) -> Path:
    layout = dataset.layout
    for below in layout.below:
        top = dataset.root / below
        if _folder(top, layout.images) and _folder(top, layout.alphas):
            return top
    wanted = " or ".join(f"{below or '.'}/" for below in layout.below)
    raise ConfigurationError(
        f"{dataset.root} is not laid out as expected: {'/'.join(layout.images)} and {'/'.join(layout.alphas)} are not "
        f"in {wanted}; give the folder that the set was unpacked into"
    )


def _folder(top: Path, names: tuple[str, ...]) -> Path | None:
    return next((top / name for name in names if (top / name).is_dir()), None)


def _by_stem(dataset: Dataset, folder: Path | None, faults: list[Fault]) -> dict[str, Path]:
    """Return the images of a folder by stem, sorted."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder else ():
        if path.name.startswith(".") or not path.is_file() or image_kind(path.name) is None:
            continue
        if path.stem in found:
            faults.append(_fault(dataset, path, f"{found[path.stem].name} has the same name; this one is left out"))
        else:
            found[path.stem] = path
    return found


def _image_of(key: str, images: Mapping[str, Path], names: Mapping[str, str], layout: Layout) -> str | None:
    """Return the stem of an alpha's image."""
    numbered = _NUMBERED.fullmatch(key) if layout.numbered else None
    for name in (names.get(key), key, numbered[1] if numbered else None):
        if name is not None and name in images:
            return name
    return None


def _image_names(dataset: Dataset, top: Path, faults: list[Fault]) -> dict[str, str]:
    """Return the stem of each alpha's image, as far as the set's labels tell."""
    labels = _json(dataset, top, dataset.layout.labels, faults, "images are found by the names of their alphas")
    return {
        key: Path(label["image_name"]).stem
        for key, label in labels.items()
        if isinstance(label, dict) and isinstance(label.get("image_name"), str)
    }


def _transparent(dataset: Dataset, top: Path, faults: list[Fault]) -> set[str]:
    """Return the stems of transparent objects, or of their images."""
    listed = next(
        (place / TRANSPARENT_LIST for place in (top, dataset.root) if (place / TRANSPARENT_LIST).is_file()), None
    )
    if listed is not None:
        lines = listed.read_text(encoding="utf-8", errors="replace").splitlines()
        return {_stem(line.strip()) for line in lines if line.strip()}
    categories = _json(dataset, top, dataset.layout.categories, faults, "all objects are prompted as opaque")
    return {
        _stem(name)
        for name, entry in categories.items()
        if isinstance(entry, dict) and entry.get("category") == "transparent"
    }


def _stem(name: str) -> str:
    return Path(name).stem if image_kind(name) else name


def _json(dataset: Dataset, top: Path, name: str | None, faults: list[Fault], consequence: str) -> dict[str, object]:
    """Read an object of a file that the set should have."""
    if name is None:
        return {}
    file = next((place / name for place in (top, dataset.root) if (place / name).is_file()), top / name)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        faults.append(_fault(dataset, file, f"missing; {consequence}"))
    except (OSError, ValueError) as error:
        faults.append(_fault(dataset, file, f"can't be read ({error}); {consequence}"))
    else:
        if isinstance(content, dict):
            return content
        faults.append(_fault(dataset, file, f"no JSON object; {consequence}"))
    return {}


def _fault(dataset: Dataset, file: Path, message: str) -> Fault:
    shown = file.relative_to(dataset.root) if file.is_relative_to(dataset.root) else file
    return Fault(f"{dataset.title}: {shown}", message)
