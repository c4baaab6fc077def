"""The configuration of a labelling run: one schema, one YAML file, single keys overridden on the command line.

The docstrings below the keys are their documentation; docs/configuration.md is generated from them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.errors import ConfigurationError
from pipeline.storage import NotFoundError, public_uri, read_bytes
from pipeline.storage_faults import check_url
from sdmatte.urls import redact

Schema = TypeVar("Schema", bound=BaseModel)

_HOW_NOT_WHAT = (
    "batch_size",
    "batch_pixels",
    "device",
    "batch_timeout",
)  # settings of the model that leave its mattes as they are


class Section(BaseModel):
    """A part of a configuration: unknown keys are refused, and docstrings below keys describe them."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class InputConfig(Section):
    """Where the images are."""

    kind: Literal["webdataset", "folder", "manifest"]
    """`webdataset`: tar shards; `folder`: image files below a folder; `manifest`: rows of JSON Lines, CSV or Parquet
    that name images."""
    path: str | list[str]
    """URL or path, or a list of them. Tar shards and manifests also as globs (`s3://bucket/shards/*.tar`), with braces
    (`s3://bucket/shard-{0000..0999}.tar`), or as a `.txt` file with one of all these per line."""
    max_pixels: int = Field(default=100_000_000, gt=0)
    """Images with more pixels become error records (unit: pixel)."""
    decode: Literal["auto", "full"] = "auto"
    """`auto`: JPEGs much larger than the model's input are decoded at a half, a quarter or an eighth of their size,
    never below twice the input; noted in `image_notes` as `scaled_decode`. `full`: never. Alphas have the full
    size either way."""
    max_bytes: int | None = Field(default=None, gt=0)
    """Image files with more bytes become error records, unread (unit: byte). Default: what an uncompressed image of
    `max_pixels` can have, 8 per pixel and 1 MiB."""
    schemes: list[str] = ["s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "hf", "memory", "file"]
    """URLs that manifests may name. Add `http` and `https` for manifests whose makers you trust: they let a manifest
    send requests from your workers to any host that these can reach."""
    images_per_shard: int = Field(default=64, gt=0)
    """Folders and manifests are cut into shards of this many images (folders: on average, so that new files change
    few shards); a shard is what one task reads, and what a resumed run skips."""


Policy = Literal["repair", "error"]
LaxPolicy = Literal["keep", "repair", "error"]


class AuditConfig(Section):
    """What becomes of prompts that the audit objects to.

    `repair` notes the change in the record's `prompt_repairs`, `keep` notes the finding, `error` makes the record one.
    """

    out_of_frame: Policy = "repair"
    """Box, points or polygon partly outside the image: cut at its edges (`box_clipped`, `points_dropped`,
    `mask_clipped`), or `prompt_out_of_frame`. What lies outside altogether is always that error."""
    swapped: Policy = "repair"
    """Corners of a box in the wrong order: sorted (`box_swapped`), or `prompt_swapped`."""
    not_finite: Policy = "repair"
    """NaN or infinity among several points: these are dropped (`points_dropped`), or `prompt_not_finite`, which it
    always is in boxes and polygons."""
    tiny: LaxPolicy = "keep"
    """Box or mask with a side below `min_side`: noted (`prompt_tiny`), a box grown about its centre (`box_grown`; a
    mask is kept), or the error `prompt_tiny`."""
    min_side: float = Field(default=4.0, ge=0.0)
    """See `tiny` (unit: pixel)."""
    duplicate: Literal["keep", "error"] = "keep"
    """Same box, points or mask as an earlier prompt of the image: noted (`prompt_duplicate`), or the error of that
    name."""
    image_size: Policy = "repair"
    """The prompts were made for an image of another size: turned along with an image whose EXIF orientation was
    ignored (`frame_rotated`), scaled where the aspect ratio is the same (`frame_scaled`), else, or with `error`,
    `prompt_frame_mismatch`."""
    mask_size: Policy = "repair"
    """Mask of another size than the image: turned (`mask_rotated`) or scaled (`mask_scaled`) likewise, else, or with
    `error`, `prompt_size_mismatch`."""
    several_subjects: LaxPolicy = "keep"
    """Mask of several separate parts of similar size: noted (`several_subjects`), the largest part kept
    (`largest_part_kept`), or `prompt_several_subjects`."""


class PromptsConfig(Section):
    """Where the prompts are, and how they are to be read."""

    kind: Literal["inline", "jsonl", "parquet", "coco", "yolo", "labelme", "label_studio", "cvat"] = "inline"
    """`inline`: in the native form beside each image, in its shard or row; `jsonl`, `parquet`: one file in the native
    form, joined by key; `coco`: COCO detection results or ground truth; `yolo`, `labelme`: one file per image;
    `label_studio`, `cvat`: exports of these tools."""
    path: str | None = None
    """The file; for `yolo` and `labelme` the folder of the files, or nothing where they stand beside the images."""
    coco_images: str | None = None
    """For COCO results: the annotation file whose `images` list maps image ids to file names. Without it, ids are
    matched with numeric file stems (`000000000139.jpg` is image 139)."""
    class_names: str | None = None
    """For YOLO: `data.yaml`, or a text file with one name per line; without it, labels are the class numbers."""
    min_score: float = Field(default=0.0, ge=0.0, le=1.0)
    """Prompts with a score below this are left out."""
    categories: list[str] | None = None
    """Keep only prompts with these labels (COCO: category names or ids); default all."""
    top_k: int | None = Field(default=None, gt=0)
    """Keep only so many prompts per image, those of the highest scores; default all."""
    max_per_image: int = Field(default=1000, gt=0)
    """Further prompts of an image become error records (`prompt_too_many`)."""
    box: Literal["xyxy", "xywh", "cxcywh"] = "xyxy"
    """Native form: boxes are two corners; a corner, width and height; or a centre, width and height."""
    units: Literal["pixel", "normalised"] = "pixel"
    """Native form: coordinates in pixels, or as fractions of the image's width and height."""
    orientation: Literal["upright", "stored"] = "upright"
    """Whether coordinates and masks belong to the image as viewers show it, or as it is stored, before its EXIF
    orientation is applied (detectors that were fed without regard to EXIF)."""
    audit: AuditConfig = AuditConfig()

    @model_validator(mode="after")
    def _path_is_there(self) -> PromptsConfig:
        if self.kind not in ("inline", "yolo", "labelme") and not self.path:
            raise ValueError(f"prompts.path is needed for prompts.kind={self.kind}")
        if self.kind == "inline" and self.path:
            raise ValueError("prompts.path is set, but prompts.kind is inline; set prompts.kind to jsonl or coco")
        if self.kind not in ("inline", "jsonl", "parquet") and (self.box, self.units) != ("xyxy", "pixel"):
            raise ValueError(f"prompts.box and prompts.units are for the native form; {self.kind} defines its own")
        return self


class ModelConfig(Section):
    """The matting model and how it computes."""

    source: str
    """Hub id (`LongfeiHuang/SDMatte`), folder, file, URL, the bundled `sdmatte-nano`, or `untrained:sdmatte-mini`."""
    weights: str | None = None
    """File to take where the source holds several (`SDMatte_plus.pth`)."""
    revision: str | None = None
    """Hub revision."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """`auto`: bfloat16 on GPUs that have it, float32 on CPUs and for small models."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto`: a GPU where the cluster has any, else the CPU."""
    input_size: int | None = Field(default=None, ge=64, multiple_of=64)
    """Side of the model's square input (unit: pixel), its area with `resize: aspect`; `null`: the model's own."""
    resize: Literal["square", "aspect"] = "square"
    """`square` as in the paper, or `aspect`, which keeps the image's aspect ratio."""
    batch_size: int = Field(default=4, gt=0)
    """Objects per forward pass, of the model's own input size. What counts are the pixels of their grids: batches of
    larger grids have fewer objects, of smaller ones more."""
    batch_pixels: int | None = Field(default=None, gt=0)
    """Pixels per forward pass: objects times height and width of their grid, and one object at least. Halved on
    out-of-memory and regrown. Default: those of `batch_size` objects of the model's input size (unit: pixel)."""
    batch_timeout: float = Field(default=900.0, gt=0)
    """A forward pass that takes longer is taken for stuck: its process is replaced, the guilty object isolated (unit:
    second)."""
    caption: str = ""
    """Text prompt for all images; the released weights were used with the empty one."""


class QualityConfig(Section):
    """How mattes are scored: what the columns `predicted_mad` and `quality` come from, see docs/quality.md."""

    second: Literal["none", "flip", "jitter", "resolution", "model"] = "none"
    """A second matte of the same prompt, which is not kept: how far it differs tells much about the error. `flip`: of
    the mirrored image (costs as much as the first matte); `jitter`: of the prompt, slightly moved (the image is not
    encoded again: cheapest for large models); `resolution`: with an input of `second_size` (at 2/3 of the side, 0.44
    of the first one's work); `model`: with `second_model`, a smaller one (what that one costs)."""
    second_size: int | None = Field(default=None, ge=64, multiple_of=64)
    """For `resolution` (unit: pixel); default: 2/3 of the model's own input size, rounded to a multiple of 64."""
    second_model: str | None = None
    """For `model`: as `model.source`."""
    calibration: str = "auto"
    """What turns features into a predicted error: a file that jobs/calibrate.py wrote (path or URL), `none`, or
    `auto`: of the bundled ones that for this model and second pass; for other models the nearest, and records say in
    `calibration_matches` that it was made for another."""

    @model_validator(mode="after")
    def _second_is_whole(self) -> QualityConfig:
        if (self.second == "model") != (self.second_model is not None):
            raise ValueError("quality.second=model and quality.second_model belong together: set both or none")
        if self.second_size is not None and self.second != "resolution":
            raise ValueError("quality.second_size is for quality.second=resolution")
        return self


class OutputConfig(Section):
    """Where and how the records are written."""

    path: str
    """Run directory: a local path or any fsspec URL. Belongs to one run."""
    alpha_bits: Literal[8, 16] = 8
    """Bits per pixel of the alpha PNGs."""
    file_mb: float = Field(default=32.0, gt=0)
    """Size that Parquet files are gathered to, whatever the number of shards (unit: MB). What is not yet in a file is
    computed again after a crash."""
    exclusive: bool = True
    """Keep a second job out of the run directory by a conditional write, which the store must support. `false` for
    stores that don't: then two jobs at once are noticed only afterwards, as doubled records."""
    contact_sheet: int = Field(default=24, ge=0, le=400)
    """Objects shown on the run's contact sheet, at most 400; 0 for none."""
    report_objects: int = Field(default=200, ge=0, le=5000)
    """Objects with pictures on the run's report page: the worst, the best, errors, and others of every label. Each
    costs about 30 ms and 25 kB; 0 for a page without pictures."""


class WorkersConfig(Section):
    """How the work is spread."""

    actors: int = Field(default=1, gt=0)
    """Processes that hold the model."""
    cpus_per_actor: float | None = Field(default=None, gt=0)
    """CPUs that each of them reserves, and computes on where there is no GPU. Default: 1 on a cluster or beside a GPU,
    else an even share of this machine."""
    gpus_per_actor: float = Field(default=1.0, gt=0)
    """GPUs that each of them reserves, where the device is `cuda`."""
    readers: int = Field(default=2, gt=0)
    """Shards read at a time."""
    images_per_block: int = Field(default=8, gt=0)
    """Images handed to an actor at a time, as one block."""
    blocks_in_hand: int | None = Field(default=None, gt=0, le=16)
    """Blocks that an actor works on at a time: while the model computes on one, images of another are decoded, scored
    and written as PNG. Default: 2 beside a GPU; 1 where the model computes on CPUs, which then have no time to
    spare."""
    ray_address: str | None = None
    """Cluster to use; default the one of the environment (`RAY_ADDRESS`, as in `ray job submit`), else a local one.
    This package must be installed on its nodes, see docs/cluster.md."""
    local_cpus: int | None = Field(default=None, gt=0)
    """CPUs of a local Ray instance; default the machine's."""
    object_store_mb: int = Field(default=512, gt=0)
    """Object store of a local Ray instance (unit: MB)."""
    retries: int = Field(default=5, ge=0)
    """How often a transient storage fault is retried, with backoff and jitter."""


class FailuresConfig(Section):
    """When to stop rather than go on spending."""

    max_error_rate: float = Field(default=1.0, ge=0.0, le=1.0)
    """Stop when more than this share of the objects are errors."""
    max_rate_by_code: dict[str, float] = {"image_unavailable": 0.2, "model_failed": 0.5, "model_crashed": 0.05}
    """The same for single error codes."""
    min_objects: int = Field(default=100, gt=0)
    """Objects that must be done before rates count."""
    canary_images: int = Field(default=0, ge=0)
    """Label so many images, spread over the input, with one actor first; stop unless enough of them pass. 0: off."""
    canary_max_error_rate: float = Field(default=0.5, ge=0.0, le=1.0)
    """Share of the canary's objects that may be errors."""


class LabelConfig(Section):
    """A labelling run."""

    input: InputConfig
    prompts: PromptsConfig = PromptsConfig()
    model: ModelConfig
    quality: QualityConfig = QualityConfig()
    output: OutputConfig
    workers: WorkersConfig = WorkersConfig()
    failures: FailuresConfig = FailuresConfig()

    @model_validator(mode="after")
    def _urls_are_usable(self) -> LabelConfig:
        """Raise ConfigurationError, which leaves as it is: pydantic's own error would print the keys in a URL."""
        paths = self.input.path if isinstance(self.input.path, list) else [self.input.path]
        named = [("input.path", path) for path in paths] + [("output.path", self.output.path)]
        named += [
            (f"prompts.{key}", getattr(self.prompts, key) or "") for key in ("path", "coco_images", "class_names")
        ]
        named += [("quality.calibration", self.quality.calibration)]
        for key, path in named:
            try:
                check_url(path)
            except ConfigurationError as error:
                raise ConfigurationError(f"{key}: {error}") from None
        return self

    @classmethod
    def recorded(cls, content: Any) -> LabelConfig:
        """Read the configuration of a run, as its `run.json` holds it.

        Raises:
            ValidationError: It is none.
        """
        if isinstance(content, dict) and isinstance(content.get("input"), dict):
            # Runs before there was a choice decoded at full size: what is made anew of them is to be the same.
            content = content | {"input": {"decode": "full"} | content["input"]}
        return cls.model_validate(content)

    def matte_hash(self) -> str:
        """Return 16 hexadecimal digits for the settings that change mattes.

        The model's source counts by its name; the weights themselves are told apart by ``weights_sha256``.
        """
        content = {
            "model": redact(self.model.model_dump(mode="json", exclude=set(_HOW_NOT_WHAT))),
            "alpha_bits": self.output.alpha_bits,
        }
        if self.input.decode != "full":  # the hashes of runs before there was a choice were those of full decodes
            content["decode"] = self.input.decode
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def identity(self) -> dict[str, Any]:
        """Return the settings that must be equal for two jobs to continue the same run."""
        dump = self.model_dump(mode="json", exclude={"workers": True, "failures": True})
        dump["output"] = {"alpha_bits": self.output.alpha_bits}  # what else is there changes no record
        for key in _HOW_NOT_WHAT:
            dump["model"].pop(key)
        return dump


def load_config(path: str | None, overrides: Sequence[str] = ()) -> LabelConfig:
    """Read a YAML file (local or any fsspec URL) and apply overrides.

    Args:
        path: The file; None to build everything from overrides.
        overrides: `section.key=value` strings; values are parsed as YAML, so `[a, b]`, `null` and `true` work.

    Raises:
        ConfigurationError: The file can't be read or parsed, a key is unknown, or a value is refused; all the faults
            of a file are named at once.
        TransientError: The file's store failed repeatedly.
    """
    return load(LabelConfig, path, overrides, reference="docs/configuration.md")


def load(schema: type[Schema], path: str | None, overrides: Sequence[str], *, reference: str) -> Schema:
    """Read a configuration of any schema; see :func:`load_config`.

    Args:
        schema: What to read.
        path: The YAML file, if there is one.
        overrides: `section.key=value` strings.
        reference: The page that describes the keys.

    Raises:
        ConfigurationError: See :func:`load_config`.
        TransientError: See :func:`load_config`.
    """
    tree: dict[str, Any] = _read_yaml(path, schema) if path else {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise ConfigurationError(f"override {public_uri(override)!r} is not of the form section.key=value")
        _assign(tree, key.split("."), _parse(text, f"the value of {public_uri(override)!r}"), override)
    try:
        return schema.model_validate({name: section for name, section in tree.items() if section is not None})
    except ValidationError as error:
        faults = "\n".join(f"  {'.'.join(map(str, e['loc'])) or 'config'}: {e['msg']}" for e in error.errors())
        name = f" {public_uri(path)}" if path else ""
        raise ConfigurationError(
            f"the configuration{name} has {error.error_count()} fault(s):\n{faults}\n"
            f"All keys are described in {reference}"
        ) from None


def _read_yaml(path: str, schema: type[BaseModel]) -> dict[str, Any]:
    try:
        content = read_bytes(path)
    except (ConfigurationError, NotFoundError) as error:
        raise ConfigurationError(f"the configuration: {error}") from None
    tree = _parse(content, public_uri(path))
    if not isinstance(tree, dict):
        raise ConfigurationError(
            f"{public_uri(path)} must hold a mapping with the sections {', '.join(schema.model_fields)}"
        )
    return tree


def _parse(content: bytes | str, name: str) -> Any:
    try:
        return yaml.safe_load(content)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date such as 2024-99-99
        raise ConfigurationError(f"{name} is not valid YAML in UTF-8: {redact(str(error))}") from None


def _assign(tree: dict[str, Any], keys: list[str], value: Any, override: str) -> None:
    for key in keys[:-1]:
        branch = tree[key] = {} if tree.get(key) is None else tree[key]  # an empty section is null in YAML
        if not isinstance(branch, dict):
            raise ConfigurationError(f"override {public_uri(override)!r} goes through {key!r}, which is not a section")
        tree = branch
    tree[keys[-1]] = value
