"""The paper's protocol: prompts from the true alphas, and the manifest that hands them to the pipeline.

What is drawn at random for an object depends on the seed, its set, its key and the kind of prompt alone: not on the
order of the objects, on their number, or on the other kinds.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import BadInputError
from pipeline.evaluation.datasets import Case, Fault
from pipeline.evaluation.truth import read_alpha, read_trimap
from pipeline.masks import decode_png, encode_mask
from sdmatte.errors import SDMatteError
from sdmatte.images import probe_image
from sdmatte.prompt_sampling import derive_box, derive_mask, derive_points
from sdmatte.prompts import Box, Mask, Points

Kind = Literal["box", "mask", "points"]

KINDS: tuple[Kind, ...] = ("box", "mask", "points")
"""The kinds of prompt, in the order of the tables."""


@dataclass(frozen=True, slots=True)
class PromptedCase:
    """A case with its prompts.

    Attributes:
        case: The case.
        prompts: By kind, in the native form (docs/prompts.md), without id. Empty where the case can't be evaluated.
        faults: Why prompts are missing, or what is wrong with the case's files.
    """

    case: Case
    prompts: dict[Kind, dict[str, Any]]
    faults: tuple[Fault, ...] = ()


def prompt_case(case: Case, kinds: Sequence[Kind], seed: int) -> PromptedCase:
    """Derive a case's prompts, and look at its files before anything is computed on them. Never raises."""
    try:
        alpha = read_alpha(case.alpha)
    except BadInputError as error:
        return PromptedCase(case, {}, (_fault(case, case.alpha.name, f"{error}; the object is left out"),))
    height, width = alpha.shape
    try:
        info = probe_image(case.image.read_bytes())
    except (OSError, SDMatteError) as error:
        return PromptedCase(case, {}, (_fault(case, case.image.name, f"{error}; the object is left out"),))
    if (info.width, info.height) != (width, height):
        mismatch = (
            f"{case.alpha.name} has {width} x {height} pixels, the upright image {case.image.name} {info.width} x "
            f"{info.height}; the object is left out"
        )
        return PromptedCase(case, {}, (_fault(case, case.key, mismatch),))

    faults = list(_trimap_faults(case, alpha.shape))
    prompts: dict[Kind, dict[str, Any]] = {}
    for kind in kinds:
        try:
            prompts[kind] = _derive(alpha, kind, _random(seed, case, kind))
        except SDMatteError as error:
            faults.append(_fault(case, case.alpha.name, f"no {kind} prompt: {error}"))
            continue
        if case.transparent:
            prompts[kind]["transparent"] = True
    return PromptedCase(case, prompts, tuple(faults))


def _derive(alpha: NDArray[np.float32], kind: Kind, rng: np.random.Generator) -> dict[str, Any]:
    match kind:
        case "box":
            box = derive_box(alpha)
            return {"box": [float(edge) for edge in (box.x0, box.y0, box.x1, box.y1)]}
        case "mask":
            png = encode_mask(derive_mask(alpha, rng).binary())
            return {"mask": {"png": base64.b64encode(png).decode()}}
        case "points":
            return {"points": [[float(x), float(y)] for x, y in derive_points(alpha, rng).xy]}


def _random(seed: int, case: Case, kind: Kind) -> np.random.Generator:
    name = json.dumps([seed, case.dataset, case.key, kind])
    return np.random.default_rng(int.from_bytes(hashlib.blake2b(name.encode(), digest_size=16).digest(), "little"))


def _trimap_faults(case: Case, shape: tuple[int, ...]) -> Iterator[Fault]:
    if case.trimap is None:
        return
    try:
        found = read_trimap(case.trimap).shape
    except BadInputError as error:
        yield _fault(case, f"trimap {case.trimap.name}", f"{error}; one is derived from the alpha")
        return
    if found != shape:
        sizes = f"{found[1]} x {found[0]} pixels, the alpha {shape[1]} x {shape[0]}"
        yield _fault(case, f"trimap {case.trimap.name}", f"has {sizes}; one is derived from the alpha")


def _fault(case: Case, name: str, message: str) -> Fault:
    return Fault(f"{case.dataset}: {name}", message)


def as_prompt(native: dict[str, Any]) -> Box | Points | Mask:
    """Return the model's form of a prompt of :func:`prompt_case`."""
    transparent = bool(native.get("transparent"))
    if "box" in native:
        x0, y0, x1, y1 = native["box"]
        return Box(x0, y0, x1, y1, transparent=transparent)
    if "points" in native:
        return Points(native["points"], transparent=transparent)
    return Mask(decode_png(base64.b64decode(native["mask"]["png"])) > 0, transparent=transparent)


def prompt_id(case: Case, kind: Kind) -> str:
    """Return the id that records are joined by: unique in an evaluation."""
    return f"{case.dataset}/{case.key}/{kind}"


def manifest(prompted: Iterable[PromptedCase]) -> bytes:
    """Return a manifest (docs/inputs.md) of the images with all prompts of all their objects, masks included."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for each in prompted:
        case = each.case
        if not each.prompts:
            continue
        row = {"image": str(case.image.absolute()), "key": f"{case.dataset}/{case.image.name}", "prompts": []}
        prompts = rows.setdefault((case.dataset, str(case.image)), row)["prompts"]
        prompts += [
            {**native, "id": prompt_id(case, kind), "label": case.key} for kind, native in each.prompts.items()
        ]
    return "".join(json.dumps(row) + "\n" for row in rows.values()).encode()
