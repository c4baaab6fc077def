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


class Section(BaseModel):
    """A part of a configuration: unknown keys are refused, and docstrings below keys describe them."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class InputConfig(Section):
    """Where the images are."""

    kind: Literal["webdataset", "folder", "manifest"]
    """`webdataset`: tar shards; `folder`: image files below a folder; `manifest`: JSONL or Parquet rows that name
    images."""
    path: str | list[str]
    """URL or path, or a list of them. Tar shards and manifests may be globs: `s3://bucket/shards/*.tar`."""
    max_pixels: int = Field(default=100_000_000, gt=0)
    """Images with more pixels become error records (unit: pixel)."""
    images_per_shard: int = Field(default=64, gt=0)
    """Folders and manifests are cut into shards of this many images (folders: on average, so that new files change
    few shards); a shard is what one task reads, and what a resumed run skips."""


class PromptsConfig(Section):
    """Where the prompts are."""

    kind: Literal["inline", "jsonl", "coco"] = "inline"
    """`inline`: beside each image, in its shard or row; `jsonl`: one file in the native form, joined by key;
    `coco`: COCO detection results (or ground truth)."""
    path: str | None = None
    """The file, for `jsonl` and `coco`."""
    coco_images: str | None = None
    """For COCO results: the annotation file whose `images` list maps image ids to file names. Without it, ids are
    matched with numeric file stems (`000000000139.jpg` is image 139)."""
    min_score: float = Field(default=0.0, ge=0.0, le=1.0)
    """COCO results below this score are left out."""
    categories: list[str] | None = None
    """COCO: keep only these category names (needs `coco_images` or ground truth) or ids; default all."""

    @model_validator(mode="after")
    def _path_is_there(self) -> PromptsConfig:
        if self.kind != "inline" and not self.path:
            raise ValueError(f"prompts.path is needed for prompts.kind={self.kind}")
        if self.kind == "inline" and self.path:
            raise ValueError("prompts.path is set, but prompts.kind is inline; set prompts.kind to jsonl or coco")
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
    """`auto`: bfloat16 on GPUs that have it, float32 on CPUs."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto`: a GPU where the cluster has any, else the CPU."""
    input_size: int | None = Field(default=None, ge=64, multiple_of=64)
    """Side of the model's square input (unit: pixel), its area with `resize: aspect`; `null`: the model's own."""
    resize: Literal["square", "aspect"] = "square"
    """`square` as in the paper, or `aspect`, which keeps the image's aspect ratio."""
    batch_size: int = Field(default=4, gt=0)
    """Objects per forward pass; halved on out-of-memory and regrown."""
    caption: str = ""
    """Text prompt for all images; the released weights were used with the empty one."""


class OutputConfig(Section):
    """Where and how the records are written."""

    path: str
    """Run directory: a local path or any fsspec URL. Belongs to one run."""
    alpha_bits: Literal[8, 16] = 8
    """Bits per pixel of the alpha PNGs."""
    records_per_file: int = Field(default=128, gt=0)
    """Records gathered into one Parquet file (at least; blocks are never split)."""
    contact_sheet: int = Field(default=24, ge=0, le=400)
    """Objects shown on the run's contact sheet, at most 400; 0 for none."""


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
    """Images handed to an actor at a time."""
    ray_address: str | None = None
    """Cluster to use; default the one of the environment (`RAY_ADDRESS`, as in `ray job submit`), else a local one.
    This package must be installed on its nodes, see docs/cluster.md."""
    local_cpus: int | None = Field(default=None, gt=0)
    """CPUs of a local Ray instance; default the machine's."""
    object_store_mb: int = Field(default=512, gt=0)
    """Object store of a local Ray instance (unit: MB)."""
    retries: int = Field(default=5, ge=0)
    """How often a transient storage fault is retried, with backoff and jitter."""


class LabelConfig(Section):
    """A labelling run."""

    input: InputConfig
    prompts: PromptsConfig = PromptsConfig()
    model: ModelConfig
    output: OutputConfig
    workers: WorkersConfig = WorkersConfig()

    @model_validator(mode="after")
    def _urls_are_usable(self) -> LabelConfig:
        """Raise ConfigurationError, which leaves as it is: pydantic's own error would print the keys in a URL."""
        paths = self.input.path if isinstance(self.input.path, list) else [self.input.path]
        named = [("input.path", path) for path in paths] + [("output.path", self.output.path)]
        named += [("prompts.path", self.prompts.path or ""), ("prompts.coco_images", self.prompts.coco_images or "")]
        for key, path in named:
            try:
                check_url(path)
            except ConfigurationError as error:
                raise ConfigurationError(f"{key}: {error}") from None
        return self

    def matte_hash(self) -> str:
        """Return 16 hexadecimal digits for the settings that change mattes.

        The model's source counts by its name; the weights themselves are told apart by ``weights_sha256``.
        """
        content = {
            "model": redact(self.model.model_dump(mode="json", exclude={"batch_size", "device"})),
            "alpha_bits": self.output.alpha_bits,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def identity(self) -> dict[str, Any]:
        """Return the settings that must be equal for two jobs to continue the same run."""
        dump = self.model_dump(mode="json", exclude={"workers": True})
        dump["output"] = {"alpha_bits": self.output.alpha_bits}
        for key in ("batch_size", "device"):
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
        raise ConfigurationError(f"{name} is not valid YAML in UTF-8: {public_uri(str(error))}") from None


def _assign(tree: dict[str, Any], keys: list[str], value: Any, override: str) -> None:
    for key in keys[:-1]:
        branch = tree[key] = {} if tree.get(key) is None else tree[key]  # an empty section is null in YAML
        if not isinstance(branch, dict):
            raise ConfigurationError(f"override {public_uri(override)!r} goes through {key!r}, which is not a section")
        tree = branch
    tree[keys[-1]] = value
