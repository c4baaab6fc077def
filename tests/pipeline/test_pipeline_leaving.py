import subprocess
import sys


def test_a_process_ends_with_its_code_and_all_that_was_printed_whatever_threads_do() -> None:
    script = """
import sys, threading, time
from pipeline.leaving import leave
threading.Thread(target=time.sleep, args=(60,)).start()  # Python would wait for it
print("out", end=""); print("err", end="", file=sys.stderr)
leave(3)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, "out", "err")
