"""The set that the bundled calibrations are fitted on."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import calibration_set, nano_set
from benchmarks.calibration_set import INDEX, draw
from pipeline.evaluation.datasets import find_cases, parse_dataset
from sdmatte.prompt_sampling import derive_box
from sdmatte.synthetic.families import FAMILIES


def test_it_is_a_folder_that_the_job_reads(tmp_path: Path) -> None:
    for name in ("image", "alpha"):
        (tmp_path / name).mkdir()
    found = [each for index in (0, 3) for each in draw(tmp_path, 4, index)]
    (tmp_path / "transparent.txt").write_text("".join(f"{key}\n" for key, _, transparent in found if transparent))
    (tmp_path / INDEX).write_text(json.dumps({key: family for key, family, _ in found}))
    listing = find_cases(parse_dataset(f"folder={tmp_path}"))
    assert not listing.faults
    assert listing.images == 2
    assert {case.key: case.transparent for case in listing.cases} == {key: seen for key, _, seen in found}
    assert {family for _, family, _ in found} <= set(FAMILIES)
    with Image.open(tmp_path / "alpha" / "scene-0003_0.png") as alpha:  # of the second half: a large one
        box = derive_box(np.asarray(alpha, np.float32) / 255)
        assert (box.x1 - box.x0) * (box.y1 - box.y0) >= nano_set.LEAST_BOX * alpha.width * alpha.height


def test_no_scene_and_no_picture_is_of_the_evaluation_set() -> None:
    evaluation = {f"data/{name}" for name in nano_set.BACKGROUNDS} | {f"data/{n}" for n in nano_set.photographs()}
    assert not evaluation & {name for _, name in calibration_set.PICTURES}
    last = nano_set.FIRST_SEED + 1000 * nano_set.SCENES
    assert last < calibration_set.FIRST_SEED
