"""Decisions, read back."""

import hashlib
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.curation.decisions import read_curation, read_decisions
from pipeline.curation.schema import DECISIONS
from pipeline.errors import ConfigurationError
from support.curation_runs import decided, scored, scored_run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    scored_run(tmp_path / "run", [scored(n, n / 1000) for n in range(1, 9)])
    decided(tmp_path / "out", tmp_path / "run", budget=3)
    return tmp_path / "out"


def test_rows_of_one_decision_come_by_rank(folder: Path) -> None:
    file = folder / "decisions.parquet"
    (folder / "curation.json").unlink()
    table = pq.read_table(file)
    pq.write_table(table.take(list(reversed(range(len(table))))), file)  # as another program may leave them
    found = read_decisions(str(folder), "review", ["record_id", "reason"])
    assert found.column_names == ["record_id", "reason"]
    assert found["record_id"].to_pylist() == [8, 7, 6]
    assert read_decisions(str(folder), "accept", ["record_id"])["record_id"].to_pylist() == [1, 2, 3, 4, 5]
    assert len(read_decisions(str(folder), "reject", ["record_id"])) == 0


def test_the_decisions_are_those_of_the_settings_beside_them(folder: Path, tmp_path: Path) -> None:
    content = (folder / "decisions.parquet").read_bytes()
    about = read_curation(str(folder))
    assert about is not None
    assert about["decisions_sha256"] == hashlib.sha256(content).hexdigest()
    # As a curation leaves it that broke off between its two files.
    decided(tmp_path / "other", tmp_path / "run", budget=4)
    (folder / "decisions.parquet").write_bytes((tmp_path / "other" / "decisions.parquet").read_bytes())
    with pytest.raises(ConfigurationError, match=r"isn't what the curation\.json beside it is about .*decide again"):
        read_decisions(str(folder), "accept", ["record_id"])


@pytest.mark.parametrize("text", [None, "nonsense", "[]"])
def test_decisions_can_be_read_without_their_settings(folder: Path, text: str | None) -> None:
    (folder / "curation.json").unlink()
    if text is not None:
        (folder / "curation.json").write_text(text)
    assert read_curation(str(folder)) is None
    assert len(read_decisions(str(folder), "review", ["record_id"])) == 3


def test_settings_without_a_hash_hide_nothing(folder: Path) -> None:
    about = json.loads((folder / "curation.json").read_text())
    del about["decisions_sha256"]
    (folder / "curation.json").write_text(json.dumps(about))
    assert len(read_decisions(str(folder), "review", ["record_id"])) == 3


@pytest.mark.parametrize("damage", ["gone", "nonsense", "truncated", "twice", "other"])
def test_what_holds_no_decisions_is_named(folder: Path, damage: str) -> None:
    (folder / "curation.json").unlink()
    file = folder / "decisions.parquet"
    table, content = pq.read_table(file), file.read_bytes()
    match damage:
        case "gone":
            file.unlink()
        case "nonsense":
            file.write_bytes(b"nonsense")
        case "truncated":
            file.write_bytes(content[:-30])
        case "twice":
            pq.write_table(pa.concat_tables([table, table]), file)
        case _:
            pq.write_table(table.drop_columns("rank"), file)
    with pytest.raises(ConfigurationError, match=r"decisions\.parquet.*(curate|damaged)"):
        read_decisions(str(folder), "accept", ["record_id"])


def test_the_schema_is_kept(folder: Path) -> None:
    found = read_decisions(str(folder), "accept", DECISIONS.names)
    assert found.schema.equals(DECISIONS)
