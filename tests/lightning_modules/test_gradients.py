"""What the terms of a loss do to the SR pixels, against NumPy."""

import csv
import json
import math
from pathlib import Path
from typing import Any

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
from tests.commands.test_train import only_run, rows
from tests.conftest import SAMPLE_SCORER, TINY, Cli, quiet_trainer
from tests.lightning_modules.test_enhancement import module_of
from tests.lightning_modules.test_losses import variation

Array = NDArray[np.float64]


def cosine(a: Array, b: Array) -> float:
    return float((a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum()))


def block_means(x: Array) -> Array:
    """Means over 8 x 8 pixels; the sides are multiples of 8."""
    b, c, h, w = x.shape
    return x.reshape(b, c, h // 8, 8, w // 8, 8).mean(axis=(3, 5))


def planted(gradient: Tensor, **options: Any) -> Term:  # noqa: ANN401
    """A term with this gradient at every image, whatever the size of the batch."""
    return Term(lambda sr, hr: (sr * gradient[: len(sr)]).sum(dim=(1, 2, 3)), **options)


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


def test_a_weight_follows_its_share_by_a_moving_average() -> None:
    term = Term(l2_loss, "auto", share=0.5)
    assert (term.weight, term.counts) == (0, True)
    term.follow(2, 6, keep=False)  # of one of several micro-batches
    assert term.weight == pytest.approx(0.5 * 3)
    term.follow(2, 8)
    assert term.weight == pytest.approx(0.5 * 4)
    term.follow(1, 9)
    assert term.weight == pytest.approx(0.5 * 4**0.9 * 9**0.1)
    for nothing in ((0, 1), (1, 0), (math.nan, 1), (1, math.inf)):
        term.follow(*nothing)
    assert term.weight == pytest.approx(0.5 * 4**0.9 * 9**0.1)
    again = Term(l2_loss, "auto", share=0.5)
    again.restore(term.log_ratio)
    assert again.weight == term.weight


@pytest.mark.parametrize("num_parts", [1, 2])
def test_no_step_is_without_its_share(tmp_path: Path, num_parts: int) -> None:
    torch.manual_seed(0)
    one, two = torch.randn(2, 1, 3, 16, 16)
    terms = {"own": planted(3 * one.expand(4, -1, -1, -1), weight=2)}
    terms["aesthetic"] = planted(two.expand(4, -1, -1, -1), weight="auto", share=0.3)
    module = module_of(LossSum(terms), grad_ratio_every=1)
    trainer = quiet_trainer(
        max_epochs=1, accumulate_grad_batches=num_parts, log_every_n_steps=1, limit_val_batches=0
    )
    trainer.loggers = [RunCSV(tmp_path)]
    trainer.fit(module, SamplePairs(2, patch_size=8, batch_size=4, num_steps=12, limit=1))
    with open(tmp_path / "metrics.csv", newline="") as file:
        found = list(csv.DictReader(file))
    ratios = [float(row["train/grad_ratio"]) for row in found if row["train/grad_ratio"]]
    assert ratios == pytest.approx([0.3] * 12, rel=1e-5)
    weights = {float(row["train/weight/aesthetic"]) for row in found}
    expected = 0.3 * (2 * 3 * one.norm() / two.norm()).item()
    assert list(weights) == pytest.approx([expected] * len(weights), rel=1e-5)


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        (
            {"l2": Term(l2_loss), "l1": Term(l1_loss, "auto", share=1)},
            r"loss\.l1\.weight=auto: is for",
        ),
        ({"aesthetic": Term(l2_loss, "auto", share=1)}, r"loss\.aesthetic\.weight=auto: is for"),
    ],
)
def test_terms_that_cannot_have_a_share(terms: dict[str, Term], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LossSum(terms)


@pytest.mark.parametrize("share", [None, 0, -1.0, math.inf])
def test_a_share_is_above_zero(share: float | None) -> None:
    with pytest.raises(ValueError, match=r"share=.*: above 0"):
        Term(l2_loss, "auto", share=share)


@pytest.mark.slow
def test_gamma_auto_on_the_command_line(cli: Cli, folder: Path) -> None:
    words = [*TINY, "gamma=auto", "share=0.5", f"judge.checkpoint={SAMPLE_SCORER}", "epochs=1"]
    assert cli(*words, "name=auto").code == 0
    result = json.loads((only_run(folder) / "result.json").read_text())
    metrics = result["metrics"]
    gamma = metrics["train/weight/aesthetic"]
    total = metrics["val/l2"] + gamma * metrics["val/aesthetic"]
    assert metrics["val/loss"] == pytest.approx(total, rel=1e-5)
    assert (result["settings"]["gamma"], result["settings"]["share"]) == ("auto", 0.5)
    first = rows(only_run(folder))[0]
    assert float(first["train/grad_ratio"]) == pytest.approx(0.5, rel=1e-3)
    assert cli("-m", *TINY, "gamma=0", "share=0.1,0.3", "epochs=1").code == 0  # is not read
    assert len(list((folder / "outputs" / "sweeps").glob("*/gamma-0*"))) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gamma=autp"], "gamma=autp: should be a valid number, or should be 'auto'"),
        (["gamma=auto", "share=0"], "share=0: should be greater than 0"),
        (["gamma=auto", "share=auto"], "share=auto: should be a valid number"),
        (["gamma=auto", "loss=[aesthetic]"], "gamma=auto: loss=[aesthetic] has no other term"),
        (["gamma=auto", "loss=[l1]"], "gamma=auto: loss=[l1] has no aesthetic term to weigh"),
        (["gamma=auto", "scorer.checkpoint=null"], "gamma=auto needs a scorer"),
        (["loss.l2.weight=auto"], "loss.l2.weight=auto: only gamma can be auto"),
    ],
)
def test_mistakes(cli: Cli, words: list[str], message: str) -> None:
    done = cli(*words)
    assert done.code == 2
    assert message in done.err
