"""Prompts from true alphas: seeded, independent of order, named where impossible."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.audit import ImageAudit
from pipeline.config import PromptsConfig
from pipeline.evaluation.datasets import Case, find_cases, parse_dataset
from pipeline.evaluation.protocol import KINDS, as_prompt, manifest, prompt_case
from pipeline.prompts import raw_prompt
from sdmatte.images import ImageInfo
from sdmatte.prompts import Box, Mask, Points
from support.truths import HEIGHT, WIDTH, disc, write_gray, write_object, write_photo


def case(root: Path, key: str = "a", **settings: Any) -> Case:
    write_object(root, key, trimap="trimap")
    paths = (root / "image" / f"{key}.jpg", root / "alpha" / f"{key}.png", root / "trimap" / f"{key}.png")
    return Case("mine", key, *paths, **settings)


def test_a_prompt_of_each_kind_fits_its_object(tmp_path: Path) -> None:
    prompted = prompt_case(case(tmp_path), KINDS, seed=0)
    assert prompted.faults == ()
    truth = disc()
    rows, columns = np.nonzero(truth)
    box, mask, points = (as_prompt(prompted.prompts[kind]) for kind in KINDS)
    assert box == Box(columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert isinstance(points, Points)
    assert len(points.xy) == 10
    assert all(truth[int(y), int(x)] > 0.8 * 255 for x, y in points.xy)
    assert isinstance(mask, Mask)
    inside = mask.binary()
    assert inside.shape == truth.shape
    assert 0 < (inside & (truth > 0)).sum() <= inside.sum()


def test_prompts_depend_on_seed_and_name_alone(tmp_path: Path) -> None:
    write_object(tmp_path, "other")
    one = case(tmp_path)
    first = prompt_case(one, KINDS, seed=3).prompts
    assert prompt_case(one, ("points",), seed=3).prompts["points"] == first["points"]
    assert prompt_case(one, ("points", "mask"), seed=3).prompts["mask"] == first["mask"]
    assert prompt_case(one, KINDS, seed=4).prompts["points"] != first["points"]
    assert prompt_case(one, KINDS, seed=4).prompts["box"] == first["box"]
    assert prompt_case(case(tmp_path, "b"), KINDS, seed=3).prompts["points"] != first["points"]


def test_what_cant_be_prompted_is_named(tmp_path: Path) -> None:
    good = case(tmp_path)
    write_photo(tmp_path / "image" / "small.jpg", disc(), size=(30, 20))
    write_gray(tmp_path / "alpha" / "empty.png", np.zeros((HEIGHT, WIDTH), np.uint8))
    (tmp_path / "alpha" / "broken.png").write_bytes((tmp_path / "alpha" / "a.png").read_bytes()[:60])

    def message(image: str, alpha: str) -> str:
        wrong = Case("mine", "x", tmp_path / "image" / image, tmp_path / "alpha" / alpha)
        prompted = prompt_case(wrong, ("points",), seed=0)
        assert prompted.prompts == {}
        (fault,) = prompted.faults
        return str(fault)

    assert message("small.jpg", "a.png") == (
        "mine: x: a.png has 60 x 40 pixels, the upright image small.jpg 30 x 20; the object is left out"
    )
    assert message("a.jpg", "empty.png").startswith("mine: empty.png: no points prompt: ")
    assert message("a.jpg", "broken.png").startswith("mine: broken.png: this PNG is damaged")
    assert (
        message("a.jpg", "gone.png")
        == "mine: gone.png: can't be read (No such file or directory); the object is left out"
    )
    assert message("gone.jpg", "a.png").startswith("mine: gone.jpg: ")

    write_gray(tmp_path / "trimap" / "a.png", np.zeros((5, 5), np.uint8))
    prompted = prompt_case(good, ("box",), seed=0)
    assert set(prompted.prompts) == {"box"}
    assert [str(fault) for fault in prompted.faults] == [
        "mine: trimap a.png: has 5 x 5 pixels, the alpha 60 x 40; one is derived from the alpha"
    ]


def test_the_manifest_is_one_the_pipeline_reads(tmp_path: Path) -> None:
    write_photo(tmp_path / "image" / "c.jpg", disc())
    for key in ("c_0", "c_1"):
        write_gray(tmp_path / "alpha" / f"{key}.png", disc())
    (tmp_path / "transparent.txt").write_text("c_1")
    cases = find_cases(parse_dataset(f"folder={tmp_path}")).cases
    prompted = [prompt_case(each, KINDS, seed=0) for each in cases]
    (row,) = [json.loads(line) for line in manifest(prompted).splitlines()]
    assert row["image"] == str(tmp_path / "image" / "c.jpg")
    name = tmp_path.name
    assert [prompt["id"] for prompt in row["prompts"]] == [
        f"{name}/{key}/{kind}" for key in ("c_0", "c_1") for kind in KINDS
    ]
    info = ImageInfo(WIDTH, HEIGHT, "JPEG", ())
    audit = ImageAudit(PromptsConfig(), info, lambda mask: pytest.fail(f"{mask} is not in the manifest"))
    for number, native in enumerate(row["prompts"]):
        parsed = audit(raw_prompt(native, "here"), number)
        assert (parsed["error_code"], parsed["repairs"]) == (None, [])
        assert parsed["transparent"] is ("/c_1/" in native["id"])
        assert as_prompt(native).transparent is parsed["transparent"]
