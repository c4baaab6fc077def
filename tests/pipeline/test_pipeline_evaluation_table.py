"""Tables against figures computed by hand."""

from typing import Any

import pytest

from pipeline.evaluation.scoring import SCORES
from pipeline.evaluation.table import render, summarise


def row(dataset: str, prompt: str, method: str, *, status: str = "ok", **figures: float) -> dict[str, Any]:
    named = {"dataset": dataset, "prompt": prompt, "method": method, "status": status}
    return dict.fromkeys(SCORES.names) | named | figures


ROWS = [
    row("mine", "mask", "nano", mad_whole=0.5, sad_whole=10.0),
    row("mine", "box", "nano", mad_whole=0.02, sad_whole=1.5, mad_unknown=0.3),
    row("mine", "box", "nano", mad_whole=0.04, sad_whole=2.0),
    row("mine", "box", "nano", status="error"),
    row("mine", "box", "grabcut", mad_whole=0.1, sad_whole=4.25),
    row("AM-2K", "box", "nano", mad_whole=0.06),
]


def test_means_by_set_prompt_and_method_beside_the_paper() -> None:
    table = summarise(ROWS)
    assert [(each.dataset, each.prompt, each.method, each.objects, each.errors) for each in table] == [
        ("mine", "box", "nano", 2, 1),
        ("mine", "box", "grabcut", 1, 0),
        ("mine", "mask", "nano", 1, 0),
        ("AM-2K", "box", "nano", 1, 0),
        ("AM-2K", "box", "SDMatte (paper)", None, None),
        ("AM-2K", "box", "LiteSDMatte (paper)", None, None),
        ("AM-2K", "box", "SDMatte* (paper)", None, None),
    ]
    assert table[0].figures == pytest.approx({"mad_whole": 0.03, "sad_whole": 1.75, "mad_unknown": 0.3})
    assert table[4].figures == {
        "mse_whole": 0.0029,
        "mad_whole": 0.0065,
        "sad_whole": 11.04,
        "grad_whole": 10.09,
        "conn_sdmatte_whole": 6.99,
    }


def cells(text: str) -> list[list[str]]:
    lines = text.splitlines()
    assert len({len(line) for line in lines}) == 1, "columns don't line up"
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_table_says_units_and_region() -> None:
    head, rule, *lines = cells(render(summarise(ROWS), "whole"))
    assert head == [
        *("set", "prompt", "method", "objects", "errors", "MSE (whole)", "MAD (whole)", "SAD/1000 (whole)"),
        *("Grad/1000 (whole)", "Conn/1000 (whole)", "Conn_sdmatte/1000 (whole)"),
    ]
    assert all(set(cell) <= {"-", ":"} for cell in rule)
    assert lines[0] == ["mine", "box", "nano", "2", "1", "-", "0.0300", "1.75", "-", "-", "-"]
    assert lines[4] == ["AM-2K", "box", "SDMatte (paper)", "-", "-", "0.0029", "0.0065", "11.04", "10.09", "-", "6.99"]
    assert len(lines) == 7


def test_the_unknown_region_has_rows_of_its_own_only() -> None:
    head, _, *lines = cells(render(summarise(ROWS), "unknown"))
    assert "MAD (unknown)" in head
    assert lines == [["mine", "box", "nano", "2", "1", "-", "0.3000", "-", "-", "-", "-"]]
    assert render(summarise(ROWS[4:]), "unknown") == ""


def test_methods_that_only_failed_are_still_counted() -> None:
    table = summarise([row("mine", "points", "plus", status="error")] * 3)
    _, _, line = cells(render(table, "whole"))
    assert line == ["mine", "points", "plus", "0", "3", "-", "-", "-", "-", "-", "-"]
    assert render(table, "unknown") == ""
