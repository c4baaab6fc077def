"""The configuration of a training run: one schema, one YAML file, single keys overridden on the command line.

The keys are described in docs/training.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from pipeline.config import Section, load
from sdmatte.configs import PACKAGED
from sdmatte.training.options import Part as LearningPart
from sdmatte.training.options import Stage, TrainingOptions

REFERENCE = "docs/training.md"


def _here(source: str) -> str:
    """Make the name of something local absolute; leave names of other places alone."""
    path = Path(source).expanduser()
    return str(path.absolute()) if source not in PACKAGED and path.exists() else source


LocalPath = Annotated[Path, AfterValidator(lambda path: path.expanduser().absolute())]
"""Made absolute: Ray's workers have folders of their own to work in."""

Source = Annotated[str, AfterValidator(_here)]
"""Of a model, here or elsewhere."""

Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Ablated = Literal["visual_prompt_attention", "coordinate_embedding", "opacity_embedding", "masked_self_attention"]


class ModelSection(Section):
    """What is trained, and from which weights."""

    start: Literal["random", "graft", "continue"]
    """`random`: weights from `options.seed`; `graft`: Stable Diffusion 2's; `continue`: those of an SDMatte model."""
    config: Source | None = None
    """For `random` and `graft`: a packaged configuration or a folder that has `unet/`, `vae/`, `text_encoder/`."""
    source: Source | None = None
    """For `graft`: the local diffusers-style folder; for `continue`: as `model.source` of a labelling run."""
    weights: str | None = None
    """For `continue`: the file to take where the source holds several."""
    vae: LocalPath | None = None
    """For `graft`: folder with the weights of another autoencoder (LiteSDMatte's tiny one)."""
    without: tuple[Ablated, ...] = ()
    """Parts of SDMatte that this model is to do without: the paper's ablation."""

    @model_validator(mode="after")
    def _fits_the_start(self) -> ModelSection:
        takes = {"random": {"config"}, "graft": {"config", "source", "vae"}, "continue": {"source", "weights"}}
        needs = {"random": {"config"}, "graft": {"config", "source"}, "continue": {"source"}}
        given = {key for key in ("config", "source", "weights", "vae") if getattr(self, key) is not None}
        if missing := needs[self.start] - given:
            raise ValueError(f"model.{', model.'.join(sorted(missing))} is needed for model.start={self.start}")
        if extra := given - takes[self.start]:
            raise ValueError(f"model.{', model.'.join(sorted(extra))} has no use with model.start={self.start}")
        return self


class _Source(Section):
    weight: PositiveFloat = 1.0
    """How often this source is drawn from, relative to the others."""


class _Foregrounds(_Source):
    bank: LocalPath | None = None
    """`.npy` file that the objects are drawn or decoded into once; drawn again when these settings change."""


class CutoutsSection(_Foregrounds):
    """Foregrounds from RGBA pictures in a folder or a tar file."""

    kind: Literal["cutouts"]
    path: LocalPath
    limit: PositiveInt = 1024
    """Longer sides are scaled down to this (unit: pixel)."""


class PairsSection(_Foregrounds):
    """Foregrounds from a folder of colours and a folder of alphas of the same names."""

    kind: Literal["pairs"]
    path: LocalPath
    alphas: LocalPath
    transparent: LocalPath | None = None
    """Text file with the names (without suffix) of transparent objects, one per line."""
    limit: PositiveInt = 1024
    """Longer sides are scaled down to this (unit: pixel)."""


class SyntheticSection(_Foregrounds):
    """Procedural foregrounds."""

    kind: Literal["synthetic"]
    count: PositiveInt = 4000
    side: PositiveInt = 320
    """Of each object (unit: pixel)."""
    seed: int = Field(default=0, ge=0)
    families: tuple[str, ...] | None = None
    """Default: all that are not held out for evaluation."""
    photos: LocalPath | None = None
    """Folder or tar file of photographs that some surfaces are cut from."""


class _Backgrounds(_Source):
    keep: bool = False
    """Decode or draw everything at the start, and keep it in memory."""


class PicturesSection(_Backgrounds):
    """Backgrounds from a folder or a tar file."""

    kind: Literal["pictures"]
    path: LocalPath


class SyntheticPicturesSection(_Backgrounds):
    """Procedural backgrounds."""

    kind: Literal["synthetic"]
    count: PositiveInt = 500
    side: PositiveInt = 384
    """Of each picture (unit: pixel)."""
    seed: int = Field(default=0, ge=0)


ForegroundsSection = Annotated[CutoutsSection | PairsSection | SyntheticSection, Field(discriminator="kind")]
BackgroundsSection = Annotated[PicturesSection | SyntheticPicturesSection, Field(discriminator="kind")]


class DataSection(Section):
    """What samples are made of."""

    foregrounds: tuple[ForegroundsSection, ...] = Field(min_length=1)
    backgrounds: tuple[BackgroundsSection, ...] = Field(min_length=1)


class AugmentationSection(Section):
    """How samples vary: a recipe, and what to change of it; see :class:`sdmatte.training.samples.Augmentation`."""

    recipe: Literal["paper", "rich"] = "paper"
    prompts: dict[Literal["box", "mask", "points"], NonNegativeFloat] | None = None
    twice: Probability | None = None
    others: Probability | None = None
    most_others: PositiveInt | None = None
    blurred_background: Probability | None = None
    blurred_object: Probability | None = None
    shadows: Probability | None = None
    grayscale: Probability | None = None
    box_jitter: Annotated[float, Field(ge=0.0, lt=0.5)] | None = None
    fewer_points: Probability | None = None
    aspects: Probability | None = None
    side: tuple[PositiveFloat, PositiveFloat] | None = None

    @model_validator(mode="after")
    def _some_prompt(self) -> AugmentationSection:
        if self.prompts is not None and not sum(self.prompts.values()):
            raise ValueError("augmentation.prompts needs at least one kind with a weight above 0")
        return self

    def changes(self) -> dict[str, Any]:
        """Return what is changed of the recipe."""
        return {key: value for key, value in self if key != "recipe" and value is not None}


class StageSection(Section):
    """A part of the run; see :class:`sdmatte.training.options.Stage`."""

    steps: PositiveInt
    sizes: tuple[PositiveInt, ...] = Field(min_length=1)
    batch: PositiveInt
    accumulate: PositiveInt = 1


_PAPER = TrainingOptions()


class OptionsSection(Section):
    """Every number of the run; see :class:`sdmatte.training.options.TrainingOptions`, whose defaults these are."""

    stages: tuple[StageSection, ...] = Field(
        default=tuple(StageSection(steps=s.steps, sizes=s.sizes, batch=s.batch) for s in _PAPER.stages), min_length=1
    )
    learning_rate: PositiveFloat = _PAPER.learning_rate
    warmup: int = Field(default=_PAPER.warmup, ge=0)
    final_factor: float = Field(default=_PAPER.final_factor, gt=0, le=1)
    weight_decay: NonNegativeFloat = _PAPER.weight_decay
    clip: PositiveFloat = _PAPER.clip
    ema: float = Field(default=_PAPER.ema, ge=0, lt=1)
    learn: tuple[LearningPart, ...] = Field(default=_PAPER.learn, min_length=1)
    precision: Literal["float32", "bfloat16"] = _PAPER.precision
    distillation: NonNegativeFloat = _PAPER.distillation
    seed: int = Field(default=_PAPER.seed, ge=0)
    mirrored: bool = _PAPER.mirrored
    workers: int = Field(default=_PAPER.workers, ge=0)
    save_every: PositiveInt = _PAPER.save_every
    show_every: PositiveInt = _PAPER.show_every

    def training_options(self) -> TrainingOptions:
        """Return them as the loop takes them."""
        values = dict(self)
        values["stages"] = tuple(Stage(**dict(stage)) for stage in self.stages)
        return TrainingOptions(**values)


class TeacherSection(Section):
    """The model to distil from, besides the true alphas."""

    source: Source
    """As `model.source` of a labelling run."""
    weights: str | None = None
    """File to take where the source holds several."""


class TrainingWorkersSection(Section):
    """How the work is spread; `--local` needs only `device`."""

    count: PositiveInt = 1
    """Training workers; each takes its share of every batch."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto`: one GPU per worker where there are any, else CPUs."""
    cpus_per_worker: PositiveFloat = 1.0
    """CPUs that each reserves; may be a fraction."""
    retries: int = Field(default=2, ge=0)
    """How often a run goes on from its last checkpoint by itself after a worker died."""
    ray_address: str | None = None
    """Cluster to use; default that of `RAY_ADDRESS`, else a Ray of our own. All nodes must see the same folders."""
    object_store_mb: PositiveInt = 200
    """Object store of a Ray of our own (unit: MB)."""


class RunSection(Section):
    """Where the run is kept, and what becomes of it."""

    path: LocalPath
    """Folder of the run; the same command continues what is there."""
    name: str = Field(default="sdmatte", pattern=r"^[A-Za-z0-9][\w.-]*$")
    """Name of the exported model: `<path>/export/<name>/`."""
    stored: Literal["float16", "float32"] = "float16"
    """Type of the exported weights."""


class TrainConfig(Section):
    """A training run."""

    model: ModelSection
    data: DataSection
    augmentation: AugmentationSection = AugmentationSection()
    options: OptionsSection = OptionsSection()
    teacher: TeacherSection | None = None
    workers: TrainingWorkersSection = TrainingWorkersSection()
    output: RunSection

    @model_validator(mode="after")
    def _batches_can_be_shared(self) -> TrainConfig:
        for number, stage in enumerate(self.options.stages):
            if stage.batch % (self.workers.count * stage.accumulate):
                raise ValueError(
                    f"options.stages.{number}: a batch of {stage.batch} can't be divided among {self.workers.count} "
                    f"workers x {stage.accumulate} micro-batches"
                )
        return self


def load_train_config(path: str | None, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a training configuration; see :func:`pipeline.config.load_config`.

    Raises:
        ConfigurationError: It can't be read, or has faults; all are named at once.
    """
    return load(TrainConfig, path, overrides, reference=REFERENCE)
