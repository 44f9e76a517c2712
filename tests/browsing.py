"""A browser for pages, Debian's Chromium, and tabs in it that fail on what no page may do."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

_CHROMIUM = shutil.which("chromium")
_QUIET = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-gpu")


@contextmanager
def opened() -> Iterator[Any]:
    """Open the browser; skip where there is none."""
    playwright = pytest.importorskip("playwright.sync_api")
    if _CHROMIUM is None:
        pytest.skip("there is no chromium (Debian: apt install chromium)")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=_CHROMIUM, args=["--no-sandbox", *_QUIET])
        yield browser
        browser.close()


@contextmanager
def tab(browser: Any, may_ask: Callable[[str], bool]) -> Iterator[Any]:
    """Open a tab; it fails on errors of scripts, on dialogs, and on a request that `may_ask` does not allow."""
    page = browser.new_page()
    page.set_default_timeout(120_000)
    troubles: list[str] = []
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("dialog", lambda dialog: troubles.append(dialog.message))
    page.on("request", lambda request: None if may_ask(request.url) else troubles.append(request.url))
    page.troubles = troubles
    yield page
    assert not troubles
    page.close()
