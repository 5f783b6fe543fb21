"""Terms that make scorers robust, on toys with closed forms, and in a training."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from datamodules.ratings_dataset import RatedDataset
from datamodules.sample import SampleRated
from lightning_modules.checkpoint import load_scorer
from lightning_modules.nima import NIMAModule
from lightning_modules.robust import RobustTerms
from lightning_modules.schedules import Constant
from networks.nima import NIMA
from tests.conftest import SAMPLE_SCORER, TINY_NIMA, Cli, quiet_trainer

SLOPE = 1.0  # of the toy's logit per unit of brightness


class Brightness(nn.Module):
    """Rates 1 or 2 by the mean of the pixels: the score is 1 + sigmoid(slope * mean)."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.head = nn.Linear(1, 2, bias=False)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[0.0], [slope]]))

    def pooled_features(self, images_BCHW: Tensor) -> Tensor:
        return images_BCHW.mean(dim=(1, 2, 3))[:, None]


def images(num: int = 8) -> Tensor:
    return torch.rand(num, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def found(terms: RobustTerms, net: nn.Module, p_BK: Tensor) -> dict[str, Tensor]:
    torch.manual_seed(1)
    values: dict[str, Tensor] = terms(net, images(len(p_BK)), p_BK)  # type: ignore[arg-type]
    return values


def test_the_slope_of_a_brightness_scorer() -> None:
    """The gradient is the same at all pixels: a step of one level adds 1/255 to the mean."""
    p_BK = torch.tensor([[0.5, 0.5]] * 8)
    terms = found(RobustTerms(slope=1, share=1), Brightness(SLOPE), p_BK)
    share_B = torch.sigmoid(SLOPE * images().mean(dim=(1, 2, 3)))
    expected = SLOPE * (share_B * (1 - share_B)).mean().item() / 255
    assert terms["slope"].item() == pytest.approx(expected, rel=2e-2)


def test_adversarial_photos_are_a_step_away() -> None:
    p_BK = torch.tensor([[0.5, 0.5]] * 8)
    net = Brightness(255.0)  # one level changes the logit by 1
    torch.manual_seed(1)
    draw_B = torch.rand(2, 8)
    sign_B = torch.where(draw_B[1] < 0.5, 1.0, -1.0)
    mean_B = images().mean(dim=(1, 2, 3)) + sign_B * 2 * 0.01 ** draw_B[0] / 255
    share_B = torch.sigmoid(255 * mean_B)
    expected = (share_B - 0.5).abs() / math.sqrt(2)  # of two buckets, only the first differs
    terms = found(RobustTerms(adversarial=1, step=2, share=1), net, p_BK)
    assert terms["adversarial"].item() == pytest.approx(expected.mean().item(), rel=1e-4)


def test_a_constant_scorer_falls_short_by_the_margin() -> None:
    """Only clean photos count; the margin is in proportion to the difference of strengths."""
    p_BK = torch.tensor([[0.1, 0.9]] * 4 + [[0.9, 0.1]] * 4)
    torch.manual_seed(1)
    draw = torch.rand(8, 4)
    worse = 0.2 + 0.8 * draw[:, 0]
    better = torch.where(draw[:, 1] < 0.5, 0, draw[:, 2] * (worse - 0.1))
    terms = found(RobustTerms(ranking=1, margin=0.3, share=1), Brightness(0), p_BK)
    assert terms["ranking"].item() == pytest.approx(0.3 * (worse - better)[:4].mean().item())
    none_clean = found(RobustTerms(ranking=1, share=1), Brightness(0), p_BK[4:])
    assert none_clean["ranking"].item() == 0


def test_only_a_share_of_the_batch_is_used() -> None:
    terms = RobustTerms(slope=1, adversarial=1, ranking=1, share=0.25)
    p_BK = torch.eye(2).repeat(4, 1)
    net = Brightness(100.0)
    whole = found(terms, net, p_BK)
    terms.share = 1
    torch.manual_seed(1)
    alone = terms(net, images(8)[:2], p_BK[:2])  # type: ignore[arg-type]
    assert whole == alone


@pytest.mark.filterwarnings("ignore:Found .* in eval mode:UserWarning")
def test_terms_train_what_they_say() -> None:
    """After some steps on a term alone, it is smaller than without."""
    results: dict[str, list[float]] = {"slope": [], "ranking": []}
    for name, values in results.items():
        for weight in (0.0, 1.0):
            net = load_scorer(SAMPLE_SCORER)
            robust = RobustTerms(**{name: weight}, share=1) if weight else None
            trained = NIMAModule(
                net,
                partial(torch.optim.SGD, lr=1e-2),
                Constant(),
                freeze_batch_norms=True,
                robust=robust,
            )
            data = SampleRated(
                resize=64, crop=64, num_buckets=10, num_train=16, num_val=4, batch_size=8
            )
            trainer = quiet_trainer(max_epochs=4)
            trainer.fit(trained, data)
            measure = RobustTerms(**{name: 1.0}, share=1)
            batch = data.train.__getitems__(list(range(16))).to_unit()
            torch.manual_seed(3)
            values.append(measure(net.eval(), batch.images_BCHW, batch.p_BK)[name].item())
            if weight:
                logged = trainer.callback_metrics
                total = logged["train/emd"] + logged[f"train/{name}"]
                assert logged["train/loss"].item() == pytest.approx(total.item(), rel=1e-4)
    for plain, robust_value in results.values():
        assert robust_value < 0.9 * plain


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RobustTerms(slope=-1), r"model.robust.slope=-1: 0 or more"),
        (lambda: RobustTerms(step=0), r"model.robust.step=0: more than 0"),
        (lambda: RobustTerms(share=2), r"model.robust.share=2: 0 to 1"),
        (
            lambda: NIMAModule(
                NIMA("mnasnet_0_5"), partial(torch.optim.SGD), Constant(), robust=RobustTerms()
            ),
            "freeze_batch_norms=true",
        ),
    ],
)
def test_wrong_settings(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_training_crops_may_be_smaller() -> None:
    data = SampleRated(resize=96, crop=96, train_crop=48, num_train=4, num_val=2, batch_size=2)
    data.setup()
    train, val = data.train, data.val
    assert isinstance(train, RatedDataset)
    assert isinstance(val, RatedDataset)
    assert (train.crop, val.crop) == (48, 96)
    with pytest.raises(ValueError, match=r"data.train_crop=97: 32 to the scorer's crop=96"):
        SampleRated(resize=96, crop=96, train_crop=97)


def test_a_robust_training_on_the_command_line(cli: Cli) -> None:
    words = ["model=nima_robust", "model.freeze_batch_norms=true", "scorer.crop=64"]
    done = cli(*TINY_NIMA, *words, "data.train_crop=48", "name=robust")
    assert done.code == 0, done.err
    assert "train/slope" in done.out
    refused = cli(*TINY_NIMA, "model=nima_robust", "name=refused")
    assert refused.code == 2
    assert "model.robust: needs model.freeze_batch_norms=true" in refused.err
