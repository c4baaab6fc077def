"""Sources of images, by the name they have in the configuration (``input.kind``)."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.config import LabelConfig
from pipeline.sources.base import Sample, Shard, Source
from pipeline.sources.folder import FolderSource
from pipeline.sources.manifest import ManifestSource
from pipeline.sources.webdataset import WebDatasetSource

__all__ = ["Sample", "Shard", "Source", "make_source"]

_SOURCES: dict[str, Callable[[LabelConfig], Source]] = {
    "folder": FolderSource,
    "manifest": ManifestSource,
    "webdataset": WebDatasetSource,
}


def make_source(config: LabelConfig) -> Source:
    """Return the configured source; touches no storage yet."""
    return _SOURCES[config.input.kind](config)
