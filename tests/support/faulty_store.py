"""A proxy in front of an object store that makes it fail, at random but with a seed.

Requests pass with the `Host` header that they were signed with. Each kind of fault has a probability and applies to
reads, to writes or to both:

- `throttle`: 503 `SlowDown`; `error`: 500 `InternalError`; both without asking the store;
- `delay`: the answer comes late;
- `reset`: half of the answer, then the connection is torn down (RST);
- `truncate`: half of the body under the full `Content-Length`, then an orderly end;
- `length`: all of the body under a larger `Content-Length`;
- `lost`: the store carries the request out, and its answer is lost.
"""

from __future__ import annotations

import http.client
import random
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, Self
from urllib.parse import urlsplit

Kind = Literal["throttle", "error", "delay", "reset", "truncate", "length", "lost"]

_READS = {"GET", "HEAD"}
_OF_ONE_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "expect"}
_XML = b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>%s</Code><Message>%s</Message></Error>'


@dataclass(frozen=True)
class Fault:
    """One way to fail.

    Attributes:
        kind: See the module.
        probability: Of each request that it applies to.
        on: Which requests.
        seconds: Of a delay.
        path: Regular expression that is searched for in the path.
    """

    kind: Kind
    probability: float
    on: Literal["reads", "writes", "both"] = "both"
    seconds: float = 1.0
    path: str = ""

    def applies(self, method: str, path: str) -> bool:
        reads = method in _READS
        return (self.on == "both" or reads == (self.on == "reads")) and re.search(self.path, path) is not None


class FaultyStore:
    """The proxy; a context manager.

    Args:
        upstream: URL of the store.
        faults: In the order in which they are tried on each request; the first that strikes is it.
        seed: Of the dice.
        drop: Names of request headers that the store is not to see, in lower case.

    Attributes:
        url: Of the proxy.
        faults: May be replaced at any time.
        counts: Requests by method.
        injected: Faults by kind.
        holding: Set once a request is held back; see :meth:`hold`.
    """

    def __init__(
        self, upstream: str, faults: Sequence[Fault] = (), *, seed: int = 0, drop: Sequence[str] = ()
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.injected: Counter[str] = Counter()
        self.holding = threading.Event()
        self._upstream = urlsplit(upstream).netloc
        self.faults: Sequence[Fault] = tuple(faults)
        self._drop = {*drop, *_OF_ONE_CONNECTION}
        self._dice = random.Random(seed)
        self._lock = threading.Lock()
        self._held: re.Pattern[str] | None = None
        self._pass = 0
        self._let_go = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._let_go.set()
        self._server.shutdown()
        self._server.server_close()

    def hold(self, pattern: str, after: int = 0) -> None:
        """Holds requests back, from now on.

        Args:
            pattern: Regular expression for `METHOD /path`.
            after: So many of them still pass.
        """
        with self._lock:
            self._pass = after
            self._held = re.compile(pattern)

    def release(self) -> None:
        """Drops the connections of those that are held back, unanswered; holds no more."""
        with self._lock:
            self._held = None
        self._let_go.set()

    def _is_held(self, method: str, path: str) -> bool:
        with self._lock:
            if self._held is None or not self._held.search(f"{method} {path}"):
                return False
            if self._pass > 0:
                self._pass -= 1
                return False
        self.holding.set()
        self._let_go.wait()
        return True

    def _strike(self, method: str, path: str) -> Fault | None:
        with self._lock:
            self.counts[method] += 1
            for fault in self.faults:
                if fault.applies(method, path) and self._dice.random() < fault.probability:
                    self.injected[fault.kind] += 1
                    return fault
        return None

    def _ask(self, handler: BaseHTTPRequestHandler, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self._upstream, timeout=60)
        try:
            connection.putrequest(handler.command, handler.path, skip_host=True, skip_accept_encoding=True)
            for name, value in handler.headers.items():
                if name.lower() not in self._drop | {"content-length"}:
                    connection.putheader(name, value)
            if body or handler.command in ("PUT", "POST"):
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            headers = [(k, v) for k, v in answer.getheaders() if k.lower() not in _OF_ONE_CONNECTION]
            return answer.status, headers, answer.read()
        finally:
            connection.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    proxy: FaultyStore

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        body = self._body()
        proxy = self.proxy
        if proxy._is_held(self.command, self.path):
            self._tear_down()
            return
        fault = proxy._strike(self.command, self.path)
        kind = fault.kind if fault else None
        if kind in ("throttle", "error"):
            self._fail(*((503, b"SlowDown") if kind == "throttle" else (500, b"InternalError")))
            return
        if fault and kind == "delay":
            time.sleep(fault.seconds)
        try:
            status, headers, content = proxy._ask(self, body)
            if kind == "lost":
                self._tear_down()
            else:
                self._answer(status, headers, content, kind)
        except OSError:  # the store is gone, or the client
            self.close_connection = True

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes, kind: Kind | None) -> None:
        without_body = self.command == "HEAD" or status in (204, 304)
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() != "content-length" or without_body:
                self.send_header(name, value)
        if not without_body:
            self.send_header("Content-Length", str(len(content) + (100 if kind == "length" else 0)))
        self.end_headers()
        half = kind in ("truncate", "reset")
        if not without_body:
            self.wfile.write(content[: len(content) // 2] if half else content)
        if kind == "reset":
            self._tear_down()
        elif half or kind == "length":
            self.close_connection = True

    def _fail(self, status: int, code: bytes) -> None:
        content = b"" if self.command == "HEAD" else _XML % (code, b"made by a test")
        self.send_response_only(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _tear_down(self) -> None:
        """Ends the connection with RST, without a word."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
