"""What `make ablation` makes of its measurements, and that it continues; the real training takes minutes."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks import ablation, ablation_runs
from benchmarks.ablation import Difference, difference, table, verdicts
from benchmarks.ablation_runs import FULL, KINDS, PARTS, VARIANTS, Measured, settings_of, variant_config, work
from pipeline.errors import ConfigurationError, PipelineError
from pipeline.training.config import TrainConfig, load_train_config
from sdmatte import unet
from sdmatte.synthetic.families import HELD_OUT
from support.training_run import write_teacher, write_train_config

SAMPLES = 3


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def _fresh_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(ablation_runs, "_BACKGROUNDS", 2)
    yield
    ablation_runs._STOPPED.clear()


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    return load_train_config(str(write_train_config(tmp_path)), ["options.learn=[unet, vae]"])


def measured(level: float, *, spread: float = 0.0, transparent: int = 2, count: int = 50) -> Measured:
    noise = np.random.default_rng(round(level * 1e4)).normal(0, spread, (len(KINDS), count))
    mads = level * np.array([[1.0], [0.5], [1.5]]) + noise
    return Measured(mads, np.arange(count) < transparent, "0", 0.5)


def results(**levels: float) -> dict[str, Measured]:
    """The full model has a mean MAD of 0.1, and variants one of 0.2 unless ``levels`` names another."""
    return {FULL: measured(0.1)} | {part: measured(levels.get(part, 0.2)) for part in PARTS}


def test_the_variants_are_the_models_parts() -> None:
    assert PARTS == unet.PARTS


def test_the_table_has_a_row_per_variant_and_a_column_per_kind() -> None:
    head, full, *rows = table(results(opacity_embedding=0.05)).splitlines()
    columns = ["mean", "MAD", "box", "mask", "points", "all", "transparent", "all", "-", "full", "95", "%", "interval"]
    assert head.split() == columns
    assert full.split() == ["full", "0.1000", "0.0500", "0.1500", "0.1000", "0.1000"]
    assert [row.split()[:2] for row in rows] == [["without", part] for part in PARTS]
    assert rows[0].split()[2:] == [
        "0.2000",
        "0.1000",
        "0.3000",
        "0.2000",
        "0.2000",
        "+0.1000",
        "+0.1000",
        "to",
        "+0.1000",
    ]
    assert rows[2].split()[-4] == "-0.0500"


def test_the_column_of_transparent_objects_is_theirs_and_may_be_empty() -> None:
    mads = np.array([[0.1, 0.3, 0.5], [0.0, 0.9, 0.9], [0.0, 0.9, 0.9]])
    some = Measured(mads, np.array([False, True, True]), "0", 0.5)
    assert some.figures()["transparent"] == pytest.approx(0.4)
    none = Measured(mads, np.zeros(3, bool), "0", 0.5)
    assert none.figures()["transparent"] is None
    assert table({FULL: none}).splitlines()[-1].split()[-1] == "-"


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.01, 0.02, "helps"),
        (-0.02, -0.01, "hurts"),
        (-0.01, 0.02, "no difference measured"),
        (0, 0, "no difference measured"),
    ],
)
def test_only_an_interval_without_zero_is_a_difference(low: float, high: float, verdict: str) -> None:
    assert Difference((low + high) / 2, low, high).verdict == verdict


def test_the_bootstrap_is_paired_and_repeatable() -> None:
    full = measured(0.1, spread=0.05)
    shifted = Measured(full.mads + 0.001, full.transparent, "0", 0.5)  # far less than pictures differ among each other
    gap = difference(shifted, full)
    assert (gap.low, gap.mean, gap.high) == pytest.approx((0.001,) * 3)
    noisy = measured(0.1001, spread=0.05)
    assert difference(noisy, full) == difference(noisy, full)
    assert difference(noisy, full).low < 0 < difference(noisy, full).high


@pytest.mark.parametrize(
    ("levels", "code"), [({}, 0), ({"opacity_embedding": 0.1}, 1), ({"coordinate_embedding": 0.05}, 1)]
)
def test_it_exits_with_zero_only_if_every_part_helps(
    levels: dict[str, float], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(ablation, "run", lambda *_: results(**levels))
    assert ablation.main(["--out", str(tmp_path / "new" / "found.json")]) == code
    lines = capsys.readouterr().out.strip().splitlines()[-len(PARTS) :]
    assert dict(line.split(maxsplit=1) for line in lines) == verdicts(results(**levels))
    written = json.loads((tmp_path / "new" / "found.json").read_text())
    assert list(written["variants"]) == list(VARIANTS)
    assert written["variants"][PARTS[0]]["verdict"] == "helps"
    assert len(written["variants"][FULL]["mads"]["box"]) == written["samples"] == 50


def test_the_packaged_configuration_starts_anew_or_from_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[TrainConfig] = []

    def run(config: TrainConfig, *_: int) -> dict[str, Measured]:
        read.append(config)
        return results()

    monkeypatch.setattr(ablation, "run", run)
    assert ablation.main(["options.seed=4"]) == 0
    assert ablation.main(["--model", "some/where", "model.weights=x"]) == 0
    assert (read[0].model.start, read[0].options.seed) == ("random", 4)
    assert (read[1].model.start, read[1].model.source, read[1].model.weights) == ("continue", "some/where", "x")


def test_variants_differ_in_the_missing_part_alone(config: TrainConfig) -> None:
    variants = {name: variant_config(config, name) for name in VARIANTS}
    assert [each.model.without for each in variants.values()] == [(), *((part,) for part in PARTS)]
    assert {each.output.path for each in variants.values()} == {config.output.path / name for name in VARIANTS}
    for each in variants.values():
        assert (each.data, each.augmentation, each.options) == (config.data, config.augmentation, config.options)
        assert load_train_config(
            None, [f"{key}={json.dumps(value)}" for key, value in each.model_dump(mode="json").items()]
        )


def test_a_finished_variant_is_not_trained_again(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    full, part = variant_config(config, FULL), variant_config(config, "masked_self_attention")
    first = work(full, settings_of(full), SAMPLES)
    other = work(part, settings_of(part), SAMPLES)
    assert first is not None
    assert other is not None
    assert (first.pictures, first.empty) == (other.pictures, other.empty)
    assert first.mads.shape == (len(KINDS), SAMPLES)
    assert np.all((first.mads > 0) & (first.mads < 1))
    assert not np.array_equal(first.mads, other.mads)

    monkeypatch.setattr(ablation_runs, "train", None)
    again = work(full, settings_of(full), SAMPLES)
    assert again is not None
    assert np.array_equal(again.mads, first.mads)
    longer = full.model_copy(update={"options": full.options.model_copy(update={"learning_rate": 1.0})})
    with pytest.raises(ConfigurationError, match="trained with other settings"):
        work(longer, settings_of(longer), SAMPLES)


def test_a_variant_that_was_stopped_goes_on(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    full = variant_config(config, FULL)
    monkeypatch.setattr(ablation_runs, "train", lambda *_, **__: Stopped())
    assert work(full, settings_of(full), SAMPLES) is None
    monkeypatch.undo()
    monkeypatch.setattr(ablation_runs, "_BACKGROUNDS", 2)
    assert work(full, settings_of(full), SAMPLES) is None  # this process is to end
    ablation_runs._STOPPED.clear()
    assert work(full, settings_of(full), SAMPLES) is not None


class Stopped:
    complete = False


def test_after_an_error_a_process_begins_no_other_variant(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise PipelineError("the training stopped")

    monkeypatch.setattr(ablation_runs, "train", fail)
    full, part = variant_config(config, FULL), variant_config(config, PARTS[0])
    with pytest.raises(PipelineError, match="the training stopped"):
        work(full, settings_of(full), SAMPLES)
    assert work(part, settings_of(part), SAMPLES) is None
    assert not part.output.path.exists()


def test_weights_to_start_from_are_told_apart_by_what_they_hold(config: TrainConfig, tmp_path: Path) -> None:
    source = write_teacher(tmp_path / "trained")
    model = config.model.model_copy(update={"start": "continue", "config": None, "source": str(source)})
    trained = config.model_copy(update={"model": model})
    weights = source / "teacher.safetensors"
    before, content = settings_of(trained), bytearray(weights.read_bytes())
    os.utime(weights, (0, 0))
    assert settings_of(trained) == before
    content[-1] ^= 1
    weights.write_bytes(content)
    assert settings_of(trained) != before


def test_what_is_measured_on_is_of_families_that_nothing_trains_on(tmp_path: Path) -> None:
    objects = ablation_runs.held_out_objects(tmp_path, len(HELD_OUT))
    assert {objects[index].family for index in range(len(objects))} == HELD_OUT
    assert any(objects[index].transparent for index in range(len(objects)))


def test_a_model_that_lacks_parts_is_refused(config: TrainConfig, tmp_path: Path) -> None:
    source = write_teacher(tmp_path / "ablated", without=["opacity_embedding"])
    model = config.model.model_copy(update={"start": "continue", "config": None, "source": str(source)})
    with pytest.raises(ConfigurationError, match="is without opacity_embedding"):
        settings_of(config.model_copy(update={"model": model}))


@pytest.mark.parametrize("override", ["model.without=[opacity_embedding]", "model.config=/nowhere"])
def test_what_must_be_changed_first_is_said(override: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ablation.main([override, f"output.path={tmp_path}"]) == 2
    assert "ablation: " in capsys.readouterr().err


@pytest.mark.slow  # starts processes that each load torch
def test_all_variants_are_trained_side_by_side_and_from_a_models_weights(tmp_path: Path) -> None:
    config = write_train_config(tmp_path)
    source = write_teacher(tmp_path / "trained")
    out = tmp_path / "found.json"
    command = ["--config", str(config), "--model", str(source), "--samples", "3", "--out", str(out)]
    assert ablation.main(command) in {0, 1}
    first = json.loads(out.read_text())
    assert ablation.main(command) in {0, 1}
    assert json.loads(out.read_text()) == first
