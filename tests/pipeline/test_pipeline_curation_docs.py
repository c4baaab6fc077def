"""What docs/curation.md tells people to ask of decisions is asked."""

import re
from pathlib import Path

import duckdb
import pytest

from support.curation_runs import decided, failed, review, scored, scored_run
from support.run_rows import gray_png

DOCS = Path(__file__).parents[2] / "docs" / "curation.md"
PAGE, _, EXPORTS = DOCS.read_text(encoding="utf-8").partition("\n## Exports")
SQL = re.findall(r"```sql\n(.+?)```", PAGE, flags=re.DOTALL)
PYTHON = re.findall(r"```python\n(.+?)```", PAGE, flags=re.DOTALL)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the run `mattes` and the decisions `curated`."""
    alpha = {"bytes": gray_png(), "path": None}
    rows = [scored(n, n / 1000, label=f"l{n % 3}", image_phash=n * n % 7, alpha=alpha) for n in range(30)]
    rows += [scored(n, n / 1000, image_phash=3**33 * n, alpha=alpha, fragments=n) for n in range(30, 60)]
    run = scored_run(tmp_path / "mattes", [*rows, failed(90)])
    review(run, tmp_path / "mattes", 40, "accept", alpha={"bytes": b"corrected", "path": None}, edited_pixels=3)
    decided(tmp_path / "curated", tmp_path / "mattes", target_error=0.03, budget=10, per=("label",))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_there_are_queries() -> None:
    assert len(SQL) == 6
    assert len(PYTHON) == 1


@pytest.mark.parametrize("query", SQL, ids=lambda query: query.partition("\n")[0].strip("- "))
def test_every_query_has_an_answer(here: Path, query: str) -> None:
    answer = duckdb.sql(query).fetchall()
    assert answer
    assert any(value is not None for row in answer for value in row)


def test_reasons_are_counted_without_their_figures(here: Path) -> None:
    counted = {(decision, why): records for decision, why, records in duckdb.sql(SQL[0]).fetchall()}
    assert sum(counted.values()) == 61
    assert ("accept", "predicted_mad N is within the target error 0.03") in counted
    assert ("reject", "duplicate of image N") in counted


def test_python_gets_at_the_alphas(here: Path) -> None:
    names: dict[str, object] = {}
    exec(PYTHON[0], names)
    mattes = {row["record_id"]: row["alpha"]["bytes"] for row in names["mattes"].to_pylist()}  # type: ignore[attr-defined]
    assert mattes[40] == b"corrected"
    assert mattes[35].startswith(b"\x89PNG")


def test_every_setting_of_exports_is_told() -> None:
    from jobs.curate import EXPORT_OPTIONS

    told = re.findall(r"`--([a-z-]+) N`", EXPORTS)
    assert sorted(told) == sorted(name.replace("_", "-") for name in EXPORT_OPTIONS)
