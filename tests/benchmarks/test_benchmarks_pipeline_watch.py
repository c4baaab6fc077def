"""CPU time of a session's processes, by what they are."""

import subprocess
import sys
import time

import pytest

from benchmarks.pipeline_watch import Watch, cpu_seconds, role_of


@pytest.mark.parametrize(
    ("title", "role"),
    [
        ("ray::MapWorker(MapBatches(MatteImages)).submit", "actors"),
        ("ray::MapBatches(_Read)", "readers"),
        ("ray::Write", "writers"),
        ("ray::ProgressBoard.add", "board"),
        ("ray::IDLE", "other workers"),
        ("/x/site-packages/ray/core/src/ray/raylet/raylet --store", "Ray"),
        ("sleep 1", "other"),
    ],
)
def test_titles_tell_what_a_process_is(title: str, role: str) -> None:
    assert role_of(title) == role


def test_time_between_looks_is_shared_out() -> None:
    watch = Watch(1, looks=[(10.0, {"driver": 1.0}), (12.0, {"driver": 2.0, "actors": 4.0})])
    assert watch.used(10.0, 12.0) == {"driver": 1.0, "actors": 4.0}
    assert watch.used(10.5, 11.5) == {"driver": 0.5, "actors": 2.0}


def test_the_work_of_all_processes_of_a_session_is_seen() -> None:
    work = "import time\nwhile time.process_time() < 0.4: pass\ntime.sleep(60)"
    script = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {work!r}])\n{work}"
    process = subprocess.Popen([sys.executable, "-c", script], start_new_session=True)
    try:
        with Watch(process.pid) as watch:
            end = time.monotonic() + 60
            while time.monotonic() < end and sum((watch.looks[-1][1] if watch.looks else {}).values()) < 0.8:
                time.sleep(0.05)
        found = watch.looks[-1][1]
        assert found["driver"] == pytest.approx(cpu_seconds(process.pid), abs=0.1)
        assert found["other"] >= 0.35
    finally:
        subprocess.run(["kill", "--", f"-{process.pid}"], check=True)
        process.wait()
