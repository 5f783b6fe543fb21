"""What the terms of a loss do to the SR pixels, against NumPy."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.sample import SamplePairs
from lightning_modules.gradients import GradientSums, gradient_sums
from lightning_modules.loggers import RunCSV
from lightning_modules.loss_terms import AestheticLoss, l1_loss, l2_loss
from lightning_modules.losses import LossSum, Term
from networks.nima import NIMA
from tests.conftest import quiet_trainer
from tests.lightning_modules.test_enhancement import module_of
from tests.lightning_modules.test_losses import variation

Array = NDArray[np.float64]


def cosine(a: Array, b: Array) -> float:
    return float((a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum()))


def block_means(x: Array) -> Array:
    """Means over 8 x 8 pixels; the sides are multiples of 8."""
    b, c, h, w = x.shape
    return x.reshape(b, c, h // 8, 8, w // 8, 8).mean(axis=(3, 5))


def planted(gradient: Tensor) -> Term:
    """A term with this gradient at every image, whatever the size of the batch."""
    return Term(lambda sr, hr: (sr * gradient[: len(sr)]).sum(dim=(1, 2, 3)))


def test_gradients_of_terms_by_backward_passes_of_their_own() -> None:
    torch.manual_seed(1)
    start, hr = torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64)
    scorer = NIMA("mnasnet_0_5", num_buckets=7, resize=72, crop=64)
    parts = {"l2": Term(l2_loss), "tv": Term(variation, 3)}
    parts["aesthetic"] = Term(AestheticLoss(scorer), 0.3)
    gradients = {}
    for name, part in parts.items():
        sr = start.clone().requires_grad_()
        part(sr, hr).mean().backward()
        assert sr.grad is not None
        gradients[name] = sr.grad.double().numpy()
    found = gradient_sums(LossSum(parts), start, hr)
    expected = [(gradient**2).sum() for gradient in gradients.values()]
    assert found.terms_T.tolist() == pytest.approx(expected, rel=1e-4)
    others = ((gradients["l2"] + 3 * gradients["tv"]) ** 2).sum()
    assert found.others.item() == pytest.approx(others, rel=1e-4)
    way = (hr - start).double().numpy()
    cosines = [cosine(-gradient, way) for gradient in gradients.values()]
    assert found.alignments["alignment"].tolist() == pytest.approx(cosines, abs=1e-3)
    cosines = [cosine(block_means(-g), block_means(way)) for g in gradients.values()]
    assert found.alignments["alignment_8x8"].tolist() == pytest.approx(cosines, abs=1e-3)


def test_the_alignment_of_l2_is_one_and_of_a_planted_term_that_of_its_gradient() -> None:
    torch.manual_seed(0)
    sr, hr, noise = torch.rand(3, 2, 3, 16, 24).unbind()
    # A tenth of the way to HR, and noise.
    gradient = noise - 0.5 - 0.1 * (hr - sr)
    loss = LossSum({"l2": Term(l2_loss), "planted": planted(gradient), "away": planted(hr - sr)})
    found = gradient_sums(loss, sr, hr).alignments
    step, way = -gradient.double().numpy(), (hr - sr).double().numpy()
    assert found["alignment"].tolist() == pytest.approx([1, cosine(step, way), -1], abs=1e-6)
    blocks = cosine(block_means(step), block_means(way))
    assert found["alignment_8x8"].tolist() == pytest.approx([1, blocks, -1], abs=1e-6)
    # A checkerboard has no 8 x 8 mean; what is equal to HR has no way to it.
    board = (torch.arange(24) + torch.arange(16)[:, None]) % 2 * 2.0 - 1
    detail = LossSum({"board": planted(board.expand(2, 3, 16, 24))})
    assert gradient_sums(detail, sr, hr).alignments["alignment_8x8"].tolist() == [0]
    assert gradient_sums(loss, hr, hr).alignments["alignment"].tolist() == [0, 0, 0]


def test_blocks_at_the_edge_may_be_smaller() -> None:
    torch.manual_seed(0)
    sr, hr = torch.rand(2, 1, 3, 6, 10).unbind()
    means = (hr - sr).double().numpy()
    means = np.stack([means[..., :8].mean(axis=(2, 3)), means[..., 8:].mean(axis=(2, 3))])
    found = gradient_sums(LossSum({"l1": Term(l1_loss)}), sr, hr)
    assert found.block_missing.item() == pytest.approx((means**2).sum(), rel=1e-5)


def test_micro_batches_add_up_to_the_batch() -> None:
    torch.manual_seed(0)
    sr, hr, gradient = torch.rand(3, 4, 3, 16, 16).unbind()
    gradient[2:] = gradient[:2]  # of every micro-batch
    loss = LossSum({"l2": Term(l2_loss), "l1": Term(l1_loss, 2), "planted": planted(gradient)})
    whole = gradient_sums(loss, sr, hr)
    parts = [gradient_sums(loss, sr[k : k + 2], hr[k : k + 2]) for k in (0, 2)]
    summed: GradientSums = parts[0].plus(parts[1])
    for name, values_T in whole.alignments.items():
        assert summed.alignments[name].tolist() == pytest.approx(values_T.tolist(), abs=1e-6)


def test_measuring_draws_no_random_numbers() -> None:
    sr, hr = torch.rand(2, 1, 3, 8, 8).unbind()
    loss = LossSum({"l2": Term(l2_loss), "noisy": Term(lambda a, b: (a * torch.rand(8)).mean())})
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    gradient_sums(loss, sr, hr)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("num_parts", [1, 2])
def test_alignments_are_logged_beside_the_shares(tmp_path: Path, num_parts: int) -> None:
    module = module_of(LossSum({"l2": Term(l2_loss), "l1": Term(l1_loss)}), grad_ratio_every=2)
    trainer = quiet_trainer(
        max_epochs=1, accumulate_grad_batches=num_parts, log_every_n_steps=1, limit_val_batches=1
    )
    trainer.loggers = [RunCSV(tmp_path)]
    trainer.fit(module, SamplePairs(2, patch_size=8, batch_size=4, num_steps=3, limit=1))
    with open(tmp_path / "metrics.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["train/grad_share/l1"]]
    assert [row["step"] for row in rows] == ["0", "2"]
    for kind in ("alignment", "alignment_8x8"):
        assert [float(r[f"train/{kind}/l2"]) for r in rows] == pytest.approx([1, 1], abs=1e-6)
        values = [float(row[f"train/{kind}/l1"]) for row in rows]
        assert all(0.5 < value < 1 for value in values)  # of signs: about the root of 2 / pi
        mean = trainer.callback_metrics[f"val/{kind}/l1"].item()
        assert mean == pytest.approx(sum(values) / 2, abs=1e-6)
    known = module.metric_names()
    assert known is not None
    assert {"alignment/l1", "alignment_8x8/l2"} <= known
