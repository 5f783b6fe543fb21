"""Training of scorers: rates, batch norms, starts, penalties, averages, ranks."""

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from datamodules.ratings_dataset import RatedBatch
from datamodules.sample import SampleRated
from lightning_modules.attached import ratings_of
from lightning_modules.checkpoint import load_scorer
from lightning_modules.losses import input_gradient
from lightning_modules.nima import NIMAModule
from lightning_modules.schedules import Constant, Cosine, WarmUp
from networks.nima import NIMA, mean_score
from networks.tensor_files import load_plain
from tests.conftest import (
    NIMA_WITH_PICTURES,
    SAMPLE_SCORER,
    TINY_NIMA,
    Cli,
    kill_when,
    launch,
    quiet_trainer,
    run_two_ranks,
    shallow,
)


def scorer(backbone: str = "mnasnet_0_5", **arguments: Any) -> NIMA:  # noqa: ANN401
    torch.manual_seed(0)
    return NIMA(backbone, num_buckets=4, resize=64, crop=64, **arguments)


def trained_scorer() -> NIMA:
    return load_scorer(SAMPLE_SCORER)


def module(net: NIMA, lr: float = 1e-3, **arguments: Any) -> NIMAModule:  # noqa: ANN401
    return NIMAModule(net, partial(torch.optim.SGD, lr=lr), Constant(), **arguments)


def fit(trained: NIMAModule, epochs: int = 1, **data: Any) -> L.Trainer:  # noqa: ANN401
    options = {"num_buckets": 4, "num_train": 8, "num_val": 6, "batch_size": 4} | data
    datamodule = SampleRated(resize=64, crop=64, **options)
    trainer = quiet_trainer(max_epochs=epochs, log_every_n_steps=1)
    trainer.fit(trained, datamodule)
    return trainer


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Found .* in eval mode:UserWarning")
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_a_compiled_scorer_trains_the_same() -> None:
    states = []
    for compiled in (False, True):
        net = shallow(scorer("mobilenet_v1", dropout=0.0), 9)
        trained = module(net, compile=compiled, freeze_batch_norms=True)
        fit(trained, num_val=4)
        assert (trained.net._compiled_call_impl is not None) == compiled
        states.append(trained.state_dict())
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        assert torch.allclose(value, states[1][name], atol=1e-4), name
    with pytest.raises(ValueError, match="no second derivative"):
        module(scorer(), compile=True, gradient_penalty=0.1)


def test_the_backbone_has_a_rate_of_its_own() -> None:
    trainer = fit(module(scorer(), lr=0.5, backbone_lr=0.1))
    rates = [group["lr"] for group in trainer.optimizers[0].param_groups]
    assert rates == [0.05, 0.5]
    net = scorer()
    before = [p.clone() for p in net.features.parameters()]
    head = net.head.weight.clone()
    fit(module(net, lr=0.5, backbone_lr=0.0))
    assert all(torch.equal(a, b) for a, b in zip(before, net.features.parameters(), strict=True))
    assert not torch.equal(head, net.head.weight)


def test_warm_up_rises_evenly_to_the_schedule() -> None:
    schedule = WarmUp(Cosine(), share=0.2)
    assert schedule(0.1) == pytest.approx(0.505 * Cosine()(0.1))
    assert schedule(0.2) == Cosine()(0.2)
    assert 0 < schedule(0) < 0.01
    assert schedule(1) == pytest.approx(0)
    assert WarmUp(Constant(), share=0)(0) == 1
    with pytest.raises(ValueError, match="0 to 1"):
        WarmUp(Constant(), share=1.5)


@pytest.mark.filterwarnings("ignore:Found .* in eval mode:UserWarning")
def test_frozen_batch_norms_keep_their_statistics() -> None:
    for freeze in (True, False):
        net = trained_scorer()
        norm = next(m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d))
        before, weight = norm.running_mean.clone(), norm.weight.clone()  # type: ignore[union-attr]
        fit(module(net, lr=0.5, freeze_batch_norms=freeze), num_buckets=10)
        assert torch.equal(before, norm.running_mean) == freeze  # type: ignore[arg-type]
        assert not torch.equal(weight, norm.weight)  # what is learned is learned all the same


def test_constant_start_is_the_constant_predictor() -> None:
    net = scorer()
    trained = module(net, lr=0.0, constant_start=True)
    trainer = fit(trained)
    values = trainer.callback_metrics
    for name in ("emd", "emd_batch", "emd_r1", "accuracy"):
        assert values[f"val/{name}"].item() == pytest.approx(
            values[f"val/{name}_constant"].item(), abs=1e-3
        )


def test_input_gradient_is_that_of_finite_differences() -> None:
    net = scorer().double().eval()
    images = torch.rand(2, 3, 64, 64, dtype=torch.float64, requires_grad=True)
    net.forward = lambda x: net.head(net.features((x - 0.5) * 2).mean((2, 3))).softmax(1)  # type: ignore[method-assign, assignment]
    gradient = input_gradient(mean_score(net(images)), images)
    for b, c, y, x in ((0, 0, 10, 20), (1, 2, 40, 7)):
        step = torch.zeros_like(images)
        step[b, c, y, x] = 1e-5
        with torch.no_grad():
            change = (mean_score(net(images + step)) - mean_score(net(images - step)))[b] / 2e-5
        assert gradient[b, c, y, x].item() == pytest.approx(change.item(), rel=1e-3, abs=1e-7)


@pytest.mark.filterwarnings("ignore:Found .* in eval mode:UserWarning")
def test_the_penalty_is_added_and_flattens_the_score() -> None:
    def norms(net: NIMA) -> float:
        net.eval()
        images = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
        images.requires_grad_()
        gradient = input_gradient(mean_score(net(images)), images)
        return gradient.square().sum(dim=(1, 2, 3)).mean().item()

    results = {}
    for weight in (0.0, 0.1):
        net = trained_scorer()
        trained = module(net, lr=1e-3, gradient_penalty=weight, freeze_batch_norms=True)
        trainer = fit(trained, epochs=3, num_buckets=10)
        results[weight] = norms(net)
        values = trainer.callback_metrics
        assert ("train/gradient_norm" in values) == (weight > 0)
        if weight:
            assert values["train/loss"] > values["train/emd"]
    assert results[0.1] < 0.8 * results[0.0]


def test_the_penalty_reaches_the_weights() -> None:
    net = scorer().eval()
    images = torch.rand(2, 3, 64, 64, requires_grad=True)
    input_gradient(mean_score(net(images)), images).square().sum().backward()
    grads = [p.grad for p in net.features.parameters() if p.ndim == 4]
    assert all(g is not None and g.isfinite().all() and g.abs().sum() > 0 for g in grads)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_the_penalty(dtype: torch.dtype) -> None:
    norms = []
    for enabled in (False, True):
        net = trained_scorer()
        images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        images.requires_grad_()
        with torch.autocast("cpu", dtype, enabled=enabled):
            squares = input_gradient(mean_score(net(images)), images).square().sum()
        squares.backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())
        norms.append(squares.item())
    assert norms[1] == pytest.approx(norms[0], rel=0.15)


@pytest.mark.slow
def test_half_precision_trains_with_penalty_and_without_nan(cli: Cli) -> None:
    words = ["trainer.precision=bf16-mixed", "model.gradient_penalty=0.1"]
    done = cli(*TINY_NIMA, *words, "name=half")
    assert done.code == 0, done.err
    state = load_plain("outputs/sample_nima/half/checkpoints/last.ckpt")["state_dict"]
    assert all(torch.isfinite(value).all() for value in state.values())


def test_predictions_of_the_last_validation_are_in_order() -> None:
    trained = module(scorer())
    trainer = fit(trained)
    data = ratings_of(trainer)
    assert trained.predictions is not None
    assert trained.predictions.item_N.tolist() == list(range(6))
    assert torch.equal(trained.predictions.q_NK, data.val.p_NK)
    batch: RatedBatch = data.val.__getitems__([3]).to_unit()
    with torch.no_grad():
        p = trained.net.eval()(batch.images_BCHW)
    assert torch.allclose(trained.predictions.p_NK[3:4], p, atol=1e-5)


EMA = [*TINY_NIMA, "callbacks=nima_ema", "callbacks.progress=null", "callbacks.ema.decay=0.9"]


@pytest.mark.slow
def test_averaged_weights_are_validated_and_saved_and_a_resume_goes_on(
    cli: Cli, folder: Path
) -> None:
    done = cli(*EMA, "epochs=3", "name=whole")
    assert done.code == 0, done.err
    assert "averaged weights move too fast" in done.err + done.out
    last = load_plain("outputs/sample_nima/whole/checkpoints/last.ckpt")
    averaged, present = last["state_dict"], last["current_model_state"]
    assert not torch.equal(averaged["net.head.weight"], present["net.head.weight"])
    loaded = load_scorer("outputs/sample_nima/whole/checkpoints/last.ckpt")
    assert torch.equal(loaded.head.weight, averaged["net.head.weight"])
    checkpoints = folder / "outputs/sample_nima/part/checkpoints"
    process = launch(folder, *EMA, "epochs=3", "name=part")
    kill_when(process, lambda: (checkpoints / "last.ckpt").exists())
    done = cli(*EMA, "epochs=3", "name=part")
    assert done.code == 0, done.err
    again = load_plain(checkpoints / "last.ckpt")
    for kind in ("state_dict", "current_model_state"):
        for name, value in last[kind].items():
            assert torch.equal(value, again[kind][name]), name


@pytest.mark.ddp
def test_two_ranks_train_and_measure_like_one(cli: Cli, folder: Path) -> None:
    """With frozen batch norms and no dropout; the metrics are of all photos, each once."""
    words = [
        *(*NIMA_WITH_PICTURES, "data.num_val=5"),
        *("model.freeze_batch_norms=true", "scorer.dropout=0"),
        *("callbacks.pictures.every=1", "optim=adam", "model.gradient_penalty=0.01"),
        *(f"init_from={SAMPLE_SCORER}", "callbacks=nima_ema"),
    ]
    done = cli(*words, "name=one")
    assert done.code == 0, done.err
    run_two_ranks(folder, *words, "name=two")
    one, two = (
        json.loads((folder / f"outputs/sample_nima/{name}/result.json").read_text())
        for name in ("one", "two")
    )
    assert two["world_size"] == 2
    assert one["metrics"].keys() == two["metrics"].keys()
    for name, value in one["metrics"].items():
        if name.endswith("_constant") and value is None:
            continue
        assert two["metrics"][name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
    assert abs(one["metrics"]["val/srcc"]) > 0.05  # it sees something
    assert (folder / "outputs/sample_nima/two/images/ratings_extremes.png").exists()
