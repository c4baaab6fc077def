import io
import struct
import tarfile
import tracemalloc
from collections import Counter

import pytest
import zstandard

from pipeline.sources.tars import TAR_DAMAGE, tar_members
from support.corpora import tar


def members(data, passed=None):
    stream = io.BufferedReader(io.BytesIO(data))
    return [(member.name, member.read()) for member in tar_members(stream, passed)]


def header(name, size=0, kind=tarfile.REGTYPE):
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def pax(fields, kind=tarfile.XHDTYPE):
    text = b""
    for key, value in fields.items():
        line = f" {key}={value}\n".encode()
        size = len(line) + 1
        while len(str(size)) + len(line) != size:
            size += 1
        text += f"{size}".encode() + line
    return header("pax", len(text), kind) + text + bytes(-len(text) % 512)


END = bytes(1024)


@pytest.mark.parametrize("level", [1, 19])
def test_zstandard(level):
    content = [(f"{n}.jpg", bytes([n]) * 5000) for n in range(50)]
    data = tar(content)
    packed = zstandard.ZstdCompressor(level=level, write_checksum=True).compress(data)
    assert members(packed) == content
    in_parts = b"".join(zstandard.ZstdCompressor().compress(data[i : i + 700]) for i in range(0, len(data), 700))
    assert members(in_parts) == content
    for cut in (5, len(packed) // 2, len(packed) - 1):
        with pytest.raises(TAR_DAMAGE):
            members(packed[:cut])


def test_links_and_devices_are_counted():
    kinds = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE]
    passed = Counter()
    data = b"".join(header(f"{n}.jpg", kind=kind) for n, kind in enumerate(kinds)) + header("a.jpg") + END
    assert members(data, passed) == [("a.jpg", b"")]
    assert passed == {"link": 2, "device": 3}
    assert members(data) == [("a.jpg", b"")]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("/etc/passwd.jpg", "/etc/passwd.jpg"),
        ("../../a.jpg", "../../a.jpg"),
        ("./a.jpg", "a.jpg"),
        ("a\n\x1b[31m.jpg", "a\\x0a\\x1b[31m.jpg"),
        ("a\x00b.jpg", "a\\x00b.jpg"),
        ("a\udcff.jpg", "a\\udcff.jpg"),
        ("C:\\a.jpg", "C:\\a.jpg"),
    ],
)
def test_odd_names_are_names(name, shown):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("placeholder.jpg")
        if "\udcff" in name:
            info.name = name
        else:
            info.pax_headers = {"path": name}
        archive.addfile(info)
    assert [found for found, _ in members(file.getvalue())] == [shown]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (header("x", 2**40, tarfile.XHDTYPE), "extended header"),
        (header("x", 2**40, tarfile.XGLTYPE), "extended header"),
        (header("x", 2**40, tarfile.GNUTYPE_LONGNAME), "extended header"),
        (header("x", 2**40, tarfile.GNUTYPE_LONGLINK), "extended header"),
        (header("x", 512, tarfile.GNUTYPE_SPARSE), "sparse"),
        (pax({"GNU.sparse.major": 1, "GNU.sparse.minor": 0}) + header("a.jpg", 512) + b"9" * 512, "sparse"),
        (pax({"path": "x" * 5000}) + header("a.jpg"), "name of 5000"),
        (b"".join(pax({f"k{n}": "v"}, tarfile.XGLTYPE) for n in range(150)) + header("a.jpg"), "global headers"),
        (pax({"comment": "x"}) * 5000 + header("a.jpg"), "in a row"),
        (struct.pack("512s", b"x"), "no valid header"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_headers_that_would_take_any_amount_of_memory_are_damage(data, words):
    good = header("first.jpg", 1) + b"1" + bytes(511)
    stream = io.BufferedReader(io.BytesIO(good + data + END))
    found = []
    with pytest.raises(tarfile.ReadError, match=words):
        found.extend(member.name for member in tar_members(stream))
    assert found == ["first.jpg"]


def test_a_member_inside_a_compressed_bomb_is_not_unpacked_unless_it_is_read():
    packer = zstandard.ZstdCompressor().compressobj()
    size = 2**29
    parts = [packer.compress(header("bomb.jpg", size))]
    parts += [packer.compress(bytes(2**24)) for _ in range(size // 2**24)]
    parts += [packer.compress(header("a.jpg", 1) + b"1" + bytes(511) + END), packer.flush()]
    stream = io.BufferedReader(io.BytesIO(b"".join(parts)))
    tracemalloc.start()
    found = [(member.name, member.size) for member in tar_members(stream)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == [("bomb.jpg", size), ("a.jpg", 1)]
    assert peak < 100_000_000


def test_a_packed_tar_that_is_packed_again_is_no_tar():
    twice = zstandard.ZstdCompressor().compress(tar([("a.jpg", b"1")], "w:gz"))
    with pytest.raises(tarfile.ReadError):
        members(twice)
