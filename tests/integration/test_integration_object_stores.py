"""The job from and to object stores, as users start it."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.chaos_job import ROOT, Corpus, look
from support.s3.store import Store
from support.store_runs import download_run, label, ray_was_started, start_label


@pytest.fixture
def empty_store(object_store: Store) -> Store:
    """The store without a run in it."""
    client = object_store.client()
    for name in object_store.download("run/"):
        client.delete_object(Bucket=object_store.bucket, Key=name)
    return object_store


def refused(store: Store, folder: Path, *overrides: str) -> str:
    """Starts the job, which must end at once with a message, before Ray or a model is started; returns that."""
    done = label(store, folder, *overrides)
    assert done.returncode == 2, done.stderr
    assert not ray_was_started(folder)
    assert "Traceback" not in done.stderr
    assert store.secret not in done.stderr
    return done.stderr


def test_a_corpus_is_labelled_and_the_keys_are_written_nowhere(
    empty_store: Store, corpus: Corpus, tmp_path: Path
) -> None:
    done = label(empty_store, tmp_path, "output.contact_sheet=4")
    assert done.returncode == 0, done.stderr
    files = empty_store.download("run/")
    download_run(empty_store, tmp_path)
    found = look(str(tmp_path / "run"), corpus, list_input=False)
    assert found.exact, found
    assert {"run/_SUCCESS", "run/run.json", "run/report/index.html"} <= files.keys()
    for secret in filter(None, [empty_store.secret, empty_store.token, empty_store.key]):
        assert [name for name, data in files.items() if secret.encode() in data] == []
        assert secret not in done.stdout + done.stderr


def test_wrong_keys_are_refused_before_anything_is_started(object_store: Store, tmp_path: Path) -> None:
    message = refused(replace(object_store, secret="wrong" * 8), tmp_path)
    assert "credentials" in message


@pytest.mark.slow
def test_unknown_keys_are_refused_before_anything_is_started(object_store: Store, tmp_path: Path) -> None:
    message = refused(replace(object_store, key="AKIAUNKNOWN000000000", token=None), tmp_path)
    assert "credentials" in message


@pytest.mark.slow
def test_a_missing_bucket_is_named(object_store: Store, tmp_path: Path) -> None:
    message = refused(object_store, tmp_path, "input.path=s3://no-such-bucket/*.tar")
    assert "no-such-bucket" in message
    message = refused(object_store, tmp_path, "output.path=s3://no-such-bucket/run")
    assert "no-such-bucket" in message


@pytest.mark.slow
def test_who_may_not_write_learns_it_before_anything_is_started(empty_store: Store, tmp_path: Path) -> None:
    message = refused(empty_store.as_reader(), tmp_path)
    assert empty_store.url("run") in message
    assert empty_store.download("run/") == {}


@pytest.mark.slow
def test_of_two_jobs_one_wins_and_the_other_says_why_not(empty_store: Store, corpus: Corpus, tmp_path: Path) -> None:
    folders = [tmp_path / "1", tmp_path / "2"]
    for folder in folders:
        folder.mkdir()
    jobs = [start_label(empty_store, folder) for folder in folders]
    messages = [job.communicate(timeout=200)[1] for job in jobs]
    codes = [job.returncode for job in jobs]
    assert sorted(codes) == [0, 2], messages
    assert "job" in messages[codes.index(2)]
    assert "wait for it, or stop it first" in messages[codes.index(2)]
    download_run(empty_store, tmp_path)
    found = look(str(tmp_path / "run"), corpus, list_input=False)
    assert found.exact, found


@pytest.mark.slow
def test_reconciliation_of_a_run_in_the_store(empty_store: Store, tmp_path: Path) -> None:
    def reconcile() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "jobs" / "runs.py"), "reconcile", empty_store.url("run")]
        environment = {"PATH": "", **empty_store.environment}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)

    assert label(empty_store, tmp_path).returncode == 0
    done = reconcile()
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "lost 0, doubled 0, unexpected 0"), done.stderr
    (commit, *_) = (name for name in empty_store.download("run/commits/") if name.endswith(".json"))
    empty_store.client().delete_object(Bucket=empty_store.bucket, Key=commit)
    done = reconcile()
    assert done.returncode == 1, done.stderr
    assert "FAULT: shard" in done.stdout


@pytest.mark.slow
def test_a_store_without_conditional_writes_is_refused_with_advice(
    careless_store: Store, corpus: Corpus, tmp_path: Path
) -> None:
    message = refused(careless_store, tmp_path)
    assert "If-None-Match" in message
    assert "output.exclusive=false" in message
    done = label(careless_store, tmp_path, "output.exclusive=false")
    assert done.returncode == 0, done.stderr
    download_run(careless_store, tmp_path)
    found = look(str(tmp_path / "run"), corpus, list_input=False)
    assert found.exact, found
