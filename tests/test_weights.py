"""The models that ship: small, whole, each with a card, and better than doing nothing."""

import re
from pathlib import Path

import pytest
import torch

from datamodules.sample import SamplePairs
from lightning_modules.checkpoint import load_network, load_scorer, read_checkpoint
from lightning_modules.image_metrics import image_metrics
from networks.bicubic import Bicubic
from networks.nima import NIMA
from networks.scales import at_scale, scales_of
from tests.conftest import ROOT, SHIPPED_SCORER

WEIGHTS = sorted((ROOT / "weights").glob("*.safetensors"))
LIMITS = {"scorer": 10e6, "enhancer": 8e6}  # bytes


@pytest.mark.parametrize("path", WEIGHTS, ids=lambda path: path.stem)
def test_a_file_that_ships(path: Path) -> None:
    state, record = read_checkpoint(path)
    assert record is not None
    assert path.stat().st_size < LIMITS[record.kind]
    assert record.config is None  # it would name folders of another machine
    assert not re.search(r"/(home|root|tmp|work)/", str(record))
    assert all(value.isfinite().all() for value in state.values() if value.is_floating_point())
    cards = [
        c for c in (ROOT / "weights").glob("*.md") if path.name in c.read_text().splitlines()[0]
    ]
    assert len(cards) == 1
    for part in ("data", "recipe", "Limits", "Licence", "python run.py"):
        assert part in cards[0].read_text(), part


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    [path for path in WEIGHTS if not path.stem.startswith("nima_")],
    ids=lambda path: path.stem,
)
def test_an_enhancer_that_ships_is_better_than_bicubic(path: Path) -> None:
    net, record = load_network(path, kind="enhancer")
    assert record.degradation is not None
    assert not any(record.degradation.values())  # that would be another task
    for scale in scales_of(net):
        data = SamplePairs(scale)
        data.setup("validate")
        gains = []
        with torch.inference_mode():
            for batch in (bytes_.to_unit() for bytes_ in data.val_dataloader()):
                psnr = [
                    image_metrics(at_scale(each, scale)(batch.lr_BCHW), batch.hr_BCHW, scale)
                    for each in (net, Bicubic(scale))
                ]
                gains.append((psnr[0]["psnr"] - psnr[1]["psnr"]).item())
        assert min(gains) > 0.3, (scale, gains)


@pytest.mark.parametrize(
    "path", [path for path in WEIGHTS if path.stem.startswith("nima_")], ids=lambda path: path.stem
)
def test_a_scorer_that_ships_prefers_photos_to_noise(path: Path) -> None:
    scorer, _ = load_network(path, kind="scorer")
    assert isinstance(scorer, NIMA)
    data = SamplePairs(4)
    data.setup("validate")
    generator = torch.Generator().manual_seed(0)
    for batch in data.val_dataloader():
        hr = batch.to_unit().hr_BCHW
        noisy = (hr + 0.3 * torch.randn(hr.shape, generator=generator)).clamp(0, 1)
        assert scorer.score(hr) > scorer.score(noisy)


def test_the_scorer_of_the_loss_prefers_sharp_photos() -> None:
    """As its teacher does, and the judge, who knows what is in photos, does not."""
    scorer = load_scorer(SHIPPED_SCORER)
    data = SamplePairs(2)
    data.setup("validate")
    for batch in data.val_dataloader():
        hr, lr = batch.to_unit().hr_BCHW, batch.to_unit().lr_BCHW
        assert scorer.score(hr) > scorer.score(Bicubic(2)(lr).clamp(0, 1)) + 0.1
