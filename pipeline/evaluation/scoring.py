"""Scores: one row per object, kind of prompt and method, at the image's original size."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import cv2
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.errors import BadInputError, ErrorCode, PipelineError
from pipeline.evaluation.baselines import BASELINES
from pipeline.evaluation.datasets import Case
from pipeline.evaluation.protocol import Kind, as_prompt
from pipeline.evaluation.truth import read_alpha, trimap_of
from pipeline.masks import decode_png
from sdmatte.errors import ImageError, PromptError, SDMatteError
from sdmatte.images import decode_image
from sdmatte.metrics import evaluate

METRICS: dict[str, tuple[str, str]] = {
    "mse": ("MSE", "Mean squared error, 0 to 1"),
    "mad": ("MAD", "Mean absolute difference, 0 to 1"),
    "sad": ("SAD/1000", "Sum of absolute differences, in thousands"),
    "grad": ("Grad/1000", "Gradient error, in thousands"),
    "conn": ("Conn/1000", "Connectivity error by its MATLAB definition, in thousands"),
    "conn_sdmatte": ("Conn_sdmatte/1000", "Connectivity error as SDMatte's code computes it, in thousands"),
}
"""The errors with their heading in tables, which says the unit, and what they are."""

REGIONS = {"whole": "over the whole image", "unknown": "over the trimap's unknown region"}
"""The regions that they are measured over."""

_T = TypeVar("_T")
_R = TypeVar("_R")


def _column(name: str, kind: pa.DataType, description: str) -> pa.Field:
    return pa.field(name, kind, metadata={"description": description})


SCORES = pa.schema(
    [
        _column("dataset", pa.string(), "Title of the data set"),
        _column("key", pa.string(), "Stem of the true alpha's file"),
        _column("prompt", pa.string(), "box, mask or points"),
        _column("method", pa.string(), "Model or baseline"),
        _column("status", pa.string(), "ok or error; an error has no figures"),
        _column("error_code", pa.string(), "From the closed list in pipeline.errors.ErrorCode"),
        _column("error_message", pa.string(), "What is wrong, where, and what to do"),
        _column("image", pa.string(), "File of the photograph"),
        _column("alpha", pa.string(), "File of the true alpha"),
        _column("transparent", pa.bool_(), "The object was prompted as transparent"),
        _column("trimap", pa.string(), "Where the unknown region is from: file, derived, or none where there is none"),
        *(
            _column(f"{name}_{region}", pa.float64(), f"{description}, {where}")
            for region, where in REGIONS.items()
            for name, (_, description) in METRICS.items()
        ),
    ]
)
"""One row per object, kind of prompt and method."""


@dataclass(frozen=True, slots=True)
class ScoreTask:
    """A matte to measure.

    Attributes:
        case: The object.
        kind: Of its prompt.
        prompt: In the native form.
        method: What made, or makes, the matte.
        baseline: The baseline to compute it with; empty for mattes of a model.
        alpha: PNG of a model's matte.
        error: Code and message, where the model made none.
    """

    case: Case
    kind: Kind
    prompt: dict[str, Any]
    method: str
    baseline: str = ""
    alpha: bytes | None = None
    error: tuple[str, str] | None = None


def predict(task: ScoreTask) -> NDArray[Any] | None:
    """Return a task's matte.

    Returns:
        `(H, W)` of the original size: uint8 or uint16 of a model, float32 in [0, 1] of a baseline. None where the
        baseline can't use such a prompt.

    Raises:
        BadInputError: There is none, with the code and message of the record's error.
    """
    if not task.baseline:
        if task.alpha is None:
            code, message = task.error or (ErrorCode.MODEL_FAILED, "the run has no record of this prompt")
            raise BadInputError(ErrorCode(code), message)
        return decode_png(task.alpha)
    try:
        return BASELINES[task.baseline](decode_image(task.case.image).pixels, as_prompt(task.prompt))
    except (ImageError, PromptError) as error:
        raise BadInputError(ErrorCode(error.code), str(error)) from None


def score(task: ScoreTask) -> dict[str, Any] | None:
    """Measure a task's matte.

    Returns:
        A row of :data:`SCORES`; None where the baseline can't use such a prompt. Whatever goes wrong becomes an error
        row.
    """
    case = task.case
    row = dict.fromkeys(SCORES.names) | {
        "dataset": case.dataset,
        "key": case.key,
        "prompt": task.kind,
        "method": task.method,
        "status": "ok",
        "image": str(case.image),
        "alpha": str(case.alpha),
        "transparent": case.transparent,
    }
    try:
        predicted = predict(task)
        if predicted is None:
            return None
        truth = read_alpha(case.alpha)
        trimap, row["trimap"] = trimap_of(case, truth)
        found = evaluate(predicted, truth, trimap)
    except BadInputError as error:
        return row | _failed(error.code, str(error))
    except SDMatteError as error:
        return row | _failed(ErrorCode.MODEL_FAILED, str(error))
    except Exception as error:  # noqa: BLE001 - a solver's or decoder's own bug costs this row only
        return row | _failed(ErrorCode.MODEL_FAILED, f"{type(error).__name__}: {error}")
    row |= {f"{name}_whole": value for name, value in asdict(found.whole).items()}
    if found.unknown is not None:
        row |= {f"{name}_unknown": value for name, value in asdict(found.unknown).items()}
    return row


def _failed(code: str, message: str) -> dict[str, str]:
    return {"status": "error", "error_code": str(code), "error_message": message}


def mapped(function: Callable[[_T], _R], tasks: Iterable[_T], processes: int) -> Iterator[_R]:
    """Apply a function that doesn't raise to every task, in order, in so many processes.

    Few tasks are under way at a time, so they may hold pictures. With one process it is this one.

    Raises:
        PipelineError: A process died.
    """
    if processes <= 1:
        yield from map(function, tasks)
        return
    context = multiprocessing.get_context("spawn")  # this process has threads, which a fork would break
    with ProcessPoolExecutor(processes, context, initializer=_one_thread) as pool:
        waiting: deque[Future[_R]] = deque()
        try:
            for task in tasks:
                waiting.append(pool.submit(function, task))
                if len(waiting) > 3 * processes:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            raise PipelineError(
                "a process that scores mattes died, most likely for want of memory; start again with fewer --processes"
            ) from None
        finally:
            for future in waiting:
                future.cancel()


def _one_thread() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that waits for this one
    os.environ["NUMBA_NUM_THREADS"] = "1"  # read when pymatting is imported, which is later
    cv2.setNumThreads(1)


def scores_table(rows: Iterable[dict[str, Any]]) -> pa.Table:
    """Return rows of :func:`score` as a table, in an order that depends on their content alone."""
    ordered = sorted(rows, key=lambda row: (row["dataset"], row["prompt"], row["method"], row["key"]))
    return pa.Table.from_pylist(ordered, SCORES)
