import http.server
import threading
import tracemalloc

import pytest

from pipeline import storage_faults
from pipeline.errors import BadInputError, TransientError
from pipeline.sources.base import Shard, byte_limit, fetch, fingerprint, max_bytes, unreadable
from support.corpora import reading_config


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(storage_faults, "_sleep", lambda seconds: None)


class Endless(http.server.BaseHTTPRequestHandler):
    """Says 10 bytes when asked for the size, and sends 200 MB when asked for the file."""

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.send_response(200)
        if "size" in self.path:
            self.send_header("Content-Length", "10")
        self.end_headers()

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        try:
            for _ in range(200):
                self.wfile.write(bytes(10**6))
        except OSError:  # hung up on
            pass


@pytest.fixture
def host():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Endless)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def config(**keys):
    return reading_config("folder", "unused", input=keys)


def test_the_limit_is_what_was_set_or_what_pixels_can_take(tmp_path):
    assert byte_limit(config(max_pixels=10)) == max_bytes(10) == 2**20 + 80
    assert byte_limit(config(max_pixels=10, max_bytes=5)) == 5
    (tmp_path / "a.jpg").write_bytes(b"123456")
    for size in (6, None, 2):  # known, unknown, and grown since it was listed
        with pytest.raises(BadInputError, match=r"input\.max_bytes is 5") as caught:
            fetch(str(tmp_path / "a.jpg"), size, config(max_bytes=5))
        assert caught.value.code == "image_too_large"
        assert fetch(str(tmp_path / "a.jpg"), size, config(max_bytes=6)) == b"123456"
    with pytest.raises(BadInputError, match=r"input\.max_pixels"):
        fetch("not read", 2**30, config(max_pixels=10))


@pytest.mark.parametrize(("path", "size"), [("size.jpg", 10), ("unknown.jpg", None)])
def test_a_host_that_sends_more_than_it_said_fills_no_memory(host, path, size):
    tracemalloc.start()
    with pytest.raises(BadInputError, match=r"input\.max_bytes"):
        fetch(f"{host}/{path}", size, config(max_bytes=1_000_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50_000_000


def test_fingerprints():
    assert fingerprint("a", "b") == fingerprint("a", "b")
    assert len({fingerprint("a", "b"), fingerprint("ab"), fingerprint("a"), fingerprint("b", "a")}) == 4
    assert fingerprint("caf\udce9")
    assert fingerprint("a", None) == ""


def test_nobody_knows_the_prompts_of_a_shard_that_the_store_fails_to_hand_out():
    shard = Shard("a.tar", {})
    assert not unreadable(shard, "a.tar", TransientError("timeout"), 0).prompts_known
    assert unreadable(shard, "a.tar", EOFError("cut"), 0).prompts_known
