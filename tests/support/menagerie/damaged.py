"""Images that end too early, are damaged, empty, or none at all; and those that would fill the memory."""

from __future__ import annotations

import base64
import gzip
import io
import struct
import zipfile
import zlib

import numpy as np
from PIL import Image

from support.image_bytes import PNG_HEAD, bmp, chunk, encode, gif, png, tiff, webp
from support.menagerie.animal import HEIGHT, WIDTH, Animal, Fate, jpeg, picture

TRUNCATED, CORRUPT = (Fate("image_truncated"),), (Fate("image_corrupt"),)
UNSUPPORTED, TOO_LARGE = (Fate("image_unsupported"),), (Fate("image_too_large"),)


def cut_off() -> list[Animal]:
    """Images whose end is missing."""
    photo = picture()
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))
    whole = {"jpg": jpeg(), "png": encode(noise, "PNG")}
    quarters = [
        Animal(
            f"cut-at-{number}-quarters.{kind}",
            f"{'JPEG' if kind == 'jpg' else 'PNG'} of which {number} of 4 quarters arrived",
            TRUNCATED,
            data[: len(data) * number // 4],
        )
        for kind, data in whole.items()
        for number in (1, 2, 3)
    ]
    others = {
        "webp": encode(noise, "WEBP"),
        "gif": encode(noise.quantize(64), "GIF"),
        "tif": encode(noise, "TIFF"),
        "bmp": encode(noise, "BMP"),
        "ppm": encode(noise, "PPM"),
    }
    halves = [
        Animal(f"half.{kind}", f"half of a {kind.upper()} file", TRUNCATED, data[: len(data) // 2])
        for kind, data in others.items()
    ]
    progressive = encode(noise, "JPEG", progressive=True)
    return [
        *quarters,
        *halves,
        Animal("half-progressive.jpg", "half of a progressive JPEG: coarse all over, no end", TRUNCATED,
               progressive[: len(progressive) // 2]),
        Animal("no-end-marker.jpg", "JPEG without its last two bytes", TRUNCATED, jpeg()[:-2]),
        Animal("only-magic.jpg", "the first three bytes of a JPEG", TRUNCATED, b"\xff\xd8\xff"),
        Animal("only-signature.png", "the first eight bytes of a PNG", TRUNCATED, PNG_HEAD),
        Animal("no-iend.png", "PNG without its last chunk", TRUNCATED, encode(photo, "PNG")[:-12]),
        Animal("reserved-space.jpg", "download that broke off in a file of full size: the rest is zeros", TRUNCATED,
               jpeg()[: len(jpeg()) // 2] + bytes(len(jpeg()) // 2)),
    ]  # fmt: skip


def broken() -> list[Animal]:
    """Images that are complete, but damaged."""
    photo = encode(picture(), "PNG")
    flipped = bytearray(photo)
    flipped[photo.index(b"IDAT") + 40] ^= 1
    hole = bytearray(encode(Image.fromarray(np.random.default_rng(2).integers(0, 256, (256, 256, 3), np.uint8)),
                            "JPEG", quality=90))  # fmt: skip
    hole[len(hole) // 2 : len(hole) // 2 + 4096] = bytes(4096)
    no_pixels = PNG_HEAD + chunk(b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 0)) + chunk(b"IEND", b"")
    return [
        Animal("bad-checksum.png", "PNG with one bit of its pixels flipped", CORRUPT, bytes(flipped)),
        Animal("hole.jpg", "JPEG with a disk block of zeros in the middle", CORRUPT, bytes(hole)),
        Animal("no-width.png", "PNG of 0 x 80 pixels", CORRUPT, png(0, HEIGHT, 8, 2, [b""] * HEIGHT)),
        Animal("no-idat.png", "PNG without pixels", TRUNCATED, no_pixels),
        Animal("short-rows.png", "PNG whose rows end before its height", TRUNCATED,
               png(WIDTH, HEIGHT, 8, 2, [bytes(WIDTH * 3)] * 9)),
    ]  # fmt: skip


def no_images() -> list[Animal]:
    """Files that are called images and are none, or of a format that isn't read."""
    page = b"<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head></html>\n"
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("photo.jpg", jpeg())
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(400)
    samples: list[tuple[str, str, bytes]] = [
        ("page.jpg", "a server's HTML error page under a JPEG's name", page),
        ("denied.png", "a store's XML error under a PNG's name",
         b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>'),
        ("lfs-pointer.jpg", "a Git LFS pointer instead of the image",
         b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"ab" * 32 + b"\nsize 123456\n"),
        ("text.jpg", "a few words", b"this is no image\n"),
        ("zeros.jpg", "4 KB of zero bytes", bytes(4096)),
        ("random.jpg", "4 KB of random bytes", np.random.default_rng(3).bytes(4096)),
        ("base64.jpg", "a JPEG in base64", base64.encodebytes(jpeg())),
        ("utf8.jpg", "a JPEG that went through a text editor: bytes became U+FFFD",
         jpeg().decode(errors="replace").encode()),
        ("line-ends.png", "a PNG sent as text: its line ends were changed",
         encode(picture(), "PNG").replace(b"\r\n", b"\n")),
        ("leading-newline.jpg", "a JPEG behind an empty line", b"\r\n" + jpeg()),
        ("gzipped.jpg", "a JPEG that is still compressed by gzip", gzip.compress(jpeg(), mtime=0)),
        ("zipped.jpg", "a zip archive that holds a JPEG", zipped.getvalue()),
        ("drawing.png", "an SVG under a PNG's name", b'<svg xmlns="http://www.w3.org/2000/svg"><rect/></svg>'),
        ("document.jpg", "a PDF under a JPEG's name", b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n%%EOF\n"),
        ("phone.jpg", "a HEIC header under a JPEG's name", heic),
        ("phone.heic", "a HEIC file", heic),
        ("modern.jpg", "an AVIF image under a JPEG's name", encode(picture(), "AVIF")),
        ("film.jpg", "a video's first bytes", b"\0\0\0\x20ftypisom\0\0\2\0isomiso2" + bytes(100)),
        ("icon.png", "an ICO under a PNG's name", encode(picture(64, 64), "ICO")),
        ("jpeg2000.jpg", "a JPEG 2000 image under a JPEG's name", encode(picture(), "JPEG2000")),
        ("photoshop.tif", "a Photoshop file under a TIFF's name", b"8BPS\0\1" + bytes(200)),
        ("float.tif", "TIFF of floating-point samples",
         tiff(np.linspace(0, 1, WIDTH * HEIGHT, dtype=np.float32).reshape(HEIGHT, WIDTH), tags={339: (3,)})),
        ("lab.tif", "TIFF in L*a*b*", tiff(np.asarray(picture()), tags={262: (8,)})),
        ("signed.tif", "TIFF of signed 16-bit samples",
         tiff(np.zeros((HEIGHT, WIDTH), np.int16), tags={339: (2,)})),
    ]  # fmt: skip
    empty = Animal("empty.jpg", "zero bytes", (Fate("image_empty"),), b"")
    return [empty, *(Animal(name, about, UNSUPPORTED, data) for name, about, data in samples)]


def bombs() -> list[Animal]:
    """Small files that ask for much memory."""
    side = 30_000
    packed = zlib.compressobj(9)
    row = bytes(1 + side // 8)
    pixels = b"".join([*(packed.compress(row * 1000) for _ in range(side // 1000)), packed.flush()])
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    whole = PNG_HEAD + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    frame = jpeg().replace(struct.pack(">HH", HEIGHT, WIDTH), struct.pack(">HH", 65_500, 65_500), 1)
    small = np.asarray(picture())
    samples = [
        ("bomb.png", f"a complete PNG of 30,000 x 30,000 pixels in {len(whole) // 1000} KB", whole),
        ("bomb-header.png", "PNG that announces two billion pixels a side",
         png(2**31 - 1, 2**31 - 1, 16, 6, [b""])),
        ("bomb.jpg", "JPEG that announces 65,500 x 65,500 pixels", frame),
        ("bomb.gif", "GIF with a screen of 65,535 x 65,535 pixels", gif(65_535, 65_535, 1, 1)),
        ("bomb-frame.gif", "GIF of 1 x 1 with a frame of 65,535 x 65,535", gif(1, 1, 65_535, 65_535)),
        ("bomb.webp", "WebP that announces 16,383 x 16,383 pixels", webp(16_383, 16_383)),
        ("bomb.bmp", "BMP that announces 60,000 x 60,000 pixels", bmp(60_000, 60_000, 24, 0, b"", b"")),
        ("bomb.tif", "TIFF that announces a billion pixels a side",
         tiff(small, tags={256: (1 << 30,), 257: (1 << 30,)})),
        ("bomb-tile.tif", "TIFF of 120 x 80 in a tile of 65,536 x 65,536",
         tiff(small, tags={322: (1 << 16,), 323: (1 << 16,), 324: (8,), 325: (100,)})),
        ("bomb.ppm", "PPM that announces 100,000 x 100,000 pixels", b"P6 100000 100000 255\n"),
    ]  # fmt: skip
    return [Animal(name, about, TOO_LARGE, data) for name, about, data in samples]
