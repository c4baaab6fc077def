"""Tables like the paper's: means per set, kind of prompt and method, beside the published figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.evaluation.protocol import KINDS
from pipeline.evaluation.published import published
from pipeline.evaluation.scoring import METRICS, REGIONS

PAPER = " (paper)"
"""Follows the method's name in rows of published figures."""

_TWO_DIGITS = ("sad", "grad", "conn", "conn_sdmatte")  # as the paper has them; the others have four


@dataclass(frozen=True, slots=True)
class TableRow:
    """A row of the table.

    Attributes:
        dataset: Title of the set.
        prompt: `box`, `mask` or `points`.
        method: Model or baseline; for published figures the paper's name with :data:`PAPER`.
        objects: Objects that the means are over; None for published figures.
        errors: Objects that have no matte, and are in no mean; None for published figures.
        figures: Means, by `<metric>_<region>` as in :data:`pipeline.evaluation.scoring.SCORES`; those that could not
            be measured are missing.
    """

    dataset: str
    prompt: str
    method: str
    objects: int | None
    errors: int | None
    figures: dict[str, float]


def summarise(rows: Iterable[Mapping[str, Any]]) -> list[TableRow]:
    """Average rows of :func:`pipeline.evaluation.scoring.score`, and add the published rows they stand beside.

    Args:
        rows: In any order; sets and methods keep the order in which they first occur.

    Returns:
        By set and kind of prompt: what was measured, then what the paper has.
    """
    groups: dict[tuple[str, str], dict[str, list[Mapping[str, Any]]]] = {}
    datasets: dict[str, None] = {}
    for row in rows:
        datasets[row["dataset"]] = None
        groups.setdefault((row["dataset"], row["prompt"]), {}).setdefault(row["method"], []).append(row)
    table: list[TableRow] = []
    for dataset in datasets:
        for kind in KINDS:
            measured = groups.get((dataset, kind), {})
            table += [_mean_row(dataset, kind, method, found) for method, found in measured.items()]
            for paper in published(dataset, kind) if measured else ():
                figures = {f"{name}_whole": value for name, value in paper.figures.items()}
                table.append(TableRow(dataset, kind, paper.method + PAPER, None, None, figures))
    return table


def _mean_row(dataset: str, prompt: str, method: str, rows: Sequence[Mapping[str, Any]]) -> TableRow:
    ok = [row for row in rows if row["status"] == "ok"]
    figures: dict[str, float] = {}
    for region in REGIONS:
        for metric in METRICS:
            name = f"{metric}_{region}"
            values = [row[name] for row in ok if row[name] is not None]
            if values:
                figures[name] = sum(values) / len(values)
    return TableRow(dataset, prompt, method, len(ok), len(rows) - len(ok), figures)


def render(table: Sequence[TableRow], region: str) -> str:
    """Lay the figures of one region out as a Markdown table, whose columns also line up as plain text.

    Args:
        table: From :func:`summarise`.
        region: `whole`, which has every row, or `unknown`, which has those that were measured there.

    Returns:
        Lines, the last one ended; empty where there is no row.
    """
    measured = f"_{region}"
    shown = [row for row in table if region == "whole" or any(name.endswith(measured) for name in row.figures)]
    if not shown:
        return ""
    head = ["set", "prompt", "method", "objects", "errors"]
    head += [f"{heading} ({region})" for heading, _ in METRICS.values()]
    cells = [
        [row.dataset, row.prompt, row.method, _count(row.objects), _count(row.errors)]
        + [_figure(metric, row.figures.get(f"{metric}_{region}")) for metric in METRICS]
        for row in shown
    ]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    texts = 3  # columns on the left, flush left; the others are numbers
    rule = [("-" * width) if at < texts else "-" * (width - 1) + ":" for at, width in enumerate(widths)]
    return "".join(
        "| "
        + " | ".join(
            cell.ljust(width) if at < texts else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        + " |\n"
        for line in (head, rule, *cells)
    )


def _count(number: int | None) -> str:
    return "-" if number is None else str(number)


def _figure(metric: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if metric in _TWO_DIGITS else f"{value:.4f}"
