"""A network for tone on the page: its task, and the pixels that `enhance` gives."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from lightning_modules.checkpoint import load_network, save_safetensors
from lightning_modules.record import Record
from networks.curves import Curves
from tests.conftest import Cli
from tests.web.conftest import Serve
from tests.web.test_app import picture


@pytest.fixture
def tone_file(tmp_path: Path) -> Path:
    """A Curves network with random weights, which says that it was trained on tones."""
    torch.manual_seed(0)
    net = Curves(num_features=2)
    for head in (net.curves, net.matrix, net.grid):
        nn.init.normal_(head.weight, std=0.1)
    spec = {"_target_": "networks.curves.Curves", "scale": 1, "num_features": 2}
    record = Record(kind="enhancer", net=spec, data="x", gamma=0.0, degradation={"tone": 1})
    save_safetensors(tmp_path / "tone.safetensors", net, record)
    return tmp_path / "tone.safetensors"


def test_the_page_offers_exposure_and_colour(
    serve: Serve, cli: Cli, tone_file: Path, tmp_path: Path, enhancers: dict[str, str]
) -> None:
    photo = picture(90, 70)
    files = [str(tone_file), enhancers["mdsr"]]
    with serve(tmp_path / "store", checkpoints=files) as server:
        tasks = server.client.get("/models").json()
        assert [(task["task"], task["scale"]) for task in tasks][-1] == ("tone", 1)
        assert tasks[-1]["label"] == "Exposure and colour"
        assert "Exposure and colour" in server.client.get("/").text
        token = server.job(photo, task="tone", scale=1, models=["curves-gamma-0"])
        result = server.finished(token)
        assert result["state"] == "done", result
        versions = result["photos"][0]["versions"]
        assert [v["kind"] for v in versions] == ["original", "model"]
        assert {(v["width"], v["height"]) for v in versions} == {(90, 70)}
        answer = server.client.get(f"/results/{token}/{versions[1]['file']}")
        served = np.asarray(Image.open(io.BytesIO(answer.content)))
    Path("photo.png").write_bytes(photo)
    words = [f"checkpoint={tone_file}", "task=tone", "output=out"]
    done = cli("enhance", "input=photo.png", *words)
    assert done.code == 0, done.err
    assert np.array_equal(served, np.asarray(Image.open("out/photo_x1.png")))
    original = np.asarray(Image.open("photo.png"))
    net, _ = load_network(tone_file)
    with torch.no_grad():
        image = torch.from_numpy(original.copy()).permute(2, 0, 1)[None] / 255
        expected = (net(image)[0].permute(1, 2, 0) * 255).clamp(0, 255).numpy()
    assert np.abs(served - expected).max() < 0.51
    assert np.abs(served - original.astype(float)).mean() > 5


def test_tasks_of_enhance_are_checked(cli: Cli, tone_file: Path, enhancers: dict[str, str]) -> None:
    Path("photo.png").write_bytes(picture(20, 20))
    mistakes = {
        "task=tone": "error: task=tone: no model for it is bundled; give checkpoint=FILE",
        f"task=tone checkpoint={enhancers['can']}": "trained for deblurring",
        f"task=super-resolution checkpoint={tone_file}": "trained for tone",
        "task=tones": "should be 'super-resolution', 'deblurring', 'restoration' or 'tone'",
        f"checkpoint={tone_file} scale=2": "scale=2: this Curves is for x1",
    }
    for words, message in mistakes.items():
        done = cli("enhance", "input=photo.png", *words.split())
        assert done.code == 2, words
        assert message in done.err
        assert done.err.count("\n") == 1
