"""The pages in a browser: upload, progress, results, and what becomes of mistakes."""

import io
import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from tests.conftest import Cli
from tests.web.conftest import Serve, Server
from tests.web.test_app import picture
from web.enhancers import Task

pytestmark = [pytest.mark.browser, pytest.mark.slow]


class Visit(NamedTuple):
    """A visitor's page, what the console said, and where the page sent requests."""

    page: Any
    complaints: list[str]
    requests: list[str]


@pytest.fixture
def visit(chromium: Any) -> Iterator[Callable[..., Visit]]:  # noqa: ANN401
    """Opens an address as a new visitor, who shares nothing with others."""
    contexts = []

    def start(address: str, **options: Any) -> Visit:  # noqa: ANN401
        options = {"viewport": {"width": 1280, "height": 900}, **options}
        context = chromium.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        found = Visit(page, [], [])
        page.on("console", lambda message: found.complaints.append(message.text))
        page.on("pageerror", lambda error: found.complaints.append(str(error)))
        page.on("request", lambda request: found.requests.append(request.url))
        page.goto(address)
        return found

    yield start
    for context in contexts:
        context.close()


def wait_for(page: Any, condition: str) -> None:  # noqa: ANN401
    """Waits until an expression holds: the page's policy forbids Playwright's own way."""
    deadline = time.monotonic() + 60
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, condition
        time.sleep(0.05)


def done(page: Any) -> None:  # noqa: ANN401
    """Waits for the end of a job."""
    wait_for(page, "document.title.startsWith('Done')")


def tasks(server: Server) -> list[dict[str, Any]]:
    """What is offered."""
    return list(server.client.get("/models").json())


def file(name: str, content: bytes) -> dict[str, Any]:
    """A file as Playwright gives it to a page."""
    return {"name": name, "mimeType": "image/png", "buffer": content}


def test_upload_progress_results_and_scores(
    serve: Serve,
    visit: Callable[..., Visit],
    cli: Cli,
    folder: Path,
    scorer_file: Path,
) -> None:
    content = picture(320, 240)
    with serve(folder / "store", tile=12) as server:
        deadline = time.monotonic() + 60
        while "null" in json.dumps([m["seconds"] for t in tasks(server) for m in t["models"]]):
            assert time.monotonic() < deadline  # the first estimates are made after the start
            time.sleep(0.05)
        page, complaints, requests = visit(server.base)
        assert page.locator("#enhance").is_disabled()
        page.set_input_files("#files", [file("my <b>photo.png", content)])
        page.wait_for_selector("#enhance:enabled")
        assert "320 x 240 pixels" in page.locator("#list").inner_text()
        # One model is ticked; the user can tick others.
        boxes = page.locator("input[type=checkbox]:visible")
        assert [box.is_checked() for box in boxes.all()] == [True, False, False, False]
        assert "Tick several to compare them" in page.locator("fieldset:visible").last.inner_text()
        for box in boxes.all():
            box.check()
        speeds, names = server.worker.speeds, list(server.worker.enhancers)
        task = Task("super-resolution", 2)
        of_task = [server.worker.enhancers[name] for name in names if "can" not in name]
        networks = sum(speeds.get(one, task, (240, 320)) or 0 for one in of_task)
        expected = networks + speeds.rest(task, (240, 320), sum(e.num_networks for e in of_task))
        text = page.locator("#estimate").inner_text()
        (shown,) = re.findall(r"About (\d+) s on this CPU", text)
        assert int(shown) == pytest.approx(expected, rel=0.05, abs=1)
        page.locator("#enhance").click()
        page.wait_for_url("**/results/*")
        token = page.url.rpartition("/")[2]
        seen = set()
        while not page.title().startswith("Done"):
            seen.add(page.locator("#bar").get_attribute("aria-valuenow"))
            time.sleep(0.02)
        assert len(seen - {None, "0", "100"}) >= 3, seen
        # Scores are those of the command line, for the files that the page offers.
        result = server.result(token)
        cards = page.locator(".card")
        assert cards.count() == 8
        for version in result["photos"][0]["versions"]:
            card = cards.filter(has=page.locator(f"a.open[href$='/{version['file']}']"))
            with page.expect_download() as download:
                card.locator("a.save").click()
            name = download.value.suggested_filename
            assert name == f"my_b_photo_{version['id'].partition('-')[2]}.png"
            download.value.save_as(folder / "saved" / "one.png")
            again = ["output=s.json", "overwrite=true"]
            assert cli("score", "input=saved", f"checkpoint={scorer_file}", *again).code == 0
            (row,) = json.loads(Path("s.json").read_text())
            assert f"{row['mean']:.2f} ± {row['std']:.2f}" in card.inner_text()
            assert card.locator("svg rect").count() >= 10
        # A click opens the whole picture in a new tab.
        made = cards.filter(has_text="EDSR gamma=0.4").first
        with page.context.expect_page() as opened:
            made.locator("a.open").click()
        opened.value.wait_for_load_state()
        assert opened.value.evaluate("document.images[0].naturalWidth") == 640
        assert opened.value.evaluate("document.images[0].naturalHeight") == 480
        assert opened.value.evaluate("window.opener") is None
        with page.expect_download() as download:
            page.locator("#zip").click()
        assert download.value.suggested_filename == "results.zip"
        with page.expect_download() as download:
            page.locator("#json").click()
        assert json.loads(Path(download.value.path()).read_text()) == result
        assert complaints == []
        assert {
            url.split("/")[2] for url in requests if not url.startswith(("blob:", "data:"))
        } == {server.base.split("/")[2]}


def test_pictures_in_full_size_are_loaded_when_they_are_seen(
    server: Server, visit: Callable[..., Visit]
) -> None:
    token = server.job(picture(600, 1100), models=["edsr-gamma-0", "mdsr-gamma-0.1"])
    versions = server.finished(token)["photos"][0]["versions"]
    page, complaints, requests = visit(
        f"{server.base}/results/{token}", viewport={"width": 1000, "height": 500}
    )
    done(page)
    loaded = "[...document.querySelectorAll('.card img')].every(i => i.naturalWidth === 160)"
    wait_for(page, loaded)
    full = {f"{server.base}/results/{token}/{version['file']}": version for version in versions}
    # The slider shows two versions; the cards have thumbnails.
    assert sorted(full[url]["id"] for url in requests if url in full) == [
        "1-bicubic",
        "1-mdsr-gamma-0.1",
    ]
    page.locator(".closeups").scroll_into_view_if_needed()
    wait_for(page, "[...document.querySelectorAll('.crop img')].every(i => i.naturalWidth >= 600)")
    assert {url for url in requests if url in full} == set(full)
    assert complaints == []


def test_the_sliders_and_the_close_ups(server: Server, visit: Callable[..., Visit]) -> None:
    token = server.job(picture(120, 90), models=["edsr-gamma-0-to-0.4", "mdsr-gamma-0.1"])
    result = server.finished(token)
    page, complaints, _ = visit(f"{server.base}/results/{token}")
    done(page)
    frame, divider = page.locator(".frame"), page.locator(".divider")
    wait_for(
        page, "[...document.querySelectorAll('.frame img')].every(i => i.naturalWidth === 240)"
    )
    box = frame.bounding_box()

    def clipped() -> float:
        return float(page.evaluate("document.querySelector('.over').getBoundingClientRect().width"))

    def shown(x: float) -> Any:  # noqa: ANN401
        """The picture's column at a share of the frame's width."""
        shot = np.asarray(Image.open(io.BytesIO(frame.screenshot())).convert("RGB")).astype(int)
        return shot[:, int(x * shot.shape[1])]

    # Left of the divider is one picture, right of it the other, wherever it is.
    divider.focus()
    page.keyboard.press("End")
    left = shown(0.3)
    page.keyboard.press("Home")
    right = shown(0.3)
    assert np.abs(left - right).max() > 10
    page.mouse.move(box["x"] + 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + box["height"] / 2, steps=5)
    page.mouse.up()
    assert float(divider.input_value()) == pytest.approx(80, abs=3)
    page.keyboard.press("ArrowLeft")
    assert clipped() > 0

    # The gamma slider changes the picture and its score.
    gamma = page.get_by_role("slider", name=re.compile("Gamma of"))
    row = [v for v in result["photos"][0]["versions"] if v["series"]]
    for k, key in enumerate(("Home", "ArrowRight", "ArrowRight")):
        gamma.press(key)
        wait_for(page, f"document.querySelector('.under').src.endsWith('/{row[k]['view']}')")
        text = page.locator(".gamma").inner_text()
        assert f"gamma {row[k]['gamma']:g}" in text
        assert f"{row[k]['score']['mean']:.2f}" in text

    # All close-ups show one place.
    windows = page.locator(".crop .window")
    assert windows.count() == 4

    def places() -> list[str]:
        return list(
            page.evaluate(
                "[...document.querySelectorAll('.crop .window img')].map(i => i.style.transform)"
            )
        )

    before = places()
    assert len(set(before)) == 1
    windows.first.focus()
    page.keyboard.press("Shift+ArrowRight")
    wait_for(
        page,
        "document.querySelector('.crop .window img').style.transform !== " + json.dumps(before[0]),
    )
    assert len(set(places())) == 1
    page.get_by_role("button", name="400 %").click()
    assert page.get_by_role("button", name="400 %").get_attribute("aria-pressed") == "true"
    assert complaints == []


def test_what_is_refused_is_named_and_can_be_removed(
    server: Server, visit: Callable[..., Visit]
) -> None:
    page, complaints, _ = visit(server.base)
    broken = picture(200, 200)[:-500]
    files = [
        file("broken.png", broken),
        file("notes.txt", b"x"),
        file("large.png", b"\0" * 2_100_000),
    ]
    page.set_input_files("#files", files)
    entries = page.locator("#list > li")
    for name, reason in [
        ("broken.png", "annot be read as an image"),
        ("notes.txt", "not supported"),
        ("large.png", "2 MB"),
    ]:
        entry = entries.filter(has_text=name)
        entry.locator("text=" + reason).wait_for()
    assert page.locator("#enhance").is_disabled()
    for _ in range(3):
        page.get_by_role("button", name="Remove").first.click()
    assert entries.count() == 0
    # The browser itself reports the answer 422.
    assert [text for text in complaints if "422" not in text] == []
    page.set_input_files("#files", [file("good.png", picture())])
    page.wait_for_selector("#enhance:enabled")
    page.locator("input[type=checkbox]:visible").first.uncheck()
    for box in page.locator("input[type=checkbox]:visible").all():
        box.uncheck()
    assert page.locator("#enhance").is_disabled()
    assert "model" in page.locator("#estimate").inner_text()


def test_photos_are_dropped_and_pasted(server: Server, visit: Callable[..., Visit]) -> None:
    page, complaints, _ = visit(server.base)
    give = """([kind, name, bytes]) => {
      const transfer = new DataTransfer();
      transfer.items.add(new File([new Uint8Array(bytes)], name, { type: "image/png" }));
      const options = { bubbles: true, cancelable: true };
      document.body.dispatchEvent(kind === "drop"
        ? new DragEvent("drop", { ...options, dataTransfer: transfer })
        : new ClipboardEvent("paste", { ...options, clipboardData: transfer }));
    }"""
    for k, kind in enumerate(("drop", "paste"), 1):
        page.evaluate(give, [kind, f"{kind}.png", list(picture(30 + k, 20))])
        entry = page.locator("#list > li").nth(k - 1)
        entry.locator(f"text={30 + k} x 20 pixels").wait_for()
        assert f"{kind}.png" in entry.inner_text()
    page.locator(".example").first.click()
    page.wait_for_selector("#enhance:enabled")
    assert page.locator("#list > li").count() == 3
    assert complaints == []


def test_results_are_seen_only_by_who_has_the_link(
    serve: Serve, visit: Callable[..., Visit], tmp_path: Path
) -> None:
    login = ("ann", "secret")
    credentials = {"username": login[0], "password": login[1]}
    with serve(tmp_path / "store", login=login) as server:
        token = server.job(picture())
        server.finished(token)
        mine = visit(f"{server.base}/results/{token}", http_credentials=credentials)
        done(mine.page)
        # Another user sees a page without a trace of it, and cannot guess the link.
        other = visit(server.base, http_credentials=credentials)
        assert token not in other.page.content()
        wrong = token[:-1] + ("A" if token[-1] != "A" else "B")
        other.page.goto(f"{server.base}/results/{wrong}")
        assert "does not exist, or it has expired" in other.page.locator(".notice").inner_text()
        # Nobody sees anything without the password.
        with pytest.raises(Exception, match="AUTH_CREDENTIALS"):
            visit(f"{server.base}/results/{token}")


def test_a_job_is_cancelled_and_deleted_by_its_buttons(
    serve: Serve, visit: Callable[..., Visit], tmp_path: Path
) -> None:
    with serve(tmp_path / "store", tile=6) as server:
        token = server.job(picture(400, 300), models=["edsr-gamma-0-to-0.4", "mdsr-gamma-0.1"])
        page, complaints, _ = visit(f"{server.base}/results/{token}")
        page.get_by_role("button", name="Cancel").click()
        wait_for(page, "/cancel/i.test(document.querySelector('#state').textContent)")
        assert server.finished(token)["state"] == "cancelled"
        assert page.get_by_role("button", name="Cancel").count() == 0
        page.get_by_role("button", name="Delete").click()
        page.locator("#really").click()
        page.wait_for_url(server.base + "/")
        assert server.client.get(f"/results/{token}/result.json").status_code == 404
        assert complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_narrow_screens_and_the_keyboard(
    server: Server, visit: Callable[..., Visit], scheme: str
) -> None:
    token = server.job(picture(200, 100), models=["edsr-gamma-0-to-0.4", "mdsr-gamma-0.1"])
    server.finished(token)
    narrow = {"width": 360, "height": 740}
    for path in ("/", "/api", f"/results/{token}"):
        page = visit(server.base + path, viewport=narrow, has_touch=True, color_scheme=scheme).page
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        red = int(re.findall(r"\d+", paper)[0])
        assert (red < 80) == (scheme == "dark")
        # Everything that can be used has a name and is reached by the keyboard.
        for control in page.locator("button, input, select, a[href], [tabindex='0']").all():
            if control.is_visible() and control.get_attribute("aria-hidden") != "true":
                name = control.evaluate(
                    "e => [e.ariaLabel, e.innerText, ...[...(e.labels || [])].map("
                    "l => l.innerText)].join('')"
                )
                assert name.strip(), control.evaluate("e => e.outerHTML")
        headings = page.locator("h1")
        assert headings.count() == 1
    page = visit(server.base).page
    page.locator("button.example").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#enhance:enabled")
    page.locator("#enhance").focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/results/*")
    done(page)
