"""The stage on the GPU: decode, matte, score and encode, one actor per model."""

from __future__ import annotations

import hashlib
import logging
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.batching import AdaptiveBatches, Failure
from pipeline.config import LabelConfig
from pipeline.errors import BadInputError, ErrorCode
from pipeline.masks import decode_png
from pipeline.provenance import ModelIdentity
from pipeline.quality import Features, features
from pipeline.schema import LEDGER, RECORDS
from sdmatte.errors import ImageError, PromptError, SDMatteError
from sdmatte.geometry import AlphaType, quantise
from sdmatte.images import decode_image
from sdmatte.prompts import Box, Mask, Points, Prompt

if TYPE_CHECKING:
    from sdmatte.model import EncodedImage, SDMatte

OUTPUT = pa.schema([*RECORDS, pa.field("ledger", LEDGER)])
"""What the stage yields: records, and the ledger rows that end shards (all other columns but ``shard`` null)."""

PIXELS_AT_A_TIME = 48_000_000
"""Pixels of decoded images that an actor holds at a time; a larger image is held alone."""

PNG_COMPRESSION = 3
"""zlib level: mattes are smooth, higher levels cost much time for few bytes."""

_OUT_OF_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
"""Failed allocations that torch raises as plain RuntimeError."""

_log = logging.getLogger(__name__)


class MatteProgress(Protocol):
    """Is told what the stage does; must not block."""

    def __call__(self, counts: dict[str, int]) -> None:
        """Add counts of what has been done, such as ``{"ok": 3, "image_corrupt": 1}``."""

    def hold(self, images: list[str]) -> None:
        """Note which images are in hand, so that a crash can be traced to them."""


@dataclass
class _Work:
    """One image on its way through the actor."""

    row: dict[str, Any]
    digest: str | None = None
    notes: tuple[str, ...] = ()
    pixels: NDArray[np.uint8] | None = None
    error: tuple[str, str] | None = None  # code and message, for all prompts
    encoded: EncodedImage | None = None


@dataclass
class _Object:
    """One prompt of one image; ends as one record."""

    work: _Work
    spec: dict[str, Any]
    prompt: Prompt | None = None
    error: tuple[str, str] | None = None
    alpha: bytes | None = None
    features: Features | None = None
    told: bool = False  # to the progress


class MatteImages:
    """Turns engine rows (:data:`pipeline.schema.IMAGE_ROWS`) into records (:data:`OUTPUT`).

    Every prompt of every row becomes exactly one record, whatever happens to it. A batch that fails is halved until
    the guilty object is alone; out-of-memory lowers the batch size, which grows again.

    Args:
        config: Of the run.
        run_id: Written into every record.
        model: Ready model; by default the configured one is loaded.
        progress: Told what was done.
        threads: Of torch, where the model computes on CPUs; None leaves them as they are.
    """

    def __init__(
        self,
        config: LabelConfig,
        run_id: str,
        model: SDMatte | None = None,
        progress: MatteProgress | None = None,
        threads: int | None = None,
    ) -> None:
        import torch

        self._model = model or load_model(config)
        if threads is not None and self._model.device.type == "cpu":
            torch.set_num_threads(threads)
        self._config = config
        self._origin = _origin(config, run_id, identity(self._model))
        self._progress = progress
        self._alpha_type: AlphaType = "uint16" if config.output.alpha_bits == 16 else "uint8"
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="pixels")
        limit = config.model.batch_size
        self._encode = AdaptiveBatches(self._encode_batch, limit, is_out_of_memory, is_device_lost)
        self._matte = AdaptiveBatches(self._matte_batch, limit, is_out_of_memory, is_device_lost)

    def __call__(self, rows: pa.Table) -> Iterator[pa.Table]:
        """Yield the records of ``rows``, a few images at a time so that memory stays bounded."""
        for chunk in _chunks(rows.to_pylist()):
            if self._progress:
                self._progress.hold([f"{row['shard']}: {row['image_key']}" for row in chunk if row["ledger"] is None])
            try:
                yield self._label(chunk)
            except Exception as error:
                if is_device_lost(error) and _in_ray_actor():
                    # Every later call in this process would fail too: let Ray start a fresh one and repeat the block.
                    _log.critical("the device is lost, ending this process: %s", error)
                    os._exit(1)
                raise
        if self._progress:
            self._progress.hold([])

    def _label(self, rows: Sequence[dict[str, Any]]) -> pa.Table:
        ledgers = [row for row in rows if row["ledger"] is not None]
        works = [_Work(row) for row in rows if row["ledger"] is None]
        list(self._threads.map(self._decode, works))
        readable = [work for work in works if work.pixels is not None]
        for work, encoded in zip(readable, self._encode.run(readable), strict=True):
            if isinstance(encoded, Failure):
                work.error = _failure(encoded, "encoding the image")
            else:
                work.encoded = encoded
        objects = [_Object(work, spec) for work in works for spec in work.row["prompts"]]
        for each in objects:
            self._prepare(each)
        wanted = [each for each in objects if each.prompt is not None]
        for each, done in zip(wanted, self._matte.run(wanted), strict=True):
            if isinstance(done, Failure):
                each.error = _failure(done, "matting the object")
        self._tell(objects)
        return _table([_record(each, self._origin) for each in objects], ledgers)

    def _decode(self, work: _Work) -> None:
        data = work.row["image"]
        if data is None:
            return  # its prompts carry the reason
        work.digest = hashlib.sha256(data).hexdigest()
        if all(spec["error_code"] for spec in work.row["prompts"]):
            return
        try:
            decoded = decode_image(data, max_pixels=self._config.input.max_pixels)
        except ImageError as error:
            work.error = (ErrorCode(error.code), str(error))
            return
        except SDMatteError:
            raise  # this process's Pillow is set up wrongly: no fault of the image
        except Exception as error:  # noqa: BLE001  # a decoder's own bug, or no memory: still costs this image only
            work.error = (ErrorCode.IMAGE_CORRUPT, f"decoding failed with {type(error).__name__}: {error}")
            return
        work.pixels, work.notes = decoded.pixels, decoded.notes

    def _encode_batch(self, works: Sequence[_Work]) -> list[EncodedImage]:
        return self._model.encode([work.pixels for work in works if work.pixels is not None])

    def _prepare(self, each: _Object) -> None:
        """Set the object's prompt, or why it has none."""
        spec, work = each.spec, each.work
        if spec["error_code"]:
            each.error = (spec["error_code"], spec["error_message"])
        elif work.error:
            each.error = work.error
        elif work.encoded is None or work.pixels is None:
            each.error = (ErrorCode.IMAGE_UNREADABLE, f"no bytes were read from {work.row['image_uri']}")
        else:
            try:
                prompt = model_prompt(spec)
                self._model.check(prompt, work.encoded.width, work.encoded.height)
            except PromptError as error:
                each.error = (ErrorCode(error.code), str(error))
            else:
                each.prompt = prompt

    def _matte_batch(self, objects: Sequence[_Object]) -> list[None]:
        """Matte a batch and reduce each alpha to features and PNG at once: pixels do not pile up."""
        pairs = [(each.work.encoded, each.prompt) for each in objects]
        alphas = self._model.matte([(image, prompt) for image, prompt in pairs if image and prompt])
        done = list(self._threads.map(self._finish, objects, alphas))
        self._tell(objects)
        return done

    def _tell(self, objects: Sequence[_Object]) -> None:
        """Report the objects that are decided and not reported yet."""
        new = [each for each in objects if not each.told]
        for each in new:
            each.told = True
        if self._progress and new:
            self._progress(Counter(str(each.error[0]) if each.error else "ok" for each in new))

    def _finish(self, each: _Object, alpha: NDArray[np.float32]) -> None:
        if not np.isfinite(alpha).all():
            each.error = (
                ErrorCode.ALPHA_NOT_FINITE,
                f"the model returned NaN or infinity in {self._model.precision}; try model.precision=float32",
            )
            return
        assert each.prompt is not None
        each.features = features(alpha, each.prompt)
        each.alpha = encode_png(quantise(alpha, self._alpha_type))


def error_records(rows: pa.Table, config: LabelConfig, run_id: str, model: ModelIdentity) -> pa.Table:
    """Turn engine rows of which every prompt carries an error into records (:data:`OUTPUT`), without a model."""
    listed = rows.to_pylist()
    origin = _origin(config, run_id, model)
    works = [_Work(row) for row in listed if row["ledger"] is None]
    objects = [
        _Object(work, spec, error=(spec["error_code"], spec["error_message"]))
        for work in works
        for spec in work.row["prompts"]
    ]
    ledgers = [row for row in listed if row["ledger"] is not None]
    return _table([_record(each, origin) for each in objects], ledgers)


def identity(model: SDMatte) -> ModelIdentity:
    """Return what a run records about its model."""
    return ModelIdentity(model.name, model.weights_sha256, model.precision, model.input_size)


def load_model(config: LabelConfig) -> SDMatte:
    """Load the configured model on this process's device."""
    from sdmatte.model import SDMatte

    settings = config.model
    return SDMatte.from_pretrained(
        settings.source,
        weights=settings.weights,
        revision=settings.revision,
        device=None if settings.device == "auto" else settings.device,
        precision=settings.precision,
        input_size=settings.input_size,
        resize=settings.resize,
        caption=settings.caption,
    )


def load_identity(config: LabelConfig) -> ModelIdentity:
    """Load the configured model, matte a test image with it, and tell which it is.

    Raises:
        CheckpointError: The weights can't be used.
        SDMatteError: The device, the precision or the input size can't be used: no memory, or an alpha that is NaN.
    """
    model = load_model(config)
    size = model.input_size
    try:
        model(np.full((size, size, 3), 127, np.uint8), Box(size / 4, size / 4, size * 3 / 4, size * 3 / 4))
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise SDMatteError(
            f"one object of {size} px does not fit in the memory of {model.device} ({error}); lower model.input_size, "
            "or use a larger device"
        ) from None
    return identity(model)


def model_prompt(spec: dict[str, Any]) -> Prompt:
    """Return the model's prompt for an audited prompt struct (:data:`pipeline.schema.PROMPT`)."""
    transparent = bool(spec["transparent"])
    if spec["kind"] == "box":
        x0, y0, x1, y1 = spec["box"]
        return Box(x0, y0, x1, y1, transparent=transparent)
    if spec["kind"] == "points":
        return Points(spec["points"], transparent=transparent)
    if spec["kind"] == "mask":
        try:
            return Mask(decode_png(spec["mask"]) > 0, transparent=transparent)
        except BadInputError as error:
            raise PromptError("prompt_malformed", str(error)) from None
    raise PromptError("prompt_malformed", f"unknown prompt kind {spec['kind']!r}")


def encode_png(alpha: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    """Encode ``(H, W)`` of 8 or 16 bits as a grayscale PNG."""
    done, data = cv2.imencode(".png", alpha, [cv2.IMWRITE_PNG_COMPRESSION, PNG_COMPRESSION])
    assert done, f"OpenCV can't encode {alpha.dtype} {alpha.shape}"
    return data.tobytes()


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether the device, or the host, had no memory left for an allocation."""
    import torch

    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


def is_device_lost(error: Exception) -> bool:
    """Tell whether CUDA reported a fault after which every later call in the process fails."""
    return isinstance(error, RuntimeError) and not is_out_of_memory(error) and "CUDA error" in str(error)


def _in_ray_actor() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized() and ray.get_runtime_context().get_actor_id() is not None


def _chunks(rows: Sequence[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Cut rows into runs of at most :data:`PIXELS_AT_A_TIME` decoded pixels, and at least one image."""
    chunk: list[dict[str, Any]] = []
    pixels = 0
    for row in rows:
        size = (row["image_width"] or 0) * (row["image_height"] or 0)
        if chunk and pixels + size > PIXELS_AT_A_TIME:
            yield chunk
            chunk, pixels = [], 0
        chunk.append(row)
        pixels += size
    if chunk:
        yield chunk


def _origin(config: LabelConfig, run_id: str, model: ModelIdentity) -> dict[str, Any]:
    """Return the columns that all records of a run share."""
    return {
        "run_id": run_id,
        "model": model.name,
        "weights_sha256": model.weights_sha256,
        "precision": model.precision,
        "config_hash": config.matte_hash(),
    }


def _record(each: _Object, origin: dict[str, Any]) -> dict[str, Any]:
    row, spec, work = each.work.row, each.spec, each.work
    record = dict.fromkeys(OUTPUT.names) | origin
    record |= _only(row, "image_id", "shard", "image_key", "image_uri", "image_etag", "image_width", "image_height")
    record |= _only(spec, "record_id", "label", "transparent") | {
        "image_sha256": work.digest,
        "image_notes": list(work.notes),
        "prompt_kind": spec["kind"],
        "prompt_id": spec["id"],
        "prompt_score": spec["score"],
        "prompt_box": spec["box"],
        "prompt_points": spec["points"],
        "prompt_mask": spec["mask"],
        "prompt_repairs": spec["repairs"],
        "labelled_at": datetime.now(UTC),
    }
    if each.error is not None:
        return record | {"status": "error", "error_code": str(each.error[0]), "error_message": each.error[1]}
    assert each.features is not None
    assert work.encoded is not None
    return record | {
        "status": "ok",
        "alpha": {"bytes": each.alpha, "path": None},
        "input_height": work.encoded.grid[0],
        "input_width": work.encoded.grid[1],
        **asdict(each.features),
    }


def _table(records: Sequence[dict[str, Any]], ledgers: Sequence[dict[str, Any]]) -> pa.Table:
    ends = [dict.fromkeys(OUTPUT.names) | _only(row, "shard", "ledger") for row in ledgers]
    return pa.Table.from_pylist([*records, *ends], schema=OUTPUT)


def _failure(failure: Failure, doing: str) -> tuple[str, str]:
    code = ErrorCode.MODEL_OUT_OF_MEMORY if failure.out_of_memory else ErrorCode.MODEL_FAILED
    cure = "lower model.input_size or use a larger device" if failure.out_of_memory else "report it with this message"
    return code, f"{doing} failed alone, in a batch of one: {failure.message}; {cure}"


def _only(row: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: row[key] for key in keys}
