"""Images that are unusual, but good: all of them must be labelled."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from PIL import Image

from support.image_bytes import bmp, chunk, encode, exif, png, segment, tiff
from support.menagerie.animal import BOX, HEIGHT, OK, WIDTH, Animal, Fate, jpeg, ok, picture, repaired
from support.menagerie.rare import ARITHMETIC, JPEG_LS, LOSSLESS, TWELVE_BIT

SIZE = (WIDTH, HEIGHT)


def colours() -> list[Animal]:
    """Samples of other kinds than three times eight bits."""
    photo = picture()
    gray = np.asarray(photo.convert("L"))
    veil = photo.copy()
    veil.putalpha(Image.linear_gradient("L").resize(photo.size))
    deep = np.asarray(photo).astype(np.uint16) * 257
    samples = [
        ("cmyk.jpg", "CMYK JPEG", ok("converted_cmyk"), encode(photo.convert("CMYK"), "JPEG")),
        ("cmyk.tif", "CMYK TIFF", ok("converted_cmyk"), encode(photo.convert("CMYK"), "TIFF")),
        ("sixteen-bit.png", "16-bit PNG, gray", ok("reduced_16bit"), _png16(gray.astype(np.uint16) * 257)),
        ("sixteen-bit-colour.png", "16-bit PNG, RGB", ok("reduced_16bit"), _png16(deep)),
        ("sixteen-bit.tif", "16-bit TIFF, big-endian", ok("reduced_16bit"), tiff(deep, order=">")),
        ("one-bit.png", "1-bit PNG", OK, encode(photo.convert("1"), "PNG")),
        ("fax.tif", "1-bit TIFF in fax compression", OK, encode(photo.convert("1"), "TIFF", compression="group4")),
        ("gray.jpg", "gray JPEG", OK, encode(photo.convert("L"), "JPEG")),
        ("alpha.png", "PNG with an alpha channel", ok("flattened_alpha"), encode(veil, "PNG")),
        ("gray-alpha.png", "gray PNG with an alpha channel", ok("flattened_alpha"), encode(veil.convert("LA"), "PNG")),
        ("alpha.webp", "WebP with an alpha channel", ok("flattened_alpha"), encode(veil, "WEBP")),
        ("palette.png", "PNG with a palette", OK, encode(photo.quantize(16), "PNG")),
        ("palette-alpha.png", "PNG with a palette, some of it transparent", ok("flattened_alpha"),
         encode(photo.quantize(16), "PNG", transparency=bytes(range(0, 256, 16)))),
        ("transparent-colour.gif", "GIF with a transparent colour", ok("flattened_alpha"),
         encode(photo.quantize(16), "GIF", transparency=3)),
        ("rle8.bmp", "run-length coded BMP, 8 bits", OK, _bmp_rle(8)),
        ("rle4.bmp", "run-length coded BMP, 4 bits", OK, _bmp_rle(4)),
        ("palette.bmp", "BMP with a palette", OK, encode(photo.quantize(16), "BMP")),
        ("twelve-bit.jpg", "12-bit JPEG, as medical scanners write", Fate("image_unsupported"), TWELVE_BIT),
        ("arithmetic.jpg", "JPEG in arithmetic coding", OK, ARITHMETIC),
        ("lossless.jpg", "lossless JPEG (not JPEG 2000)", OK, LOSSLESS),
        ("jpeg-ls.jpg", "JPEG-LS, another format with a JPEG's first bytes", Fate("image_unsupported"), JPEG_LS),
    ]  # fmt: skip
    return [Animal(name, about, (fate,), data, size=SIZE) for name, about, fate, data in samples]


def _png16(samples: np.ndarray) -> bytes:
    rows = [row.astype(">u2").tobytes() for row in samples]
    return png(samples.shape[1], samples.shape[0], 16, 2 if samples.ndim == 3 else 0, rows)


def _bmp_rle(bits: int) -> bytes:
    """Rows of one run each: (count, colour) pairs, and an end of line."""
    palette = b"".join(bytes([shade, 255 - shade, 90, 0]) for shade in range(0, 256, 16))
    values = [y // 8 for y in range(HEIGHT)]
    runs = b"".join(bytes([WIDTH, value if bits == 8 else value * 17, 0, 0]) for value in values)
    return bmp(WIDTH, HEIGHT, bits, 1 if bits == 8 else 2, palette, runs + b"\0\1")


def frames() -> list[Animal]:
    """Files of several pictures: the first one counts."""
    photo = picture()
    more = {"save_all": True, "append_images": [photo.rotate(180), picture()]}
    samples = [
        ("animated.gif", "animated GIF", ok("first_frame"), encode(photo, "GIF", **more)),
        ("animated.webp", "animated WebP", ok("first_frame", "flattened_alpha"), encode(photo, "WEBP", **more)),
        ("animated.png", "animated PNG", ok("first_frame"), encode(photo, "PNG", **more)),
        ("pages.tif", "TIFF of three pages", ok("first_frame"), encode(photo, "TIFF", **more)),
        ("two-views.jpg", "two JPEGs in one (MPO), as phones write them", OK, encode(photo, "MPO", **more)),
        ("circle.tif", "TIFF whose second page is its first", OK, _circle()),
    ]
    return [Animal(name, about, (fate,), data, size=SIZE) for name, about, fate, data in samples]


def _circle() -> bytes:
    data = bytearray(tiff(np.asarray(picture())))
    at = struct.unpack("<I", data[4:8])[0]
    end = at + 2 + 12 * struct.unpack("<H", data[at : at + 2])[0]
    data[end : end + 4] = struct.pack("<I", at)
    return bytes(data)


def turned() -> list[Animal]:
    """The eight EXIF orientations, and EXIF that says nothing."""
    photo = picture()
    found = []
    for number in range(1, 9):
        size = (HEIGHT, WIDTH) if number > 4 else SIZE
        box = {"box": [10, 20, 70, 110]} if number > 4 else BOX  # fits into the upright frame only
        fate = OK if number == 1 else ok("exif_rotated")
        data = encode(photo, "JPEG", exif=b"Exif\0\0" + exif(number))
        about = f"JPEG with EXIF orientation {number}, its box in the upright frame"
        found.append(Animal(f"exif-{number}.jpg", about, (fate,), data, (box,), size=size))
    odd = {
        "exif-9.jpg": ("EXIF orientation 9, which doesn't exist", exif(9)),
        "exif-garbage.jpg": ("EXIF block of random bytes", np.random.default_rng(4).bytes(500)),
        "exif-cut.jpg": ("EXIF block that breaks off", exif(6)[:12]),
        "exif-far.jpg": ("EXIF whose directory lies four billion bytes away", b"II*\0\xff\xff\xff\xff"),
    }
    for name, (about, block) in odd.items():
        data = jpeg()[:2] + segment(0xE1, b"Exif\0\0" + block) + jpeg()[2:]
        found.append(Animal(name, about, (OK,), data, size=SIZE))
    return found


def metadata() -> list[Animal]:
    """Headers and trailers that are broken or huge; the pixels are good."""
    photo = picture()
    plain = encode(photo, "PNG")
    head, rest = plain[:33], plain[33:]  # signature and IHDR; everything else
    bomb = zlib.compress(bytes(64 * 2**20), 9)
    xmp = b"http://ns.adobe.com/xap/1.0/\0" + b" " * 60_000
    samples = [
        ("profile-garbage.jpg", "JPEG whose colour profile is garbage", _with_segment(0xE2, b"ICC_PROFILE\0\1\1junk")),
        ("profile-missing-part.jpg", "JPEG of whose colour profile one of three parts is there",
         _with_segment(0xE2, b"ICC_PROFILE\0\2\3" + bytes(1000))),
        ("profile-garbage.png", "PNG whose colour profile can't be unpacked",
         head + chunk(b"iCCP", b"x\0\0junk") + rest),
        ("profile-bomb.png", "PNG whose colour profile unpacks to 64 MB",
         head + chunk(b"iCCP", b"x\0\0" + bomb) + rest),
        ("text-bomb.png", "PNG with a comment that unpacks to 64 MB", head + chunk(b"zTXt", b"a\0\0" + bomb) + rest),
        ("long-xmp.png", "PNG with 2 MB of XMP, compressed, as editors write it",
         head + chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b"<x/>" * 500_000)) + rest),
        ("text-garbage.png", "PNG with a comment that can't be unpacked", head + chunk(b"zTXt", b"a\0\0junk") + rest),
        ("much-metadata.jpg", "JPEG behind 3 MB of metadata", jpeg()[:2] + segment(0xE1, xmp) * 50 + jpeg()[2:]),
        ("trailer.jpg", "JPEG with a megabyte of garbage behind its end", jpeg() + b"\xff\xd8garbage" * 116_000),
        ("polyglot.jpg", "JPEG with a zip archive behind its end",
         jpeg() + b"PK\3\4" + bytes(500) + b"PK\5\6" + bytes(18)),
        ("trailer.png", "PNG with garbage behind its end", plain + b"garbage" * 1000),
        ("unknown-chunk.png", "PNG with a chunk that nobody knows", head + chunk(b"zzZz", bytes(500)) + rest),
        ("resolution.jpg", "JPEG that claims 0 dots per inch", _resolution()),
        ("tag-count.tif", "TIFF that announces 65,535 tags and has 10: all that matter", _tags(65_535)),
        ("tag-values.tif", "TIFF with a description of four billion values", _description()),
    ]  # fmt: skip
    return [Animal(name, about, (OK,), data, size=SIZE) for name, about, data in samples]


def _with_segment(marker: int, content: bytes) -> bytes:
    return jpeg()[:2] + segment(marker, content) + jpeg()[2:]


def _tags(count: int) -> bytes:
    data = bytearray(tiff(np.asarray(picture())))
    at = struct.unpack("<I", data[4:8])[0]
    data[at : at + 2] = struct.pack("<H", count)
    return bytes(data)


def _description() -> bytes:
    data = tiff(np.asarray(picture()), tags={270: (1, 2)})
    return data.replace(struct.pack("<HHI", 270, 4, 2), struct.pack("<HHI", 270, 4, 0xFFFFFFFF))


def _resolution() -> bytes:
    data = bytearray(jpeg())
    at = data.index(b"JFIF\0") + 7
    data[at : at + 5] = b"\1\0\0\0\0"
    return bytes(data)


def shapes() -> list[Animal]:
    """Extreme sizes, and names that don't fit."""
    photo = picture()
    small = Image.new("RGB", (1, 1), (200, 90, 30))
    strip = Image.fromarray(np.tile(np.arange(65_000) % 251, (6, 1)).astype(np.uint8))
    column = Image.fromarray(np.tile(np.arange(20_000)[:, None] % 251, (1, 5)).astype(np.uint8))
    samples = [
        Animal("one-pixel.png", "PNG of one pixel", (repaired("prompt_tiny"),), encode(small, "PNG"),
               ({"box": [0, 0, 1, 1]},), size=(1, 1)),
        Animal("one-pixel.jpg", "JPEG of one pixel", (repaired("prompt_tiny"),), encode(small, "JPEG"),
               ({"box": [0, 0, 1, 1]},), size=(1, 1)),
        Animal("strip.png", "PNG of 65,000 x 6 pixels", (OK,), encode(strip, "PNG"),
               ({"box": [30_000, 1, 40_000, 5]},), size=(65_000, 6)),
        Animal("column.jpg", "JPEG of 5 x 20,000 pixels", (OK,), encode(column, "JPEG"),
               ({"box": [0, 5_000, 5, 9_000]},), size=(5, 20_000)),
    ]  # fmt: skip
    named = [
        ("png-inside.jpg", "PNG under a JPEG's name", OK, encode(photo, "PNG")),
        ("jpeg-inside.png", "JPEG under a PNG's name", OK, jpeg()),
        ("webp-inside.jpg", "WebP under a JPEG's name", OK, encode(photo, "WEBP")),
        ("gif-inside.jpg", "animated GIF under a JPEG's name", ok("first_frame"),
         encode(photo, "GIF", save_all=True, append_images=[photo.rotate(180)])),
        ("SHOUTING.JPG", "name in capital letters", OK, jpeg()),
        ("progressive.jpg", "progressive JPEG", OK, encode(photo, "JPEG", progressive=True)),
        ("interlaced.png", "interlaced PNG", OK, _interlaced()),
        ("tiled-jpeg.tif", "JPEG inside a TIFF", OK, encode(photo, "TIFF", compression="jpeg")),
        ("plain-text.ppm", "PPM whose pixels are written in decimal digits", OK, _plain_ppm()),
    ]  # fmt: skip
    return [*samples, *(Animal(name, about, (fate,), data, size=SIZE) for name, about, fate, data in named)]


def _plain_ppm() -> bytes:
    return f"P3 {WIDTH} {HEIGHT} 255\n".encode() + " ".join(map(str, np.asarray(picture()).ravel())).encode()


def _interlaced() -> bytes:
    """Adam7: seven passes, each a picture of its own (PNG specification, section 8)."""
    pixels = np.asarray(picture())
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    rows = b"".join(b"\0" + row.tobytes() for y, x, dy, dx in passes for row in pixels[y::dy, x::dx])
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 1)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
