"""The stage on the GPU: decode, matte, score and encode, one actor per model."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.batching import AdaptiveBatches, Failure
from pipeline.budget import BudgetExceededError
from pipeline.config import LabelConfig
from pipeline.errors import ErrorCode
from pipeline.provenance import ModelIdentity
from pipeline.quality.features import features
from pipeline.quality.image_terms import WORKING_SIDE, prepare, sampled
from pipeline.quality.phash import phash
from pipeline.quality.scoring import Scorer
from pipeline.stages.hazards import Board, ProcessWatch, in_ray_actor, is_device_lost, is_out_of_memory
from pipeline.stages.parcels import pack, unpack
from pipeline.stages.records import OUTPUT, Object, Work, encode_png, model_prompt, origin, records_table
from pipeline.stages.second import SecondPass
from pipeline.timing import COMPUTE, DECODE, ENCODE, OTHER, SCORE, Spans
from sdmatte.errors import ImageError, PromptError, SDMatteError
from sdmatte.geometry import AlphaType, quantise
from sdmatte.images import decode_image
from sdmatte.prompts import Box
from sdmatte.scaled import enough_for

if TYPE_CHECKING:
    from sdmatte.model import EncodedImage, SDMatte

Result = TypeVar("Result")

PIXELS_AT_A_TIME = 48_000_000
"""Pixels of decoded images that each call of an actor holds at a time; a larger image is held while no other is."""

_log = logging.getLogger(__name__)


class MatteImages:
    """Turns engine rows (:data:`pipeline.schema.IMAGE_ROWS`) into records (:data:`pipeline.stages.records.OUTPUT`).

    Every prompt of every row becomes exactly one record, whatever happens to it:

    * a batch that raises is halved until the guilty object is alone; out-of-memory lowers the batch size, which grows
      again;
    * where the process dies, or is ended because a step took longer than ``model.batch_timeout``, Ray starts another
      one and gives it the same images; with the board's help the guilty one is found (:mod:`pipeline.crashes`). It is
      found by image: all prompts of an image that kills its process carry the code.

    It may be called from several threads (`workers.blocks_in_hand`). The model computes in a thread of its own, for
    one call at a time; meanwhile the others decode, score and write PNGs.

    Args:
        config: Of the run.
        run_id: Written into every record.
        model: Ready model; by default the configured one is loaded.
        board: Told what is in hand and what was done, and asked whether the run may go on.
        threads: CPUs to use: of torch, where the model computes on CPUs, and as many that decode and encode, at least
            two. None leaves torch as it is.
    """

    def __init__(
        self,
        config: LabelConfig,
        run_id: str,
        model: SDMatte | None = None,
        board: Board | None = None,
        threads: int | None = None,
    ) -> None:
        import torch

        self._board = board
        self._spans = Spans()
        self._watch = ProcessWatch(board, config.model.batch_timeout)
        self._stopped = self._watch.arrive()
        if self._stopped is not None:
            return  # it may be loading the model that kills: say so when called, where it ends the run
        self._model = model or load_model(config)
        self._config = config
        self._second = second_pass(config, self._model)
        self._enough = enough(config, self._model, self._second)
        loaded = identity(self._model, self._second)
        self._origin = origin(config, run_id, loaded)
        self._score = Scorer(config, loaded)
        self._alpha_type: AlphaType = "uint16" if config.output.alpha_bits == 16 else "uint8"
        self._threads = ThreadPoolExecutor(max(2, threads or 2), thread_name_prefix="pixels")
        # One thread for all calls: torch's pools of threads, and CUDA's handles, belong to the thread that computes.
        self._device = ThreadPoolExecutor(1, thread_name_prefix="model")
        if threads is not None and self._model.device.type == "cpu":
            self._device.submit(torch.set_num_threads, threads).result()
        self._batches(config)

    def _batches(self, config: LabelConfig) -> None:
        side = self._model.input_size
        limit = config.model.batch_pixels or config.model.batch_size * side * side
        faults = is_out_of_memory, is_device_lost
        # With `resize: aspect` grids differ, but hardly in area; encode() sorts them itself.
        self._encode = AdaptiveBatches(self._encode_batch, limit, *faults, grid=lambda _: (side, side))
        self._matte = AdaptiveBatches(self._matte_batch, limit, *faults, grid=_grid)
        again = self._second.input_size if self._second else side
        self._again = AdaptiveBatches(self._second_batch, limit, *faults, grid=lambda _: (again, again))

    def __call__(self, parcels: pa.Table) -> Iterator[pa.Table]:
        """Yield one parcel for those given (see :mod:`pipeline.stages.parcels`); as :meth:`label` otherwise."""
        with self._spans.span(OTHER):
            done = pack(self.label(unpack(parcels)))
        if self._board:
            batches = {"encode": self._encode.figures, "matte": self._matte.figures}
            second = {"second": self._again.figures} if self._second else {}
            self._board.acted(self._watch.process, self._spans.times(batches | second))
        yield done

    def label(self, rows: pa.Table) -> pa.Table:
        """Return the records of ``rows``; works on a few images at a time so that memory stays bounded.

        Raises:
            BudgetExceededError: The run must stop, by what the board knows.
        """
        if self._stopped is not None:
            raise BudgetExceededError(self._stopped)
        with self._spans.span(OTHER):
            chunks = _chunks(rows.to_pylist())
            return pa.concat_tables([OUTPUT.empty_table(), *(self._label(chunk) for chunk in chunks)])

    def _label(self, rows: Sequence[dict[str, Any]]) -> pa.Table:
        ledgers = [row for row in rows if row["ledger"] is not None]
        works = [Work(row) for row in rows if row["ledger"] is None]
        objects = [each for work in works for each in work.objects()]
        large = sum(map(_pixels, rows)) > PIXELS_AT_A_TIME
        with closing(self._watch.portions(works, alone=large)) as portions:
            for portion in portions:
                theirs = [each for each in objects if any(each.work is work for work in portion)]
                try:
                    self._work(portion, theirs)
                except Exception as error:
                    if is_device_lost(error) and in_ray_actor():
                        # Every later call in this process would fail: let Ray start a fresh one and repeat the block.
                        _log.critical("the device is lost, ending this process: %s", error)
                        os._exit(1)
                    raise
        scored = [each for each in objects if each.features is not None]
        with self._spans.span(SCORE):
            for each, score in zip(scored, self._score([_scored(each) for each in scored]), strict=True):
                each.score = score
        return records_table(objects, ledgers, self._origin)

    def _work(self, works: Sequence[Work], objects: Sequence[Object]) -> None:
        """Give each prompt of some images an alpha or an error."""
        list(self._threads.map(self._spans.timed(DECODE, self._decode), works))
        readable = [work for work in works if work.pixels is not None]
        for work, encoded in zip(readable, self._encode.run(readable), strict=True):
            if isinstance(encoded, Failure):
                work.error = _failure(encoded, "encoding the image")
            else:
                work.encoded = encoded
        for each in objects:
            self._prepare(each)
        wanted = [each for each in objects if each.prompt is not None]
        for each, done in zip(wanted, self._matte.run(wanted), strict=True):
            if isinstance(done, Failure):
                each.error = _failure(done, "matting the object")
        self._tell(objects)

    def _decode(self, work: Work) -> None:
        data = work.row["image"]
        if data is None:
            return  # its prompts carry the reason
        work.digest = hashlib.sha256(data).hexdigest()
        if work.error is not None or not work.is_wanted:
            return
        try:
            with self._watch.step(f"decoding {work.name}"):
                decoded = decode_image(data, max_pixels=self._config.input.max_pixels, enough=self._enough)
        except ImageError as error:
            work.error = (ErrorCode(error.code), str(error))
            return
        except SDMatteError:
            raise  # this process's Pillow is set up wrongly: no fault of the image
        except Exception as error:  # noqa: BLE001  # a decoder's own bug, or no memory: still costs this image only
            work.error = (ErrorCode.IMAGE_CORRUPT, f"decoding failed with {type(error).__name__}: {error}")
            return
        work.pixels, work.notes, work.size = decoded.pixels, decoded.notes, (decoded.width, decoded.height)
        seen = sampled(decoded.pixels)
        work.phash, work.terms = phash(seen), prepare(seen, work.size)

    def _encode_batch(self, works: Sequence[Work]) -> list[EncodedImage]:
        pixels = [work.pixels for work in works if work.pixels is not None]
        doing = f"encoding {len(works)} image(s), among them {works[0].name},"
        sizes = [work.size for work in works if work.size is not None]
        return self._on_device(doing, lambda: self._model.encode(pixels, sizes))

    def _on_device(self, doing: str, compute: Callable[[], Result]) -> Result:
        """Let the model compute, once it is this call's turn; only that is timed and watched, not the wait."""

        def run() -> Result:
            with self._watch.step(doing), self._spans.span(COMPUTE):
                return compute()

        return self._device.submit(run).result()

    def _prepare(self, each: Object) -> None:
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

    def _matte_batch(self, objects: Sequence[Object]) -> list[None]:
        """Matte a batch and reduce each alpha to features and PNG at once: pixels do not pile up."""
        pairs = [(each.work.encoded, each.prompt) for each in objects]
        wanted = [(image, prompt) for image, prompt in pairs if image and prompt]
        among = f"{len(objects)} object(s), among them one of {objects[0].work.name},"
        alphas = self._on_device(f"matting {among}", lambda: self._model.matte(wanted))
        seconds = self._second_mattes(objects)
        with self._watch.step(f"scoring and encoding {among}"):
            done = list(self._threads.map(self._finish, objects, alphas, seconds))
        self._tell(objects)
        return done

    def _second_mattes(self, objects: Sequence[Object]) -> Sequence[NDArray[np.float32] | None]:
        """Return what the second pass makes of a batch; an object that it fails on alone keeps its first matte."""
        if self._second is None:
            return [None] * len(objects)
        mattes: list[NDArray[np.float32] | None] = []
        for each, matte in zip(objects, self._again.run(objects), strict=True):
            if isinstance(matte, Failure):
                _log.warning("%s: no second matte: %s", each.work.name, matte.message)
            mattes.append(None if isinstance(matte, Failure) else matte)
        return mattes

    def _second_batch(self, objects: Sequence[Object]) -> Sequence[NDArray[np.float32] | None]:
        assert self._second is not None
        doing = f"matting {len(objects)} object(s) again, among them one of {objects[0].work.name},"
        second = self._second
        return self._on_device(doing, lambda: second.matte(objects))

    def _tell(self, objects: Sequence[Object]) -> None:
        """Report the objects that are decided and not reported yet."""
        new = [each for each in objects if not each.told]
        for each in new:
            each.told = True
        if self._board and new:
            counts = Counter(str(each.error[0]) if each.error else "ok" for each in new)
            errors = [(each, each.error) for each in reversed(new) if each.error]
            examples = {str(code): f"{each.work.name}: {message}" for each, (code, message) in errors}
            self._board(dict(counts), self._watch.hand, examples)

    def _finish(self, each: Object, alpha: NDArray[np.float32], second: NDArray[np.float32] | None) -> None:
        if not np.isfinite(alpha).all():
            each.error = (
                ErrorCode.ALPHA_NOT_FINITE,
                f"the model returned NaN or infinity in {self._model.precision}; try model.precision=float32",
            )
            return
        assert each.prompt is not None
        assert each.work.terms is not None
        with self._spans.span(SCORE):
            each.features = features(alpha, each.prompt, each.work.terms, second)
        with self._spans.span(ENCODE):
            each.alpha = encode_png(quantise(alpha, self._alpha_type))


def identity(model: SDMatte, second: SecondPass | None = None) -> ModelIdentity:
    """Return what a run records about its model."""
    return ModelIdentity(
        model.name,
        model.weights_sha256,
        model.precision,
        model.input_size,
        second_weights_sha256=second.weights_sha256 if second else None,
        second_size=second.input_size if second else None,
    )


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
    return identity(model, second_pass(config, model))


def second_pass(config: LabelConfig, model: SDMatte) -> SecondPass | None:
    """Return the configured second pass, if there is one."""
    return None if config.quality.second == "none" else SecondPass(config, model)


def enough(config: LabelConfig, model: SDMatte, second: SecondPass | None = None) -> int | None:
    """Return the shorter side that images are decoded at, at least (unit: pixel); None for their full size."""
    if config.input.decode == "full":
        return None
    return max(enough_for(model.input_size, second.input_size if second else 0), WORKING_SIDE)


def _chunks(rows: Sequence[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Cut rows into runs of at most :data:`PIXELS_AT_A_TIME` decoded pixels, and at least one image."""
    chunk: list[dict[str, Any]] = []
    pixels = 0
    for row in rows:
        size = _pixels(row)
        if chunk and pixels + size > PIXELS_AT_A_TIME:
            yield chunk
            chunk, pixels = [], 0
        chunk.append(row)
        pixels += size
    if chunk:
        yield chunk


def _pixels(row: dict[str, Any]) -> int:
    return int((row["image_width"] or 0) * (row["image_height"] or 0))


def _grid(each: Object) -> tuple[int, int]:
    assert each.work.encoded is not None
    return each.work.encoded.grid


def _scored(each: Object) -> dict[str, Any]:
    """Return the columns that a score is computed from."""
    assert each.features is not None
    kind, transparent = each.spec["kind"], each.spec["transparent"]
    return {**asdict(each.features), "prompt_kind": kind, "transparent": transparent}


def _failure(failure: Failure, doing: str) -> tuple[str, str]:
    code = ErrorCode.MODEL_OUT_OF_MEMORY if failure.out_of_memory else ErrorCode.MODEL_FAILED
    cure = "lower model.input_size or use a larger device" if failure.out_of_memory else "report it with this message"
    return code, f"{doing} failed alone, in a batch of one: {failure.message}; {cure}"
