"""What `make eval-nano` makes of its measurements; the measuring itself takes minutes."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import nano
from benchmarks.nano_set import FIRST_SEED, KINDS, PHOTOGRAPHS, Picture, Thing, error, fingerprint, photograph, scene
from benchmarks.nano_sheets import write_sheets
from sdmatte import Box, Mask, Points, SDMatte
from sdmatte.metrics import UNKNOWN

GOOD = {target.figure: target.limit for target in nano.TARGETS}
MODEL = "untrained:sdmatte-mini"


class Left:
    """A model that always finds the left half, which is the first object of `picture`."""

    weights_sha256 = "5ha"

    def __init__(self, input_size: int | None = None) -> None:
        self.input_size = input_size or nano.TIMED_SIZE

    def predict(self, images: list, prompts: list, batch_size: int) -> list:
        return [[picture().things[0].alpha / np.float32(255) for _ in each] for each in prompts]


def thing(name: str, alpha: np.ndarray, baselines: dict[str, float], transparent: bool = False) -> Thing:
    prompts = {"box": Box(0, 0, 2, 2), "mask": Mask(alpha > 0), "points": Points([(0, 0)])}
    return Thing(name, alpha, None, transparent, prompts if baselines else {"box": prompts["box"]}, baselines)


def picture(where: str = "scenes", transparent: bool = False) -> Picture:
    left, right = np.zeros((2, 64, 64), np.uint8)
    left[:, :32], right[:, 32:] = 255, 255
    things = (thing("a", left, {"grabcut box": 0.25, "nothing": 0.5}), thing("b", right, {}, transparent))
    return Picture(f"one of {where}", where, np.zeros((64, 64, 3), np.uint8), things)


def test_a_figure_at_its_limit_meets_the_target_and_one_above_misses_it() -> None:
    assert all(met for _, _, met in nano.judge(GOOD))
    for target in nano.TARGETS:
        missed = [each.figure for each, _, met in nano.judge({**GOOD, target.figure: target.limit * 1.001}) if not met]
        assert missed == [target.figure]


@pytest.mark.parametrize("figures", [{}, {"mad_box_scenes": math.nan}])
def test_what_was_not_measured_is_missed(figures: dict[str, float]) -> None:
    assert not any(met for _, _, met in nano.judge(figures))
    line = nano.verdicts({key: value for key, value in GOOD.items() if key != "bytes"}).splitlines()[-2]
    assert "not measured" in line
    assert line.endswith("MISSED")


def test_the_targets_are_those_that_were_set() -> None:
    assert {
        **{f"mad_box_{where}": 0.03 for where in ("scenes", "photographs")},
        **{f"mad_mask_{where}": 0.012 for where in ("scenes", "photographs")},
        **{f"mad_points_{where}": 0.05 for where in ("scenes", "photographs")},
        **{f"box_to_grabcut_{where}": 0.5 for where in ("scenes", "photographs")},
        **{f"selection_{kind}": 0.5 for kind in KINDS},
        "mad_transparent": 0.06,
        "parameters": 12e6,
        "bytes": 25e6,
        "seconds": 1.0,
    } == GOOD


def test_figures_are_means_over_main_objects_and_ratios_those_of_means() -> None:
    def row(kind: str, mad: float, others: float | None, *, where: str = "scenes", first: bool = True) -> nano.Row:
        alpha = np.zeros((64, 64), np.uint8)
        index = 0 if first else 1
        return nano.Row(f"one of {where}", where, index, "ab"[index], kind, first, not first, mad, others, alpha)

    rows = [
        row("box", 0.1, 0.9),
        row("box", 0.3, 0.1, first=False),
        row("mask", 0.01, 0.5),
        row("box", 0.2, None, where="photographs"),
    ]
    figures = nano.figures_of(rows, [picture(), picture("photographs")])
    expected = {
        "mad_box_scenes": 0.1,
        "mad_mask_scenes": 0.01,
        "mad_box_photographs": 0.2,
        "mad_transparent": 0.3,
        "selection_box": 0.4,
        "selection_mask": 0.02,
        "grabcut_box_scenes": 0.25,
        "box_to_grabcut_scenes": 0.4,
        "box_to_grabcut_photographs": 0.8,
    }
    assert {name: figures.get(name) for name in expected} == pytest.approx(expected)
    assert "selection_points" not in figures  # nothing was measured for it
    assert "mad_points_scenes" not in figures


def test_rows_hold_errors_against_the_prompted_and_against_the_other_objects() -> None:
    rows = list(nano.matte(Left(), [picture(transparent=True), picture("photographs")], 4))
    scenes, photographs = rows[:4], rows[4:]
    assert [(row.thing, row.kind) for row in scenes] == [("a", kind) for kind in KINDS] + [("b", "box")]
    assert [(row.mad, row.others) for row in scenes] == [(0, 1)] * 3 + [(1, 0)]
    assert [(row.first, row.transparent) for row in scenes] == [(True, False)] * 3 + [(False, True)]
    assert {row.others for row in photographs} == {None}


def test_what_nobody_can_tell_is_not_counted() -> None:
    alpha = np.zeros((2, 2), np.uint8)
    region = np.array([[UNKNOWN, UNKNOWN], [0, 0]], np.uint8)
    matte = np.array([[0.5, 0], [1, 1]], np.float32)
    assert error(matte, Thing("", alpha, region, False, {}, {})) == 0.25


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """Replace all that takes long by something that meets the targets; holds the input size of each load."""
    asked: list[int | None] = []

    def load(_: str, *, input_size: int | None) -> Left:
        asked.append(input_size)
        return Left(input_size)

    monkeypatch.setattr(nano, "build", lambda *_: [picture(), picture("photographs")])
    monkeypatch.setattr(nano, "size_of", lambda _: {})
    monkeypatch.setattr(nano, "seconds_per_object", lambda model, *_: 1.0 if model.input_size == 512 else math.nan)
    monkeypatch.setattr(nano, "figures_of", lambda *_: GOOD)
    monkeypatch.setattr(SDMatte, "from_pretrained", load)
    return asked


@pytest.mark.usefixtures("loads")
@pytest.mark.parametrize(("scenes", "met", "code"), [(240, True, 0), (240, False, 1), (2, True, 1)])
def test_it_exits_with_zero_only_if_all_is_met_on_the_whole_set(
    scenes: int, met: bool, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    figures = {**GOOD, "mad_box_scenes": 0.03 if met else 0.0301}
    monkeypatch.setattr(nano, "figures_of", lambda *_: figures)
    assert nano.main(["--scenes", str(scenes), "--out", str(tmp_path / "figures.json")]) == code
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert last.endswith("met") if scenes == 240 else "2 of the 240 scenes" in last
    written = json.loads((tmp_path / "figures.json").read_text())
    assert written["figures"] == figures
    assert [(row["kind"], row["mad"]) for row in written["mattes"][:4]] == [*((kind, 0) for kind in KINDS), ("box", 1)]


@pytest.mark.parametrize(("size", "asked"), [(None, [None]), (512, [512]), (192, [192, 512])])
def test_it_measures_at_any_size_and_times_at_512(
    size: int | None, asked: list[int | None], loads: list, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "figures.json"
    assert nano.main(["--out", str(out), *([] if size is None else ["--input-size", str(size)])]) == 0
    assert loads == asked
    written = json.loads(out.read_text())
    assert (written["input_size"], written["weights_sha256"]) == (size or 512, Left.weights_sha256)
    assert written["figures"]["seconds"] == 1
    assert f"mattes at {size or 512} px" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["--model", MODEL, "--input-size", "100"], "input_size 100 must be a positive multiple", False),
        (["--model", "/nowhere/at/all"], "/nowhere/at/all", True),
    ],
)
def test_a_model_that_cannot_be_loaded_is_said_before_the_scenes_are_drawn(
    arguments: list[str], message: str, hint: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(nano, "build", None)
    assert nano.main(arguments) == 2
    said = capsys.readouterr().err
    assert message in said
    assert ("Name a trained model" in said) == hint


def test_sheets_are_drawn(tmp_path: Path) -> None:
    pictures = [picture(), picture("photographs")]
    write_sheets(list(nano.matte(Left(), pictures, 4)), pictures, tmp_path / "new")
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"scenes.png", "photographs.png"}


def test_size_counts_what_inference_uses() -> None:
    model = SDMatte.untrained("sdmatte-mini", input_size=64)
    network = model._network
    assert network.text_encoder is None
    assert nano.size_of(MODEL) == {"parameters": sum(each.numel() for each in network.parameters())}
    assert nano.seconds_per_object(model, [picture()], 2) > 0


@pytest.mark.slow  # draws scenes: seconds
def test_the_set_is_fixed() -> None:
    first = scene(0)
    assert FIRST_SEED == 9_000_000
    assert first.image.shape == (384, 512, 3)
    assert tuple(first.things[0].prompts) == KINDS
    assert all(tuple(each.prompts) == ("box",) for each in first.things[1:])
    changed = "the evaluation set is another one now: measure again, and publish the new figures with the new hash"
    assert fingerprint(first) == "17dd77a5370544b5", changed
    assert fingerprint(photograph("coins.png")) == "f2835d55701f9378", changed


def test_every_photographed_object_has_a_matte_that_fits_and_is_described() -> None:
    described = json.loads((PHOTOGRAPHS / "trimaps.json").read_text())
    assert {path.stem for path in PHOTOGRAPHS.glob("*.png")} == set(described)
    table = (PHOTOGRAPHS / "README.md").read_text()
    for name, item in described.items():
        assert f"| `{name}` | `{item['file']}` |" in table
        with Image.open(PHOTOGRAPHS / f"{name}.png") as opened:
            alpha, counted = np.moveaxis(np.asarray(opened), -1, 0)
        assert {0, 255} <= set(np.unique(alpha))
        assert (counted == 255).mean() > 0.9
