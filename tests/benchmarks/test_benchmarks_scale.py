"""Plans of large corpora: they add up, grow as they must, and the page shows what the command computes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import scale_requests, scale_run
from benchmarks.scale import COEFFICIENTS, exponent, main, renewed, targets
from benchmarks.scale_measure import reconcile, resume
from benchmarks.scale_plan import (
    PER_BEAT,
    PER_FILE_LOOKED_AT,
    PER_PART,
    PER_SHARD,
    Coefficients,
    Corpus,
    Requests,
    floor_seconds,
    gpus_per_driver,
    limits,
    plan,
)
from pipeline.runs import RunDirectory

MEASURED = Coefficients(
    resume_record=1e-6,
    resume_commit=1e-4,
    reconcile_record=2e-6,
    reconcile_commit=2e-4,
    follow_record=1e-6,
    follow_bytes=20.0,
    report_record=1e-5,
    decide_record=1e-5,
    decide_bytes=500.0,
    shard_bytes=1000.0,
    commit_bytes=300.0,
    listed_bytes=2000.0,
    block_cpu=0.01,
    block_bytes=1000.0,
    commit_object=500.0,
    commit_record=22.0,
    log_record=9.0,
    plan_shard=4.0,
)


def test_a_plan_adds_up() -> None:
    corpus = Corpus(
        images=1e6, objects_per_image=2, seconds_per_object=0.36, gpus=20, efficiency=1.0, price_gpu_hour=3
    )
    found = plan(corpus, MEASURED)
    assert found.gpu_hours == pytest.approx(200)
    assert found.days == pytest.approx(10 / 24)
    assert found.nodes == 3
    assert found.cost == pytest.approx(600)
    assert found.output_tb == pytest.approx(0.4)
    assert (found.shards, found.files, found.blocks) == (1000, 12_500, 125_000)
    assert found.driver_days == pytest.approx(1250 / 86400)


def test_money_is_gpus_and_requests_at_the_prices_that_are_given() -> None:
    corpus = Corpus(price_get=4e-7, price_put=5e-6)
    found = plan(corpus, MEASURED)
    requests = found.requests
    assert found.cost == pytest.approx(requests.get * 4e-7 + (requests.put + requests.list) * 5e-6)
    assert requests.put > 2 * found.files


@given(st.floats(1e4, 1e10), st.integers(2, 10))
def test_ten_times_the_images_take_ten_times_the_work_and_never_less_of_anything(images: float, times: int) -> None:
    few, many = plan(Corpus(images=images), MEASURED), plan(Corpus(images=images * times), MEASURED)
    assert many.gpu_hours == pytest.approx(few.gpu_hours * times)
    for name in ("requests", "files", "blocks", "logs", "metadata_gb", "listing", "resume", "reconcile", "driver_gb"):
        small, large = getattr(few, name), getattr(many, name)
        if isinstance(small, Requests):
            small, large = small.get, large.get
        assert small <= large <= small * times * 1.001 + 2


def test_a_corpus_in_several_runs_takes_the_same_gpus_and_less_of_each_driver() -> None:
    whole, parts = plan(Corpus(), MEASURED), plan(Corpus(runs=10), MEASURED)
    assert parts.gpu_hours == whole.gpu_hours
    assert parts.driver_gb == pytest.approx(whole.driver_gb / 10, rel=0.01)
    assert parts.collision == pytest.approx(whole.collision / 100, rel=0.1)


def test_limits_come_in_the_order_in_which_they_are_hit() -> None:
    corpus = Corpus(driver_gb=10)
    found = limits(corpus, MEASURED)
    assert [limit.rows for limit in found] == sorted(limit.rows for limit in found)
    rows = {limit.what: limit.rows for limit in found}
    assert rows["decisions (curate decide) need 10 GB"] == pytest.approx(2e7)
    assert rows["preparing a follow-up run needs 10 GB"] == pytest.approx(5e8)
    assert rows["two records share an id with a chance of 1 %"] == pytest.approx(6.09e8, rel=0.01)


def test_at_the_limit_of_memory_and_resuming_the_plan_says_so_too() -> None:
    corpus = Corpus()
    found = {limit.what: limit.rows for limit in limits(corpus, MEASURED)}
    images = found["a resumed job takes 1 h to start"] / corpus.objects_per_image
    at_limit = plan(replace(corpus, images=images), MEASURED)
    assert at_limit.resume == pytest.approx(3600, rel=0.02)  # the limit leaves out the few commit logs


def test_what_one_driver_can_feed_follows_from_its_blocks() -> None:
    corpus = Corpus(seconds_per_object=0.05, objects_per_image=2, images_per_block=8)
    assert gpus_per_driver(corpus, MEASURED) == pytest.approx(80)


def test_the_floor_counts_an_image_once_for_all_its_objects() -> None:
    assert floor_seconds(1024, 1, 1e12, 1.0) == pytest.approx(25.01)
    assert floor_seconds(1024, 4, 1e12, 0.5) == pytest.approx(2 * (20.13 + 1.22))


@pytest.mark.parametrize(
    "words", [["images"], ["pictures=3"], ["images=0"], ["images=-1"], ["images=nan"], ["images=x"]]
)
def test_a_plan_of_nonsense_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--plan", *words]) == 2
    assert words[0] in capsys.readouterr().err or "x" in words[0]


def test_the_command_prints_a_plan(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--plan", "images=1e6", "gpus=16", "price_gpu_hour=2"]) == 0
    printed = capsys.readouterr().out
    assert "1,000,000, 2,000,000" in printed
    assert "what breaks" in printed
    assert "cost" in printed


def test_the_page_shows_what_the_command_computes() -> None:
    found = json.loads(COEFFICIENTS.read_text())
    page = Path(__file__).parents[2] / "docs" / "scale.md"
    assert renewed(page.read_text(), found) == page.read_text()


def test_growth_by_the_square_misses_the_target() -> None:
    found = json.loads(COEFFICIENTS.read_text())
    rows = found["rows"]
    for each in found["steps"]:
        each["cpu"] = (each["rows"] / rows) ** 2
        if each["rows"] == rows:
            each["memory"] += 1e9
    found["exponents"] = {
        "resume": exponent({each["rows"]: each for each in found["steps"] if each["step"] == "resume"})
    }
    found["exponents"] |= dict.fromkeys(("reconcile", "follow", "report", "scan", "tally"), 1.0)
    missed = [what for what, value, limit in targets(found) if value > limit]
    assert any("resume: exponent" in what for what in missed)
    assert any("resume: growth" in what for what in missed)
    assert not any("report: exponent" in what for what in missed)


def test_a_run_without_a_model_reconciles(tmp_path: Path) -> None:
    built = scale_run.build(str(tmp_path / "run"), 4100, per_part=500)
    assert (built["parts"], built["shards"]) == (9, 3)
    assert resume(str(tmp_path / "run"), 4100) == {"left": 0}
    assert reconcile(str(tmp_path / "run"), 4100) == {"found": 4100}
    scale_run.finish(str(tmp_path / "run"), 4100)
    assert RunDirectory.open(str(tmp_path / "run")).info["counts"]["found"] == 4100


@pytest.mark.slow
def test_requests_are_those_of_the_protocol() -> None:
    counted = scale_requests.count()
    parts = scale_requests.PARTS
    shard = counted["shard read"]
    assert shard.get("GET", 0) + shard.get("HEAD", 0) == PER_SHARD.get
    written = counted["parts written"]
    assert (written["PUT"], written["LIST"]) == (PER_PART.put * parts, PER_PART.list * parts)
    gathered = counted["parts gathered"]
    reads = written["HEAD"] + gathered["HEAD"] + gathered["GET"]
    assert PER_PART.get * parts <= reads <= PER_PART.get * parts + 6
    assert gathered["DELETE"] == parts + 1
    beat = counted["sign of life"]
    assert (beat["HEAD"], beat["PUT"], beat["LIST"]) == (PER_BEAT.get, PER_BEAT.put, PER_BEAT.list)
    looked = counted["records looked at"]
    assert PER_FILE_LOOKED_AT.get * parts <= looked["GET"] + looked["HEAD"] <= PER_FILE_LOOKED_AT.get * parts + 10
