"""Names of photos, sides of rotated ones, host names, forms of refusals, and estimates."""

import io
import socket
import urllib.parse
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from networks.edsr import EDSR
from networks.tiling import restore
from tests.web.conftest import Serve, Server, save_enhancer
from tests.web.test_app import picture, pixels
from web import speeds as speed_module
from web.archive import download_names
from web.enhancers import Enhancer, Task, load_enhancers
from web.hosts import is_name, same_address
from web.schema import JobResult, PhotoResult, Version
from web.speeds import PICTURE, REST_SECONDS, Speeds
from web.uploads import clean_name

NAMES = [
    "naïve café.png",
    "水.jpg",
    "Ünïcödé ñ.png",
    "नमस्ते.png",
    "👩\u200d💻.png",
    "a\u202fb.png",
    "it's 50% 'x'.png",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_in_any_script_arrive_whole(server: Server, name: str) -> None:
    quoted = urllib.parse.quote(name)
    for sent in (
        name.encode(),
        quoted.encode(),
        f"UTF-8''{quoted}".encode(),
        f"utf-8'en'{quoted}".encode(),
    ):
        if sent == name.encode() and "%" in name:
            continue  # not to be told from a percent-encoded one
        answer = server.client.post("/uploads", content=picture(), headers={b"X-File-Name": sent})
        assert answer.json()["name"] == name
    answer = server.client.post("/jobs", json={"photos": [answer.json()["id"]], "task": "score"})
    found = server.finished(answer.json()["token"])
    assert found["photos"][0]["name"] == name
    names = download_names(JobResult.model_validate(found).photos)
    saved = server.client.get(f"/results/{found['token']}/1-original.png?download")
    disposition = saved.headers["content-disposition"]
    assert urllib.parse.unquote(disposition) in (
        f"attachment; filename*=utf-8''{names['1-original.png']}",
        f'attachment; filename="{names["1-original.png"]}"',
    )


def test_names_of_downloads_keep_letters_of_all_scripts() -> None:
    def saved(name: str) -> str:
        version = Version.model_construct(id="1-original", view="1.png", file="1.png")
        return download_names([PhotoResult(name=name, versions=[version])])["1.png"]

    assert saved("नमस्ते.png") == "नमस्ते_original.png"
    assert saved("cafe\u0301.png") == "café_original.png"  # as macOS writes it
    assert saved("a/../b c.png") == "b_c_original.png"
    assert saved("👩.png") == "photo_1_original.png"


def test_latin_1_and_nonsense_become_names() -> None:
    assert clean_name("caf\xe9.png") == "café.png"
    assert clean_name("iso-8859-1'en'caf%E9.png") == "café.png"
    assert clean_name("a\u202eb.png") == "a_b.png"
    assert clean_name("koi8-r'ru'%C1") == "koi8-r'ru'\ufffd"


@pytest.mark.parametrize(
    ("kind", "orientation"), [*(("JPEG", k) for k in range(1, 9)), ("PNG", 6), ("WEBP", 8)]
)
def test_rotated_photos_have_the_size_of_what_is_seen(
    server: Server, kind: str, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = orientation >= 5
    answer = server.upload(picture(1200, 800, kind=kind, exif=exif)).json()
    width, height = (800, 1200) if turned else (1200, 800)
    assert (answer["width"], answer["height"]) == (width, height)
    assert answer["megapixels"] == 0.96
    refused = server.upload(picture(1300, 800, kind=kind, exif=exif))
    width, height = (800, 1300) if turned else (1300, 800)
    assert refused.status_code == 413
    expected = f"{width} x {height} pixels is 1.04 megapixels; the limit is 1."
    assert refused.json()["error"] == expected


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_rotated_tiff_is_measured_upright(server: Server, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    refused = server.upload(picture(1300, 800, mode="L", kind="TIFF", exif=exif))
    size = "800 x 1300" if orientation >= 5 else "1300 x 800"
    assert refused.json()["error"].startswith(f"{size} pixels is 1.04 megapixels")


def test_hosts_of_a_server_for_others(serve: Serve, tmp_path: Path) -> None:
    with serve(tmp_path / "store", host="0.0.0.0") as server:
        port = server.base.rpartition(":")[2]

        def get(**headers: str) -> httpx.Response:
            return httpx.get(f"http://127.0.0.1:{port}/models", headers=headers)

        for name in ("127.0.0.1", "localhost", "photos.example.org", socket.gethostname(), "[::1]"):
            assert get(Host=f"{name}:{port}").status_code == 200, name
        own = f"{socket.gethostname()}:{port}"
        assert get(Host=own, Origin=f"http://{own}").status_code == 200
        for name in (
            "evil.example",
            "127.0.0.1.evil.example",
            "203.0.113.9",
            "x y",
            "localhost.evil",
        ):
            assert get(Host=f"{name}:{port}").status_code == 403, name
        refused = get(Host=f"evil.example:{port}")
        assert "start it with hosts=[evil.example]" in refused.json()["error"]
        assert get(Host=own, Origin="http://evil.example").status_code == 403
        # By each address that the machine has.
        outer = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), 0, socket.AF_INET)}
        for address in outer:
            assert httpx.get(f"http://{address}:{port}/models").status_code == 200


def test_addresses_are_compared_as_addresses() -> None:
    assert same_address("192.168.0.5", "192.168.0.5")
    assert same_address("192.168.0.5", "::ffff:192.168.0.5")
    assert same_address("2001:db8::1", "2001:db8:0:0::1")
    assert not same_address("192.168.0.5", "192.168.0.50")
    assert not same_address("evil.example", "")
    assert all(is_name(text) for text in ("a.b", "Photos.LAN", "10.0.0.1", "::1", "fe80::1"))
    assert not any(is_name(text) for text in ("", "a:80", "http://a", "a/b", "a b", "é", ":"))


def test_refusals_are_pages_for_people_and_json_for_programs(server: Server) -> None:
    people = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    for path, status in (("/nothing", 404), ("/uploads", 404), ("/results/x/y.png", 404)):
        answer = server.client.get(path, headers=people)
        assert answer.status_code == status
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert "<h1>Not found</h1>" in answer.text
        assert 'href="/web/style.css"' in answer.text
        for accept in ("*/*", "application/json"):
            answer = server.client.get(path, headers={"Accept": accept})
            assert answer.status_code == status
            assert list(answer.json()) == ["error"]
    answer = server.client.get("/", headers={**people, "Host": "evil.example"})
    assert answer.status_code == 403
    assert "<h1>Forbidden</h1>" in answer.text
    answer = server.client.get("/results/x", headers={**people, "Host": "<b>"})
    assert "<b>" not in answer.text


def test_only_what_is_private_is_never_stored(server: Server) -> None:
    token = server.job(picture())
    server.finished(token)
    for path in ("/", "/api", "/web/upload.js", "/examples/cat.png"):
        assert server.client.get(path).headers["cache-control"] == "private, no-cache"
    for path in (f"/results/{token}", f"/results/{token}/result.json", "/models", "/nothing"):
        assert server.client.get(path).headers["cache-control"] == "no-store"


def test_identical_networks_have_one_estimate(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"scale": 2, "num_blocks": 1, "num_features": 8}
    files = [
        save_enhancer(tmp_path / f"{gamma}.safetensors", EDSR(**sizes), gamma)
        for gamma in (0.0, 0.1, 0.2)
    ]
    cpu = torch.device("cpu")
    one, two, three, series = enhancers = load_enhancers(files, [files[:2]], 3, cpu)
    (task,) = one.tasks
    speeds = Speeds(64)
    speeds.measure(enhancers, cpu)
    first = speeds.get(one, task)
    assert first is not None
    assert speeds.get(two, task) == speeds.get(three, task) == first
    assert speeds.get(series, task) == pytest.approx(3 * first)
    # What a job of one of them took counts for all.
    margin = int(one.net.margin)  # type: ignore[arg-type]
    speeds.add(two, task, (1000, 1000), 123.0)
    assert speeds.get(one, task) == speeds.get(two, task)
    assert speeds.get(three, task) == pytest.approx(123.0, rel=0.05)
    # Of tiles, what their margins read is read twice: 16 of 62 or 63 pixels a side, 14 inside.
    side = 1000 + 15 * 2 * margin
    whole = speeds.get(one, task, (1000, 1000))
    small = speeds.get(one, task, (64, 64))
    assert whole is not None
    assert small is not None
    assert small / whole == pytest.approx(64**2 / side**2)


def test_a_rotated_photo_has_its_pixels_upright(server: Server) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = picture(60, 40, exif=exif)
    token = server.job(content)
    server.finished(token)
    original = server.client.get(f"/results/{token}/1-original.png").content
    assert np.array_equal(pixels(original), np.rot90(pixels(content), -1))
    assert Image.open(io.BytesIO(original)).size == (40, 60)


class Worked(torch.nn.Module):
    """A network on a clock of its own: it takes time for each pixel that it reads."""

    def __init__(self, scale: int, per_megapixel: float) -> None:
        super().__init__()
        self.scale, self.margin, self.per_megapixel = scale, 20, per_megapixel
        self.seconds = 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seconds += 0.002 + self.per_megapixel * x[:, 0].numel() / 1e6
        return torch.nn.functional.interpolate(x, scale_factor=self.scale)


@pytest.mark.parametrize(("tile", "per_megapixel"), [(256, 27.0), (256, 0.2), (64, 27.0)])
def test_estimates_count_tiles_with_their_margins(
    monkeypatch: pytest.MonkeyPatch, tile: int, per_megapixel: float
) -> None:
    """They are right within 1.5 times on first use, for every size, and closer after a job."""
    net, cpu = Worked(2, per_megapixel), torch.device("cpu")
    monkeypatch.setattr(speed_module, "time", SimpleNamespace(perf_counter=lambda: net.seconds))
    enhancer, task = Enhancer("Worked gamma=0", "", net, {}), Task("super-resolution", 2)
    speeds = Speeds(tile)
    assert speeds.get(enhancer, task) is None
    speeds.measure([enhancer], cpu)
    ratios = []
    for size in ((100, 150), (256, 256), (257, 300), (512, 512), (680, 1020), (90, 1500)):
        expected = speeds.get(enhancer, task, size)
        began = net.seconds
        restore(net, torch.zeros(3, *size, dtype=torch.uint8), device=cpu, tile=tile)
        ratios.append((expected or 0) / (net.seconds - began))
        speeds.add(enhancer, task, size, net.seconds - began)
    assert all(1 / 1.5 < ratio < 1.5 for ratio in ratios), ratios
    assert ratios[-1] == pytest.approx(1, abs=0.2)


def test_what_pictures_take_beyond_the_networks_is_learned() -> None:
    speeds, task, size = Speeds(256), Task("super-resolution", 2), (500, 800)
    # The original, bicubic and two models: 0.4, 1.6, 1.6 and 1.6 megapixels.
    assert speeds.rest(task, size, 2) == pytest.approx(REST_SECONDS * (5.2 + 4 * PICTURE))
    for _ in range(8):
        speeds.add_rest(task, size, 2, 7.0)
    assert speeds.rest(task, size, 2) == pytest.approx(7.0, rel=0.02)
    assert speeds.rest(Task("restoration", 1), size, 1) == pytest.approx(
        7.0 * (0.8 + 2 * PICTURE) / (5.2 + 4 * PICTURE), rel=0.02
    )
