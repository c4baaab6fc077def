"""Holes of zero bytes in a JPEG's pixels, which libjpeg decodes to wrong pixels with no more than a silent warning.

Interrupted downloads and failing disks leave blocks of zeros. In a JPEG these may be legal: tables made for the image
give the commonest symbol the code ``0``, and where that is "end of block", a flat area is nothing but zeros. What an
all-zero run says under the tables of its scan is simple to tell, though: the first code of each table, over and over.
Only runs that no picture can have are reported:

* blocks whose 63 coefficients are all equal and not zero, as zeros read under the tables of the standard, which most
  cameras use; or which don't end where a block has to;
* a brightness that falls, block by block, by more than the range of all brightnesses.

Zeros that read as flat area are left alone, so a hole can stay unnoticed in files with tables of their own
(progressive ones always have such). Markers are those of ITU-T T.81, annex B; codes those of annexes C, F and G.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

HOLE = 64
"""Bytes: shorter runs of zeros are not looked at."""

_RUN = re.compile(rb"\0{%d,}" % HOLE)
_MARKER = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]", re.DOTALL)  # ends a scan: not a stuffed byte, nor a restart
_SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1), 0xC2
_DHT, _SOS, _EOI, _DQT = 0xC4, 0xDA, 0xD9, 0xDB
_OTHER_FRAMES = {*range(0xC3, 0xD0)} - {_DHT, 0xC8, 0xCC}  # lossless, hierarchical, arithmetic
_DC_RANGE = 4096  # twice what 8 bits per sample need, for encoders that overshoot
_EVIDENCE = 20  # equal coefficients in a row: smaller bands of a progressive scan may hold a pattern's


@dataclass(frozen=True)
class _Code:
    """The code of a table that is all zeros.

    Attributes:
        bits: Its length, and that of the number behind it.
        run: Coefficients that are zero before the next one.
        size: Bits of the number; 0 is no coefficient.
    """

    bits: int
    run: int
    size: int


@dataclass
class _State:
    """What the segments so far said: tables by class and number, components by id."""

    progressive: bool = False
    codes: dict[int, _Code] = field(default_factory=dict)  # 0x00 + number: DC, 0x10 + number: AC
    steps: dict[int, int] = field(default_factory=dict)  # DC step of a quantisation table
    components: dict[int, tuple[int, int]] = field(default_factory=dict)  # blocks per MCU, quantisation table


def has_hole(data: bytes) -> bool:
    """Tell whether the scans of a JPEG hold zeros that no picture can have.

    Args:
        data: The file; what is damaged otherwise, and what isn't Huffman-coded, has no holes.
    """
    if data.find(bytes(HOLE)) < 0:  # nearly always, and nearly for free
        return False
    state = _State()
    try:
        for marker, start, end in _segments(data):
            segment = data[start:end]
            if marker in _OTHER_FRAMES:
                return False
            if marker == _SOS:
                scan_end = _scan_end(data, end)
                runs = _RUN.finditer(data, end, scan_end)
                longest = max((run.end() - run.start() for run in runs), default=0)
                if longest and _impossible(state, segment, longest * 8):
                    return True
            else:
                _note(state, marker, segment)
    except (IndexError, KeyError, ValueError):
        return False  # cut or damaged headers: the decoder's business
    return False


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, and start and end of the content, of each segment of the first image."""
    position = 2
    while (found := _MARKER.search(data, position)) is not None:
        marker, start = data[found.end() - 1], found.end()
        if marker == _EOI:
            return
        if marker in (0x01, 0xD8):
            position = start
            continue
        end = start + int.from_bytes(data[start : start + 2], "big")
        yield marker, start + 2, end
        position = _scan_end(data, end) if marker == _SOS else end


def _scan_end(data: bytes, start: int) -> int:
    found = _MARKER.search(data, start)
    return found.start() if found else len(data)


def _note(state: _State, marker: int, segment: bytes) -> None:
    if marker in (*_SEQUENTIAL, _PROGRESSIVE):
        state.progressive = marker == _PROGRESSIVE
        for at in range(6, 6 + 3 * segment[5], 3):
            identifier, sampling, table = segment[at : at + 3]
            state.components[identifier] = (sampling >> 4) * (sampling & 15), table
    while marker == _DHT and segment:
        counts = segment[1:17]
        length = next((number for number, count in enumerate(counts, 1) if count), 0)
        if length:
            size = segment[17] & 15
            state.codes[segment[0]] = _Code(length + size, segment[17] >> 4, size)
        segment = segment[17 + sum(counts) :]
    while marker == _DQT and segment:
        wide = segment[0] >> 4
        state.steps[segment[0] & 15] = int.from_bytes(segment[1 : 2 + wide], "big")
        segment = segment[1 + 64 * (1 + wide) :]


def _impossible(state: _State, header: bytes, zeros: int) -> bool:
    """Tell whether a scan can't hold that many bits of zeros."""
    count = header[0]
    chosen = [(header[1 + 2 * at], header[2 + 2 * at]) for at in range(count)]
    first, last, approximation = header[1 + 2 * count : 4 + 2 * count]
    if approximation >> 4:  # a refinement: its bits are no codes
        return False
    mcu = absurd = 0
    falls: list[int] = []
    for identifier, tables in chosen:
        blocks, quantisation = state.components[identifier]
        blocks = blocks if count > 1 else 1
        bits = 0
        if first == 0:
            code = state.codes[tables >> 4]
            bits += code.bits
            step = state.steps.get(quantisation, 1) << (approximation & 15)
            falls.append(blocks * ((1 << code.size) - 1) * step)
        if last > 0:
            ac_bits, is_absurd = _all_zero_block(state.codes[0x10 + (tables & 15)], last - max(first, 1) + 1)
            bits += ac_bits
            absurd = max(absurd, bits if is_absurd else 0)
        mcu += blocks * bits
    # However the run lies over the blocks, twice the longest of them holds a whole one.
    flat = sum(state.components[identifier][0] for identifier, _ in chosen) * 32
    if absurd and zeros >= 2 * absurd + (flat if count > 1 else 0):
        return True
    return mcu > 0 and max(falls, default=0) * (zeros // mcu - 1) > _DC_RANGE


def _all_zero_block(code: _Code, band: int) -> tuple[int, bool]:
    """Return the bits that a block's band of coefficients takes if all are zeros, and whether no picture has it."""
    if code.size == 0 and code.run < 15:  # end of block
        return code.bits, False
    step = code.run + 1
    is_absurd = band >= _EVIDENCE and (step == 1 or band % step > 0)
    return -(-band // step) * code.bits, is_absurd
