"""A real Label Studio server on this machine, for tests, with its data in a folder of the test's."""

import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests
from playwright.sync_api import Page

_HERE = Path(__file__).parents[2] / ".venv-label-studio" / "bin" / "label-studio"
_START_SECONDS = 240  # the first start makes the database


@dataclass(frozen=True)
class LabelStudio:
    """A server with one user.

    Attributes:
        url: Of the server.
        email: Of the user.
        password: Likewise.
        token: A legacy token of the user.
        python: The interpreter that label_studio_sdk is installed for.
    """

    url: str
    email: str
    password: str
    token: str
    python: Path

    def call(self, method: str, path: str, **request):
        answer = requests.request(
            method, self.url + path, headers={"Authorization": f"Token {self.token}"}, timeout=60, **request
        )
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def log_in(self, page: Page) -> None:
        page.goto(f"{self.url}/user/login")
        page.fill("#email", self.email)
        page.fill("#password", self.password)
        page.click("button[type=submit]")
        page.wait_for_url(f"{self.url}/**")


def executable() -> Path | None:
    """Where Label Studio is installed: what LABEL_STUDIO names, else what `make label-studio` made."""
    path = Path(os.environ.get("LABEL_STUDIO") or _HERE)
    return path if os.access(path, os.X_OK) else None


def missing() -> str | None:
    """Why there is no server here, and what to do."""
    if executable():
        return None
    return "Label Studio is not installed: `make label-studio` does that, or LABEL_STUDIO=path names its executable"


@contextmanager
def label_studio_server(folder: Path) -> Iterator[LabelStudio]:
    """Starts a server on a free port of this machine, with an SQLite database in a folder; ends it afterwards."""
    program = executable()
    assert program is not None, missing()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = LabelStudio(
        url=f"http://127.0.0.1:{port}",
        email="reviewer@example.org",
        password=secrets.token_urlsafe(16),
        token=secrets.token_hex(20),
        python=program.parent / "python",
    )
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "LABEL_STUDIO_BASE_DATA_DIR": str(folder),
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "LABEL_STUDIO_USERNAME": server.email,
        "LABEL_STUDIO_PASSWORD": server.password,
        "LABEL_STUDIO_USER_TOKEN": server.token,
        "LATEST_VERSION_CHECK": "false",  # that, and the next two, would ask other machines
        "COLLECT_ANALYTICS": "false",
        "SENTRY_DSN": "",
    }
    address = ["--internal-host", "127.0.0.1", "--port", str(port)]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [program, "start", "--no-browser", *address],
            env=environment,
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a group of its own, to end it as a whole
        )
    try:
        _wait(process, server.url, folder / "server.log")
        yield server
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        try:
            if requests.get(f"{url}/health", timeout=5).ok:
                return
        except requests.RequestException:
            time.sleep(0.5)
    raise AssertionError(f"Label Studio did not start:\n{log.read_text(errors='replace')[-3000:]}")
