import io
import lzma
import random
import tracemalloc
from itertools import pairwise

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.sources.frames import xz_reader, zstd_reader

DATA = random.Random(0).randbytes(50_000) + bytes(300_000)


def zstd(data, **options):
    return zstandard.ZstdCompressor(**options).compress(data)


READERS = [
    pytest.param(xz_reader, lzma.compress, id="xz"),
    pytest.param(zstd_reader, zstd, id="zstd"),
    pytest.param(zstd_reader, lambda data: zstd(data, write_checksum=True), id="zstd with checksum"),
]


@pytest.mark.parametrize(("reader", "pack"), READERS)
@settings(max_examples=20)
@given(cuts=st.lists(st.integers(0, len(DATA)), max_size=3), sizes=st.integers(1, 100_000))
def test_files_of_several_parts_come_back_whole(reader, pack, cuts, sizes):
    edges = [0, *sorted(cuts), len(DATA)]
    packed = b"".join(pack(DATA[start:stop]) for start, stop in pairwise(edges))
    stream = reader(io.BytesIO(packed))
    assert b"".join(iter(lambda: stream.read(sizes), b"")) == DATA


@pytest.mark.parametrize(("reader", "pack"), READERS)
def test_wherever_a_file_breaks_off_is_no_end(reader, pack):
    packed = pack(DATA) + pack(b"more")
    ends = {0, len(pack(DATA)), len(packed)}
    cuts = {1, 5, 1023, 1024, 1025, len(packed) // 2, *range(len(pack(DATA)) - 20, len(packed))} - ends
    for cut in cuts:
        with pytest.raises(EOFError, match="breaks off"):
            reader(io.BytesIO(packed[:cut])).read()
    assert reader(io.BytesIO(b"")).read() == b""


@pytest.mark.parametrize(("reader", "pack"), READERS)
def test_damage_and_garbage_behind_the_end_are_errors(reader, pack):
    packed = pack(DATA)
    bad = [packed + b"garbage garbage", b"\xff" * 20 + packed[20:]]
    if pack is not zstd:  # which has no sum by itself
        bad.append(packed[:20_000] + b"\xff" * 200 + packed[20_200:])
    for data in bad:
        with pytest.raises(OSError, match="damaged"):
            reader(io.BytesIO(data)).read()


def test_padding_between_xz_streams_and_skippable_zstd_frames_are_allowed():
    padded = lzma.compress(b"a") + bytes(3000) + lzma.compress(b"b") + bytes(4)
    assert xz_reader(io.BytesIO(padded)).read() == b"ab"
    skippable = b"\x50\x2a\x4d\x18\x04\0\0\0abcd"  # what pzstd begins its files with
    assert zstd_reader(io.BytesIO(skippable + zstd(b"a") + skippable + zstd(b"b"))).read() == b"ab"


def test_windows_beyond_the_limit_are_refused():
    parameters = zstandard.ZstdCompressionParameters(window_log=28)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    with pytest.raises(OSError, match="too much memory"):
        zstd_reader(io.BytesIO(packer.compress(b"x") + packer.flush())).read()
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 2**28}]
    with pytest.raises(OSError, match=r"(?i)memory"):
        xz_reader(io.BytesIO(lzma.compress(b"x" * 100, filters=filters))).read()
    assert xz_reader(io.BytesIO(lzma.compress(b"x" * 100, preset=9))).read() == b"x" * 100


def test_bombs_take_time_and_no_memory():
    packer = zstandard.ZstdCompressor().compressobj()
    piece = bytes(2**24)
    bomb = b"".join(packer.compress(piece) for _ in range(32)) + packer.flush()  # 512 MiB
    assert len(bomb) < 100_000
    stream = zstd_reader(io.BytesIO(bomb))
    tracemalloc.start()
    size = sum(len(part) for part in iter(lambda: stream.read(2**20), b""))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size == 32 * 2**24
    assert peak < 100_000_000
