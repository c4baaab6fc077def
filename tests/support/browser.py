"""A real browser for tests: a Chromium of the machine's, driven by playwright, that reaches this machine only."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import ConsoleMessage, Page, Route, WebSocketRoute, sync_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_HERE = {"127.0.0.1", "localhost", "::1"}
_ARGUMENTS = [
    "--headless=new",
    "--no-sandbox",  # containers, where tests run as root, have no user namespaces for it
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    # A second barrier behind `_only_here`, for requests of the browser's own that are not a page's.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
]


@dataclass
class Tab:
    """A page, and what went wrong in it.

    Attributes:
        page: Playwright's.
        errors: What scripts wrote to the console as errors, and exceptions that nobody caught, as they come. Failed
            loads are among them, but not those in `refused`.
        refused: URLs of other machines that were asked for, and not reached.
    """

    page: Page
    errors: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


def chromium() -> str | None:
    """Where a Chromium is installed."""
    return next(filter(None, map(shutil.which, _NAMES)), None)


@contextmanager
def browser_page(*, width: int = 1280, height: int = 900, scale: float = 1, locale: str = "en-GB") -> Iterator[Tab]:
    """Opens an empty page in a fresh browser; skips the test where no Chromium is installed.

    Args:
        width: Of the page as scripts see it, CSS pixels.
        height: Likewise.
        scale: Device pixels per CSS pixel.
        locale: Of the browser.
    """
    executable = chromium()
    if executable is None:
        pytest.skip(f"no Chromium is installed (looked for {', '.join(_NAMES)}); on Debian: apt-get install chromium")
    with (
        tempfile.TemporaryDirectory(prefix="sdm-browser-", ignore_cleanup_errors=True) as profile,
        sync_playwright() as playwright,
    ):
        context = playwright.chromium.launch_persistent_context(
            profile,
            executable_path=executable,
            args=_ARGUMENTS,
            viewport={"width": width, "height": height},
            device_scale_factor=scale,
            locale=locale,
            service_workers="block",  # their requests would not be seen here
        )
        tab = Tab(context.pages[0] if context.pages else context.new_page())
        context.route("**/*", lambda route: _only_here(route, tab))
        context.route_web_socket("**/*", lambda socket: _socket_only_here(socket, tab))
        tab.page.on("console", lambda message: _listen(message, tab))
        tab.page.on("pageerror", lambda error: tab.errors.append(str(error)))
        try:
            yield tab
        finally:
            context.close()


def _is_here(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme in {"data", "blob", "file", "about"} or (parts.hostname or "") in _HERE


def _only_here(route: Route, tab: Tab) -> None:
    if _is_here(route.request.url):
        route.continue_()
        return
    tab.refused.append(route.request.url)
    route.abort("blockedbyclient")


def _socket_only_here(socket: WebSocketRoute, tab: Tab) -> None:
    if _is_here(socket.url):
        socket.connect_to_server()
        return
    tab.refused.append(socket.url)
    socket.close()


def _listen(message: ConsoleMessage, tab: Tab) -> None:
    if message.type == "error" and "ERR_BLOCKED_BY_CLIENT" not in message.text:
        tab.errors.append(f"{message.text} ({message.location['url']})")
