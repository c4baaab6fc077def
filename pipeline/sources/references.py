"""Where an image is that a manifest names."""

from __future__ import annotations

import posixpath
import re

from pipeline.errors import BadInputError, ErrorCode
from pipeline.storage import is_url, public_uri

SCHEMES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "http", "https", "hf", "memory", "file")
"""URLs that a manifest may have; others could run code or chain file systems."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


def resolve(manifest: str, reference: str) -> str:
    """Return the path or URL of a file that a manifest names.

    Args:
        manifest: Path or URL of the manifest.
        reference: Absolute, or relative to the manifest's folder. A manifest in a store can't name local files.

    Raises:
        BadInputError: ``image_missing``: a reference that is not allowed.
    """
    if not reference or _CONTROL.search(reference):
        raise _refused(reference, "is no file name")
    if is_url(reference):
        return _url(manifest, reference)
    if not is_url(manifest):
        return posixpath.normpath(posixpath.join(posixpath.dirname(manifest), reference))
    if reference.startswith("/"):
        raise _refused(reference, "is a local path, but the manifest is not a local file; give its URL")
    scheme, _, path = manifest.partition("?")[0].partition("://")
    bucket, _, inner = path.partition("/")
    target = posixpath.normpath(posixpath.join(posixpath.dirname(inner), reference))
    if target.split("/")[0] in ("..", "."):
        raise _refused(reference, "leads out of the manifest's bucket")
    return f"{scheme}://{bucket}/{target}"


def _url(manifest: str, reference: str) -> str:
    scheme = reference.partition("://")[0]
    if scheme not in SCHEMES or "::" in scheme:
        raise _refused(reference, f"has a scheme that is not allowed; allowed are {', '.join(SCHEMES)}")
    if scheme == "file":
        if is_url(manifest):
            raise _refused(reference, "is a local path, but the manifest is not a local file")
        return reference.removeprefix("file://")
    return reference


def _refused(reference: str, reason: str) -> BadInputError:
    return BadInputError(ErrorCode.IMAGE_MISSING, f"{public_uri(reference)[:200]!r} {reason}")
