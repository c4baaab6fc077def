"""The model as people use it: images and prompts in, alphas out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from copy import copy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sdmatte.checkpoint import load_into, read_state_dict, sha256_file, sha256_state
from sdmatte.configs import BUNDLED, ModelConfigs
from sdmatte.devices import Precision, choose_device, choose_dtype, exact_float32
from sdmatte.embeddings import CoordinateFeatures, coordinate_features
from sdmatte.engine.build import Engine, place
from sdmatte.errors import ImageError, PromptError, SDMatteError
from sdmatte.geometry import AlphaType, Resize, by_grid, checked_input_size, from_grid, model_grid, quantise, to_grid
from sdmatte.images import decode_image
from sdmatte.locate import locate
from sdmatte.network import Network
from sdmatte.prompt_maps import PromptMap, prompt_map
from sdmatte.prompts import Prompt, PromptKind, require_prompt
from sdmatte.text import caption_ids

ImageLike = str | Path | Image.Image | NDArray[np.uint8]

UNTRAINED = "untrained:"
"""Prefix of a source that names a packaged configuration, to be filled with random weights."""

_TRAINED_KINDS: tuple[PromptKind, ...] = ("box", "points", "mask")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EncodedImage:
    """An image on its way through the model: encoded once, matted once per prompt.

    Attributes:
        latent: ``(C, h, w)``, scaled, on the model's device.
        width: Of the upright image, pixels.
        height: Of the upright image, pixels.
        grid: Height and width of the model's input, pixels.
    """

    latent: Tensor
    width: int
    height: int
    grid: tuple[int, int]


@dataclass(frozen=True)
class RunOptions:
    """How a model runs; :meth:`SDMatte.from_pretrained` says what each option means."""

    device: str | None = None
    precision: Precision = "auto"
    input_size: int | None = None
    resize: Resize = "square"
    caption: str = ""


class SDMatte:
    """SDMatte or LiteSDMatte (arXiv 2508.00443), ready to matte.

    Build it with :meth:`from_pretrained` or :meth:`untrained`. Not safe for concurrent calls from several threads.

    Attributes:
        name: Of the model.
        weights_sha256: SHA-256 of the weights file, hexadecimal.
        trained: False for random weights.
        precision: ``"float32"``, ``"bfloat16"`` or ``"float16"``: what the network computes in.
        device: Where it computes.
        input_size: Side of the model's square input, pixels.
        resize: ``"square"`` or ``"aspect"``, see :func:`sdmatte.geometry.model_grid`.
        prompt_kinds: Kinds of prompt that the weights were trained for.
    """

    def __init__(
        self,
        network: Network,
        configs: ModelConfigs,
        options: RunOptions,
        *,
        name: str,
        weights_sha256: str,
        trained: bool = True,
        tokenizer: Path | None = None,
        prompt_kinds: tuple[PromptKind, ...] = _TRAINED_KINDS,
    ) -> None:
        self.name = name
        self.weights_sha256 = weights_sha256
        self.trained = trained
        self.prompt_kinds = prompt_kinds
        self.device = choose_device(options.device)
        parameters = sum(each.numel() for part in (network.vae, network.unet) for each in part.parameters())
        self.precision, self._dtype = choose_dtype(options.precision, self.device, parameters)
        self.input_size = checked_input_size(options.input_size, configs.input_size, network.stride)
        self.resize = options.resize
        self._warned: set[PromptKind] = set()
        self._text_config, self._tokenizer = configs.text_encoder, tokenizer
        self._network = network.eval().requires_grad_(False)
        self._text = self._embed(options.caption)
        if not options.caption:
            network.text_encoder = None  # 340 M parameters that would compute a constant
        place(network, self.device, self._dtype)
        self._engine = Engine(network, self._text, self._dtype)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path = BUNDLED,
        *,
        weights: str | None = None,
        revision: str | None = None,
        device: str | None = None,
        precision: Precision = "auto",
        input_size: int | None = None,
        resize: Resize = "square",
        caption: str = "",
    ) -> SDMatte:
        """Load a model.

        Args:
            source: ``"sdmatte-nano"``, the small bundled model; a folder or a weights file, a hub id
                (``"LongfeiHuang/SDMatte"``), an fsspec URL of either, or ``"untrained:<packaged configuration>"``.
            weights: Name of the weights file, where the source holds several (``"SDMatte_plus.pth"``).
            revision: Branch, tag or commit on the hub.
            device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``; default the GPU if there is one.
            precision: ``"auto"`` is bfloat16 on GPUs that have it (else float16), and float32 on CPUs and for small
                models. What enters and leaves the network's parts is float32 in every precision.
            input_size: Side of the model's square input, pixels, a multiple of 64; default the model's own: 1024 as in
                the paper, unless its configuration says otherwise (the bundled model's does).
            resize: ``"square"`` as in the paper; ``"aspect"`` keeps the image's aspect ratio.
            caption: Text prompt; the released weights were used with the empty one. With a caption the text encoder
                stays in memory, so that :meth:`set_caption` can change it.

        Raises:
            CheckpointError: The model can't be found, is damaged, or is not an SDMatte model.
            SDMatteError: The device or the precision is not to be had.
        """
        options = RunOptions(device, precision, input_size, resize, caption)
        if str(source).startswith(UNTRAINED):
            return cls.untrained(str(source).removeprefix(UNTRAINED), **asdict(options))
        choose_dtype(precision, choose_device(device))  # to fail before gigabytes are fetched or read
        files = locate(source, weights=weights, revision=revision)
        with torch.device("meta"):  # no memory before the weights arrive
            network = Network(files.configs)
        checked_input_size(input_size, files.configs.input_size, network.stride)  # to fail before they are read
        load_into(network, read_state_dict(files.weights), where=str(files.weights), dtype=torch.float32)
        return cls(
            network,
            files.configs,
            options,
            name=files.name,
            weights_sha256=sha256_file(files.weights),
            tokenizer=files.tokenizer,
            prompt_kinds=files.prompt_kinds or _TRAINED_KINDS,
        )

    @classmethod
    def untrained(
        cls,
        config: str = "sdmatte-mini",
        *,
        seed: int = 0,
        device: str | None = None,
        precision: Precision = "auto",
        input_size: int | None = None,
        resize: Resize = "square",
        caption: str = "",
    ) -> SDMatte:
        """Build a model with random weights: it computes, but its alphas mean nothing. For tests and dry runs.

        Args:
            config: A packaged configuration, see :data:`sdmatte.configs.PACKAGED`.
            seed: Of the weights.
            device: See :meth:`from_pretrained`, as the other arguments.
            precision: See :meth:`from_pretrained`.
            input_size: See :meth:`from_pretrained`.
            resize: See :meth:`from_pretrained`.
            caption: See :meth:`from_pretrained`.
        """
        configs = ModelConfigs.released(config)
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed the GPUs
            network = Network(configs)
        return cls(
            network,
            configs,
            RunOptions(device, precision, input_size, resize, caption),
            name=f"{config} (untrained)",
            weights_sha256=sha256_state(network),
            trained=False,
        )

    def resized(self, input_size: int) -> SDMatte:
        """Return a model of another input size that shares this one's weights.

        Args:
            input_size: See :meth:`from_pretrained`.

        Raises:
            SDMatteError: It is no positive multiple of the model's stride.
        """
        other = copy(self)
        other.input_size = checked_input_size(input_size, input_size, self._network.stride)
        return other

    def set_caption(self, caption: str) -> None:
        """Change the text prompt of a model that was loaded with one.

        Raises:
            SDMatteError: The model was loaded with the empty caption, so its text encoder is gone.
        """
        if self._network.text_encoder is None:
            raise SDMatteError("the text encoder was released; load the model with a caption to keep it")
        self._text = self._embed(caption)
        self._engine = Engine(self._network, self._text, self._dtype)

    @overload
    def __call__(
        self, image: ImageLike, prompt: Prompt, *, dtype: Literal["float32"] = "float32"
    ) -> NDArray[np.float32]: ...
    @overload
    def __call__(self, image: ImageLike, prompt: Prompt, *, dtype: AlphaType) -> NDArray[Any]: ...
    def __call__(self, image: ImageLike, prompt: Prompt, *, dtype: AlphaType = "float32") -> NDArray[Any]:
        """Matte one object of one image.

        Args:
            image: A path, a PIL image, or ``(H, W, 3)`` uint8 RGB.
            prompt: Which object, in pixels of the upright image.
            dtype: ``"float32"`` in [0, 1], ``"uint8"`` or ``"uint16"`` (rounded).

        Returns:
            ``(H, W)`` alpha at the size of the upright image.

        Raises:
            ImageError: The image can't be read.
            PromptError: The prompt does not fit the image or the model.
        """
        pixels = decode_image(image).pixels
        self.check(prompt, pixels.shape[1], pixels.shape[0])
        return self._stored(self.matte([(self.encode([pixels])[0], prompt)])[0], dtype)

    def predict(
        self,
        images: Sequence[ImageLike],
        prompts: Sequence[Sequence[Prompt]],
        *,
        dtype: AlphaType = "float32",
        batch_size: int = 4,
    ) -> list[list[NDArray[Any]]]:
        """Matte several objects of several images; each image is encoded once.

        Args:
            images: See :meth:`__call__`.
            prompts: For each image its prompts; kinds may be mixed.
            dtype: See :meth:`__call__`.
            batch_size: Images decoded at a time, and objects per forward pass; bounds the memory.

        Returns:
            For each image, for each of its prompts, an ``(H, W)`` alpha.

        Raises:
            ImageError: An image can't be read; the message says which.
            PromptError: A prompt does not fit its image or the model; the message says which.
            SDMatteError: ``batch_size`` is less than 1, or an alpha is NaN.
        """
        if batch_size < 1:
            raise SDMatteError(f"batch_size is {batch_size}, expected at least 1")
        if len(images) != len(prompts):
            raise PromptError(
                "prompt_malformed", f"got {len(images)} images but {len(prompts)} lists of prompts; give one list each"
            )
        alphas: list[list[NDArray[Any]]] = []
        for start in range(0, len(images), batch_size):
            wanted = prompts[start : start + batch_size]
            pixels = [self._open(images[start + at], mine, start + at) for at, mine in enumerate(wanted)]
            encoded = self.encode(pixels)
            flat = [(image, prompt) for image, mine in zip(encoded, wanted, strict=True) for prompt in mine]
            found = iter(
                [
                    self._stored(alpha, dtype)
                    for at in range(0, len(flat), batch_size)
                    for alpha in self.matte(flat[at : at + batch_size])
                ]
            )
            alphas.extend([next(found) for _ in mine] for mine in wanted)
        return alphas

    def check(self, prompt: Prompt, width: int, height: int) -> None:
        """Check that a prompt fits an image of ``width`` x ``height`` pixels, and this model.

        Raises:
            PromptError: With a code, see :mod:`sdmatte.prompts`; ``prompt_unsupported`` where the model was not made
                for that kind of prompt.
        """
        require_prompt(prompt)
        prompt.validate(width, height)
        if prompt.kind in self.prompt_kinds:
            return
        message = f"{self.name} was trained for {', '.join(self.prompt_kinds)} prompts, not for {prompt.kind}"
        if prompt.kind in _TRAINED_KINDS:
            raise PromptError("prompt_unsupported", f"{message}; use another checkpoint or another prompt")
        if prompt.kind not in self._warned:  # once: there may be millions of them
            self._warned.add(prompt.kind)
            _log.warning("%s; expect poor mattes", message)

    @torch.inference_mode()
    def encode(
        self, pixels: Sequence[NDArray[np.uint8]], sizes: Sequence[tuple[int, int]] | None = None
    ) -> list[EncodedImage]:
        """Encode images, as batches of equal grids.

        Args:
            pixels: ``(H, W, 3)`` RGB each, upright.
            sizes: Width and height of the upright originals, where ``pixels`` were decoded smaller: prompts and
                alphas are in pixels of the originals. Default: those of ``pixels``.

        Returns:
            One encoded image each, in order.
        """
        stride, size = self._network.stride, self.input_size
        sizes = [(p.shape[1], p.shape[0]) for p in pixels] if sizes is None else sizes
        grids = [model_grid(width, height, size, self.resize, stride) for width, height in sizes]
        encoded: dict[int, EncodedImage] = {}
        with exact_float32(self.device, self._dtype):
            for grid, indices in by_grid(grids):
                batch = np.stack([to_grid(pixels[index], grid, sizes[index]) for index in indices])
                for index, latent in zip(indices, self._engine.encode_image(torch.from_numpy(batch)), strict=True):
                    encoded[index] = EncodedImage(latent, *sizes[index], grid)
        return [encoded[index] for index in range(len(pixels))]

    @torch.inference_mode()
    def matte(self, objects: Sequence[tuple[EncodedImage, Prompt]]) -> list[NDArray[np.float32]]:
        """Matte one batch of objects; of one image or of several, prompt kinds mixed.

        Args:
            objects: Encoded images with one checked prompt each (see :meth:`check`).

        Returns:
            ``(H, W)`` float32 alphas in [0, 1] at the size of the upright images, in order. NaN where the computation
            overflowed (half precision, broken weights): the caller decides what becomes of such an object;
            :meth:`predict` raises.
        """
        alphas: dict[int, NDArray[np.float32]] = {}
        with exact_float32(self.device, self._dtype):
            for grid, indices in by_grid([image.grid for image, _ in objects]):
                batch = self._forward([objects[index] for index in indices], grid)
                for index, alpha in zip(indices, batch, strict=True):
                    alphas[index] = from_grid(alpha, objects[index][0].width, objects[index][0].height)
        return [alphas[index] for index in range(len(objects))]

    def _forward(self, objects: Sequence[tuple[EncodedImage, Prompt]], grid: tuple[int, int]) -> NDArray[np.float32]:
        """Run the network on objects of one grid; returns ``(B, grid height, grid width)``."""
        maps = [prompt_map(prompt, image.width, image.height, grid) for image, prompt in objects]
        latent = self._engine.predict_latent(
            torch.stack([image.latent for image, _ in objects]),
            torch.from_numpy(np.stack([each.pixels for each in maps])[:, None]),
            self._coordinates(maps),
            torch.tensor([0.0 if prompt.transparent else 1.0 for _, prompt in objects]),
            torch.tensor([each.masks_attention for each in maps]),
        )
        return np.asarray(self._engine.decode(latent)[:, 0].float().cpu().numpy())

    def _stored(self, alpha: NDArray[np.float32], dtype: AlphaType) -> NDArray[Any]:
        """Return an alpha in its stored type; NaN would pass as 0 in 8 bits."""
        if not np.isfinite(alpha).all():
            raise SDMatteError(
                f"{self.name} computed NaN in {self.precision}; use precision='float32', and if that does not help, "
                "check the weights"
            )
        return quantise(alpha, dtype)

    def _coordinates(self, maps: Sequence[PromptMap]) -> CoordinateFeatures:
        unet = self._network.unet
        coordinates = [torch.from_numpy(each.coordinates) for each in maps]
        is_points = [each.is_points for each in maps]
        return coordinate_features(coordinates, is_points, box_channels=unet.box_channels, points_dim=unet.points_dim)

    def _open(self, image: ImageLike, prompts: Sequence[Prompt], index: int) -> NDArray[np.uint8]:
        """Decode an image and check its prompts; errors say which image and which prompt."""
        try:
            pixels = decode_image(image).pixels
        except ImageError as error:
            raise ImageError(error.code, f"image {index}: {error}") from error
        for number, prompt in enumerate(prompts):
            try:
                self.check(prompt, pixels.shape[1], pixels.shape[0])
            except PromptError as error:
                raise PromptError(error.code, f"image {index}, prompt {number}: {error}") from None
        return pixels

    def _embed(self, caption: str) -> Tensor:
        ids = caption_ids(caption, self._tokenizer, self._text_config)
        return self._network.embed_text(ids).to(self.device)
