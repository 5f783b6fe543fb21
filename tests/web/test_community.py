"""A checkpoint of the community on the page: what its own network gives."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("spandrel", reason="spandrel is not installed")

from spandrel.architectures.SPAN import SPAN

from images.pixels import to_array, to_tensor
from tests.web.conftest import Serve


def test_a_community_checkpoint_is_served(serve: Serve, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = SPAN(num_in_ch=3, num_out_ch=3, feature_channels=8, upscale=2, norm=False).eval()
    net.upsampler[0].bias.data.fill_(0.5)
    torch.save({"params_ema": net.state_dict()}, tmp_path / "2x_span.pth")
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    with serve(tmp_path / "store", checkpoints=[str(tmp_path / "2x_span.pth")]) as server:
        models = server.client.get("/models").json()
        assert "SPAN x2 (2x_span.pth)" in str(models)
        result = server.finished(server.job(buffer.getvalue(), models=["span-x2-2x-span.pth"]))
        assert result["state"] == "done", result
        (made,) = [v for v in result["photos"][0]["versions"] if v["kind"] == "model"]
        answer = server.client.get(f"/results/{result['token']}/{made['file']}")
        served = np.asarray(Image.open(io.BytesIO(answer.content)))
    with torch.inference_mode():
        sr = net(to_tensor(pixels)[None].float() / 255)[0]
    expected = to_array((sr * 255).round().clamp(0, 255).to(torch.uint8))
    assert len(np.unique(expected)) > 20
    assert np.array_equal(served, expected)
