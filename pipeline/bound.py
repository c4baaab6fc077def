"""What bounds a run: one sentence from the figures of :mod:`pipeline.timing`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.timing import COMPUTE, COPY, DECODE, ENCODE, OTHER, RAMP_UP, READ, SCORE, TAIL, WAIT, WRITE

CERTAIN, LIKELY, CLOSE = "certain", "likely", "close call"
"""How sure it is: the largest share is at least twice the second one, a fifth above it, or less."""

BUSY_TASKS = 0.6
"""Share of the time in which tasks that read (or write) must have been at work, to be what actors waited for."""

_MOSTLY = 0.5  # of the actors' time, spent on starting and ending: no other share means much
_TO_GAIN = 0.95  # of a share of the model above this, nothing around it is worth a word


@dataclass(frozen=True)
class Bound:
    """What bounds a run.

    Attributes:
        stage: `model`, `reading`, `decoding`, `scoring`, `PNG`, `writing`, `handing over` (between the stages),
            `waiting` (for images, while the tasks that read and write are not busy either) or `starting`.
        busy: Share of the time from first to last work that the model computed, in [0, 1].
        share: That of the stage; of all the actors' time for `starting`.
        sure: :data:`CERTAIN`, :data:`LIKELY` or :data:`CLOSE`.
        sentence: All of it in one sentence, with what to change.
    """

    stage: str
    busy: float
    share: float
    sure: str
    sentence: str


def bound(timing: Mapping[str, Any] | None) -> Bound | None:
    """Tell what bounds a run.

    Args:
        timing: What `run.json` holds under that key, see :func:`pipeline.timing.merged`.

    Returns:
        None where nothing was measured: older runs, and runs in which no actor worked.
    """
    seconds = (timing or {}).get("seconds") or {}
    parts = {
        "model": seconds.get(COMPUTE, 0.0) + seconds.get(COPY, 0.0),
        "decoding": seconds.get(DECODE, 0.0),
        "scoring": seconds.get(SCORE, 0.0),
        "PNG": seconds.get(ENCODE, 0.0),
        "handing over": seconds.get(OTHER, 0.0),
        "waiting": seconds.get(WAIT, 0.0),
    }
    working = sum(parts.values())
    if timing is None or working <= 0:
        return None
    shares = {part: value / working for part, value in parts.items()}
    busy = seconds.get(COMPUTE, 0.0) / working
    around = seconds.get(RAMP_UP, 0.0) + seconds.get(TAIL, 0.0)
    if around / (around + working) > _MOSTLY:
        share = around / (around + working)
        return Bound("starting", busy, share, CERTAIN, _starting(share, busy))
    shares[_awaited(timing, working)] = shares.pop("waiting")
    (stage, share), (second, next_share) = sorted(shares.items(), key=lambda item: -item[1])[:2]
    sure = CERTAIN if share >= 2 * next_share else LIKELY if share >= 1.2 * next_share else CLOSE
    return Bound(stage, busy, share, sure, _sentence(stage, share, second, next_share, busy, sure))


def _awaited(timing: Mapping[str, Any], working: float) -> str:
    """Tell what actors without work waited for: the tasks that were busy meanwhile, if any were."""
    span = working / max(1, timing.get("actors", 1))
    tasks = timing.get("thread_seconds") or {}
    reading = tasks.get(READ, 0.0) / (span * max(1, timing.get("readers", 1)))
    writing = tasks.get(WRITE, 0.0) / span
    if max(reading, writing) < BUSY_TASKS:
        return "waiting"
    return "reading" if reading >= writing else "writing"


_DOES = {
    "model": "the model bounds this run",
    "reading": "reading bounds this run",
    "writing": "writing bounds this run",
    "waiting": "handing images over to the actors bounds this run",
    "decoding": "decoding bounds this run",
    "scoring": "scoring bounds this run",
    "PNG": "encoding PNGs bounds this run",
    "handing over": "what lies between the stages bounds this run",
}
_LOSES = {
    "reading": "actors waited {share} for reading",
    "writing": "actors waited {share} for writing",
    "waiting": "actors waited {share} for images",
    "decoding": "it stood still {share} while images were decoded",
    "scoring": "it stood still {share} while mattes were scored",
    "PNG": "it stood still {share} while PNGs were encoded",
    "handing over": "it stood still {share} between the stages",
    "model": "the model computed {share}",
}
_CURES = {
    "model": "a faster device, model.precision, a smaller model.input_size or more workers.actors",
    "reading": "raise workers.readers, or bring the input nearer",
    "writing": "bring the output nearer, or change output.file_mb",
    "waiting": "raise workers.images_per_block, or workers.readers where the input is slow to begin",
    "decoding": "raise workers.cpus_per_actor and workers.blocks_in_hand, so that more is decoded beside the model",
    "scoring": "raise workers.cpus_per_actor and workers.blocks_in_hand, so that more is scored beside the model",
    "PNG": "raise workers.cpus_per_actor and workers.blocks_in_hand, so that more is encoded beside the model",
    "handing over": "raise workers.images_per_block",
}


def _sentence(stage: str, share: float, second: str, next_share: float, busy: float, sure: str) -> str:
    doubt = "" if sure == CERTAIN else ", most likely" if sure == LIKELY else ", if by little"
    if stage == "model":
        found = f"the model bounds this run{doubt}: it was busy {_percent(busy)} of the time"
        if busy > _TO_GAIN:
            return f"{found}; only {_CURES['model']} makes it faster"
        loss = _LOSES[second].format(share=_percent(next_share))
        return f"{found}, and {loss}: {_CURES[second]}"
    loss = _LOSES[stage].format(share=f"{_percent(share)} of the time")
    return f"{_DOES[stage]}{doubt}: {loss}, and the model was busy {_percent(busy)}: {_CURES[stage]}"


def _starting(share: float, busy: float) -> str:
    return (
        f"starting and ending take {_percent(share)} of this run, which is too short to tell more (between them the "
        f"model was busy {_percent(busy)}): more images per job make it faster"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
