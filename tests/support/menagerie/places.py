"""What can only go wrong in a folder, or only in a manifest."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.menagerie.animal import BOX, OK, Fate, Row, jpeg, lines, repaired

MISSING, UNSUPPORTED, MALFORMED = Fate("image_missing"), Fate("image_unsupported"), Fate("prompt_malformed")
UNREADABLE, UNPROMPTED = Fate("image_unreadable"), Fate("prompt_missing")
CLIPPED = repaired("box_clipped")
"""Of the good neighbours' photograph, which is smaller than the others."""

DEEP = 10_000


@dataclass(frozen=True)
class Entry:
    """Something in a folder that is no plain file, or has an odd name.

    Attributes:
        name: File name, as bytes that may be no UTF-8.
        about: What it is, in one line.
        put: Makes it; is given the path it is to have.
        key: Of its records; None where it has none.
        fates: As of :class:`support.menagerie.animal.Animal`.
        prompts: Beside it.
    """

    name: bytes
    about: str
    put: Callable[[Path], None]
    key: str | None
    fates: tuple[Fate, ...]
    prompts: bytes | None = lines([BOX])


def entries(outside: Path) -> list[Entry]:
    """Return what a folder can hold besides plain files.

    Args:
        outside: An image that isn't in the folder.
    """

    def linked(target: str | Path) -> Callable[[Path], None]:
        return lambda path: path.symlink_to(target)

    found = [
        Entry(b"link-out.jpg", "link to an image outside of the folder: links to files are followed",
              linked(outside), "link-out.jpg", (CLIPPED,)),
        Entry(b"link-dead.jpg", "link to a file that isn't there", linked("/nowhere/x.jpg"),
              "link-dead.jpg", (MISSING,)),
        Entry(b"link-self.jpg", "link to itself", linked("link-self.jpg"), "link-self.jpg", (UNREADABLE,)),
        Entry(b"link-folder.jpg", "link to the folder it is in: not followed", linked("."), "link-folder", (MISSING,)),
        Entry(b"folder.jpg", "folder with an image's name, and prompts", Path.mkdir, "folder", (MISSING,)),
        Entry(b"line\nend.jpg", "name with a line end", _photo, "line\\x0aend.jpg", (OK,)),
        Entry(b"-rf *.jpg", "name that a shell would misread", _photo, "-rf *.jpg", (OK,)),
        Entry(b"50%-[1]{2}#3?.jpg", "name with the signs of patterns and URLs", _photo, "50%-[1]{2}#3?.jpg", (OK,)),
        Entry(b".hidden.jpg", "hidden file: passed over", _photo, None, ()),
        Entry(b"mask-link.jpg", "mask that is a link out of the folder", _linked_mask, "mask-link.jpg", (MALFORMED,),
              lines([{"mask": "mask-link.mask.png"}])),
    ]  # fmt: skip
    if sys.platform == "linux":  # other systems' files have Unicode names
        found.append(Entry(b"caf\xe9.jpg", "name that isn't UTF-8", _photo, "caf\\udce9.jpg", (OK,)))
    if hasattr(os, "mkfifo"):
        found.append(Entry(b"pipe.jpg", "named pipe that nobody writes to", os.mkfifo, "pipe", (MISSING,)))
    return found


def _photo(path: Path) -> None:
    path.write_bytes(jpeg())


def _linked_mask(path: Path) -> None:
    _photo(path)
    path.with_name("mask-link.mask.png").symlink_to("/etc/passwd")


def rows() -> list[Row]:
    """Return lines of a manifest; what is wrong is the line itself, or what it names."""
    good = json.dumps([BOX]).encode()

    def naming(name: str, about: str, image: str, fate: Fate) -> Row:
        line = json.dumps({"image": image, "key": name, "prompts": [BOX]})
        return Row(name, about, line.encode(), name, (fate,))

    def odd(name: str, about: str, line: bytes) -> Row:
        return Row(name, about, line, None, (MISSING,))

    return [
        odd("row-no-json", "a line that is no JSON", b"images/1.jpg, 20, 10, 90, 70"),
        odd("row-cut", "a line that breaks off", b'{"image": "images/1.jpg", "prom'),
        odd("row-latin", "a line in Latin-1, not UTF-8", b'{"image": "caf\xe9.jpg", "prompts": %b}' % good),
        odd("row-deep", f"a line nested {DEEP:,} levels deep", b'{"image": ' * DEEP + b"1" + b"}" * DEEP),
        odd("row-long", "one line of 10 MB that is no JSON", b"[" + b"1, " * 3_500_000),
        odd("row-zeros", "4 KB of zero bytes", bytes(4096)),
        odd("row-list", "a list instead of an object", b'["images/1.jpg"]'),
        odd("row-number", "a number for an image", b'{"image": 7, "prompts": %b}' % good),
        odd("row-object", "an object for an image",
            b'{"image": {"file": "images/1.jpg"}, "prompts": %b}' % good),
        Row("row-empty", "an empty name", b'{"image": "", "key": "row-empty", "prompts": %b}' % good,
            "row-empty", (MISSING,)),
        Row("row-no-image", "no image, but a key", b'{"key": "row-no-image"}', "row-no-image", (MISSING,)),
        naming("row-gone", "a file that isn't there", "images/nowhere.jpg", MISSING),
        naming("row-folder", "a folder", "images", MISSING),
        naming("row-itself", "the manifest itself", "manifest.jsonl", UNSUPPORTED),
        naming("row-escape", "../../../../etc/passwd: a local manifest may name any file, but this is no image",
               "../../../../../../../../etc/passwd", UNSUPPORTED),
        naming("row-absolute", "/etc/passwd", "/etc/passwd", UNSUPPORTED),
        naming("row-device", "/dev/zero, which never ends", "/dev/zero", UNREADABLE),
        naming("row-link-circle", "a link to itself", "circle.jpg", UNREADABLE),
        naming("row-gopher", "a URL of a scheme that isn't in input.schemes", "gopher://127.0.0.1/x.jpg", MISSING),
        naming("row-metadata", "a cloud's metadata service, by http, which isn't in input.schemes by default",
               "http://169.254.169.254/latest/meta-data", MISSING),
        naming("row-chain", "a chain of URLs", "zip://x.jpg::file:///x.zip", MISSING),
        naming("row-no-bucket", "a URL without a bucket", "s3://", UNREADABLE),
        naming("row-nul", "a name with a NUL", "images/x\0.jpg", MISSING),
        naming("row-surrogate", "a name with half of a surrogate pair", "images/\ud83d.jpg", MISSING),
        naming("row-long-name", "a name of 100,000 characters", "n" * 100_000, UNREADABLE),
        Row("row-key-twice", "a key of its own twice in one line: the last counts",
            b'{"image": "images/nowhere.jpg", "image": "@photo", "key": "row-key-twice", "prompts": %b}' % good,
            "row-key-twice", (CLIPPED,)),
        _prompts("row-text", "prompts as a string of JSON", good.decode(), CLIPPED),
        _prompts("row-text-broken", "prompts as a string that is no JSON", "[{", MALFORMED),
        _prompts("row-one", "one prompt without a list around", BOX, MALFORMED),
        _prompts("row-null", "prompts: null", None, UNPROMPTED),
        Row("row-again", "an image that another row names, too: one row per object is fine",
            b'{"image": "@photo", "key": "row-again", "prompts": %b}\n'
            b'{"image": "@photo", "key": "row-again", "prompts": %b}' % (good, good),
            "row-again", (CLIPPED, CLIPPED)),
    ]  # fmt: skip


def _prompts(name: str, about: str, prompts: Any, fate: Fate) -> Row:
    line = json.dumps({"image": "@photo", "key": name, "prompts": prompts})
    return Row(name, about, line.encode(), name, (fate,))
