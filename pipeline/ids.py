"""Content-derived 64-bit ids: the same input has the same ids in every run, on every machine.

Signed, because that is the one 64-bit integer every Parquet reader knows. Written for people as 16 hexadecimal digits.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

_MASK = (1 << 64) - 1


def _hash64(*parts: bytes) -> int:
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))  # so that ("ab", "c") and ("a", "bc") differ
        digest.update(part)
    return int.from_bytes(digest.digest(), "little", signed=True)


def key_hash(key: str) -> int:
    """Return the 64-bit id of a key of a prompt file."""
    return _hash64(b"key", key.encode())


def image_id(shard: str, key: str, occurrence: int = 0) -> int:
    """Return the id of an image.

    Args:
        shard: Name of its shard (relative to the input, so that moving the corpus keeps the ids).
        key: The source's own key, unique within the shard.
        occurrence: 0 for the first image under that key, 1 for the second, ...
    """
    return _hash64(b"image", shard.encode(), key.encode(), occurrence.to_bytes(4, "little"))


def record_id(image: int, prompt: dict[str, Any], occurrence: int = 0) -> int:
    """Return the id of an object.

    Args:
        image: Id of its image.
        prompt: The prompt as it stands in its source (JSON-serialisable; bytes allowed), before any repair.
        occurrence: 0 for the first prompt of that content on the image, 1 for its first exact duplicate, ...
    """
    canonical = json.dumps(prompt, sort_keys=True, separators=(",", ":"), default=_jsonable).encode()
    return _hash64(b"record", image.to_bytes(8, "little", signed=True), canonical, occurrence.to_bytes(4, "little"))


def _jsonable(value: object) -> str:
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    return str(value)


def id_sum(ids: Iterable[int]) -> int:
    """Return the sum of ids modulo 2**64 as a signed integer: an order-free fingerprint of a set of ids."""
    total = sum(ids) & _MASK
    return total - (1 << 64) if total >> 63 else total


def show(identifier: int) -> str:
    """Return an id as 16 hexadecimal digits."""
    return f"{identifier & _MASK:016x}"


def parse(text: str) -> int:
    """Return the id that :func:`show` wrote as ``text``."""
    value = int(text, 16)
    return value - (1 << 64) if value >> 63 else value
