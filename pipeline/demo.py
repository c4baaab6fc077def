"""The demo's corpus: ten real photographs with hand-chosen prompts, packed as WebDataset shards.

The photographs ship inside scikit-image's wheel (see its `skimage.data` for authors and licences: all in the public
domain or CC0), so nothing is downloaded. Every shard holds `<key>.jpg`, `<key>.prompts.jsonl` and one
`<key>.<name>.png` per mask: the layout of docs/prompts.md, for users to copy.
"""

from __future__ import annotations

import io
import json
import math
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from PIL import Image, ImageDraw

from pipeline.errors import ConfigurationError
from sdmatte.configs import BUNDLED

DEMO_MODEL = BUNDLED
"""What the demo labels with: the small model that ships with the package."""

_SHARDS = 3
_MARKER = ".sdmatte-demo"
_CORPUS, _CONFIG, _RUN = "corpus", "label.yaml", "run"

_XY = tuple[float, float]


@dataclass(frozen=True, slots=True)
class _Object:
    """One prompt; exactly one of `box`, `points` and `outline` is given, in pixels of the (cropped) photograph."""

    label: str
    box: tuple[float, float, float, float] | None = None
    points: tuple[_XY, ...] | None = None
    outline: tuple[_XY, ...] | None = None  # of a rough mask
    transparent: bool = False


@dataclass(frozen=True, slots=True)
class _Photo:
    key: str
    file: str  # in skimage/data
    objects: tuple[_Object, ...]
    crop: tuple[int, int, int, int] | None = None  # x0, y0, x1, y1


def _ellipse(x0: float, y0: float, x1: float, y1: float) -> tuple[_XY, ...]:
    """Return the outline of the ellipse inside a box."""
    angles = [2 * math.pi * step / 32 for step in range(32)]
    return tuple(
        (round((x0 + x1 + (x1 - x0) * math.cos(a)) / 2, 1), round((y0 + y1 + (y1 - y0) * math.sin(a)) / 2, 1))
        for a in angles
    )


# Outlines are as coarse as an annotator's quick polygon: the model's job is the rest.
# fmt: off
_HELMET = (
    (278, 512), (279, 465), (290, 425), (308, 388), (330, 362), (362, 348), (400, 343), (440, 352), (470, 376),
    (488, 412), (497, 450), (508, 460), (512, 475), (512, 512),
)
_CAMERAMAN = (
    (0, 512), (0, 258), (22, 228), (48, 178), (72, 142), (102, 128), (130, 122), (148, 107), (162, 104),
    (172, 84), (190, 67), (212, 63), (240, 76), (262, 100), (271, 126), (258, 135), (253, 172), (244, 192),
    (244, 206), (264, 214), (286, 206), (306, 190), (318, 168), (331, 178), (328, 206), (306, 232), (303, 272),
    (272, 300), (246, 313), (207, 297), (182, 336), (142, 382), (149, 430), (150, 512), (132, 512), (98, 446),
    (90, 512),
)
_CUP = (
    (173, 104), (178, 78), (198, 50), (238, 26), (287, 17), (332, 24), (372, 43), (399, 73), (408, 106),
    (404, 145), (392, 188), (374, 232), (344, 264), (315, 281), (284, 286), (258, 282), (240, 290), (226, 306),
    (207, 303), (196, 288), (202, 258), (214, 241), (222, 233), (202, 216), (184, 184), (175, 145),
)
_MOTORCYCLE = (
    (164, 158), (250, 166), (281, 191), (352, 191), (398, 164), (358, 174), (356, 166), (386, 142), (333, 137),
    (334, 122), (372, 111), (432, 122), (475, 124), (503, 105), (494, 86), (506, 56), (506, 22), (516, 18),
    (512, 56), (519, 86), (544, 98), (538, 118), (560, 132), (570, 118), (582, 122), (582, 136), (562, 146),
    (560, 176), (544, 194), (558, 206), (576, 258), (612, 270), (642, 302), (628, 315), (662, 344), (683, 392),
    (676, 432), (644, 450), (600, 440), (550, 400), (519, 356), (506, 325), (509, 300), (530, 274), (496, 216),
    (470, 240), (479, 294), (464, 348), (438, 374), (376, 379), (344, 374), (344, 430), (325, 436), (330, 374),
    (276, 362), (254, 388), (219, 401), (170, 393), (134, 356), (121, 306), (128, 264), (148, 240), (112, 248),
    (98, 220), (94, 198), (134, 195), (140, 156), (152, 144),
)
# fmt: on

_PHOTOS = (
    _Photo(
        "astronaut",
        "astronaut.png",
        (
            _Object("person", box=(18, 14, 366, 512)),
            _Object("helmet", outline=_HELMET),
            _Object("shuttle", points=((418, 40), (393, 140), (402, 192), (372, 215), (445, 110))),
        ),
    ),
    _Photo(
        "camera",
        "camera.png",
        (
            _Object("person", outline=_CAMERAMAN),
            _Object("tripod", points=((292, 228), (292, 330), (292, 430), (264, 402), (362, 430))),
        ),
    ),
    _Photo(
        "cat",
        "chelsea.png",
        (
            _Object("cat", box=(0, 0, 399, 300)),
            _Object("cat", points=((205, 45), (110, 150), (270, 190), (335, 60), (90, 250))),
        ),
    ),
    _Photo("clock", "clock_motion.png", (_Object("clock", outline=_ellipse(141, 92, 284, 217)),)),
    _Photo(
        "coffee",
        "coffee.png",
        (
            _Object("cup", outline=_CUP),
            _Object("spoon", points=((411, 82), (411, 102), (376, 232), (355, 268), (368, 304))),
        ),
    ),
    _Photo(
        "coins",
        "coins.png",
        (_Object("coin", box=(303, 13, 367, 74)), _Object("coin", outline=_ellipse(314, 155, 381, 220))),
    ),
    _Photo(
        "galaxies",
        "hubble_deep_field.jpg",
        (_Object("galaxy", box=(138, 84, 196, 142)), _Object("star", points=((194, 217),))),
        crop=(560, 360, 1000, 690),
    ),
    _Photo(
        "motorcycle-left",
        "motorcycle_left.png",
        (_Object("motorcycle", outline=_MOTORCYCLE), _Object("bench", box=(40, 104, 283, 311))),
    ),
    _Photo(
        "motorcycle-right",
        "motorcycle_right.png",
        (
            _Object("motorcycle", box=(46, 14, 630, 452)),
            _Object("headlight", points=((481, 156), (492, 145), (472, 170), (486, 176)), transparent=True),
        ),
    ),
    _Photo(
        "rocket",
        "rocket.jpg",
        (_Object("rocket", box=(307, 125, 338, 408)), _Object("floodlight", points=((364, 397),))),
    ),
)


@dataclass(frozen=True, slots=True)
class DemoCorpus:
    """The packed photographs.

    Attributes:
        shards: The tar files, sorted.
        images: Photographs in them.
        objects: Prompts in them; a run over the corpus leaves as many records.
    """

    shards: tuple[Path, ...]
    images: int
    objects: int


@dataclass(frozen=True, slots=True)
class Demo:
    """A prepared demo.

    Attributes:
        corpus: What will be labelled.
        config: The configuration to label it with.
        run: Where the run will write.
    """

    corpus: DemoCorpus
    config: Path
    run: Path


def prepare_demo(out: Path) -> Demo:
    """Build the corpus and the configuration below `out`, in place of those (and of the run) of an earlier demo.

    Nothing else in the folder is touched, so other runs may live beside the demo's.

    Args:
        out: Folder of the demo; made where it is missing.

    Raises:
        ConfigurationError: `out` holds files and no demo, or scikit-image's photographs can't be found.
    """
    out = out.resolve()
    _take_over(out)
    corpus = build_demo_corpus(out / _CORPUS)
    demo = Demo(corpus, config=out / _CONFIG, run=out / _RUN)
    settings = {
        "input": {"kind": "webdataset", "path": str(out / _CORPUS / "*.tar")},
        "model": {"source": DEMO_MODEL},
        "output": {"path": str(demo.run)},
    }
    note = "# Written by jobs/demo.py, which replaces it when it runs again: copy it before you change it.\n"
    demo.config.write_text(note + yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    return demo


def _take_over(out: Path) -> None:
    """Make the folder, or remove from it what an earlier demo made."""
    marker = out / _MARKER
    if out.exists() and not out.is_dir():
        raise ConfigurationError(f"{out} is a file; choose a folder for the demo with --out")
    if out.is_dir() and any(out.iterdir()) and not marker.is_file():
        raise ConfigurationError(
            f"{out} holds files that no demo made; nothing was changed. Choose a new or empty folder with --out"
        )
    for name in (_CORPUS, _RUN):
        if (out / name).is_dir():
            shutil.rmtree(out / name)
    out.mkdir(parents=True, exist_ok=True)
    marker.write_text(
        f"jobs/demo.py made {_CORPUS}, {_CONFIG} and {_RUN} here, and replaces them when it runs again.\n"
    )


def build_demo_corpus(folder: Path) -> DemoCorpus:
    """Pack the photographs and their prompts into tar shards; the same libraries write the same bytes every time.

    No photograph is larger than 741 x 512 pixels.

    Args:
        folder: Where to write `demo-00000.tar`, ...; made where it is missing, and existing shards are replaced.

    Raises:
        ConfigurationError: scikit-image is not installed, or its photographs are not where they should be.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards = []
    per_shard = math.ceil(len(_PHOTOS) / _SHARDS)
    for index in range(_SHARDS):
        shards.append(folder / f"demo-{index:05d}.tar")
        _write_shard(shards[-1], _PHOTOS[index * per_shard : (index + 1) * per_shard])
    return DemoCorpus(tuple(shards), images=len(_PHOTOS), objects=sum(len(photo.objects) for photo in _PHOTOS))


def _write_shard(path: Path, photos: Sequence[_Photo]) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for photo in photos:
            for name, data in _members(photo):
                member = tarfile.TarInfo(f"{photo.key}.{name}")  # time, owner and mode are constants
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def _members(photo: _Photo) -> Iterator[tuple[str, bytes]]:
    """Yield the name behind the key, and the bytes, of each of a photograph's members."""
    original = _read_photo(photo.file)
    with Image.open(io.BytesIO(original)) as opened:
        image = opened.crop(photo.crop) if photo.crop else opened.copy()
        untouched = opened.format == "JPEG" and not photo.crop
    yield "jpg", original if untouched else _encode(image, "JPEG", quality=95, subsampling=0)

    lines: list[str] = []
    masks: list[tuple[str, bytes]] = []
    for item in photo.objects:
        prompt: dict[str, Any] = {"label": item.label}
        if item.box:
            prompt["box"] = item.box
        elif item.points:
            prompt["points"] = item.points
        elif item.outline:
            prompt["mask"] = f"{item.label}.png"
            masks.append((f"{item.label}.png", _encode(_fill(item.outline, image.size), "PNG")))
        if item.transparent:
            prompt["transparent"] = True
        lines.append(json.dumps(prompt) + "\n")
    yield "prompts.jsonl", "".join(lines).encode()
    yield from masks


def _read_photo(name: str) -> bytes:
    try:
        return (resources.files("skimage") / "data" / name).read_bytes()
    except (ModuleNotFoundError, FileNotFoundError):
        raise ConfigurationError(
            f"the demo's photograph {name} comes with scikit-image, which is missing or incomplete: "
            "pip install 'scikit-image>=0.25'"
        ) from None


def _fill(outline: Sequence[_XY], size: tuple[int, int]) -> Image.Image:
    mask = Image.new("1", size)
    ImageDraw.Draw(mask).polygon(outline, fill=1)
    return mask


def _encode(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()
