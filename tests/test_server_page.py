"""The page, used in a browser and by keyboard alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import tab
from served_bundles import ENGINE, TITLES, WHERE, running, write

from recbole_sid.serving.engine import ENGINES
from recbole_sid.serving.recommender import Recommender
from recbole_sid.serving.server.app import create_app


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(ENGINES, ENGINE, WHERE)
        folder = tmp_path_factory.mktemp("page")
        yield {name: write(folder / name, seed) for seed, name in enumerate(("left", "right", "third"))}


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page that asks no server but its own for anything."""
    with tab(browser, lambda url: "//127.0.0.1:" in url) as page:
        yield page


def titles_in(page: Any, side: int) -> list[str]:
    return page.locator(".list").nth(side).locator(".row .title").all_text_contents()


def wait_for_found(page: Any, n: int) -> None:
    page.wait_for_function("n => !found.hidden && found.children.length === n", arg=n)


def test_a_history_by_keyboard_and_two_lists(page: Any, bundles: dict[str, Path]) -> None:
    with running(create_app(bundles)) as address:
        page.goto(address)
        page.wait_for_selector("body[data-ready]")
        page.keyboard.press("/")
        page.keyboard.type("chair 4")
        wait_for_found(page, 1)
        page.keyboard.press("Enter")
        page.keyboard.type("lamp")
        wait_for_found(page, 10)
        page.keyboard.press("ArrowDown")
        assert page.get_attribute("#words", "aria-activedescendant") == "found-1"
        page.keyboard.press("Enter")
        assert page.locator("#history .name").all_text_contents() == ["blue chair 4", "Red Lamp 3"]
        page.wait_for_function("() => document.querySelectorAll('.list:not(.old) .row').length === 20")
        for side, name in enumerate(("left", "right")):
            offline = Recommender.load(bundles[name]).recommend([["i5", "i4"]], 10).lists()[0]
            assert titles_in(page, side) == [TITLES[int(item[1:]) - 1] for item in offline]

        page.wait_for_selector(".row .share:not([hidden])")
        page.locator(".open").first.focus()
        page.keyboard.press("Enter")
        why = page.locator(".why").first
        assert why.is_visible()
        assert page.locator(".open").first.get_attribute("aria-expanded") == "true"
        assert "Level 1 50.0%" in why.inner_text()
        assert "(25%)" in why.inner_text()  # of the memory
        assert "Seen to follow: blue chair 4" in why.inner_text()

        page.locator(".model").nth(1).select_option("third")
        offline = Recommender.load(bundles["third"]).recommend([["i5", "i4"]], 10).lists()[0]
        expected = [TITLES[int(item[1:]) - 1] for item in offline]
        # The list before may hold the same title: until the one that was asked for is there.
        page.wait_for_function("() => document.querySelectorAll('.list.old').length === 0")
        page.locator(".list").nth(1).locator(".title").first.filter(has_text=re.compile(f"^{expected[0]}$")).wait_for()
        assert titles_in(page, 1) == expected

        page.locator("#history button").first.focus()
        page.keyboard.press("Enter")
        page.keyboard.press("Enter")
        assert page.locator("#history li").count() == 0
        assert page.locator(".row").count() == 0


def test_every_control_has_a_name(page: Any, bundles: dict[str, Path]) -> None:
    with running(create_app(bundles)) as address:
        page.goto(address)
        page.wait_for_selector("body[data-ready]")
        page.click("#example")
        page.wait_for_selector(".row")
        nameless = page.evaluate(
            """() => [...document.querySelectorAll('button, input, select, a')].filter((control) =>
                !(control.textContent.trim() || control.labels?.length || control.getAttribute('aria-label')))
                .map((control) => control.outerHTML)"""
        )
    assert nameless == []


def test_the_page_asks_for_the_key(page: Any, bundles: dict[str, Path]) -> None:
    with running(create_app(bundles, api_key="the key")) as address:
        page.goto(address)
        page.wait_for_selector("#ask-key[open]")
        page.keyboard.type("wrong")
        page.keyboard.press("Enter")
        page.wait_for_selector("#ask-key[open]")
        page.fill("#key", "the key")
        page.keyboard.press("Enter")
        page.wait_for_selector("body[data-ready]")
        page.click("#example")
        page.wait_for_selector(".row")


def test_one_model_and_a_server_that_fails(page: Any, bundles: dict[str, Path]) -> None:
    with running(create_app({"left": bundles["left"]})) as address:
        page.goto(address)
        page.wait_for_selector("body[data-ready]")
        assert page.locator(".list").count() == 1
        page.click("#example")
        page.wait_for_selector(".row")
        page.route("**/recommend", lambda route: route.fulfill(status=503, json={"error": "Too many wait."}))
        page.uncheck("#seen")
        page.wait_for_selector(".note.bad")
        assert page.inner_text(".note.bad") == "Too many wait."
