"""What goes to reviewers, and what comes back: the types that all tools share."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.originals import Unavailable
from pipeline.review.schema import Verdict


@dataclass(frozen=True)
class ReviewItem:
    """One object on its way to a reviewer.

    Attributes:
        record: Its row of :data:`pipeline.schema.RECORDS`, an ok record with its alpha.
        output: The output.path that holds the record.
        rank: Place in the order of review; 0 is the worst.
        image: The encoded original, or why there is none.
    """

    record: dict[str, Any]
    output: str
    rank: int
    image: bytes | Unavailable


@dataclass(frozen=True)
class Returned:
    """One object as it came back from a tool.

    Attributes:
        record_id: Of the record that was shown.
        run_id: The run that wrote it.
        tool: label_studio, cvat or coco.
        verdict: What the reviewer said; None where nothing.
        mask: ``(H, W)`` uint8 at the size of the upright image, 0 to 255: what the tool holds now. None where it holds
            no mask any more and none was asked for (a verdict alone).
        shown: Likewise, what the tool was given, where the tool keeps that; None: to be derived from the record.
        binary: The tool keeps binary masks only: `mask` is 0 or 255, and what it was given was alpha >= 128.
        reviewer: Who, as the tool names them.
        reviewed_at: When, with time zone.
        review_id: Id of the annotation in the tool.
        comment: What the reviewer wrote.
    """

    record_id: int
    run_id: str
    tool: str
    verdict: Verdict | None
    mask: NDArray[np.uint8] | None
    shown: NDArray[np.uint8] | None = None
    binary: bool = False
    reviewer: str | None = None
    reviewed_at: datetime | None = None
    review_id: str | None = None
    comment: str | None = None


@dataclass(frozen=True)
class ReturnFault:
    """Something in a tool's export that can't be used.

    Attributes:
        where: The task, annotation or image, for people.
        message: What is wrong with it, and what to do.
    """

    where: str
    message: str


@dataclass(frozen=True)
class ReviewExport:
    """What an export for a tool wrote.

    Attributes:
        folder: Where.
        tasks: How many objects.
        files: Names of the files that describe them; with several files of tasks in the order of the ranks.
        left_out: Objects that can't be shown, and why.
    """

    folder: str
    tasks: int
    files: tuple[str, ...]
    left_out: tuple[ReturnFault, ...]
