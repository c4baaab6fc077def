"""The proxy that makes a store fail: each fault looks to a client as a real one does."""

import http.client
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from support.faulty_store import Fault, FaultyStore, Kind

CONTENT = bytes(range(256)) * 40


class Objects(BaseHTTPRequestHandler):
    """Keeps what is put, and answers with the headers it saw."""

    protocol_version = "HTTP/1.1"
    kept: dict[str, bytes]

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(self.kept.get(self.path, b""))

    do_HEAD = do_GET  # noqa: N815

    def do_PUT(self) -> None:
        self.kept[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(b"")

    def _answer(self, content: bytes) -> None:
        self.send_response_only(200)
        self.send_header("X-Host", self.headers["Host"])
        self.send_header("X-If-None-Match", self.headers.get("If-None-Match", "none"))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@pytest.fixture
def kept() -> dict[str, bytes]:
    return {"/b/x": CONTENT}


@pytest.fixture
def upstream(kept: dict[str, bytes]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Kept", (Objects,), {"kept": kept}))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def ask(
    proxy: FaultyStore, method: str = "GET", path: str = "/b/x", body: bytes | None = None, **headers: str
) -> tuple[int, bytes, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection(proxy.url.removeprefix("http://"), timeout=10)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    try:
        return answer.status, answer.read(), answer.headers
    finally:
        connection.close()


def test_without_faults_it_is_not_noticed(upstream: str, kept: dict[str, bytes]) -> None:
    with FaultyStore(upstream) as proxy:
        status, content, headers = ask(proxy, Host="bucket.example:9", **{"If-None-Match": "*"})
        assert (status, content) == (200, CONTENT)
        assert (headers["X-Host"], headers["X-If-None-Match"]) == ("bucket.example:9", "*")
        assert ask(proxy, "PUT", "/b/y", b"new")[0] == 200
        assert kept["/b/y"] == b"new"
        assert ask(proxy, "HEAD")[2]["Content-Length"] == str(len(CONTENT))
        assert proxy.counts == {"GET": 1, "PUT": 1, "HEAD": 1}
        assert not proxy.injected


@pytest.mark.parametrize(
    ("kind", "status", "code"), [("throttle", 503, b"SlowDown"), ("error", 500, b"InternalError")]
)
def test_errors_are_those_of_s3(upstream: str, kept: dict[str, bytes], kind: Kind, status: int, code: bytes) -> None:
    with FaultyStore(upstream, [Fault(kind, 1.0)]) as proxy:
        answer = ask(proxy, "PUT", "/b/y", b"new")
        assert answer[0] == status
        assert b"<Code>" + code + b"</Code>" in answer[1]
        assert "/b/y" not in kept


@pytest.mark.parametrize("kind", ["truncate", "length"])
def test_bodies_are_shorter_than_declared(upstream: str, kind: Kind) -> None:
    with FaultyStore(upstream, [Fault(kind, 1.0)]) as proxy, pytest.raises(http.client.IncompleteRead) as broken:
        ask(proxy)
    assert len(broken.value.partial) == (len(CONTENT) // 2 if kind == "truncate" else len(CONTENT))


def test_a_connection_is_reset_amid_the_body(upstream: str) -> None:
    with FaultyStore(upstream, [Fault("reset", 1.0)]) as proxy, pytest.raises(ConnectionResetError):
        ask(proxy)


def test_a_lost_answer_follows_a_write_that_was_carried_out(upstream: str, kept: dict[str, bytes]) -> None:
    with FaultyStore(upstream, [Fault("lost", 1.0, on="writes")]) as proxy:
        with pytest.raises((ConnectionResetError, http.client.RemoteDisconnected)):
            ask(proxy, "PUT", "/b/y", b"new")
        assert kept["/b/y"] == b"new"
        assert ask(proxy)[0] == 200


def test_faults_follow_the_seed_and_keep_to_their_requests(upstream: str) -> None:
    def statuses(seed: int) -> list[int]:
        with FaultyStore(upstream, [Fault("throttle", 0.5, on="reads", path="^/b/x")], seed=seed) as proxy:
            found = [ask(proxy)[0] for _ in range(24)]
            assert {ask(proxy, path="/b/z")[0] for _ in range(8)} == {200}
            assert {ask(proxy, "PUT", body=CONTENT)[0] for _ in range(8)} == {200}
            assert proxy.injected["throttle"] == found.count(503)
            return found

    assert statuses(1) == statuses(1) != statuses(2)
    assert set(statuses(1)) == {200, 503}


def test_headers_are_dropped(upstream: str) -> None:
    with FaultyStore(upstream, drop=["if-none-match"]) as proxy:
        assert ask(proxy, **{"If-None-Match": "*"})[2]["X-If-None-Match"] == "none"


def test_what_is_held_back_never_arrives(upstream: str, kept: dict[str, bytes]) -> None:
    with FaultyStore(upstream) as proxy:
        proxy.hold("PUT /b/commits/", after=1)
        assert ask(proxy, "PUT", "/b/commits/1", b"1")[0] == 200
        failed: list[Exception] = []

        def put() -> None:
            try:
                ask(proxy, "PUT", "/b/commits/2", b"2")
            except OSError as error:
                failed.append(error)

        thread = threading.Thread(target=put)
        thread.start()
        assert proxy.holding.wait(5)
        assert ask(proxy)[0] == 200
        proxy.release()
        thread.join(5)
        assert failed
        assert "/b/commits/2" not in kept
