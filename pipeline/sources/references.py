"""Where a file is that stands, as a name, in a manifest or in a prompt."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Sequence

from pipeline.errors import BadInputError, ErrorCode
from pipeline.storage import is_url, join, public_uri

_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


def resolve(manifest: str, reference: str, schemes: Sequence[str]) -> str:
    """Return the path or URL of a file that a manifest names.

    Args:
        manifest: Path or URL of the manifest.
        reference: Absolute, or relative to the manifest's folder. A manifest in a store can't name local files.
        schemes: URLs that it may name (``input.schemes``); others, and chains of them, stay for people to choose.

    Raises:
        BadInputError: ``image_missing``: a reference that is not allowed.
    """
    if not reference or _CONTROL.search(reference):
        raise _refused(reference, "is no file name")
    if is_url(reference):
        return _url(manifest, reference, schemes)
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


def inside(root: str, folder: str, name: str) -> str:
    """Return where a mask file is that a prompt names.

    Args:
        root: Path or URL that the name must not leave, also not by way of links.
        folder: Folder below it that the name is relative to; ``""`` for the root itself.
        name: As it stands in the prompt.

    Raises:
        BadInputError: ``prompt_malformed``: it leaves the root.
    """
    path = posixpath.normpath(posixpath.join(folder, name))
    escapes = is_url(name) or name.startswith("/") or "\\" in name or "\0" in name or path.split("/")[0] in ("..", ".")
    uri = join(root, path)
    if escapes or not (is_url(root) or _lies_in(uri, root)):
        raise BadInputError(
            ErrorCode.PROMPT_MALFORMED,
            f"the mask file {public_uri(name)[:200]!r} leads out of {public_uri(root)}; move it there, and name it "
            "by its relative path",
        )
    return uri


def _url(manifest: str, reference: str, schemes: Sequence[str]) -> str:
    scheme = reference.partition("://")[0]
    if reference.count("://") > 1:
        raise _refused(reference, "is a chain of URLs, which a manifest can't name")
    if scheme not in schemes:
        raise _refused(
            reference,
            f"has a scheme that is not in input.schemes ({', '.join(schemes)}); add it there if you trust the makers "
            "of the manifest",
        )
    if scheme == "file":
        if is_url(manifest):
            raise _refused(reference, "is a local path, but the manifest is not a local file")
        return reference.removeprefix("file://")
    return reference


def _refused(reference: str, reason: str) -> BadInputError:
    return BadInputError(ErrorCode.IMAGE_MISSING, f"{public_uri(reference)[:200]!r} {reason}")


def _lies_in(path: str, root: str) -> bool:
    real = os.path.realpath(root)
    try:
        return os.path.commonpath([real, os.path.realpath(path)]) == real
    except ValueError:  # a name that no file can have
        return False
