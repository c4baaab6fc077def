"""Which of several jobs is in charge of a run directory: refusals, takeovers, and jobs that were superseded."""

import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest

from pipeline import claims, exclusive
from pipeline.claims import Claim, ClaimedError, Heartbeat, SupersededError, acquire, latest
from pipeline.commit_log import read_commits, seal
from pipeline.errors import ConfigurationError, TransientError
from pipeline.holding import holding
from pipeline.parts import write_part
from support.run_rows import charge, record_rows

ROOT = Path(__file__).parents[2]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(claims, "LEASE_SECONDS", 0.5)


def take(run: Path | str, **options: Any) -> tuple[Claim, Heartbeat]:
    return acquire(str(run), lambda before, name: seal(str(run), before, name), **options)


@contextmanager
def another_machine(run: Path, *signs: dict[str, Any], every: float = 0.05) -> Iterator[None]:
    """A job elsewhere that is in charge and gives these signs of life, one after the other, over and over."""
    claim = Claim(str(run), 1, "abcdef", (), {"host": "elsewhere", "pid": 1, "machine": "x", "at": "2099"})
    (run / "claims").mkdir(parents=True)
    (run / "claims/000001.json").write_bytes(claim.to_json())
    stop = threading.Event()

    def live() -> None:
        number = 0
        while True:
            temporary = run / "claims/next"
            temporary.write_text(json.dumps(signs[number % len(signs)]))
            temporary.replace(run / "claims/000001-abcdef.alive")
            number += 1
            if stop.wait(every):
                return

    thread = threading.Thread(target=live)
    thread.start()
    while not (run / "claims/000001-abcdef.alive").exists():
        time.sleep(0.01)
    yield
    stop.set()
    thread.join()


def test_the_first_job_is_in_charge(tmp_path: Path) -> None:
    assert latest(str(tmp_path)) is None
    claim, heartbeat = take(tmp_path)
    assert (claim.epoch, claim.logs) == (1, ())
    assert latest(str(tmp_path)) == claim
    assert claim.holder["pid"] == os.getpid()
    claim.check()
    heartbeat.close()


@pytest.mark.parametrize("store", ["memory://claims-bkt", ""])
@pytest.mark.parametrize("name", ["run[1]", "run*", "run?"])
def test_run_directories_may_be_named_like_patterns(tmp_path: Path, store: str, name: str) -> None:
    run = f"{store or tmp_path}/{name}"
    claim, heartbeat = take(run)
    write_part(claim, "0", record_rows("a", [1, 2]))
    heartbeat.close()
    assert latest(run) == claim
    assert sorted(number for commit in read_commits(run) for number in commit.shards["a"].record_ids) == [1, 2]
    second, heartbeat = take(run)
    heartbeat.close()
    assert second.epoch == 2
    assert sorted(number for commit in read_commits(run) for number in commit.shards["a"].record_ids) == [1, 2]


@pytest.mark.usefixtures("quick")
def test_a_second_job_is_refused_while_the_first_gives_signs_of_life(tmp_path: Path) -> None:
    claim, heartbeat = take(tmp_path)
    with pytest.raises(ClaimedError, match=rf"process {os.getpid()}.* is writing to .*; wait for it, or stop it"):
        take(tmp_path)
    heartbeat.close()
    assert latest(str(tmp_path)) == claim


def test_a_job_that_is_over_is_followed_at_once(tmp_path: Path) -> None:
    take(tmp_path)[1].close()
    start = time.monotonic()
    claim, heartbeat = take(tmp_path)
    heartbeat.close()
    assert claim.epoch == 2
    assert time.monotonic() - start < claims.LEASE_SECONDS / 3


@pytest.mark.usefixtures("quick")
def test_a_job_without_signs_of_life_is_followed_after_the_lease(tmp_path: Path) -> None:
    first, heartbeat = take(tmp_path)
    heartbeat._stop.set()  # paused, say
    heartbeat._thread.join()
    start = time.monotonic()
    second, next_heartbeat = take(tmp_path)
    assert time.monotonic() - start >= claims.LEASE_SECONDS
    assert second.epoch == 2
    second.check()
    with pytest.raises(SupersededError, match="another job has taken over"):
        first.check()
    next_heartbeat.close()


KILLED = """
    import sys
    from pipeline.claims import acquire

    acquire(sys.argv[1], lambda before, name: ())
    print("in charge", flush=True)
    sys.stdin.read()
"""


def killed_job(run: Path) -> None:
    job = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(run)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert job.stdout is not None
    assert job.stdout.readline() == "in charge\n"
    job.kill()
    job.communicate()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are found in /proc")
def test_a_killed_job_of_this_machine_is_followed_at_once(tmp_path: Path) -> None:
    killed_job(tmp_path)
    start = time.monotonic()
    claim, heartbeat = take(tmp_path)
    heartbeat.close()
    assert claim.epoch == 2
    assert time.monotonic() - start < claims.LEASE_SECONDS / 3


@pytest.mark.usefixtures("quick")
def test_a_killed_job_of_which_nothing_is_known_is_followed_after_the_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_job(tmp_path)
    monkeypatch.setattr(claims, "_machine", lambda: None)
    start = time.monotonic()
    take(tmp_path)[1].close()
    assert time.monotonic() - start >= claims.LEASE_SECONDS


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are found in /proc")
def test_another_process_of_the_same_number_is_not_taken_for_the_job(tmp_path: Path) -> None:
    claim, heartbeat = take(tmp_path)
    heartbeat._stop.set()
    assert not claims._is_gone(claim.holder)
    assert claims._is_gone(claim.holder | {"process_started": "1"})
    assert not claims._is_gone(claim.holder | {"process_started": "1", "machine": "another"})
    assert not claims._is_gone({})


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("at", ["1970-01-01T00:00:00+00:00", "9999-12-31T23:59:59+00:00", "no time at all", None])
def test_clocks_play_no_role(tmp_path: Path, at: str | None) -> None:
    alive = tmp_path / "alive"
    with (
        another_machine(alive, {"state": "alive", "beat": 1, "at": at}, {"state": "alive", "beat": 2, "at": at}),
        pytest.raises(ClaimedError, match="a job on elsewhere"),
    ):
        take(alive)
    dead = tmp_path / "dead"
    with another_machine(dead, {"state": "alive", "beat": 1, "at": at}):
        take(dead)[1].close()


@pytest.mark.usefixtures("quick")
def test_a_job_elsewhere_that_ends_while_it_is_watched_is_followed_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "LEASE_SECONDS", 60)
    sign = {"state": "alive", "beat": 1}
    with another_machine(tmp_path / "run", sign, {"state": "over"}, every=0.2):
        claim, heartbeat = take(tmp_path / "run")
    heartbeat.close()
    assert claim.epoch == 2


@pytest.mark.usefixtures("quick")
def test_of_jobs_that_start_at_the_same_time_one_is_in_charge(tmp_path: Path) -> None:
    start = threading.Barrier(8)

    def job(_: int) -> tuple[Claim, Heartbeat] | None:
        start.wait()
        try:
            return take(tmp_path)
        except ClaimedError:
            return None

    with ThreadPoolExecutor(8) as pool:
        taken = [each for each in pool.map(job, range(8)) if each]
    ((claim, heartbeat),) = taken
    assert latest(str(tmp_path)) == claim
    assert claim.epoch == 1
    heartbeat.close()


def test_a_job_that_was_faster_in_the_last_moment_wins(tmp_path: Path) -> None:
    with pytest.raises(ClaimedError, match=r"another job took .* a moment ago"):
        acquire(str(tmp_path), lambda before, name: (charge(tmp_path, 1, "ffffff"), ())[1])
    claim = latest(str(tmp_path))
    assert claim is not None
    assert claim.nonce == "ffffff"


def test_what_a_superseded_job_commits_is_not_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It asked for its claim just before it was taken over, and was paused between that question and the write."""
    first, heartbeat = take(tmp_path)
    write_part(first, "0", record_rows("a", [1, 2]))
    heartbeat.close()
    second, heartbeat = take(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Claim, "check", lambda *_, **__: None)
        write_part(first, "1", record_rows("a", [3]))
    write_part(second, "0", record_rows("a", [3]))
    heartbeat.close()
    commits = read_commits(str(tmp_path))
    assert [commit.stem for commit in commits] == [f"part-{first.prefix}-0", f"part-{second.prefix}-0"]
    assert sorted(number for commit in commits for number in commit.shards["a"].record_ids.tolist()) == [1, 2, 3]
    with pytest.raises(SupersededError):
        write_part(first, "2", record_rows("a", [4]))


def wait_until_superseded(claim: Claim) -> None:
    charge(claim.run, claim.epoch + 1)
    time.sleep(20)


@pytest.mark.usefixtures("quick")
def test_a_job_that_was_superseded_is_interrupted(tmp_path: Path) -> None:
    start = time.monotonic()
    with (
        pytest.raises(SupersededError, match="what this one committed before stays"),
        holding(str(tmp_path), exclusively=True) as claim,
    ):
        wait_until_superseded(claim)
    assert time.monotonic() - start < 10
    signs = [path.name for path in (tmp_path / "claims").glob("*.alive")]
    assert len(signs) == 1
    assert json.loads((tmp_path / "claims" / signs[0]).read_text())["state"] == "alive"


@pytest.mark.usefixtures("quick")
def test_an_interrupt_by_a_person_stays_one(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), holding(str(tmp_path), exclusively=True):
        raise KeyboardInterrupt
    (sign,) = (tmp_path / "claims").glob("*.alive")
    assert json.loads(sign.read_text())["state"] == "over"


@pytest.mark.usefixtures("quick")
def test_a_store_that_fails_for_a_while_does_not_end_the_signs_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = threading.Event()
    write = claims.storage.write_bytes_atomic

    def flaky(uri: str, data: bytes, **options: Any) -> None:
        if failing.is_set():
            raise TransientError("503")
        write(uri, data, **options)

    monkeypatch.setattr(claims.storage, "write_bytes_atomic", flaky)
    claim, heartbeat = take(tmp_path)
    sign = tmp_path / "claims" / f"{claim.prefix}.alive"
    failing.set()
    time.sleep(0.3)
    before = sign.read_text()
    failing.clear()
    end = time.monotonic() + 10
    while sign.read_text() == before and time.monotonic() < end:
        time.sleep(0.02)
    heartbeat.close()
    assert json.loads(sign.read_text())["state"] == "over"
    assert json.loads(before)["state"] == "alive"
    assert json.loads(sign.read_text())["beat"] > json.loads(before)["beat"] + 1


def test_a_store_without_conditional_writes_is_refused_unless_that_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ConfigurationError("it ignores them")

    monkeypatch.setattr(exclusive, "check_store", refuse)
    monkeypatch.setattr(exclusive, "create", refuse)
    with pytest.raises(ConfigurationError, match="ignores"):
        take(tmp_path)
    claim, heartbeat = take(tmp_path, exclusively=False)
    heartbeat.close()
    assert latest(str(tmp_path)) == claim


def test_a_job_is_in_charge_on_s3(s3_server: str) -> None:
    boto3.client("s3").create_bucket(Bucket="claims")
    first, heartbeat = take("s3://claims/run")
    heartbeat.close()
    second, heartbeat = take("s3://claims/run")
    heartbeat.close()
    assert (first.epoch, second.epoch) == (1, 2)
    with pytest.raises(SupersededError):
        first.check()
    second.check()


@pytest.mark.parametrize("content", [b"", b"{}", b'{"epoch": 1, "nonce": "a", "logs": 3, "holder": {}}', b"\xff"])
def test_a_damaged_claim_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims/000007.json").write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"claims/000007\.json is damaged"):
        latest(str(tmp_path))


def test_other_files_among_the_claims_are_no_claims(tmp_path: Path) -> None:
    claim = charge(tmp_path)
    for name in ("9.json", "notes.json", "0000099.json", "000002-abcdef.alive", ".000002.json.12.tmp"):
        (tmp_path / "claims" / name).write_text("{}")
    assert latest(str(tmp_path)) == claim
