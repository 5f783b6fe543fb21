"""Back and Reload in a browser, with and without its cache of whole pages, and wrong addresses."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.web.conftest import Server
from tests.web.test_app import picture
from tests.web.test_pages import done, file, wait_for

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def caching(chromium: Any) -> Iterator[Any]:  # noqa: ANN401
    """A browser that restores whole pages on Back, as people's do; Playwright's does not."""
    kind = chromium.browser_type
    installed = map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))
    own = kind.executable_path
    path = own if Path(own).exists() else next(filter(None, installed))
    options = {"args": ["--no-sandbox"], "ignore_default_args": ["--disable-back-forward-cache"]}
    browser = kind.launch(executable_path=path, **options)
    yield browser
    browser.close()


def visited(browser: Any, server: Server) -> Any:  # noqa: ANN401
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    page.set_default_timeout(30_000)
    page.goto(server.base)
    return page


def choose(page: Any) -> None:  # noqa: ANN401
    """Two photos, a task that is not the first, and another model."""
    photos = [file("first.png", picture(40, 30)), file("höhe 水.png", picture(30, 20))]
    page.set_input_files("#files", photos)
    page.locator("text=Enlarge x2").click()
    boxes = page.locator("input[type=checkbox]:visible")
    assert [box.is_checked() for box in boxes.all()] == [True, False, False, False]
    boxes.nth(0).uncheck()
    boxes.nth(2).check()
    page.wait_for_selector("#enhance:enabled")


def check_kept(page: Any) -> None:  # noqa: ANN401
    page.wait_for_selector("#enhance:enabled")
    entries = page.locator("#list > li")
    assert [entry.locator(".name").inner_text() for entry in entries.all()] == [
        *("first.png", "höhe 水.png")
    ]
    assert "40 x 30 pixels" in entries.first.inner_text()
    boxes = page.locator("input[type=checkbox]:visible").all()
    assert [box.is_checked() for box in boxes] == [False, False, True, False]


def back(page: Any, server: Server) -> None:  # noqa: ANN401
    page.go_back(wait_until="commit")  # a page of the cache is not loaded again
    page.wait_for_url(server.base + "/", wait_until="commit")


def check_back(page: Any, server: Server) -> None:  # noqa: ANN401
    choose(page)
    page.locator("#enhance").click()
    page.wait_for_url("**/results/*")
    done(page)
    back(page, server)
    check_kept(page)
    # The photos are sent again, so that they can be enhanced again.
    page.locator("#enhance").click()
    page.wait_for_url("**/results/*")
    done(page)
    result = server.result(page.url.rpartition("/")[2])
    assert [photo["name"] for photo in result["photos"]] == ["first.png", "höhe 水.png"]
    assert [photo["error"] for photo in result["photos"]] == [None, None]


def test_back_keeps_photos_and_choices(server: Server, chromium: Any) -> None:  # noqa: ANN401
    page = visited(chromium, server)
    check_back(page, server)
    # What was removed stays away, a reload keeps the rest, a new visit begins anew.
    back(page, server)
    check_kept(page)
    page.get_by_role("button", name="Remove first.png").click()
    wait_for(page, "document.querySelectorAll('#list > li').length === 1")
    page.reload()
    page.wait_for_selector("#enhance:enabled")
    assert page.locator("#list > li").count() == 1
    page.goto(server.base)
    page.locator(".example").first.click()
    page.wait_for_selector("#enhance:enabled")
    assert page.locator("#list > li").count() == 1
    assert "coffee.png" in page.locator("#list").inner_text()


def test_back_keeps_them_with_the_cache_of_pages(server: Server, caching: Any) -> None:  # noqa: ANN401
    page = visited(caching, server)
    page.evaluate("window.sameVisit = true")
    check_back(page, server)
    back(page, server)
    check_kept(page)
    assert page.evaluate("window.sameVisit") is True  # it was not loaded again


def test_a_wrong_address_is_a_page(server: Server, chromium: Any) -> None:  # noqa: ANN401
    page = visited(chromium, server)
    for path in (
        "/nothing",
        "/results/x/y.png",
        "/uploads",
        "/web/nothing.js",
        "/results/x/all.zip",
    ):
        answer = page.goto(server.base + path)
        assert answer.status == 404
        assert page.locator("h1").inner_text() == "Not found"
        paper = page.evaluate(
            "getComputedStyle(document.querySelector('.problem')).borderLeftWidth"
        )
        assert paper == "4px"  # the style sheet is in use
    page.locator("text=Choose photos").click()
    page.wait_for_url(server.base + "/")
