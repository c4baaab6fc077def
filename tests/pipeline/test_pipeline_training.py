"""Training configurations, the trainers built from them, and whole (tiny) runs in this process."""

import dataclasses
import json
import os
import re
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file

from pipeline.errors import ConfigurationError, PipelineError
from pipeline.training.build import build_trainer
from pipeline.training.config import AugmentationSection, OptionsSection, TrainConfig, load_train_config
from pipeline.training.run import STOP, Outcome, export_model, train
from sdmatte import Box, SDMatte
from sdmatte.errors import SDMatteError
from sdmatte.training.loop import Trainer
from sdmatte.training.options import TrainingOptions
from sdmatte.training.samples import Augmentation
from support.models import photo
from support.training_run import write_teacher, write_train_config

MINIMAL = (
    "model={start: random, config: sdmatte-mini}",
    "data={foregrounds: [{kind: synthetic}], backgrounds: [{kind: synthetic}]}",
    "output.path=run",
)


pytestmark = pytest.mark.usefixtures("one_thread")


def config(folder: Path, *overrides: str) -> TrainConfig:
    path = folder / "train.yaml"
    return load_train_config(str(path if path.exists() else write_train_config(folder)), overrides)


# --- the configuration


def test_the_defaults_are_the_papers_recipe() -> None:
    read = load_train_config(None, MINIMAL)
    assert read.options.training_options() == TrainingOptions()
    assert set(OptionsSection.model_fields) == {field.name for field in dataclasses.fields(TrainingOptions)}
    assert set(AugmentationSection.model_fields) == {f.name for f in dataclasses.fields(Augmentation)} | {"recipe"}
    assert read.augmentation.recipe == "paper"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("options.learning_rat=1", r"options\.learning_rat: Extra inputs are not permitted"),
        ("options.stages=[{steps: 0, sizes: [32], batch: 4}]", r"options\.stages\.0\.steps: .*greater than 0"),
        ("options.stages=[{steps: 1, sizes: [32], batch: 4, more: 1}]", r"options\.stages\.0\.more: Extra inputs"),
        ("data.foregrounds=[]", r"data\.foregrounds: .*at least 1 item"),
        ("data.foregrounds=[{kind: cutouts}]", r"data\.foregrounds\.0\.cutouts\.path: Field required"),
        ("data.foregrounds=[{kind: movies, path: x}]", r"data\.foregrounds\.0: .*'movies'"),
        ("data.backgrounds=[{kind: pictures, path: x, weight: 0}]", r"backgrounds\.0\.pictures\.weight: .*greater"),
        ("model={start: graft, config: sdmatte}", r"model\.source is needed for model\.start=graft"),
        ("model={start: random, config: sdmatte, source: x}", r"model\.source has no use with model\.start=random"),
        ("model.without=[attention]", r"model\.without\.0: .*visual_prompt_attention"),
        ("augmentation.prompts={box: 0}", "needs at least one kind"),
        ("workers.count=3", "a batch of 8 can't be divided among 3 workers x 1 micro-batches"),
        ("output.name=../x", r"output\.name"),
    ],
)
def test_faults_are_named(override: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        load_train_config(None, [*MINIMAL, override])
    assert "docs/training.md" in str(caught.value)


def test_paths_do_not_depend_on_the_workers_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is called like a packaged configuration does not hide it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sdmatte-mini").mkdir()
    (tmp_path / "mine").mkdir()
    read = load_train_config(None, MINIMAL)
    assert read.output.path == tmp_path / "run"
    assert read.model.config == "sdmatte-mini"
    source = load_train_config(None, [*MINIMAL, "model={start: continue, source: mine}"]).model.source
    assert source == str(tmp_path / "mine")
    source = load_train_config(None, [*MINIMAL, "model={start: continue, source: LongfeiHuang/SDMatte}"]).model.source
    assert source == "LongfeiHuang/SDMatte"


def test_every_key_is_described() -> None:
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    schema = TrainConfig.model_json_schema()
    keys = {key for section in (schema, *schema["$defs"].values()) for key in section.get("properties", {})}
    assert len(keys) > 50
    assert not {key for key in keys if not re.search(rf"`{key}`", page)}


# --- what is built


def test_the_trainer_is_what_the_configuration_says(tmp_path: Path) -> None:
    trainer = build_trainer(
        config(
            tmp_path, "model.without=[coordinate_embedding]", "options.learn=[unet, vae]", "augmentation.twice=0.25"
        )
    )
    assert trainer.learner.network.unet.without == {"coordinate_embedding"}
    assert any(name.startswith("vae.") for name in trainer.average)
    assert trainer.options.stages[0].batch == 4
    assert json.loads((tmp_path / "run" / "model" / "unet" / "config.json").read_text())["without"] == [
        "coordinate_embedding"
    ]


def test_sources_of_all_kinds(tmp_path: Path) -> None:
    write_train_config(tmp_path)
    (tmp_path / "names.txt").write_text("0\n2\n")
    kinds = (
        f"data.foregrounds=[{{kind: pairs, path: {tmp_path}/cutouts, alphas: {tmp_path}/backgrounds, limit: 48, "
        f"transparent: {tmp_path}/names.txt, weight: 2}}, {{kind: synthetic, count: 2, side: 48, "
        f"families: [blob], photos: {tmp_path}/backgrounds, bank: {tmp_path}/banks/objects.npy}}]"
    )
    backgrounds = "data.backgrounds=[{kind: synthetic, count: 2, side: 48, keep: true}]"
    # The pairs' sizes differ, which is found when one is read: the random start samples some.
    with pytest.raises(SDMatteError, match="48 x 48"):
        build_trainer(config(tmp_path, kinds, backgrounds))
    assert np.load(tmp_path / "banks" / "objects.npy").shape == (2, 48, 48, 4)
    with pytest.raises(ConfigurationError, match=r"no families .'blobs'"):
        build_trainer(config(tmp_path, kinds.replace("blob]", "blobs]"), backgrounds))
    with pytest.raises(ConfigurationError, match=r"missing\.txt can't be read"):
        build_trainer(config(tmp_path, kinds.replace("names.txt", "missing.txt"), backgrounds))


def test_a_run_goes_on_as_the_model_it_is(tmp_path: Path) -> None:
    """The ablations' weights have the same shapes: nothing else would notice."""
    train(config(tmp_path), local=True)
    with pytest.raises(ConfigurationError, match="trains another model"):
        build_trainer(config(tmp_path, "model.without=[masked_self_attention]"))


def test_a_run_keeps_its_text_embedding_when_the_seed_changes(tmp_path: Path) -> None:
    train(config(tmp_path), local=True)
    same, other = (build_trainer(config(tmp_path, f"options.seed={seed}")) for seed in (0, 1))
    torch.testing.assert_close(same.learner.text, other.learner.text, rtol=0, atol=0)


def test_a_teacher_must_have_the_same_feature_maps(tmp_path: Path) -> None:
    teacher = write_teacher(tmp_path / "t", block_out_channels=[8, 24], attention_head_dim=[1, 3])
    with pytest.raises(ConfigurationError, match=r"block_out_channels is \[8, 24\], the student's \[8, 16\]"):
        build_trainer(config(tmp_path, f"teacher.source={teacher}"))


# --- whole runs


def test_a_run_from_the_start_to_the_model(tmp_path: Path) -> None:
    outcome = train(config(tmp_path), local=True)
    assert outcome == Outcome(tmp_path / "run", 3, 3, tmp_path / "run" / "export" / "tiny")
    assert str(outcome) == f"trained 3 steps; the model is in {outcome.model}"
    model = SDMatte.from_pretrained(str(outcome.model), device="cpu", input_size=64)
    alpha = model(photo(64, 64), Box(8, 8, 50, 50))
    assert alpha.shape == (64, 64)
    assert [json.loads(line)["step"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()] == [
        1,
        2,
        3,
    ]
    again = train(config(tmp_path), local=True)
    assert again == outcome


def test_distillation(tmp_path: Path) -> None:
    teacher = write_teacher(tmp_path / "t")
    before = {name: tensor.clone() for name, tensor in load_file(teacher / "teacher.safetensors").items()}
    train(config(tmp_path, f"teacher.source={teacher}", "options.distillation=0.5"), local=True)
    losses = [json.loads(line)["distillation"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert len(losses) == 3
    assert min(losses) > 0
    assert all(torch.equal(before[name], value) for name, value in load_file(teacher / "teacher.safetensors").items())


def test_continuing_from_a_model_starts_with_its_weights(tmp_path: Path) -> None:
    source = write_teacher(tmp_path / "t")
    trainer = build_trainer(config(tmp_path, f"model={{start: continue, source: {source}}}"))
    stored = load_file(source / "teacher.safetensors")
    assert torch.equal(trainer.learner.network.unet.conv_out.weight, stored["unet.conv_out.weight"])


def test_a_signal_saves_and_the_same_command_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config(tmp_path, "options.save_every=100", "options.stages=[{steps: 4, sizes: [32], batch: 2}]")
    straight = load_train_config(str(tmp_path / "train.yaml"), [f"output.path={tmp_path}/straight"])
    straight = straight.model_copy(update={"options": settings.options})
    train(straight, local=True)

    update = Trainer._update

    def interrupted(self: Trainer, *args: object) -> object:
        if self.step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return update(self, *args)  # type: ignore[arg-type]

    handler = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_update", interrupted)
        outcome = train(settings, local=True)
    assert signal.getsignal(signal.SIGTERM) == handler
    assert (outcome.step, outcome.complete, outcome.model) == (2, False, None)
    assert str(outcome) == f"stopped after 2 of 4 steps; the same command continues from {tmp_path}/run"
    assert not (tmp_path / "run" / STOP).exists()
    assert train(settings, local=True).complete
    one, other = (load_file(tmp_path / name / "weights.safetensors") for name in ("run", "straight"))
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=0)


@pytest.mark.timeout(120)
def test_loader_processes_start_although_opencv_has_threads(tmp_path: Path) -> None:
    """They inherit its thread pool without the threads: whoever touches it there waits for ever."""
    before = cv2.getNumThreads()
    try:
        cv2.setNumThreads(4)
        cv2.GaussianBlur(np.zeros((2000, 2000, 3), np.float32), (0, 0), 5)
        assert train(config(tmp_path, "options.workers=1"), local=True).complete
    finally:
        cv2.setNumThreads(before)


def test_a_fault_on_the_way_says_where(tmp_path: Path) -> None:
    settings = config(tmp_path)
    trainer = build_trainer(settings)
    trainer.save()
    (tmp_path / "backgrounds" / "1.png").write_bytes(b"no picture")
    with pytest.raises(PipelineError, match=r"training stopped after \d steps: .*1\.png"):
        train(config(tmp_path, "options.stages=[{steps: 9, sizes: [32], batch: 4}]"), local=True)


def test_an_export_needs_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="has not saved a checkpoint"):
        export_model(config(tmp_path))


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("train-sdmatte", 30_501),
        ("train-litesdmatte", 30_501),
        ("train-nano-1", 1986),
        ("train-nano-2", 3893),
        ("train-nano-3", 3100),
        ("ablation-nano", 500),
    ],
)
def test_the_examples_are_valid(name: str, steps: int) -> None:
    path = Path(__file__).parents[2] / "configs" / f"{name}.yaml"
    assert load_train_config(str(path)).options.training_options().steps == steps


def test_families_kept_for_evaluation_are_refused(tmp_path: Path) -> None:
    held_out = "data.foregrounds=[{kind: synthetic, count: 2, side: 32, families: [tree, blob]}]"
    with pytest.raises(ConfigurationError, match=r"\['tree'\] are kept for evaluation"):
        train(config(tmp_path, held_out), local=True)


def test_two_jobs_in_one_folder_are_refused(tmp_path: Path) -> None:
    wanted = config(tmp_path)
    wanted.output.path.mkdir(parents=True, exist_ok=True)
    with FileLock(wanted.output.path / "lock"), pytest.raises(ConfigurationError, match="another job trains in"):
        train(wanted, local=True)


def test_damaged_data_in_a_loader_process_stops_with_its_name(tmp_path: Path) -> None:
    damaged = config(tmp_path, "options.workers=1")
    for path in tmp_path.rglob("*.png"):
        path.write_bytes(path.read_bytes()[:40])
    with pytest.raises((ConfigurationError, PipelineError), match=r"\.png"):
        train(damaged, local=True)
