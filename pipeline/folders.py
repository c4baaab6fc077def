"""Folders that a job writes into."""

from __future__ import annotations

from pipeline import storage
from pipeline.errors import ConfigurationError
from sdmatte.urls import redact


def require_empty(folder: str, what: str) -> None:
    """Refuse a folder that holds something: nothing is overwritten, and nothing mixed.

    Args:
        folder: A path or URL, taken as it stands: ``*``, ``?`` and ``[`` are parts of names.
        what: What is to be written there, such as ``the export``.

    Raises:
        ConfigurationError: It holds a file, or is one.
        TransientError: The store failed repeatedly.
    """
    if storage.list_files(folder, pattern=False):
        raise ConfigurationError(
            f"{redact(folder)} is not empty, and {what} overwrites nothing: name a new folder, or delete what is there"
        )
