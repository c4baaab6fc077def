"""Whole tars that are wrong or unusual; good images in them show what else they cost."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Iterable, Sequence

import numpy as np

from support.image_bytes import encode
from support.menagerie.animal import BOX, FRIEND_BOX, OK, Fate, Shard, friend, jpeg, lines, picture
from support.menagerie.tar_bytes import END, device, header, link, member, pax, raw, tar

UNREADABLE = ("", Fate("shard_unreadable"))
REST = [UNREADABLE]
"""Of a tar that breaks off behind the members of `before`: nobody knows whether more of them followed."""
DUPLICATE, MISSING, UNPROMPTED = Fate("duplicate_key"), Fate("image_missing"), Fate("prompt_missing")
BEFORE, AFTER = ("before", OK), ("after", OK)
ALONE = ("before",)  # the friends of a tar that breaks off


def photo(key: str, data: bytes | None = None) -> bytes:
    """Return the members of an image with its prompt."""
    return member(f"{key}.jpg", data or jpeg()) + member(f"{key}.prompts.jsonl", lines([BOX]))


def mate(key: str) -> bytes:
    """Return the members of a good image."""
    return member(f"{key}.jpg", friend()) + member(f"{key}.prompts.jsonl", lines([FRIEND_BOX]))


def around(*parts: bytes) -> bytes:
    """Return a tar in which something stands between two good images."""
    return tar(mate("before"), *parts, mate("after"))


def _shard(
    name: str,
    about: str,
    data: bytes,
    records: Iterable[tuple[str, Fate]] = (),
    friends: Sequence[str] = ("before", "after"),
) -> Shard:
    good = [(key, OK) for key in friends]
    return Shard(f"{name}.tar" if ".t" not in name else name, about, data, (*good, *records), tuple(friends))


def broken_off() -> list[Shard]:
    """Tars that are damaged, or end too early."""
    whole = around(photo("x"), photo("y"))
    x, after = len(mate("before")), len(mate("before") + photo("x") + photo("y"))
    cut = int(np.random.default_rng(6).integers(x + 1024, x + len(jpeg())))
    garbage = np.random.default_rng(7).bytes(512)
    checksum = bytearray(whole)
    checksum[x + 150] ^= 1
    packed = gzip.compress(whole, mtime=0)
    crc = bytearray(packed)
    crc[-6] ^= 1
    middle = bytearray(gzip.compress(tar(mate("before"), photo("x", np.random.default_rng(8).bytes(300_000)),
                                         mate("after")), mtime=0))  # fmt: skip
    middle[len(middle) // 2] ^= 0x10
    three = [("x", OK), ("y", OK)]
    return [
        _shard("cut-anywhere", f"cut off at a random byte ({cut}), in the pixels of x", whole[:cut],
               [UNREADABLE], ALONE),
        _shard("cut-in-header", "cut off in the header of x", whole[: x + 100], REST, ()),
        _shard("cut-between", "cut off between two members, the last image's prompts behind the cut",
               whole[: after + len(member("after.jpg", friend()))], [*three, UNREADABLE], ALONE),
        _shard("no-end", "all members, no end marker: more may have been lost", whole[: -len(END)],
               [*three, UNREADABLE], ALONE),
        _shard("garbage", "512 random bytes where the header of x belongs",
               whole[:x] + garbage + whole[x + 512 :], REST, ()),
        _shard("zeros", "a block of zeros where the header of x belongs: tar's end marker, but more follows",
               whole[:x] + bytes(1024) + whole[x + 512 :], REST, ()),
        _shard("checksum", "a header whose checksum is wrong", bytes(checksum), REST, ()),
        _shard("strung", "two tars strung together: the second lies behind the end of the first",
               tar(mate("before")) + tar(mate("after")), REST, ()),
        _shard("no-bytes", "zero bytes", b"", [UNREADABLE], ()),
        _shard("zip", "a zip archive", _zip(), [UNREADABLE], ()),
        _shard("page", "a server's HTML error page", b"<!DOCTYPE html><html>404</html>" * 40, [UNREADABLE], ()),
        _shard("image", "a JPEG", jpeg(), [UNREADABLE], ()),
        _shard("random", "10 KB of random bytes", np.random.default_rng(9).bytes(10_240), [UNREADABLE], ()),
        _shard("crc.tar.gz", "gzip whose checksum is wrong at the end", bytes(crc), [*three, UNREADABLE], ALONE),
        _shard("cut.tar.gz", "half of a gzip file", _half(gzip.compress(_noisy(), mtime=0)), [UNREADABLE], ALONE),
        _shard("flip.tar.gz", "gzip with a flipped bit in the middle", bytes(middle),
               [("x", Fate("image_unsupported")), UNREADABLE], ALONE),
        _shard("cut.tar.xz", "half of an xz file", _half(lzma.compress(_noisy())), [UNREADABLE], ALONE),
        _shard("huge-size", "a member that claims eight gigabytes", tar(mate("before"), header("x.jpg", 8 << 30)),
               [UNREADABLE], ALONE),
        _shard("negative-size", "a member of minus one byte: taken for empty", around(header("x.jpg", -1)),
               [("x", Fate("image_empty"))]),
        _shard("negative-pax", "a PAX header that makes a member minus one byte long",
               around(pax({"size": "-1"}) + photo("x")), [UNREADABLE], ALONE),
    ]  # fmt: skip


def _zip() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("x.jpg", jpeg())
    return data.getvalue()


def _half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _noisy() -> bytes:
    return tar(mate("before"), photo("x", np.random.default_rng(10).bytes(3 << 20)), mate("after"))


def strange_members() -> list[Shard]:
    """Tars with members that are no regular files, or whose names lead elsewhere: nothing is ever unpacked."""
    prompts = member("x.prompts.jsonl", lines([BOX]))
    gone = [("x", MISSING)]
    return [
        _shard("absolute", "absolute path", around(photo("/tmp/zoo-escape/x")), [("/tmp/zoo-escape/x", OK)]),
        _shard("climbing", "path with ..", around(photo("../../zoo-escape/x")), [("../../zoo-escape/x", OK)]),
        _shard("hard-link", "image that is a hard link to another member, with prompts",
               around(photo("v"), link("x.jpg", "v.jpg", hard=True), prompts), [("v", OK), *gone]),
        _shard("soft-link", "image that is a link to another member, with prompts",
               around(photo("v"), link("x.jpg", "v.jpg"), prompts), [("v", OK), *gone]),
        _shard("link-out", "image that is a link to /etc/passwd", around(link("x.jpg", "/etc/passwd"), prompts), gone),
        _shard("link-circle", "two links to each other",
               around(link("x.jpg", "y.jpg"), prompts, link("y.jpg", "x.jpg")), gone),
        _shard("link-self", "a hard link to itself", around(link("x.jpg", "x.jpg", hard=True), prompts), gone),
        _shard("device", "image that is the device /dev/zero", around(device("x.jpg"), prompts), gone),
        _shard("fifo", "image that is a named pipe", around(header("x.jpg", 0, kind=tarfile.FIFOTYPE), prompts), gone),
        _shard("folder-like", "folder called x.jpg, an image in it",
               around(header("x.jpg", 0, kind=tarfile.DIRTYPE), photo("x.jpg/y")), [("x.jpg/y", OK)]),
        _shard("sparse", "sparse member of a BMP whose dark half is a hole", around(_sparse(), prompts),
               REST, ()),
        _shard("sparse-bomb", "sparse member of a terabyte", around(_sparse_bomb(), prompts), REST, ()),
        _shard("tar-inside", "a tar in the tar", around(member("x.tar", tar(photo("y"))))),
        _shard("resource-fork", "macOS's ._ twin of an image", around(member("._x.jpg", bytes(4096)), photo("x")),
               [("x", OK)]),
    ]  # fmt: skip


def _bmp() -> bytes:
    pixels = np.array(picture())
    pixels[40:] = 0  # BMP's rows start at the bottom: zeros behind the header
    return encode(pixels, "BMP")


def _sparse() -> bytes:
    """GNU's format 1.0: a map of the parts that are there, in the data itself."""
    data = _bmp()
    hole_end = 54 + 40 * 360
    parts = [(0, 54), (hole_end, len(data) - hole_end)]
    return _sparse_member("x.bmp", len(data), parts, data[:54] + data[hole_end:])


def _sparse_bomb() -> bytes:
    return _sparse_member("x.jpg", 1 << 40, [(0, 3)], b"\xff\xd8\xff")


def _sparse_member(name: str, size: int, parts: list[tuple[int, int]], data: bytes) -> bytes:
    numbers = [len(parts), *(number for part in parts for number in part)]
    plan = "".join(f"{number}\n" for number in numbers).encode()
    plan += bytes(-len(plan) % 512)
    version = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
    names = {"GNU.sparse.name": name, "GNU.sparse.realsize": str(size)}
    return pax(version | names) + member("GNUSparseFile.0/x", plan + data)


def names_and_order() -> list[Shard]:
    """Tars that are whole, but whose members have odd names, or stand in an odd order."""
    image, prompts = member("x.jpg", jpeg()), member("x.prompts.jsonl", lines([BOX]))
    long_name = "n" * 3000
    return [
        _shard("bytes-name", "name that isn't UTF-8",
               around(raw(b"caf\xe9.jpg", jpeg()), raw(b"caf\xe9.prompts.jsonl", lines([BOX]))),
               [("caf\\udce9", OK)]),
        _shard("pax-name", "PAX name with emoji and right-to-left letters",
               around(_renamed("\U0001f431\u05d7")),
               [("\U0001f431\u05d7", OK)]),
        _shard("pax-line", "PAX name with a line end",
               around(_renamed("two\nlines")), [("two\\x0alines", OK)]),
        _shard("pax-long", "PAX name of 3,000 characters",
               around(_renamed(long_name)), [(long_name, OK)]),
        _shard("pax-unknown", "PAX headers with keys that nobody knows, binary values and a thousand entries",
               around(pax({"ZOO.\x7f": "\x01\x02"} | {f"a{n}": "b" for n in range(1000)}) + image, prompts),
               [("x", OK)]),
        _shard("pax-global", "PAX header for all members, as git archive writes",
               tar(pax({"comment": "0" * 40}, kind=b"g"), mate("before"), photo("x"), mate("after")), [("x", OK)]),
        _shard("prompts-first", "prompts before their image", around(prompts, image), [("x", OK)]),
        _shard("out-of-order", "another image between an image and its prompts: the key comes back",
               around(image, photo("y"), prompts), [("y", OK), ("x", UNPROMPTED), ("x", DUPLICATE)]),
        _shard("second-image", "a second image under a key",
               around(image, member("x.png", encode(picture(), "PNG")), prompts),
               [("x", OK), ("x", DUPLICATE)]),
        _shard("doubled", "the same image and prompts twice", around(photo("x"), photo("x")),
               [("x", OK), ("x", Fate(repairs=("prompt_duplicate",))), ("x", DUPLICATE)]),
        _shard("appended", "a newer version of a member at the end, as tar --append writes",
               around(photo("x"), photo("y"), image), [("x", OK), ("y", OK), ("x", DUPLICATE)]),
        _shard("orphan", "prompts without an image", around(prompts), [("x", MISSING)]),
        _shard("bystanders", "texts, a folder and a file without extension beside images",
               around(member("README", b"?"), header("d/", 0, kind=tarfile.DIRTYPE), member("x.cls", b"7"),
                      photo("x")),
               [("x", OK)]),
        _shard("dots", "names with dots, hidden names", around(photo("photo.v2"), photo("d/.hidden")),
               [("photo.v2", OK), ("d/.hidden", OK)]),
        _shard("empty", "a tar without members", tar(), (), ()),
        _shard("packed-twin", "gzip under a plain tar's name", gzip.compress(around(photo("x")), mtime=0),
               [("x", OK)]),
        _shard("packed.tar.bz2", "bzip2", bz2.compress(around(photo("x"))), [("x", OK)]),
        _shard("packed.tar.xz", "xz", lzma.compress(around(photo("x"))), [("x", OK)]),
        _shard("parts.tar.gz", "gzip of two parts, as pigz and bgzip write", _in_parts(around(photo("x"))),
               [("x", OK)]),
        _shard("bomb.tar.gz", f"gzip in which an image unpacks to 2 GB, in {len(_bomb()) // 1000} KB", _bomb(),
               [("x", Fate("image_too_large"))]),
    ]  # fmt: skip


def _renamed(key: str) -> bytes:
    """Return the members of an image whose names stand in PAX headers."""
    image = pax({"path": f"{key}.jpg"}) + member("short.jpg", jpeg())
    return image + pax({"path": f"{key}.prompts.jsonl"}) + member("short.jsonl", lines([BOX]))


def _in_parts(data: bytes) -> bytes:
    middle = len(data) // 2
    return gzip.compress(data[:middle], mtime=0) + gzip.compress(data[middle:], mtime=0)


def _bomb() -> bytes:
    """A member of 2 GiB of zeros; gzip files may be strung together, so one part of it is packed once."""
    part = gzip.compress(bytes(64 << 20), mtime=0)
    head = mate("before") + header("x.jpg", 2 << 30)
    rest = member("x.prompts.jsonl", lines([BOX])) + mate("after") + END
    return gzip.compress(head, mtime=0) + part * 32 + gzip.compress(rest, mtime=0)
