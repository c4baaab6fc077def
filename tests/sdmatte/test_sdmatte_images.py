"""Image files of every kind we claim to read, of every kind we refuse, and damaged in every way we can think of."""

import contextlib
import io
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageOps

from sdmatte.errors import ImageError, SDMatteError
from sdmatte.images import DecodedImage, decode_image, probe_image
from support.image_bytes import chunk, encode, exif, gif, png, tiff, webp

H, W = 24, 36
CODES = {"image_missing", "image_empty", "image_unsupported", "image_corrupt", "image_truncated", "image_too_large"}


def scene(height=H, width=W):
    """An image without symmetry: every turn of it differs from every other."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, (x * y) % 256], -1).astype(np.uint8)


def to_eight(values):
    return np.floor(values.astype(np.float64) / 257 + 0.5).astype(np.uint8)


def fails(source, code, **options):
    with pytest.raises(ImageError) as caught:
        decode_image(source, **options)
    assert caught.value.code == code, str(caught.value)
    return str(caught.value)


# --- what is read ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file_format", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}),
        ("TIFF", {"big_tiff": True}),
        ("PPM", {}),
        ("WEBP", {"lossless": True}),
    ],
)
def test_lossless_formats_come_back_exactly(file_format, options):
    data = encode(scene(), file_format, **options)
    decoded = decode_image(data)
    assert isinstance(decoded, DecodedImage)
    assert decoded.notes == ()
    assert decoded.pixels.dtype == np.uint8
    assert decoded.pixels.flags.c_contiguous
    assert decoded.pixels.flags.writeable
    np.testing.assert_array_equal(decoded.pixels, scene())
    info = probe_image(data)
    assert (info.width, info.height, info.format, info.notes) == (W, H, file_format, ())


@pytest.mark.parametrize(
    ("file_format", "options"),
    [
        ("JPEG", {"quality": 95}),
        ("JPEG", {"quality": 95, "progressive": True}),
        ("WEBP", {"quality": 95}),
        ("TIFF", {"compression": "jpeg", "quality": 95}),
    ],
)
def test_lossy_formats_come_back_nearly(file_format, options):
    smooth = cv2.GaussianBlur(scene(), (9, 9), 3)
    decoded = decode_image(encode(smooth, file_format, **options))
    assert np.abs(decoded.pixels.astype(int) - smooth).mean() < 4
    assert decoded.notes == ()


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_few_colours(mode):
    image = Image.fromarray(scene()).convert(mode)
    for file_format in ("PNG", "BMP", "TIFF"):
        decoded = decode_image(encode(image, file_format))
        np.testing.assert_array_equal(decoded.pixels, np.asarray(image.convert("RGB")))
        assert decoded.notes == ()


def test_paths_and_pillow_images_and_arrays(tmp_path):
    path = tmp_path / "ä photo.png"
    path.write_bytes(encode(scene(), "PNG"))
    for source in (path, str(path), Image.open(path), Image.fromarray(scene()), scene()):
        np.testing.assert_array_equal(decode_image(source).pixels, scene())
    array = scene()
    assert decode_image(array).pixels is array
    flipped = decode_image(array[:, ::-1]).pixels
    assert flipped.flags.c_contiguous
    np.testing.assert_array_equal(flipped, array[:, ::-1])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "pillow"])
def test_exif_orientation(orientation, file_format):
    tags = Image.Exif()
    tags[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if file_format == "JPEG" else {}
    data = encode(scene(), "PNG" if file_format == "pillow" else file_format, exif=tags, **options)
    with Image.open(io.BytesIO(data)) as stored:
        expected = np.asarray(ImageOps.exif_transpose(stored).convert("RGB"))
    decoded = decode_image(Image.open(io.BytesIO(data)) if file_format == "pillow" else data)
    np.testing.assert_array_equal(decoded.pixels, expected)
    assert decoded.notes == (("exif_rotated",) if orientation > 1 else ())
    assert decoded.pixels.shape[:2] == ((W, H) if orientation > 4 else (H, W))
    if file_format != "pillow":
        info = probe_image(data)
        assert (info.height, info.width, info.notes) == (*decoded.pixels.shape[:2], decoded.notes)
        assert info.orientation == orientation


def test_orientation_says_where_up_is():
    """Not by Pillow's word: 6 is a camera turned so that the stored left edge is the top of the scene... rotated."""
    stored = np.zeros((10, 20, 3), np.uint8)
    stored[:, 0] = 255  # the stored first column is the upright picture's first row (EXIF: 0th row = visual right)
    upright = decode_image(png(20, 10, 8, 2, [row.tobytes() for row in stored], chunk(b"eXIf", exif(6)))).pixels
    assert upright.shape == (20, 10, 3)
    assert (upright[0] == 255).all()
    assert (upright[1:] == 0).all()


@pytest.mark.parametrize("order", ["<", ">"])
def test_png_orientation_behind_the_pixels(order):
    """Where exiftool puts it."""
    data = encode(scene(), "PNG")
    data = data[:-12] + chunk(b"eXIf", exif(8, order)) + data[-12:]
    info, decoded = probe_image(data), decode_image(data)
    assert (info.width, info.height) == (H, W)
    np.testing.assert_array_equal(decoded.pixels, np.rot90(scene()))
    assert info.notes == decoded.notes == ("exif_rotated",)


UNREADABLE_EXIF = [b"", b"garbage", exif(0), exif(9), exif(6)[:20], exif(6)[:9], b"II*\0\xff\xff\xff\xff"]


@pytest.mark.parametrize("block", UNREADABLE_EXIF)
def test_unreadable_exif_leaves_the_picture_as_it_is(block):
    data = png(W, H, 8, 2, [row.tobytes() for row in scene()], chunk(b"eXIf", block))
    decoded = decode_image(data)
    np.testing.assert_array_equal(decoded.pixels, scene())
    assert decoded.notes == ()


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 128, 64), (200, 100, 50), (255, 255, 255), (0, 0, 0)])
def test_cmyk_colours(colour):
    plain = Image.new("RGB", (16, 16), colour)
    for data in (encode(plain.convert("CMYK"), "TIFF"), encode(plain.convert("CMYK"), "JPEG", quality=100)):
        decoded = decode_image(data)
        assert np.abs(decoded.pixels.astype(int) - colour).max() <= 2
        assert decoded.notes == ("converted_cmyk",)
        assert probe_image(data).notes == ("converted_cmyk",)


def test_ycck_as_photoshop_writes_it():
    """Adobe's marker with transform 2: luma and chroma of the inks, and K upside down (libjpeg.txt, "CMYK")."""
    colour = (180, 60, 30)
    inks = Image.new("RGB", (16, 16), tuple(255 - value for value in colour)).convert("YCbCr")
    stored = np.dstack([np.asarray(inks), np.full((16, 16), 255, np.uint8)])  # no black
    data = bytearray(encode(Image.fromarray(255 - stored, "CMYK"), "JPEG", quality=100))  # Pillow inverts once more
    transform = data.index(b"Adobe") + 11
    assert data[transform] == 0
    data[transform] = 2
    decoded = decode_image(bytes(data))
    assert decoded.notes == ("converted_cmyk",)
    assert np.abs(decoded.pixels.astype(int) - colour).max() <= 3
    opencv = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(decoded.pixels.astype(int) - opencv).max() <= 3


SAMPLES = np.random.default_rng(7).integers(0, 65536, (H, W, 4), dtype=np.uint16)
SAMPLES[0, :8, 0] = [0, 1, 128, 129, 385, 386, 65406, 65535]  # on both sides of the half


def over_white(rgb, alpha):
    return np.rint((rgb * alpha + 255.0 * (255 - alpha)) / 255).astype(int)


def test_16_bit_png():
    for values in (SAMPLES[..., 0], SAMPLES[..., :3]):
        bgr = values[..., ::-1] if values.ndim == 3 else values
        data = cv2.imencode(".png", bgr)[1].tobytes()
        decoded = decode_image(data)
        expected = to_eight(values)
        np.testing.assert_array_equal(decoded.pixels, expected if values.ndim == 3 else np.stack([expected] * 3, -1))
        assert decoded.notes == probe_image(data).notes == ("reduced_16bit",)


@pytest.mark.parametrize(("color", "channels"), [(4, 2), (6, 4)])
def test_16_bit_png_with_alpha(color, channels):
    values = SAMPLES[..., -channels:]
    data = png(W, H, 16, color, [row.astype(">u2").tobytes() for row in values])
    decoded = decode_image(data)
    eight = to_eight(values).astype(int)
    expected = over_white(eight[..., :-1], eight[..., -1:])
    np.testing.assert_array_equal(decoded.pixels, np.broadcast_to(expected, (H, W, 3)))
    assert decoded.notes == probe_image(data).notes == ("reduced_16bit", "flattened_alpha")


@pytest.mark.parametrize(("color", "channels"), [(0, 1), (2, 3)])
def test_16_bit_png_with_a_transparent_colour(color, channels):
    values = np.full((H, W, channels), 0x1234, np.uint16)
    values[3, 4] = 0x1280  # the same upper byte: another colour all the same
    data = png(
        W, H, 16, color, [row.astype(">u2").tobytes() for row in values], chunk(b"tRNS", b"\x12\x34" * channels)
    )
    decoded = decode_image(data)
    assert (decoded.pixels[3, 4] == 0x12).all()
    decoded.pixels[3, 4] = 255
    assert (decoded.pixels == 255).all()
    assert decoded.notes == ("reduced_16bit", "flattened_alpha")


@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bit_tiff(order):
    for values in (SAMPLES[..., 0], SAMPLES[..., :3]):
        expected = to_eight(values) if values.ndim == 3 else np.stack([to_eight(values)] * 3, -1)
        data = tiff(values, order=order)
        decoded = decode_image(data)
        np.testing.assert_array_equal(decoded.pixels, expected)
        assert decoded.notes == probe_image(data).notes == ("reduced_16bit",)


def test_16_bit_tiff_compressed():
    data = cv2.imencode(".tiff", SAMPLES[..., 2::-1], [cv2.IMWRITE_TIFF_COMPRESSION, 5])[1].tobytes()
    np.testing.assert_array_equal(decode_image(data).pixels, to_eight(SAMPLES[..., :3]))


def test_16_bit_tiff_cmyk_and_alpha_and_turned():
    cmyk = decode_image(tiff(SAMPLES, tags={262: (5,)}))
    expected = np.asarray(Image.fromarray(to_eight(SAMPLES), "CMYK").convert("RGB"))
    np.testing.assert_array_equal(cmyk.pixels, expected)
    assert cmyk.notes == ("converted_cmyk", "reduced_16bit")
    eight = to_eight(SAMPLES).astype(int)
    rgba = decode_image(tiff(SAMPLES, tags={338: (2,)}))
    np.testing.assert_array_equal(rgba.pixels, over_white(eight[..., :3], eight[..., 3:]))
    turned = decode_image(tiff(SAMPLES[..., :3], tags={274: (6,)}))
    np.testing.assert_array_equal(turned.pixels, np.rot90(to_eight(SAMPLES[..., :3]), -1))
    assert turned.notes == ("exif_rotated", "reduced_16bit")


def test_tiff_whose_white_is_zero():
    values = SAMPLES[..., 0]
    deep = decode_image(tiff(values, tags={262: (0,)}))
    np.testing.assert_array_equal(deep.pixels[..., 0], to_eight(65535 - values))
    shallow = decode_image(tiff(scene()[..., 0], tags={262: (0,)}))
    np.testing.assert_array_equal(shallow.pixels[..., 0], 255 - scene()[..., 0])


def test_12_bit_tiff():
    values = np.array([[0, 4095], [2048, 16]])
    packed = np.array([[0x00, 0x0F, 0xFF], [0x80, 0x00, 0x10]], np.uint8)
    data = tiff(packed, tags={256: (2,), 258: (12,), 262: (1,)})
    decoded = decode_image(data)
    np.testing.assert_array_equal(decoded.pixels[..., 0], np.rint(values / 4095 * 255))
    assert decoded.notes == ("reduced_16bit",)


@pytest.mark.parametrize("maximum", [1, 100, 255, 511, 1023, 65535])
@pytest.mark.parametrize("kind", [b"P2", b"P3", b"P5", b"P6"])
def test_ppm_of_any_maximum(kind, maximum):
    bands = 3 if kind in (b"P3", b"P6") else 1
    values = SAMPLES[..., :bands].astype(int) % (maximum + 1)
    head = kind + b"\n# a comment\n%d %d\n%d\n" % (W, H, maximum)
    if kind in (b"P2", b"P3"):
        body = b" ".join(b"%d" % value for value in values.ravel()) + b"\n"
    else:
        body = values.astype(">u2" if maximum > 255 else "u1").tobytes()
    decoded = decode_image(head + body)
    expected = np.broadcast_to(values / maximum * 255, (H, W, 3))
    assert np.abs(decoded.pixels - expected).max() <= 0.5 + 1 / 257  # plain 16-bit: Pillow rounds to 16 bits first
    if kind in (b"P5", b"P6"):
        fails(head + body[:-1], "image_truncated")
        if maximum > 255:
            assert decoded.notes == probe_image(head + body).notes == ("reduced_16bit",)


def test_alpha_over_white():
    rgba = np.dstack([scene(), np.tile(np.arange(W, dtype=np.uint8) * 7, (H, 1))])
    expected = over_white(scene().astype(int), rgba[..., 3:].astype(int))
    for data in (encode(rgba, "PNG"), encode(rgba, "WEBP", lossless=True, exact=True), encode(rgba, "TIFF")):
        decoded = decode_image(data)
        np.testing.assert_array_equal(decoded.pixels, expected)
        assert decoded.notes == probe_image(data).notes == ("flattened_alpha",)
    gray = Image.fromarray(np.dstack([scene()[..., 0], rgba[..., 3]]), "LA")
    np.testing.assert_array_equal(decode_image(encode(gray, "PNG")).pixels[..., 0], expected[..., 0])
    np.testing.assert_array_equal(decode_image(Image.fromarray(rgba)).pixels, expected)


def test_transparent_colours():
    palette = Image.fromarray(scene()).quantize(8)
    clear = palette.getpixel((0, 0))
    for file_format in ("PNG", "GIF"):
        decoded = decode_image(encode(palette, file_format, transparency=clear))
        expected = np.asarray(palette.convert("RGB")).copy()
        expected[np.asarray(palette) == clear] = 255
        np.testing.assert_array_equal(decoded.pixels, expected)
        assert decoded.notes == ("flattened_alpha",)
    key = png(2, 1, 8, 2, [bytes([9, 8, 7, 9, 8, 6])], chunk(b"tRNS", bytes([0, 9, 0, 8, 0, 7])))
    np.testing.assert_array_equal(decode_image(key).pixels, [[[255, 255, 255], [9, 8, 6]]])


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame(file_format):
    frames = [Image.new("RGB", (W, H), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if file_format == "WEBP" else {}
    data = encode(frames[0], file_format, save_all=True, append_images=frames[1:], **options)
    decoded = decode_image(data)
    assert (decoded.pixels == [255, 0, 0]).all()
    assert decoded.notes == probe_image(data).notes == ("first_frame",)


def test_gif_frame_smaller_than_its_screen():
    frame = Image.new("P", (4, 4), 1)
    frame.putpalette([255, 0, 0, 0, 0, 255] + [0] * 6)
    data = bytearray(encode(frame, "GIF", transparency=0, optimize=False))
    data[6:10] = struct.pack("<HH", 6, 5)
    decoded = decode_image(bytes(data))
    assert decoded.pixels.shape == (5, 6, 3)
    assert (decoded.pixels[:4, :4] == [0, 0, 255]).all()
    assert (decoded.pixels[4:] == 255).all()


def test_mpo_counts_as_jpeg():
    first, second = Image.fromarray(scene()), Image.new("RGB", (W, H))
    data = encode(first, "MPO", save_all=True, append_images=[second], quality=95)
    assert Image.open(io.BytesIO(data)).format == "MPO"
    np.testing.assert_array_equal(decode_image(data).pixels, decode_image(encode(first, "JPEG", quality=95)).pixels)
    assert probe_image(data).format == "JPEG"


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"<!DOCTYPE html><html>", "server's error page"),
        (b"  <svg xmlns=''/>", "SVG"),
        (b"\0\0\0\x20ftypavif", "AVIF"),
        (b"\0\0\0\x20ftypheic", "HEIC"),
        (b"%PDF-1.7", "PDF"),
        (b"Pf\n2 2\n-1.0\n" + bytes(16), "floating-point"),
        (bytes(1000), "zero bytes"),
        (b"hello", "68 65 6c"),
        (b"\x00\x00\x01\x00\x01\x00", "unknown data"),  # ICO
    ],
)
def test_no_image(data, word):
    message = fails(data, "image_unsupported")
    assert word in message
    assert "JPEG" in message


def test_formats_outside_the_list():
    for file_format in ("ICO", "TGA", "JPEG2000", "PCX", "SGI"):
        fails(encode(scene(), file_format), "image_unsupported")


@pytest.mark.parametrize(
    "data",
    [
        tiff(SAMPLES[..., 0].astype(np.float32), tags={339: (3,)}),
        tiff(SAMPLES[..., 0].astype(np.int16), tags={339: (2,)}),
        tiff(SAMPLES[..., 0].astype(np.uint32)),
        tiff(SAMPLES[..., :3].astype(np.float64), tags={339: (3, 3, 3)}),
        tiff(SAMPLES[..., :3], tags={284: (2,)}),
        tiff(scene(), tags={262: (8,)}),
    ],
    ids=["float", "signed", "32-bit", "float64", "planar-16", "lab"],
)
def test_sample_types_that_are_refused(data):
    fails(data, "image_unsupported")
    with pytest.raises(ImageError):
        probe_image(data)


def test_other_sources(tmp_path):
    assert "nowhere.png" in fails(tmp_path / "nowhere.png", "image_missing")
    fails(tmp_path, "image_missing")
    fails("a\0b", "image_missing")
    empty = tmp_path / "empty.jpg"
    empty.touch()
    assert "empty.jpg" in fails(empty, "image_empty")
    fails(b"", "image_empty")
    fails(np.zeros((0, 4, 3), np.uint8), "image_empty")
    fails(Image.new("RGB", (0, 3)), "image_empty")
    fails(np.zeros((4, 4), np.uint8), "image_unsupported")
    fails(np.zeros((4, 4, 3), np.float32), "image_unsupported")
    fails(Image.new("F", (3, 3)), "image_unsupported")
    fails(Image.new("I", (3, 3), -1), "image_unsupported")
    fails(7, "image_unsupported")
    fails(scene(), "image_too_large", max_pixels=H * W - 1)
    fails(Image.fromarray(scene()), "image_too_large", max_pixels=H * W - 1)
    deep = decode_image(Image.fromarray(SAMPLES[..., 0]))
    np.testing.assert_array_equal(deep.pixels[..., 1], to_eight(SAMPLES[..., 0]))
    assert deep.notes == ("reduced_16bit",)


def test_errors_survive_pickling(tmp_path):
    with pytest.raises(ImageError) as caught:
        decode_image(tmp_path / "nowhere.png")
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.code, str(again)) == ("image_missing", str(caught.value))


def test_pillow_told_to_accept_truncated_files_is_an_error(monkeypatch):
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(SDMatteError, match="LOAD_TRUNCATED_IMAGES") as caught:
        decode_image(encode(scene(), "JPEG"))
    assert not isinstance(caught.value, ImageError)


# --- damage ----------------------------------------------------------------------------------------------------------


def valid_files():
    """One small file per format and per branch of the code that reads it."""
    rgb = Image.fromarray(scene())
    rgba = Image.fromarray(np.dstack([scene(), scene()[..., 0]]))
    frames = {"save_all": True, "append_images": [rgb.rotate(180)]}
    return {
        "jpeg": encode(rgb, "JPEG", exif=b"Exif\0\0" + exif(6)),
        "jpeg-progressive": encode(rgb, "JPEG", progressive=True),
        "jpeg-cmyk": encode(rgb.convert("CMYK"), "JPEG"),
        "mpo": encode(rgb, "MPO", **frames),
        "png": encode(rgb, "PNG"),
        "png-palette": encode(rgb.quantize(16), "PNG", transparency=3),
        "png-16": cv2.imencode(".png", SAMPLES[:8, :8, :3])[1].tobytes(),
        "apng": encode(rgb, "PNG", **frames),
        "webp": encode(rgb, "WEBP"),
        "webp-lossless": encode(rgba, "WEBP", lossless=True),
        "webp-animated": encode(rgb, "WEBP", **frames),
        "bmp": encode(rgb, "BMP"),
        "bmp-palette": encode(rgb.quantize(16), "BMP"),
        "tiff": encode(rgb, "TIFF"),
        "tiff-lzw": encode(rgba, "TIFF", compression="tiff_lzw"),
        "tiff-jpeg": encode(rgb, "TIFF", compression="jpeg"),
        "tiff-g4": encode(rgb.convert("1"), "TIFF", compression="group4"),
        "tiff-16": tiff(SAMPLES[:8, :8, :3], order=">"),
        "gif": encode(rgb.quantize(16), "GIF"),
        "gif-animated": encode(rgb, "GIF", **frames),
        "ppm": encode(rgb, "PPM"),
        "ppm-16": b"P6 8 8 1023\n" + SAMPLES[:8, :8, :3].tobytes(),
        "pgm-plain": b"P2 4 4 9\n" + b"7 " * 16,
        "pbm": encode(rgb.convert("1"), "PPM"),
    }


FILES = valid_files()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FILES)
def test_truncated_anywhere_is_an_error_or_lost_nothing(name):
    """Never a picture whose rest is gray: what decodes at all equals the whole."""
    data = FILES[name]
    whole = decode_image(data).pixels
    codes = set()
    for length in range(12, len(data), 1 + len(data) // 400):
        try:
            np.testing.assert_array_equal(decode_image(data[:length]).pixels, whole)
        except ImageError as error:
            codes.add(error.code)
    assert "image_truncated" in codes
    assert codes <= {"image_truncated", "image_corrupt", "image_unsupported"}
    half = data[: len(data) // 2]
    fails(half, "image_truncated")


def test_rest_overwritten_with_zeros():
    """A download whose space was reserved, and that broke off."""
    data = encode(scene(256, 256), "JPEG", quality=90)
    fails(data[: len(data) // 2] + bytes(1 << 17), "image_truncated")
    with_thumbnail = data[:2] + b"\xff\xe1\x00\x06Th\xff\xd9" + data[2:]
    np.testing.assert_array_equal(decode_image(with_thumbnail).pixels, decode_image(data).pixels)
    fails(with_thumbnail[: len(data) // 2] + bytes(1 << 17), "image_truncated")


def test_flipped_bits_in_a_png_never_go_unnoticed():
    data = encode(scene(), "PNG")
    for at in range(8, len(data)):
        flipped = bytearray(data)
        flipped[at] ^= 1 << at % 8
        with contextlib.suppress(ImageError):
            np.testing.assert_array_equal(decode_image(bytes(flipped)).pixels, scene())


@st.composite
def mutated(draw):
    """A valid file, some of its bytes replaced, cut out or repeated, most often where the header is."""
    data = bytearray(FILES[draw(st.sampled_from(sorted(FILES)))])
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.one_of(st.integers(0, min(200, len(data))), st.integers(0, len(data))))
        match draw(st.integers(0, 3)):
            case 0:
                some = draw(st.binary(min_size=1, max_size=8))
                data[at : at + len(some)] = some
            case 1:
                del data[at : at + draw(st.integers(1, 64))]
            case 2:
                data[at:at] = data[at : at + draw(st.integers(1, 64))]
            case _:
                extreme = draw(st.sampled_from([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\1"]))
                data[at : at + 4] = extreme
    return bytes(data)


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.one_of(mutated(), st.binary(max_size=200)))
@pytest.mark.filterwarnings("ignore")
def test_only_image_errors_leave_for_any_bytes(data):
    limit = 1 << 20
    try:
        decoded = decode_image(data, max_pixels=limit)
    except ImageError as error:
        code = error.code
    else:
        info = probe_image(data, max_pixels=limit)
        assert decoded.pixels.shape == (info.height, info.width, 3)
        assert decoded.notes == info.notes
        assert info.width * info.height <= limit
        return
    assert code in CODES - {"image_missing"}
    with contextlib.suppress(ImageError):
        info = probe_image(data, max_pixels=limit)
        assert code not in {"image_empty", "image_too_large"}, "the header alone tells"
        assert info.width * info.height <= limit


# --- bombs -----------------------------------------------------------------------------------------------------------


BOMBS = {
    "png": png(60000, 60000, 8, 2, [b""]),
    "png-16": png(40000, 40000, 16, 6, [b""]),
    "png-palette-1bit": png(1 << 20, 1 << 20, 1, 3, [b""], chunk(b"PLTE", bytes(6))),
    "gif-screen": gif(65535, 65535, 1, 1),
    "gif-frame": gif(1, 1, 65535, 65535),
    "gif-frame-below-pillows-limit": gif(1, 1, 13000, 13000),
    "webp": webp(16383, 16383),
    "bmp": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 60000, 60000, 1, 24, 0, 0, 0, 0, 0, 0),
    "ppm": b"P6 100000 100000 255\n",
    "ppm-deep": b"P6 100000 100000 1000\n",
    "tiff": tiff(scene(), tags={256: (1 << 30,), 257: (1 << 30,)}),
    "tiff-tile": tiff(scene(), tags={322: (1 << 16,), 323: (1 << 16,), 324: (8,), 325: (100,)}),
    "jpeg": encode(scene(), "JPEG").replace(struct.pack(">HH", H, W), b"\xff\xff\xff\xff", 1),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_by_their_header(name):
    message = fails(BOMBS[name], "image_too_large", max_pixels=1 << 24)
    assert "pixels" in message
    with pytest.raises(ImageError) as caught:
        probe_image(BOMBS[name], max_pixels=1 << 24)
    assert caught.value.code == "image_too_large"


def in_a_process_of_its_own(folder, *, max_pixels):
    """Decode every file of a folder, also with huge numbers at every place of its header; return the memory it took.

    Returns:
        Codes met, and by how many bytes the process's peak grew.
    """
    script = """
import resource, sys, warnings
from pathlib import Path
from PIL import Image
from sdmatte.images import decode_image, ImageError
warnings.simplefilter("ignore")
Image.MAX_IMAGE_PIXELS = None
codes = set()
files = [path.read_bytes() for path in sorted(Path(sys.argv[1]).iterdir())]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for data in files:
    for at in range(0, min(len(data), 240), 2):
        for huge in (b"", b"\\0\\0\\xff\\xff", b"\\xff\\xff\\0\\0", b"\\x7f\\xff\\xff\\xff"):
            try:
                decode_image(data[:at] + huge + data[at + len(huge):], max_pixels=int(sys.argv[2]))
            except ImageError as error:
                codes.add(error.code)
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(*sorted(codes), grown * (1 if sys.platform == "darwin" else 1024))
"""
    command = [sys.executable, "-c", script, str(folder), str(max_pixels)]
    *codes, grown = subprocess.run(command, check=True, capture_output=True, text=True, timeout=200).stdout.split()
    return set(codes), int(grown)


@pytest.mark.parametrize("files", [BOMBS, FILES], ids=["bombs", "mutated headers"])
def test_memory_stays_bounded_whatever_pillows_own_limit_is(tmp_path, files):
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    codes, grown = in_a_process_of_its_own(tmp_path, max_pixels=1 << 20)
    assert "image_too_large" in codes
    assert codes <= CODES
    assert grown < 40e6


def test_the_default_limit_is_pillows_and_large_photos_pass_without_its_warning(recwarn):
    rows = [bytes(1250)] * 10000
    decoded = probe_image(png(10000, 10000, 1, 0, rows))
    assert (decoded.width, decoded.height) == (10000, 10000)
    assert not [warning for warning in recwarn if issubclass(warning.category, Image.DecompressionBombWarning)]


def test_no_torch_for_images():
    script = "import sys, sdmatte.images; assert not {'torch', 'cv2', 'scipy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parent, timeout=120)
