import hashlib
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConfigurationError
from pipeline.provenance import ModelIdentity
from pipeline.quality import calibration as module
from pipeline.quality.calibration import Calibration, bundled, choose, quality, read_calibration
from pipeline.quality.calibration_file import Second, encoded
from pipeline.quality.inputs import SECOND, SINGLE
from pipeline.storage import write_bytes_atomic
from sdmatte.configs import BUNDLED, packaged_folder
from support.calibrating import ORIGIN, fitted, records
from support.run_rows import label_config

MODEL = ModelIdentity("mine", "ab" * 32, "float32", 192)

anything = st.one_of(st.none(), st.floats(), st.integers(-(10**9), 10**9))


def made_for(kind: str = "none", **changed: Any) -> Calibration:
    if "second_weights" in changed:
        second = Second(kind="model", size=changed["size"], weights_sha256=changed["second_weights"])
        return Calibration.of(fitted().content.model_copy(update={"model": ORIGIN, "second": second}))
    origin = {name: changed.pop(name) for name in list(changed) if name in ORIGIN.model_fields_set}
    content = fitted().content.model_copy(
        update={
            "model": ORIGIN.model_copy(update=origin),
            "second": Second.model_validate({"kind": kind, **changed}),
        }
    )
    return Calibration.of(content)


@given(st.fixed_dictionaries(dict.fromkeys((*SINGLE, *SECOND), anything)), st.sampled_from(["box", None, "other"]))
def test_whatever_a_record_holds_the_prediction_stays_within_what_was_seen(row: dict[str, Any], kind: str) -> None:
    calibration = Calibration.of(fitted("flip").content)
    (predicted,) = calibration.predict([{**row, "prompt_kind": kind, "transparent": None}])
    assert 0 <= calibration.content.curve.y[0] - 1e-6 <= predicted <= calibration.content.curve.y[-1] + 1e-6 <= 1


def test_a_missing_column_and_one_that_is_not_finite_are_alike() -> None:
    calibration = Calibration.of(fitted().content)
    row = records(1)[0][0]
    without = {name: value for name, value in row.items() if name != "softness"}
    found = calibration.predict([without, without | {"softness": None}, without | {"softness": math.nan}])
    assert found[0] == found[1] == found[2]
    assert found.dtype == np.float32


def test_records_do_not_depend_on_their_batch() -> None:
    calibration = Calibration.of(fitted().content)
    rows = records(20, seed=3)[0]
    assert calibration.predict(rows).tolist() == [float(calibration.predict([row])[0]) for row in rows]
    assert calibration.predict([]).shape == (0,)


def test_quality_halves_with_each_fiftieth() -> None:
    assert quality(0.0) == 1
    assert quality(0.02) == pytest.approx(0.5)
    assert quality(np.array([0.04])).tolist() == pytest.approx([0.25])


FLIP = {"quality": {"second": "flip"}}
SMALLER = {"quality": {"second": "resolution"}}
OTHER = {"quality": {"second": "model", "second_model": "small"}}


@pytest.mark.parametrize(
    ("calibration", "config", "matches"),
    [
        (made_for(), {}, True),
        (made_for(input_size=256), {}, False),
        (made_for(weights_sha256="cd" * 32), {}, False),
        (made_for(resize="aspect"), {}, False),
        (made_for(resize="aspect"), {"model": {"resize": "aspect"}}, True),
        (made_for("flip"), {}, False),
        (made_for(), FLIP, False),
        (made_for("flip"), FLIP, True),
        (made_for("resolution", size=128), SMALLER, True),
        (made_for("resolution", size=64), SMALLER, False),
        (made_for("model", size=128, second_weights="ef" * 32), OTHER, True),
        (made_for("model", size=128, second_weights="cd" * 32), OTHER, False),
        (made_for("model", size=64, second_weights="ef" * 32), OTHER, False),
    ],
)
def test_it_matches_what_it_was_made_for(calibration: Calibration, config: dict[str, Any], matches: bool) -> None:
    weights = "ef" * 32 if config is OTHER else None
    size = 128 if config in (OTHER, SMALLER) else None
    model = replace(MODEL, second_weights_sha256=weights, second_size=size)
    assert calibration.matches(model, label_config("out", **config)) is matches


def test_it_is_read_as_it_was_written_also_from_a_store(tmp_path: Path) -> None:
    made = made_for()
    (tmp_path / "mine.json").write_bytes(encoded(made.content))
    write_bytes_atomic("memory://calibrations/mine.json", encoded(made.content))
    rows = records(30, seed=9)[0]
    for path in (str(tmp_path / "mine.json"), "memory://calibrations/mine.json"):
        found = read_calibration(path)
        assert found.id == made.id
        assert found.predict(rows).tolist() == made.predict(rows).tolist()
    assert len(made.id) == 16
    assert made.id != made_for(input_size=256).id


def test_one_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no\.json.*name a file that jobs/calibrate\.py wrote"):
        read_calibration(str(tmp_path / "no.json"))


def test_the_configured_one_is_taken(tmp_path: Path) -> None:
    made = made_for("jitter")
    (tmp_path / "mine.json").write_bytes(encoded(made.content))

    def chosen(calibration: str) -> Calibration | None:
        return choose(label_config("out", quality={"calibration": calibration}), MODEL)

    assert chosen("none") is None
    found = chosen(str(tmp_path / "mine.json"))
    assert found is not None
    assert found.id == made.id


@pytest.mark.parametrize(
    ("second", "best"), [("none", "near"), ("flip", "flip"), ("jitter", "near"), ("resolution", "near")]
)
def test_the_nearest_bundled_one_of_the_same_second_pass_is_taken(
    monkeypatch: pytest.MonkeyPatch, second: str, best: str
) -> None:
    known = {
        "far": made_for(weights_sha256="cd" * 32, input_size=1024),
        "near": made_for(weights_sha256="cd" * 32, input_size=256),
        "aspect": made_for(weights_sha256="cd" * 32, resize="aspect"),
        "flip": made_for("flip", weights_sha256="cd" * 32, input_size=1024),
    }
    monkeypatch.setattr(module, "bundled", lambda: tuple(known.values()))
    assert choose(label_config("out", quality={"second": second}), MODEL) is known[best]
    known["same"] = made_for()
    expected = "flip" if second == "flip" else "same"
    assert choose(label_config("out", quality={"second": second}), MODEL) is known[expected]


def test_without_any_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "bundled", lambda: ())
    assert choose(label_config("out"), MODEL) is None


def test_the_bundled_ones_are_for_the_bundled_model_as_it_is() -> None:
    file = packaged_folder(BUNDLED) / f"{BUNDLED}.safetensors"
    weights = hashlib.sha256(file.read_bytes()).hexdigest()
    assert {each.second.kind for each in bundled()} == {"none", "flip"}
    for each in bundled():
        assert each.model.weights_sha256 == weights
        assert each.content.figures["spearman"] > 0.8
        assert len(encoded(each.content)) < 300_000


def test_applying_one_loads_nothing_that_fitting_needs() -> None:
    code = (
        "import sys; from pipeline.quality.calibration import bundled; "
        "assert bundled()[0].predict([{'coverage': 0.1}])[0] > 0; "
        "assert not {'sklearn', 'scipy', 'torch', 'ray'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
