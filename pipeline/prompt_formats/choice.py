"""Which prompts of an image are labelled: by score, by label, and how many; the same for every format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from pipeline.config import PromptsConfig
from pipeline.errors import ConfigurationError
from pipeline.prompts import RawPrompt

_NAMES_FROM = {"coco": "prompts.coco_images", "yolo": "prompts.class_names"}


@dataclass(frozen=True)
class Choice:
    """Chooses among the prompts of an image; called with all of them, in the order of their file.

    Prompts that can't be read, and tell no label, stay: they become error records. Applied twice, it changes nothing
    more.

    Attributes:
        min_score: Prompts with a lower score are left out; 0 for none.
        labels: Labels that stay; None for all.
        top_k: How many stay, those of the highest scores; prompts without one come last, equal ones in their order.
    """

    min_score: float = 0.0
    labels: frozenset[str] | None = None
    top_k: int | None = None

    @classmethod
    def of(cls, config: PromptsConfig, categories: Mapping[str, str] | None = None) -> Self:
        """Return the configured choice.

        Args:
            config: Of the prompts.
            categories: As in :class:`pipeline.prompt_formats.base.PromptFile`.

        Raises:
            ConfigurationError: ``prompts.categories`` has one that the file doesn't know.
        """
        wanted = config.categories
        if wanted is not None and categories is not None:
            wanted = _labels(wanted, categories, _NAMES_FROM.get(config.kind, "prompts.path"))
        return cls(config.min_score, None if wanted is None else frozenset(wanted), config.top_k)

    def __call__(self, prompts: Sequence[RawPrompt]) -> Sequence[RawPrompt]:
        """Return the chosen ones, in their order."""
        chosen = [raw for raw in prompts if self.wants(raw.content, raw.fault)]
        if self.top_k is None or len(chosen) <= self.top_k:
            return chosen
        order = sorted(range(len(chosen)), key=lambda place: -_score(chosen[place].content))
        return [chosen[place] for place in sorted(order[: self.top_k])]

    def wants(self, content: Mapping[str, Any], fault: str | None = None) -> bool:
        """Tell whether a prompt is wanted, whatever the others of its image are."""
        score = content.get("score")
        if self.min_score and isinstance(score, int | float) and score < self.min_score:
            return False
        label = content.get("label")
        if self.labels is None or (label is None and fault is not None):
            return True
        return str(label) in self.labels


def _score(content: Mapping[str, Any]) -> float:
    score = content.get("score")
    usable = isinstance(score, int | float) and not isinstance(score, bool) and 0 <= score <= 1  # also no NaN
    return float(score) if usable else -1.0  # type: ignore[arg-type]


def _labels(wanted: Sequence[str], categories: Mapping[str, str], names_from: str) -> list[str]:
    """Return names and ids as the labels that prompts have."""
    names = set(categories.values())
    unknown = [name for name in wanted if name not in names and name not in categories]
    if categories and unknown:
        raise ConfigurationError(f"prompts.categories: unknown {unknown}; the file has {sorted(names)[:100]}")
    if not categories and not all(name.isdecimal() for name in wanted):
        raise ConfigurationError(f"prompts.categories has names, but the file only ids: set {names_from}, or ids")
    return [name if name in names else categories.get(name, name) for name in wanted]
