"""The server over HTTP: uploads, jobs, results, and everything that is not wanted there."""

import base64
import concurrent.futures
import io
import json
import os
import re
import socket
import struct
import time
import zipfile
import zlib
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from images.formats import PNG_SIGNATURE
from images.metadata import png_chunk
from images.pixels import to_array
from images.reading import FORMATS, read_image
from lightning_modules.checkpoint import load_scorer
from networks.bicubic import imresize
from tests.conftest import Finished
from tests.web.conftest import Serve, Server
from web.archive import download_names
from web.schema import JobResult, OfferedTask, PhotoResult, Version
from web.uploads import clean_name

Cli = Any


def picture(
    width: int = 40,
    height: int = 30,
    *,
    mode: str = "RGB",
    kind: str = "PNG",
    **options: Any,  # noqa: ANN401
) -> bytes:
    """An image file of smooth noise."""
    rng = np.random.default_rng(width * 1000 + height)
    coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    image = coarse.resize((width, height), Image.Resampling.BICUBIC).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(content: bytes) -> Any:  # noqa: ANN401
    """The values of an image file."""
    return np.asarray(Image.open(io.BytesIO(content)))


def png_of_size(width: int, height: int) -> bytes:
    """A PNG file that says it has a size and has next to no pixels: a decompression bomb."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 100)
    parts = png_chunk(b"IHDR", header), png_chunk(b"IDAT", pixels), png_chunk(b"IEND", b"")
    return PNG_SIGNATURE + b"".join(parts)


# What each was answered with: docs/web.md has the table.
BAD_UPLOADS = {
    "empty": (b"", 422, "The file is empty."),
    "text": (b"hello", 415, "Not a supported"),
    "html": (b"<html><script>alert(1)</script></html>", 415, "Not a supported"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>", 415, "Not a supported"),
    "gif": (picture(kind="GIF", mode="P"), 415, "Not a supported"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 415, "Not a supported"),
    "zip": (b"PK\3\4" + b"\0" * 60, 415, "Not a supported"),
    "truncated PNG": (picture(200, 200)[:-500], 422, "annot be read as an image"),
    "truncated JPEG": (picture(200, 200, kind="JPEG")[:-300], 422, "annot be read as an image"),
    "header alone": (picture()[:20], 415, "Not a supported"),
    "decompression bomb": (png_of_size(65_000, 65_000), 413, "far too many pixels"),
    "large for Pillow": (png_of_size(12_000, 9_000), 413, "12000 x 9000 pixels is 108.0"),
    "one pixel too many": (picture(1000, 1001, mode="L"), 413, "the limit is 1"),
    "no pixels behind the header": (png_of_size(500, 500), 422, "annot be read as an image"),
    "too many bytes": (b"\x89PNG\r\n\x1a\n" + b"\0" * 2_000_000, 413, "up to 2 MB"),
}


@pytest.mark.parametrize("what", BAD_UPLOADS)
def test_a_bad_upload_is_refused_with_the_reason_and_leaves_nothing(
    server: Server, what: str
) -> None:
    content, status, reason = BAD_UPLOADS[what]
    answer = server.upload(content)
    assert answer.status_code == status
    assert reason in answer.json()["error"]
    assert str(server.store.folder) not in answer.text
    assert "/" not in answer.json()["error"].replace("1/", "")
    assert list(server.store.uploads.iterdir()) == []


def test_a_body_without_a_length_ends_at_the_limit(server: Server) -> None:
    sent = 0

    def endless() -> Any:  # noqa: ANN401
        nonlocal sent
        while sent < 50_000_000:
            sent += 100_000
            yield b"\0" * 100_000

    try:
        status = server.client.post("/uploads", content=endless()).status_code
    except httpx.HTTPError:  # the connection was closed while it went on sending
        status = 413
    assert status == 413
    assert sent < 20_000_000
    deadline = time.monotonic() + 10  # the answer may come before the part is removed
    while list(server.store.uploads.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


GOOD_UPLOADS = {
    "gray": picture(mode="L"),
    "palette": picture(mode="P"),
    "1-bit": picture(mode="1"),
    "alpha": picture(mode="RGBA"),
    "CMYK": picture(mode="CMYK", kind="JPEG"),
    "WebP": picture(kind="WEBP"),
    "BMP": picture(kind="BMP"),
    "TIFF": picture(kind="TIFF"),
    "one pixel": picture(1, 1),
    "a line": picture(500, 1),
}


def test_all_kinds_of_photos_are_enhanced(server: Server) -> None:
    for content in GOOD_UPLOADS.values():
        found = server.finished(server.job(content))
        (photo,) = found["photos"]
        assert found["state"] == "done"
        assert photo["error"] is None
        assert [v["name"] for v in photo["versions"]] == ["original", "bicubic", "EDSR gamma=0"]
        made = server.client.get(f"/results/{found['token']}/{photo['versions'][2]['file']}")
        expected = Image.open(io.BytesIO(content)).size
        assert Image.open(io.BytesIO(made.content)).size == (2 * expected[0], 2 * expected[1])


def test_a_job_has_the_pixels_of_enhance_and_the_scores_of_score(
    server: Server, cli: Cli, folder: Path, enhancers: dict[str, str], scorer_file: Path
) -> None:
    # Larger than a tile of the server, with its place in EXIF and turned.
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8825)[1] = "N"
    content = picture(150, 100, kind="JPEG", exif=exif.tobytes())
    Path("photo.jpg").write_bytes(content)
    names = ["edsr-gamma-0", "edsr-gamma-0.4", "mdsr-gamma-0.1"]
    found = server.finished(server.job(content, models=names))
    (photo,) = found["photos"]
    assert (photo["width"], photo["height"]) == (100, 150)
    versions = {v["name"]: v for v in photo["versions"]}
    files = {
        "EDSR gamma=0": ["checkpoint=" + enhancers["edsr_0"]],
        "EDSR gamma=0.4": ["checkpoint=" + enhancers["edsr_0.4"]],
        "MDSR gamma=0.1": ["checkpoint=" + enhancers["mdsr"], "scale=2"],
    }
    for name, options in files.items():
        assert (
            cli("enhance", "input=photo.jpg", "output=made", "overwrite=true", *options).code == 0
        )
        served = server.client.get(f"/results/{found['token']}/{versions[name]['file']}").content
        assert np.array_equal(pixels(served), pixels(Path("made/photo_x2.png").read_bytes()))
        assert Image.open(io.BytesIO(served)).getexif().get_ifd(0x8825) == {}
        out: Finished = cli(
            "score", "input=made", f"checkpoint={scorer_file}", "output=s.json", "overwrite=true"
        )
        assert out.code == 0
        (row,) = json.loads(Path("s.json").read_text())
        assert versions[name]["score"]["mean"] == row["mean"]
        assert versions[name]["score"]["std"] == row["std"]
        assert versions[name]["score"]["p"] == [row[f"p{k}"] for k in range(1, 11)]
    bicubic = server.client.get(f"/results/{found['token']}/{versions['bicubic']['file']}").content
    upright = read_image("photo.jpg")
    assert np.array_equal(pixels(bicubic), to_array(imresize(upright, 2)))
    original = server.client.get(f"/results/{found['token']}/1-original.png").content
    assert np.array_equal(pixels(original), to_array(upright))
    score = load_scorer(scorer_file).score("photo.jpg")
    assert versions["original"]["score"]["mean"] == pytest.approx(score, abs=1e-5)
    assert all(versions[name]["seconds"] > 0 for name in files)


def test_a_row_between_two_trainings_mixes_their_weights(
    server: Server, cli: Cli, folder: Path, enhancers: dict[str, str]
) -> None:
    content = picture()
    Path("photo.png").write_bytes(content)
    found = server.finished(server.job(content, models=["edsr-gamma-0-to-0.4"]))
    row = found["photos"][0]["versions"][2:]
    assert [v["gamma"] for v in row] == [0.0, 0.2, 0.4]
    assert {v["series"] for v in row} == {"edsr-gamma-0-to-0.4"}
    made = [server.client.get(f"/results/{found['token']}/{v['file']}").content for v in row]
    for k, name in ((0, "edsr_0"), (2, "edsr_0.4")):
        options = [f"checkpoint={enhancers[name]}", f"output={name}"]
        assert cli("enhance", "input=photo.png", *options).code == 0
        assert np.array_equal(
            pixels(made[k]), pixels((folder / name / "photo_x2.png").read_bytes())
        )
    assert not np.array_equal(pixels(made[0]), pixels(made[1]))
    assert not np.array_equal(pixels(made[1]), pixels(made[2]))


def test_tasks_are_those_of_the_networks(server: Server) -> None:
    tasks = server.client.get("/models").json()
    assert [(t["task"], t["scale"], t["label"], [m["id"] for m in t["models"]]) for t in tasks] == [
        (
            *("super-resolution", 2, "Enlarge x2"),
            ["edsr-gamma-0", "edsr-gamma-0.4", "mdsr-gamma-0.1", "edsr-gamma-0-to-0.4"],
        ),
        ("super-resolution", 3, "Enlarge x3", ["mdsr-gamma-0.1"]),
        ("super-resolution", 4, "Enlarge x4", ["mdsr-gamma-0.1"]),
        ("deblurring", 1, "Deblur", ["can-gamma-0"]),
    ]
    found = server.finished(
        server.job(picture(), task="deblurring", scale=1, models=["can-gamma-0"])
    )
    versions = found["photos"][0]["versions"]
    assert [(v["name"], v["width"]) for v in versions] == [("original", 40), ("CAN gamma=0", 40)]
    found = server.finished(server.job(picture(), scale=4, models=["mdsr-gamma-0.1"]))
    assert [v["width"] for v in found["photos"][0]["versions"]] == [40, 160, 160]


def test_a_bad_request_for_a_job_is_refused_with_the_reason(server: Server) -> None:
    photo = server.upload(picture()).json()["id"]
    good = {
        "photos": [photo],
        "task": "super-resolution",
        "scale": 2,
        "models": ["edsr-gamma-0"],
    }
    mistakes: list[tuple[dict[str, Any], str]] = [
        ({"photos": []}, "Give at least one photo."),
        ({"photos": ["../../etc/passwd"]}, "no longer available"),
        ({"photos": [photo, photo]}, "given twice"),
        ({"photos": "x"}, "photos: Input should be a valid list"),
        ({"scale": 5}, "super-resolution 5 is not available; choose from: super-resolution 2,"),
        ({"task": "<b>"}, "<b> 2 is not available"),
        ({"models": []}, "No model was chosen; available for this task: edsr-gamma-0,"),
        ({"models": ["edsr"]}, "No such model: edsr; available for this task: edsr-gamma-0,"),
        ({"models": ["x" * 1000]}, "models.0: String should have at most"),
    ]
    for change, reason in mistakes:
        answer = server.client.post("/jobs", json={**good, **change})
        assert answer.status_code == 422, change
        assert reason in answer.json()["error"]
    assert server.client.post("/jobs", content=b"{").status_code == 422
    assert server.client.post("/jobs", content=b" " * 200_000).status_code == 413
    # None of that has used the photo up.
    answer = server.client.post("/jobs", json=good)
    assert answer.status_code == 201
    server.finished(answer.json()["token"])
    assert server.client.post("/jobs", json=good).status_code == 422


@pytest.mark.parametrize(
    "path",
    [
        "/results/AAAAAAAAAAAAAAAAAAAAAA/result.json",
        "/results/../uploads/result.json",
        "/results/..%2f..%2f..%2fetc/passwd",
        "/results/%2e%2e/result.json",
        "/results/{token}/..%2f..%2fuploads",
        "/results/{token}/%2e%2e%2f{token}%2fresult.json",
        "/results/{token}/.result.json",
        "/results/{token}/nothing.png",
        "/results/{token}/secret.png",
        "/results/{token}/1-original.png%00.html",
        "/web/..%2fapp.py",
        "/web/app.py",
        "/web/upload.html",
        "/examples/..%2f..%2fsecret.png",
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file/etc/passwd",
        "/gradio_api/proxy=https://example.org",
        "/gradio_api/stream/x/y/z/playlist.m3u8",
        "/gradio_api/runs",
        "/gradio_api/app_id",
        "/gradio_api/../config2",
        "/assets/index.js",
        "/static/fonts",
        "/svelte/x.js",
        "/theme.css",
        "/docs",
        "/redoc",
        "/monitoring",
    ],
)
def test_what_is_not_served(server: Server, path: str) -> None:
    token = server.job(picture())
    server.finished(token)
    folder = server.store.folder / token
    (folder / "secret.png").write_text("a file that is no version")
    answer = server.client.get(path.format(token=token))
    assert answer.status_code in (403, 404)
    assert "root:" not in answer.text
    assert "no version" not in answer.text


def test_links_in_the_folder_are_not_followed(server: Server, tmp_path: Path) -> None:
    token = server.job(picture())
    server.finished(token)
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "result.json").write_text("{}")
    original = server.store.folder / token / "1-original.png"
    original.unlink()
    original.symlink_to(tmp_path / "secret")
    assert server.client.get(f"/results/{token}/1-original.png").status_code == 404
    assert b"secret" not in server.client.get(f"/results/{token}/all.zip").content
    link = server.store.folder / ("L" * 22)
    link.symlink_to(tmp_path)
    assert server.client.get(f"/results/{link.name}/result.json").status_code == 404
    link.unlink()


def test_every_answer_keeps_browsers_in(server: Server) -> None:
    token = server.job(picture())
    server.finished(token)
    for path in ("/", "/api", "/models", f"/results/{token}", f"/results/{token}/1-original.png"):
        headers = server.client.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "access-control-allow-origin" not in headers
    answer = server.client.get(f"/results/{token}/1-original.png?download")
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["content-disposition"] == 'attachment; filename="photo_original.png"'


def test_names_are_cleaned_and_shown_as_text(server: Server) -> None:
    name = "<img src=x onerror=alert(1)>.png"
    token = server.job(picture())
    server.finished(token)
    uploaded = server.upload(picture(), "%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E.png").json()
    assert uploaded["name"] == name
    request = {"task": "super-resolution", "scale": 2, "models": ["edsr-gamma-0"]}
    answer = server.client.post("/jobs", json={"photos": [uploaded["id"]], **request})
    token = answer.json()["token"]
    found = server.finished(token)
    assert found["photos"][0]["name"] == name
    assert "<img src=x" not in server.client.get(f"/results/{token}").text
    assert (
        download_names(JobResult.model_validate(found).photos)["1-original.png"]
        == "img_src_x_onerror_alert_1_original.png"
    )
    assert clean_name("..%2F..%2Fetc%2Fpasswd") == "passwd"
    assert clean_name("C:\\photos\\a.png") == "a.png"
    assert clean_name("a%00b%0a.png") == "a_b_.png"
    assert clean_name("%ff") == "\ufffd"
    assert clean_name("") == "photo"
    assert len(clean_name("x" * 5000)) == 200


def test_another_host_or_page_is_not_answered(server: Server) -> None:
    def get(**headers: str) -> int:
        return server.client.get("/models", headers=headers).status_code

    assert get(Host="localhost:1234") == 200
    assert get(Host="[::1]:80") == 200
    assert get(Host="evil.example") == 403
    assert get(Host="photos.example.org") == 200
    assert get(Host="photos.example.org", Origin="https://photos.example.org") == 200
    assert get(Host="127.0.0.1.evil.example") == 403
    assert get(Host="") == 403
    assert get(Host="LOCALHOST.") == 200
    assert get(Host="[::1].evil.example") == 403
    assert get(Host="[::1") == 403
    assert get(Origin=server.base) == 200
    assert get(Origin="http://evil.example") == 403
    assert get(Origin="null") == 403
    headers = {"Sec-Fetch-Site": "cross-site"}
    assert server.client.post("/uploads", content=b"x", headers=headers).status_code == 403


def test_the_login_guards_everything(serve: Serve, tmp_path: Path) -> None:
    with serve(tmp_path / "store", login=("ann", "pass:word é")) as server:
        token = server.job(picture())
        server.finished(token)
        paths = ["/", "/api", "/models", "/web/style.css", "/api/openapi.json"]
        paths += [f"/results/{token}", f"/results/{token}/1-original.png"]
        with httpx.Client(base_url=server.base) as stranger:
            for path in paths:
                assert server.client.get(path).status_code == 200, path
                answer = stranger.get(path)
                assert answer.status_code == 401
                assert answer.headers["www-authenticate"].startswith("Basic")
            assert stranger.post("/uploads", content=picture()).status_code == 401
            assert stranger.post("/jobs", content=b"").status_code == 401
            began = time.monotonic()
            assert stranger.get("/", auth=("ann", "password")).status_code == 401
            assert time.monotonic() - began >= 1
            assert stranger.get("/", headers={"Authorization": "Basic !"}).status_code == 401
        coded = base64.b64encode("ann:pass:word é".encode()).decode()
        headers = {"Authorization": f"Basic {coded}"}
        answer = httpx.get(f"{server.base}/models", headers=headers)
        assert answer.json() == server.client.get("/models").json()


def test_a_job_can_be_cancelled_while_it_waits_and_while_it_works(
    serve: Serve, tmp_path: Path
) -> None:
    with serve(tmp_path / "store", tile=8) as server:
        working = server.job(picture(400, 400))
        waiting = server.job(picture(400, 400))
        while server.result(working)["progress"] == 0:
            time.sleep(0.02)
        found = server.result(waiting)
        assert (found["state"], found["waiting"]) == ("waiting", 1)
        assert server.client.post(f"/results/{waiting}/cancel").status_code == 204
        assert server.result(waiting)["state"] == "cancelled"
        found = server.result(working)
        assert 0 < found["progress"] < 1
        assert "EDSR gamma=0, tile " in found["now"]
        assert server.client.post(f"/results/{working}/cancel").status_code == 204
        found = server.finished(working)
        assert found["state"] == "cancelled"
        assert [v["name"] for v in found["photos"][0]["versions"]] == ["original", "bicubic"]
        assert list(server.store.uploads.iterdir()) == []
        # The next one is served, and a deleted one is gone.
        third = server.job(picture())
        assert server.finished(third)["state"] == "done"
        assert server.client.post(f"/results/{third}/delete").status_code == 204
        assert server.client.get(f"/results/{third}").status_code == 404
        assert not (server.store.folder / third).exists()
        assert server.client.post(f"/results/{third}/cancel").status_code == 404


def test_results_outlive_the_server_and_what_was_begun_is_called_interrupted(
    serve: Serve, tmp_path: Path
) -> None:
    with serve(tmp_path / "store", tile=8) as server:
        done = server.job(picture())
        server.finished(done)
        begun, waiting = server.job(picture(400, 400)), server.job(picture())
        while server.result(begun)["state"] == "waiting":
            time.sleep(0.02)
    with serve(tmp_path / "store") as server:
        assert server.result(done)["state"] == "done"
        assert server.client.get(f"/results/{done}/1-edsr-gamma-0.png").status_code == 200
        assert server.result(begun)["state"] == "interrupted"
        assert server.result(waiting)["state"] == "interrupted"
        # As a server that was killed leaves it.
        path = server.store.folder / waiting / "result.json"
        path.write_text(json.dumps({**server.result(waiting), "state": "working"}))
    with serve(tmp_path / "store") as server:
        assert server.result(waiting)["state"] == "interrupted"


def test_the_archive_has_every_picture(server: Server) -> None:
    token = server.job(picture(), picture(30, 40), models=["edsr-gamma-0", "edsr-gamma-0.4"])
    found = server.finished(token)
    answer = server.client.get(f"/results/{token}/all.zip")
    archive = zipfile.ZipFile(io.BytesIO(answer.content))
    assert archive.testzip() is None
    words = ("original", "bicubic", "edsr-gamma-0", "edsr-gamma-0.4")
    names = [f"{stem}_{word}.png" for stem in ("photo", "photo_2") for word in words]
    assert sorted(archive.namelist()) == sorted(["scores.json", *names])
    assert json.loads(archive.read("scores.json")) == found
    served = server.client.get(f"/results/{token}/2-edsr-gamma-0.png").content
    assert archive.read("photo_2_edsr-gamma-0.png") == served


@pytest.mark.slow
def test_twenty_uploads_at_once(serve: Serve, tmp_path: Path) -> None:
    sizes = [(16 + 37 * k % 300, 16 + 53 * k % 200) for k in range(20)]
    with serve(tmp_path / "store") as server:

        def visit(size: tuple[int, int]) -> dict[str, Any]:
            return server.finished(server.job(picture(*size), models=["edsr-gamma-0.4"]))

        with concurrent.futures.ThreadPoolExecutor(20) as pool:
            results = list(pool.map(visit, sizes))
        assert len({result["token"] for result in results}) == 20
        for (width, height), result in zip(sizes, results, strict=True):
            assert result["state"] == "done"
            (photo,) = result["photos"]
            assert (photo["width"], photo["height"]) == (width, height)
            for version, factor in zip(photo["versions"], (1, 2, 2), strict=True):
                served = server.client.get(f"/results/{result['token']}/{version['file']}")
                assert pixels(served.content).shape == (factor * height, factor * width, 3)
                assert 1 <= version["score"]["mean"] <= 10
            original = server.client.get(f"/results/{result['token']}/1-original.png").content
            assert np.array_equal(pixels(original), pixels(picture(width, height)))


def test_a_full_queue_and_a_full_disk_say_so(serve: Serve, tmp_path: Path) -> None:
    with serve(tmp_path / "a", waiting=1, tile=8) as server:
        first = server.job(picture(400, 400))
        while server.result(first)["state"] == "waiting":
            time.sleep(0.02)
        second = server.job(picture())
        photo = server.upload(picture()).json()["id"]
        request = {"photos": [photo], "task": "super-resolution", "scale": 2}
        answer = server.client.post("/jobs", json={**request, "models": ["edsr-gamma-0"]})
        assert answer.status_code == 503
        assert "queue is full" in answer.json()["error"]
        server.client.post(f"/results/{first}/cancel")
        assert server.finished(second)["state"] == "done"
    with serve(tmp_path / "b", max_disk=400_000) as server:
        # Uploads may take a quarter of the room: these twenty do not fit.
        answers = [server.upload(picture(60, 60)) for _ in range(20)]
        assert answers[0].status_code == 201
        assert answers[-1].status_code == 507
        ids = [answer.json()["id"] for answer in answers if answer.status_code == 201]
        for name in ids:
            assert server.client.delete(f"/uploads/{name}").status_code == 204
        # Old results make room for new ones; one job alone must fit.
        tokens = [server.finished(server.job(picture(60, 60)))["token"] for _ in range(8)]
        kept = [server.store.find(token) is not None for token in tokens]
        assert kept[-1]
        assert not kept[0]
        assert kept == sorted(kept)  # the oldest went first, however fast they came
        found = server.finished(server.job(picture(200, 150)))
        assert found["state"] == "failed"
        assert "would exceed" in found["error"]
        assert found["photos"] == []
        server.store.clean(set())
        assert server.store.find(tokens[-1]) is not None  # what would not help is not removed


def test_a_photo_that_cannot_be_done_does_not_end_the_job(server: Server) -> None:
    uploads = [server.upload(picture()).json()["id"] for _ in range(2)]
    server.store.find_upload(uploads[0]).write_bytes(b"changed meanwhile")  # type: ignore[union-attr]
    request = {"task": "super-resolution", "scale": 2, "models": ["edsr-gamma-0"]}
    answer = server.client.post("/jobs", json={"photos": uploads, **request})
    found = server.finished(answer.json()["token"])
    assert found["state"] == "done"
    assert found["photos"][0]["error"] == "Not an image file."
    assert len(found["photos"][1]["versions"]) == 3


def test_thumbnails_are_small_upright_and_keep_transparency(server: Server) -> None:
    """The thumbnail is the middle of the upright photo; it is written once, beside the result."""
    red_left = np.zeros((60, 400, 3), np.uint8)
    red_left[:, :200, 0] = 255
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(red_left).save(buffer, "JPEG", exif=exif)
    transparent = picture(90, 60, mode="RGBA")
    image = Image.open(io.BytesIO(transparent))
    image.putalpha(Image.linear_gradient("L").resize((90, 60)))
    buffer2 = io.BytesIO()
    image.save(buffer2, "PNG")
    found = server.finished(server.job(buffer.getvalue(), buffer2.getvalue()))
    opaque, gradient = found["photos"]
    for photo in (opaque, gradient):
        assert [v["thumb"] for v in photo["versions"]] == [
            f"{v['id']}-thumb.webp" for v in photo["versions"]
        ]
        for version in photo["versions"]:
            answer = server.client.get(f"/results/{found['token']}/{version['thumb']}")
            assert answer.headers["content-type"] == "image/webp"
            assert len(answer.content) < 20_000
            thumb = Image.open(io.BytesIO(answer.content))
            assert thumb.size == (160, 160)
            assert thumb.mode == ("RGB" if photo is opaque else "RGBA")
            values = np.asarray(thumb)
            if photo is opaque and version["kind"] != "model":  # its weights are random
                assert values[:, 120:, 0].min() > 200
                assert values[:, :40, 0].max() < 60
            if photo is gradient:
                assert values[:10, :, 3].max() < 40
                assert values[-10:, :, 3].min() > 215
    names = zipfile.ZipFile(
        io.BytesIO(server.client.get(f"/results/{found['token']}/all.zip").content)
    ).namelist()
    assert not [name for name in names if name.endswith(".webp")]


def test_results_without_thumbnails_are_still_shown(server: Server) -> None:
    """Results of earlier versions stay."""
    token = server.job(picture())
    server.finished(token)
    path = server.store.folder / token / "result.json"
    old = json.loads(path.read_text())
    for version in old["photos"][0]["versions"]:
        del version["thumb"]
    path.write_text(json.dumps(old))
    assert server.client.get(f"/results/{token}").status_code == 200
    assert {v["thumb"] for v in server.result(token)["photos"][0]["versions"]} == {None}


def test_a_large_result_has_a_smaller_view(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("web.processing.MAX_VIEW_PIXELS", 5000)
    with serve(tmp_path / "store") as server:
        found = server.finished(server.job(picture(100, 40)))
        original, _, made = found["photos"][0]["versions"]
        assert original["view"] == original["file"]
        assert (made["width"], made["height"]) == (200, 80)
        assert (made["view_width"], made["view_height"]) == (111, 44)
        view = server.client.get(f"/results/{found['token']}/{made['view']}").content
        assert pixels(view).shape == (44, 111, 3)
        whole = Image.open(
            io.BytesIO(server.client.get(f"/results/{found['token']}/{made['file']}").content)
        )
        expected = whole.resize((111, 44), Image.Resampling.LANCZOS)
        assert np.abs(pixels(view).astype(int) - np.asarray(expected)).max() <= 2
        names = zipfile.ZipFile(
            io.BytesIO(server.client.get(f"/results/{found['token']}/all.zip").content)
        ).namelist()
        assert len(names) == 4


def test_a_program_can_do_what_the_page_does(server: Server) -> None:
    def start(photo: bytes, **wanted: Any) -> httpx.Response:  # noqa: ANN401
        upload = server.upload(photo, "my%20photo.png").json()
        return server.client.post("/jobs", json={"photos": [upload["id"]], **wanted})

    def followed(**wanted: Any) -> list[dict[str, Any]]:  # noqa: ANN401
        token = start(picture(50, 40), **wanted).json()["token"]
        states = [server.result(token)]
        while states[-1]["state"] in ("waiting", "working"):
            states.append(server.result(token))
        return states

    result = followed(models=["edsr-gamma-0"])[-1]
    assert result["state"] == "done"
    assert result == server.result(result["token"])
    assert result["photos"][0]["name"] == "my photo.png"
    # The first model by default; progress on the way.
    assert [v["name"] for v in followed()[-1]["photos"][0]["versions"]][2:] == ["EDSR gamma=0"]
    seen = followed(scale=4)
    assert seen[0]["state"] in ("waiting", "working")
    assert [v["width"] for v in seen[-1]["photos"][0]["versions"]] == [50, 200, 200]
    scored = followed(task="score")[-1]
    assert (scored["task"], scored["scale"], scored["label"]) == (None, 1, "Score")
    (version,) = scored["photos"][0]["versions"]
    assert version["score"] == result["photos"][0]["versions"][0]["score"]
    # The description of the answers holds.
    for found in (*seen, result, scored):
        JobResult.model_validate(found)
    for task in server.client.get("/models").json():
        OfferedTask.model_validate(task)
    assert "Not a supported" in server.upload(b"no photo").json()["error"]
    refused: list[tuple[dict[str, Any], str]] = [
        ({"scale": 7}, "super-resolution 7 is not available"),
        ({"models": ["x"]}, "No such model: x"),
        ({"photos": []}, "Give at least one photo"),
    ]
    for wanted, reason in refused:
        answer = start(picture(), **wanted)
        assert answer.status_code == 422
        assert reason in answer.json()["error"]


def test_the_api_is_described(server: Server) -> None:
    found = server.client.get("/api/openapi.json").json()
    assert {(path, method) for path, methods in found["paths"].items() for method in methods} == {
        *(("/models", "get"), ("/uploads", "post"), ("/uploads/{name}", "delete")),
        *(("/jobs", "post"), ("/results/{token}/result.json", "get")),
        *(("/results/{token}/all.zip", "get"), ("/results/{token}/{file}", "get")),
        *(("/results/{token}/cancel", "post"), ("/results/{token}/delete", "post")),
    }
    upload = found["paths"]["/uploads"]["post"]
    assert list(upload["requestBody"]["content"]) == ["application/octet-stream"]
    assert [p["name"] for p in upload["parameters"]] == ["x-file-name"]
    schema = found["components"]["schemas"]["JobRequest"]
    assert schema["required"] == ["photos"]
    assert "HTTPValidationError" not in found["components"]["schemas"]
    for methods in found["paths"].values():
        for method in methods.values():
            refusal = method["responses"]["422"]["content"]["application/json"]["schema"]
            assert refusal == {"$ref": "#/components/schemas/Refusal"}


def test_a_job_takes_no_file_that_was_not_sent(server: Server, tmp_path: Path) -> None:
    (tmp_path / "mine.png").write_bytes(picture())
    token = server.job(picture())
    server.finished(token)
    inside = server.store.folder / token / "1-original.png"
    others = (tmp_path / "mine.png", inside, Path("/etc/passwd"), server.store.uploads)
    for path in (*others, "http://127.0.0.1:9/a.png", "file:///etc/passwd", server.base):
        answer = server.client.post("/jobs", json={"photos": [str(path)[-50:]]})
        assert answer.status_code == 422
        assert "no longer available" in answer.json()["error"]
    for photos in ("x", None, 3, [{"path": "/etc/passwd"}], [None], ["x" * 5000]):
        answer = server.client.post("/jobs", json={"photos": photos})
        assert answer.status_code == 422
        assert answer.json()["error"].startswith("photos")
        assert "object at 0x" not in answer.text


def test_the_server_asks_nobody_outside(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def connect_watched(self: socket.socket, address: Any) -> None:  # noqa: ANN401
        asked.append(address)
        return connect(self, address)

    def look_up_watched(host: Any, *rest: Any, **more: Any) -> Any:  # noqa: ANN401
        asked.append((host,))
        return look_up(host, *rest, **more)

    monkeypatch.setattr(socket.socket, "connect", connect_watched)
    monkeypatch.setattr(socket, "getaddrinfo", look_up_watched)
    with serve(tmp_path / "store") as server:
        token = server.job(picture())
        assert server.finished(token)["state"] == "done"
        time.sleep(1)
    assert asked
    for address in asked:
        host = address[0] if isinstance(address, tuple) else "127.0.0.1"  # a path of this machine
        assert host in ("127.0.0.1", b"127.0.0.1"), address


def test_photos_of_waiting_jobs_are_kept_whatever_their_age(serve: Serve, tmp_path: Path) -> None:
    with serve(tmp_path / "store", tile=8) as server:
        first = server.job(picture(400, 400))
        while server.result(first)["progress"] == 0:
            time.sleep(0.02)
        second = server.job(picture())
        uploads = list(server.store.uploads.iterdir())
        assert len(uploads) == 2
        for path in uploads:
            os.utime(path, (0, 0))
        server.store.clean(server.worker.busy())
        assert all(path.exists() for path in uploads)
        server.client.post(f"/results/{first}/cancel")
        assert server.finished(second)["photos"][0]["error"] is None


def test_a_refused_job_does_not_use_its_photos_up(serve: Serve, tmp_path: Path) -> None:
    with serve(tmp_path / "store", photos=2) as server:
        ids = [server.upload(picture()).json()["id"] for _ in range(3)]
        request = {"task": "super-resolution", "scale": 2, "models": ["edsr-gamma-0"]}
        answer = server.client.post("/jobs", json={"photos": ids, **request})
        assert answer.status_code == 422
        assert answer.json()["error"] == "3 photos; the limit is 2 at a time."
        answer = server.client.post("/jobs", json={"photos": ids[:2], **request})
        assert server.finished(answer.json()["token"])["state"] == "done"


def test_a_file_of_two_kinds_is_read_as_the_one_that_was_looked_at(server: Server) -> None:
    # A TIFF file of 4 x 4 pixels that Pillow's reader of IM files takes for one of 3000 x 3000.
    small = io.BytesIO()
    Image.new("RGB", (4, 4)).save(small, "TIFF")
    tiff = bytearray(small.getvalue())
    header = b"Image type: RGB image\r\nImage size (x*y): 3000*3000\r\n"
    (offset,) = struct.unpack("<I", tiff[4:8])
    both = tiff[:4] + struct.pack("<I", 512 + 27_000_000) + b"\r\n" + header
    both = both.ljust(511, b"\0") + b"\x1a" + b"\0" * 27_000_000
    directory = bytearray(tiff[offset:])
    answer = server.upload(bytes(both + directory)[:1_900_000])
    assert answer.status_code == 415
    assert not {"IM", "EPS"} & set(FORMATS)


@pytest.mark.parametrize(
    ("kind", "status", "reason"),
    [(4, 413, "The photo is stored in tiles of 32768 x 32768 pixels"), (2, 415, "Not a supported")],
)
def test_a_tiff_file_of_one_huge_tile_is_refused(
    server: Server, kind: int, status: int, reason: str
) -> None:
    def entry(tag: int, kind: int, value: int) -> bytes:
        return struct.pack("<HHII", tag, kind, 1, value)

    data = zlib.compress(b"\0" * 1000)
    tags = [
        *(entry(256, 4, 16), entry(257, 4, 16), entry(258, 3, 8), entry(259, 3, 8)),
        *(entry(262, 3, 1), entry(277, 3, 1), entry(322, kind, 32768), entry(323, kind, 32768)),
        *(entry(324, 4, 8 + 2 + 10 * 12 + 4), entry(325, 4, len(data))),
    ]
    content = b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(tags) + b"\0" * 4 + data
    answer = server.upload(content)
    assert answer.status_code == status
    assert reason in answer.json()["error"]


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x07\0\xff\xff\xff\x7f\0\0\0\0",
        b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01\x12\0\x03\0\0\0\x01",
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x69\x87\x04\0\x01\0\0\0\xff\xff\xff\xff",
        b"Exif\0\0nothing of the kind",
    ],
)
def test_damaged_exif_data_do_not_spoil_a_photo(server: Server, exif: bytes) -> None:
    found = server.finished(server.job(picture(kind="JPEG", exif=exif)))
    assert found["photos"][0]["error"] is None
    assert len(found["photos"][0]["versions"]) == 3


def test_a_large_colour_profile_is_dropped(server: Server) -> None:
    found = server.finished(server.job(picture(kind="JPEG", icc_profile=b"\1" * 1_500_000)))
    (photo,) = found["photos"]
    assert photo["error"] is None
    for version in photo["versions"]:
        assert version["score"] is not None
        assert version["bytes"] < 100_000


def test_tiny_photos_do_not_spoil_the_estimates(server: Server) -> None:
    server.finished(server.job(picture(300, 200)))
    enhancer = server.worker.enhancers["edsr-gamma-0"]
    before = server.worker.speeds.get(enhancer, enhancer.tasks[0])
    server.finished(server.job(picture(1, 1)))
    after = server.worker.speeds.get(enhancer, enhancer.tasks[0])
    assert before is not None
    assert after is not None
    assert after < 3 * before


def test_uploads_under_way_count(serve: Serve, tmp_path: Path) -> None:
    with serve(tmp_path / "store", max_disk=4_000_000) as server:  # uploads have one megabyte
        done = server.job(picture())
        server.finished(done)
        host, port = server.base.removeprefix("http://").split(":")
        held = []
        for _ in range(2):
            connection = socket.create_connection((host, int(port)))
            head = f"POST /uploads HTTP/1.1\r\nHost: {host}:{port}\r\n"
            length = b"Content-Length: 350000\r\n\r\n"
            connection.sendall(head.encode() + length + b"\0" * 100_000)
            held.append(connection)
        time.sleep(0.5)
        refused = server.upload(b"\0" * 200_000)
        assert refused.status_code == 507
        assert server.upload(picture()).status_code == 201  # there is room for a small one
        for connection in held:
            connection.close()
        deadline = time.monotonic() + 20
        while server.upload(b"\0" * 700_000).status_code == 507:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert server.result(done)["state"] == "done"


def test_an_end_that_cannot_be_written_does_not_end_the_worker(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(tmp_path / "store") as server:
        close = server.worker.close
        monkeypatch.setattr(server.worker, "close", broken_close)
        server.job(picture())
        deadline = time.monotonic() + 30
        while server.worker.num_unfinished():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        monkeypatch.setattr(server.worker, "close", close)
        assert server.finished(server.job(picture()))["state"] == "done"


def broken_close(*anything: Any) -> None:  # noqa: ANN401
    """What a folder that has become read-only does."""
    raise PermissionError("read-only")


def test_names_in_the_archive_are_different_everywhere() -> None:
    photos = [
        PhotoResult(
            name=name,
            versions=[
                Version.model_construct(id=f"{k}-original", view=f"{k}.png", file=f"{k}.png")
            ],
        )
        for k, name in enumerate(("3_a.png", "a.png", "a.png", "A.png", "水" * 200, "水" * 199), 1)
    ]
    names = list(download_names(photos).values())
    assert len({name.lower() for name in names}) == 6
    assert all(len(name.encode()) < 255 for name in names)


def test_heads_and_odd_targets(server: Server) -> None:
    for path in ("/", "/api", "/models"):
        answer = server.client.head(path)
        assert answer.status_code == 200
        assert answer.content == b""
    host, port = server.base.removeprefix("http://").split(":")
    for target in ("*", "foo", "?x", "//", "/%00"):
        with socket.create_connection((host, int(port))) as connection:
            text = f"OPTIONS {target} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n"
            connection.sendall(text.encode())
            answered = b"".join(iter(lambda: connection.recv(65536), b""))
        assert re.match(rb"HTTP/1.1 4\d\d ", answered), (target, answered[:100])
