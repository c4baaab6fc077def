from pathlib import Path

import pytest

from support.browser import browser_page


@pytest.mark.slow
def test_a_page_is_opened_and_errors_are_collected_and_nothing_else_is_reached(tmp_path: Path):
    (tmp_path / "page.html").write_text(
        "<h1>Here</h1><img src='https://example.org/a.png'>"
        "<script>console.error('first'); setTimeout(() => { throw new Error('second') })</script>"
    )
    with browser_page(width=640, height=480) as tab:
        tab.page.goto((tmp_path / "page.html").as_uri())
        tab.page.wait_for_timeout(100)
        assert tab.page.inner_text("h1") == "Here"
        assert tab.page.evaluate("innerWidth") == 640
    assert tab.refused == ["https://example.org/a.png"]
    assert [error.partition(" (")[0] for error in tab.errors] == ["first", "second"]
