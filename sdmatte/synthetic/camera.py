"""What a camera does to a scene.

Two kinds of function live here. Blur (``blur``, ``blur_layer``) moves light across an object's outline, so it works on
premultiplied colour and alpha together and the alpha stays exact. Everything else (``expose`` ... ``jpeg``, and
``damage``, which draws all of them at random) changes the picture only: no alpha may go through it.

All pictures are ``(h, w, 3)`` float32 RGB in [0, 1]; every function returns a new array in that range.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from sdmatte.errors import SDMatteError
from sdmatte.synthetic.layers import Layer, unpremultiply
from sdmatte.synthetic.textures import in_channels

Picture = NDArray[np.float32]
Kernel = NDArray[np.float32]  # (k, k), k odd, sums to 1

_LUMA = np.array([[0.299, 0.587, 0.114]] * 3, np.float32)  # ITU-R BT.601


def disc(radius: float) -> Kernel:
    """Spread of a defocused lens: an evenly lit, antialiased disc.

    Args:
        radius: Pixels; at 0.5 and below the kernel changes nothing.

    Returns:
        ``(k, k)`` float32 with k odd, sum 1.
    """
    reach = math.ceil(max(radius - 0.5, 0.0))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    lit = (radius + 0.5 - np.hypot(x, y)).clip(0.0, 1.0)
    lit[reach, reach] = 1.0
    return np.asarray(lit / lit.sum(), np.float32)


def streak(length: float, angle: float) -> Kernel:
    """Spread of a straight, even movement during the exposure.

    Args:
        length: Pixels travelled; 0 changes nothing.
        angle: Direction, degrees counter-clockwise from the right.

    Returns:
        ``(k, k)`` float32 with k odd, sum 1.
    """
    reach = math.ceil(length / 2)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    turn = math.radians(angle)
    along, across = x * math.cos(turn) - y * math.sin(turn), x * math.sin(turn) + y * math.cos(turn)
    inside = (length / 2 + 0.5 - np.abs(along)).clip(0.0, 1.0) * (1.0 - np.abs(across)).clip(0.0, 1.0)
    return np.asarray(inside / inside.sum(), np.float32)


def blur(layer: Layer, kernel: Kernel) -> Layer:
    """Blur an object's colour and alpha together, as a lens does.

    Args:
        layer: Of a frame's size. What the frame cuts off is taken to go on beyond it.
        kernel: As from ``disc`` or ``streak``.

    Returns:
        The same object, blurred.
    """
    pixels = cv2.merge((layer.colour * in_channels(layer.alpha), layer.alpha))
    spread = np.asarray(cv2.filter2D(pixels, -1, kernel, borderType=cv2.BORDER_REPLICATE), np.float32)
    return layer.replaced(*unpremultiply(spread[..., :3], spread[..., 3]))


def blur_layer(layer: Layer, rng: np.random.Generator, *, strength: tuple[float, float] = (0.7, 4.0)) -> Layer:
    """Put an object out of focus, or, one time in three, in motion.

    Args:
        layer: Of a frame's size.
        rng: Source of chance.
        strength: Least and greatest radius of the disc, or half length of the streak, pixels; small ones are likelier.

    Returns:
        The same object, blurred.
    """
    radius = math.exp(rng.uniform(math.log(strength[0]), math.log(strength[1])))
    return blur(layer, streak(2 * radius, rng.uniform(0, 180)) if rng.random() < 1 / 3 else disc(radius))


def expose(image: Picture, *, stops: float = 0.0, contrast: float = 1.0, gamma: float = 1.0) -> Picture:
    """Change brightness and tone curve.

    Args:
        image: The picture.
        stops: Doublings of the stored values.
        contrast: Factor of the distance from middle grey.
        gamma: Exponent; below 1 lifts the dark tones.
    """
    graded = (image * np.float32(2.0**stops) - 0.5) * np.float32(contrast) + 0.5
    graded = graded.clip(0.0, 1.0)
    return np.asarray(graded if gamma == 1.0 else graded ** np.float32(gamma), np.float32)


def white_balance(image: Picture, *, gains: tuple[float, float, float]) -> Picture:
    """Multiply red, green and blue by ``gains``."""
    return np.asarray((image * np.array(gains, np.float32)).clip(0.0, 1.0), np.float32)


def saturate(image: Picture, *, amount: float) -> Picture:
    """Scale the distance of each colour from its own grey: 0 gives a grey picture, 1 changes nothing."""
    grey = np.asarray(cv2.transform(image, _LUMA), np.float32)
    return np.asarray((grey + np.float32(amount) * (image - grey)).clip(0.0, 1.0), np.float32)


def vignette(image: Picture, *, strength: float) -> Picture:
    """Darken towards the corners, which lose the share ``strength`` of their light."""
    height, width = image.shape[:2]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None] ** 2
    x = np.linspace(-1, 1, width, dtype=np.float32)[None] ** 2
    left = np.asarray(1.0 - strength * ((x + y) / 2) ** 2, np.float32)
    return image * in_channels(left)


def add_noise(image: Picture, rng: np.random.Generator, *, shot: float, read: float, size: float = 0.0) -> Picture:
    """Add sensor noise: Gaussian, variance ``shot**2 * value + read**2``.

    Args:
        image: The picture.
        rng: Source of chance.
        shot: Standard deviation at value 1 of the noise that grows with light.
        read: Standard deviation of the noise that is there in the dark.
        size: Standard deviation in pixels by which neighbours share noise (demosaicing smears it); its total strength
            stays the same.
    """
    noise = rng.standard_normal(image.shape, np.float32)
    if size > 0:
        kernel = cv2.getGaussianKernel(2 * math.ceil(3 * size) + 1, size, cv2.CV_32F)
        noise = np.asarray(cv2.sepFilter2D(noise, -1, kernel, kernel), np.float32)
        noise /= np.float32((kernel**2).sum())  # weights of the two passes: the variance shrinks by this, squared
    deviation = np.sqrt(np.float32(shot**2) * image + np.float32(read**2))
    return np.asarray((image + deviation * noise).clip(0.0, 1.0), np.float32)


def sharpen(image: Picture, *, amount: float, radius: float) -> Picture:
    """Unsharp masking: add ``amount`` times what a Gaussian of ``radius`` pixels takes away."""
    soft = np.asarray(cv2.GaussianBlur(image, (0, 0), radius), np.float32)
    return np.asarray((image + np.float32(amount) * (image - soft)).clip(0.0, 1.0), np.float32)


def jpeg(image: Picture, *, quality: int, subsampled: bool = True) -> Picture:
    """Store as JPEG and read back.

    Args:
        image: The picture.
        quality: 1 to 100.
        subsampled: Halve the resolution of the colours (4:2:0), as most cameras do.

    Raises:
        SDMatteError: The picture is larger than JPEG can hold (65 500 pixels a side).
    """
    levels = np.rint(image[..., ::-1] * 255).astype(np.uint8)
    sampling = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420 if subsampled else cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
    stored, data = cv2.imencode(".jpg", levels, options)
    if not stored:
        size = f"{image.shape[1]} x {image.shape[0]}"
        raise SDMatteError(f"OpenCV could not store a picture of {size} pixels as JPEG; make it smaller.")
    restored = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.float32)
    return np.ascontiguousarray(restored[..., ::-1]) * np.float32(1 / 255)


def grade(image: Picture, rng: np.random.Generator, *, strength: float = 1.0) -> Picture:
    """Draw an exposure, a white balance and a saturation; one picture in twenty becomes grey.

    Args:
        image: The picture.
        rng: Source of chance.
        strength: 1 is what differs between everyday photographs, 0 changes nothing but for the grey ones.
    """
    if rng.random() < 0.7:
        image = expose(
            image,
            stops=strength * rng.uniform(-0.5, 0.4),
            contrast=2 ** (strength * rng.uniform(-0.5, 0.4)),
            gamma=2 ** (strength * rng.uniform(-0.4, 0.4)),
        )
    if rng.random() < 0.5:
        warmth, tint = strength * rng.normal(0, 0.12), strength * rng.normal(0, 0.04)
        image = white_balance(image, gains=(2**warmth, 2**tint, 2**-warmth))
    if rng.random() < 0.05:
        image = saturate(image, amount=0.0)
    elif rng.random() < 0.3:
        image = saturate(image, amount=2 ** (strength * rng.uniform(-1.0, 0.4)))
    return image


def damage(image: Picture, rng: np.random.Generator) -> Picture:
    """Take the picture with a random camera: tone, vignetting, noise, sharpening and JPEG, each only sometimes.

    Args:
        image: The scene. Its alphas stay true: nothing here moves an outline.
        rng: Source of chance.
    """
    if rng.random() < 0.25:
        image = vignette(image, strength=rng.uniform(0.1, 0.6))
    image = grade(image, rng)
    if rng.random() < 0.6:
        level = math.exp(rng.uniform(math.log(0.003), math.log(0.06)))
        size = rng.choice([0.0, 0.6])
        image = add_noise(image, rng, shot=level, read=level * rng.uniform(0.1, 0.6), size=size)
    if rng.random() < 0.25:
        image = sharpen(image, amount=rng.uniform(0.2, 1.0), radius=rng.uniform(0.6, 1.5))
    if rng.random() < 0.7:
        image = jpeg(image, quality=int(100 - 65 * rng.beta(1.2, 2.5)), subsampled=bool(rng.random() < 0.7))
    return image
