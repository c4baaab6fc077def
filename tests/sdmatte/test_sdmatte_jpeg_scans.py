import io
import itertools
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from sdmatte import ImageError
from sdmatte.images import decode_image
from sdmatte.jpeg_scans import has_hole

SIDE = 256


def photo() -> NDArray[np.uint8]:
    """Clouds with some noise: coefficients much like a photo's."""
    rng = np.random.default_rng(7)
    spectrum = np.fft.rfft2(rng.normal(size=(SIDE, SIDE, 3)), axes=(0, 1))
    frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)[None])
    frequency[0, 0] = 1
    clouds = np.fft.irfft2(spectrum / frequency[..., None] ** 1.2, s=(SIDE, SIDE), axes=(0, 1))
    clouds = (clouds - clouds.min()) / np.ptp(clouds) * 255 + rng.normal(size=clouds.shape) * 2
    return clouds.clip(0, 255).astype(np.uint8)


def pictures() -> dict[str, NDArray[np.uint8]]:
    y, x = np.mgrid[:SIDE, :SIDE]
    rng = np.random.default_rng(3)
    gray = {
        **{f"flat {level}": np.full((SIDE, SIDE), level) for level in (0, 1, 127, 128, 255)},
        **{f"stripes {width}": x // width % 2 * 255 for width in (1, 4, 8)},
        **{f"checks {width}": (x // width + y // width) % 2 * 255 for width in (1, 2, 8, 16)},
        "ramp down": 255 - x,
        "ramp up": y,
        "steps": 255 - x // 8 * 8,
        "tile": np.tile(rng.integers(0, 256, (8, 8)), (SIDE // 8, SIDE // 8)),
        "noise": rng.integers(0, 256, (SIDE, SIDE)),
        "text": np.where(rng.random((SIDE, SIDE)) < 0.02, 0, 255),
    }
    return {name: np.stack([one] * 3, -1).astype(np.uint8) for name, one in gray.items()} | {"photo": photo()}


def jpeg(pixels: NDArray[np.uint8], mode: str = "RGB", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


def with_hole(data: bytes, size: int, place: float) -> bytes:
    """Overwrite bytes of the scans, at a place from 0 (their start) to 1, with zeros."""
    scan = data.index(b"\xff\xda") + 14
    start = scan + int((len(data) - scan - size - 2) * place)
    return data[:start] + bytes(size) + data[start + size :]


@pytest.mark.parametrize("name", pictures())
def test_valid_files_have_no_holes(name: str) -> None:
    pixels = pictures()[name]
    for quality, subsampling, optimize, restart in itertools.product((1, 30, 75, 95), (0, 2), (False, True), (0, 1)):
        options = {"quality": quality, "subsampling": subsampling, "restart_marker_rows": restart}
        assert not has_hole(jpeg(pixels, optimize=optimize, **options))
        assert not has_hole(jpeg(pixels, progressive=True, **options))
    for quality in (5, 90):
        assert not has_hole(jpeg(pixels, "L", quality=quality, optimize=True))
        assert not has_hole(jpeg(pixels, "CMYK", quality=quality, optimize=True))
        options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 7]
        assert not has_hole(cv2.imencode(".jpg", pixels, options)[1].tobytes())


def test_zeros_are_legal_where_tables_say_so() -> None:
    data = jpeg(np.full((1024, 1024, 3), 127, np.uint8), optimize=True)
    assert bytes(64) in data[data.index(b"\xff\xda") :]  # or else the test above shows little
    assert not has_hole(data)


@pytest.mark.parametrize("size", [128, 200, 500, 2000])
@pytest.mark.parametrize(("mode", "subsampling"), [("RGB", 0), ("RGB", 2), ("L", 0)])
def test_holes_are_found_under_the_tables_of_the_standard(mode: str, subsampling: int, size: int) -> None:
    for quality, place in itertools.product((75, 95), (0.1, 0.37, 0.5, 0.9)):
        data = jpeg(photo(), mode, quality=quality, subsampling=subsampling)
        damaged = with_hole(data, size, place)
        assert has_hole(damaged)
        with pytest.raises(ImageError, match="damaged") as caught:
            decode_image(damaged)
        assert caught.value.code == "image_corrupt"


def test_damaged_headers_are_left_to_the_decoder() -> None:
    data = jpeg(photo())
    rng = np.random.default_rng(11)
    for _ in range(300):
        bad = bytearray(with_hole(data, 300, 0.5))
        for place in rng.integers(2, 640, 4):
            bad[place] = rng.integers(0, 256)
        has_hole(bytes(bad))  # raises nothing
    for end in range(0, 700, 7):
        has_hole(data[:end] + bytes(100))
