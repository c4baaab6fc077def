"""Make the reference mattes beside this file from hand-drawn outlines.

README.md says how, from what, and what the mattes are good for. Names of objects as arguments limit it to those; with
`--show FOLDER` each matte is also laid over black, white and green there, to be looked at.
"""

from __future__ import annotations

import argparse
import json
from importlib import resources
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

HERE = Path(__file__).parent
TRIMAPS = HERE / "trimaps.json"
SUPERSAMPLING = 8
GRAIN = 1e-5  # regularises the local colour models: the default, 1e-7, takes film grain for detail


def photograph(name: str) -> NDArray[np.uint8]:
    """Return one of scikit-image's pictures as ``(h, w, 3)`` uint8 RGB."""
    with (resources.files("skimage") / "data" / name).open("rb") as file, Image.open(file) as opened:
        return np.asarray(opened.convert("RGB"))


def coverage(polygons: list[list[list[float]]], height: int, width: int) -> NDArray[np.float32]:
    """Return the share of each pixel that a union of polygons covers, ``(h, w)`` in [0, 1]."""
    canvas = np.zeros((height * SUPERSAMPLING, width * SUPERSAMPLING), np.uint8)
    for polygon in polygons:
        # Coordinates name edges of pixels, fillPoly wants centres.
        corners = np.round(np.asarray(polygon, np.float64) * SUPERSAMPLING - 0.5).astype(np.int32)
        cv2.fillPoly(canvas, [corners], 1)
    return np.asarray(cv2.resize(canvas.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA))


def standing_out(depth: dict[str, Any], height: int, width: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Tell the motorcycle from its surroundings by the disparities that come with the stereo pair.

    The floor is a plane, so its disparity is linear in x and y: fitted on the polygon `floor`, it is taken away.

    Returns:
        Pixels of the object and pixels without a disparity, ``(h, w)`` each.
    """
    with (resources.files("skimage") / "data" / "motorcycle_disp.npz").open("rb") as file:
        disparity = np.load(file)["arr_0"]
    measured = np.isfinite(disparity)
    rows, columns = np.mgrid[:height, :width]
    plane = np.stack([columns, rows, np.ones_like(rows)], -1).astype(np.float64)
    floor = measured & (coverage([depth["floor"]], height, width) > 0.5)
    fitted, *_ = np.linalg.lstsq(plane[floor], disparity[floor], rcond=None)
    near = (disparity > depth["disparity"]) & (disparity - plane @ fitted > depth["above_floor"])
    return measured & near, ~measured


def trimap(item: dict[str, Any], height: int, width: int) -> NDArray[np.float64]:
    """Return ``(h, w)``: 0 background, 1 foreground, 0.5 to be solved."""
    inside = coverage(item["outline"], height, width) > 0.5
    inside &= coverage(item.get("holes", []), height, width) < 0.5
    blind = np.zeros_like(inside)
    if "depth" in item:
        near, unmeasured = standing_out(item["depth"], height, width)
        blind, inside = inside & unmeasured, inside & near
    # Distances to the nearest pixel of the other side; the frame is no edge.
    padded = np.pad(inside, 1, mode="edge").astype(np.uint8)
    distance = np.maximum(
        cv2.distanceTransform(padded, cv2.DIST_L2, 5), cv2.distanceTransform(1 - padded, cv2.DIST_L2, 5)
    )[1:-1, 1:-1]
    band = np.full(inside.shape, item["band"], np.float64)
    band[coverage(item.get("fringe", []), height, width) > 0.5] = item.get("fringe_band", item["band"])
    unsure = (distance <= band) | blind | (coverage(item.get("unknown", []), height, width) > 0.5)
    return np.where(unsure, 0.5, inside.astype(np.float64))


def matte(item: dict[str, Any]) -> NDArray[np.uint8]:
    """Solve one object; returns ``(h, w, 2)``: its alpha, and 255 where the alpha counts (0 where nobody can tell)."""
    from pymatting import estimate_alpha_cf

    image = photograph(item["file"])
    height, width = image.shape[:2]
    known = trimap(item, height, width)
    alpha = estimate_alpha_cf(image / 255.0, known, laplacian_kwargs={"epsilon": GRAIN})
    counted = coverage(item.get("uncounted", []), height, width) == 0
    return np.dstack([np.rint(alpha * 255), counted * 255]).astype(np.uint8)


def show(item: dict[str, Any], pixels: NDArray[np.uint8], path: Path) -> None:
    """Write the object's surroundings: the picture, the trimap, and the matte over black, white and green."""
    image = photograph(item["file"]) / 255.0
    alpha = pixels[..., :1] / 255.0
    known = np.repeat(trimap(item, *image.shape[:2])[..., None], 3, 2)
    known[pixels[..., 1] == 0] = (0.7, 0.2, 0.2)
    rows, columns = np.nonzero(pixels[..., 0])
    frame = np.s_[max(rows.min() - 12, 0) : rows.max() + 12, max(columns.min() - 12, 0) : columns.max() + 12]
    over = [image * alpha + np.array(colour) * (1 - alpha) for colour in ((0, 0, 0), (1, 1, 1), (0, 0.8, 0.2))]
    tiles = [each[frame] for each in (image, known, *over)]
    sheet = np.concatenate(tiles, 1 if tiles[0].shape[0] > tiles[0].shape[1] else 0)
    Image.fromarray(np.rint(sheet * 255).astype(np.uint8)).save(path)


def main() -> None:
    """Write the mattes."""
    items = json.loads(TRIMAPS.read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help="of an object; default all")
    parser.add_argument("--show", type=Path, help="folder for pictures to check by eye")
    arguments = parser.parse_args()
    for name in arguments.names or items:
        pixels = matte(items[name])
        Image.fromarray(pixels).save(HERE / f"{name}.png", optimize=True)
        print(f"{name}: {items[name]['shows']}", flush=True)
        if arguments.show:
            arguments.show.mkdir(parents=True, exist_ok=True)
            show(items[name], pixels, arguments.show / f"{name}.png")


if __name__ == "__main__":
    main()
