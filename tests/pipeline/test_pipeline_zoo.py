"""The whole zoo through the reading and the model stage, called as they are, without Ray."""

from pathlib import Path

import pytest

from pipeline.config import load_config
from pipeline.sources import make_source
from pipeline.stages.matte import MatteImages
from pipeline.stages.read import ReadShards, plan_table
from sdmatte import SDMatte
from support.menagerie.animal import Home
from support.menagerie.corpus import write_corpus
from support.menagerie.verdict import judge

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::UserWarning:PIL.*"),  # of the damaged EXIF blocks that are meant to be there
]


# The others are in `make zoo`, through the job itself.
@pytest.mark.parametrize("home", ["manifest", pytest.param("tars", marks=pytest.mark.slow)])
def test_every_input_has_the_records_that_are_documented_and_its_neighbours_are_ok(tmp_path: Path, home: Home) -> None:
    corpus = write_corpus(home, tmp_path / "zoo")
    config = load_config(
        None, [*corpus.overrides, "model.source=sdmatte-nano", "model.input_size=64", f"output.path={tmp_path}/run"]
    )
    model = MatteImages(config, "run", SDMatte.from_pretrained(input_size=64))
    plan = plan_table(make_source(config).shards(), {})
    records = [row for rows in ReadShards(config)(plan) for row in model.label(rows).to_pylist()]

    verdict = judge(corpus, (record for record in records if record["ledger"] is None))

    assert len(verdict.animals) > 40
    assert verdict.faults() == []
