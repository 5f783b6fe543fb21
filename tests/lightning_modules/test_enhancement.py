"""The training of enhancers: what it leaves alone, what it says, what it saves."""

import copy
import csv
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from skimage.metrics import peak_signal_noise_ratio
from torch import Tensor

from datamodules.batches import PairBatch
from datamodules.sample import SamplePairs
from images.pixels import to_bytes, to_unit
from lightning_modules.callbacks import (
    STEP_HOOKS,
    AveragedWeights,
    Checkpoints,
    Watch,
    skip_empty_hooks,
)
from lightning_modules.checkpoint import load_scorer
from lightning_modules.enhancement import EnhancementModule
from lightning_modules.loggers import RunCSV
from lightning_modules.loss_terms import AestheticLoss, charbonnier_loss
from lightning_modules.losses import HybridLoss, LossSum, Term
from lightning_modules.metric_names import is_baseline
from lightning_modules.picture_callbacks import BeforeAfter
from lightning_modules.schedules import Constant, Cosine, Exponential, Steps, fused
from networks.bicubic import Bicubic
from networks.edsr import EDSR
from networks.mdsr import MDSR
from networks.nima import NIMA
from tests.conftest import SAMPLE_SCORER, quiet_trainer, shallow


def test_scorer_does_not_change_in_twenty_steps() -> None:
    torch.manual_seed(0)
    scorer = NIMA("mnasnet_0_5")
    before = {name: value.clone() for name, value in scorer.state_dict().items()}
    loss = HybridLoss(0.4, scorer)
    term = loss.aesthetics["aesthetic"]
    frozen = {name: value.clone() for name, value in term.scorer.state_dict().items()}
    module = EnhancementModule(
        EDSR(2, num_blocks=1, num_features=4),
        loss,
        partial(torch.optim.Adam, lr=1e-3),
        Constant(),
    )
    start = last_layer(module).weight.detach().clone()
    data = SamplePairs(2, patch_size=8, batch_size=2, num_steps=20, limit=1)
    trainer = quiet_trainer(max_epochs=1, limit_val_batches=0)
    trainer.fit(module, datamodule=data)
    assert trainer.global_step == 20
    assert not torch.equal(start, last_layer(module).weight)  # the enhancer did learn
    for name, value in scorer.state_dict().items():
        assert torch.equal(value, before[name]), name
    for name, value in term.scorer.state_dict().items():
        assert torch.equal(value, frozen[name]), name
    assert all(name.startswith("net.") for name in module.state_dict())
    optimized = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
    assert optimized == {id(p) for p in module.net.parameters()}


def test_schedules() -> None:
    assert Constant()(0.7) == 1
    assert Cosine(0.2)(0) == 1
    assert abs(Cosine(0.2)(0.5) - 0.6) < 1e-12
    assert abs(Cosine(0.2)(1) - 0.2) < 1e-12
    assert abs(Exponential(0.01)(0.5) - 0.1) < 1e-12
    steps = [Steps([0.25, 0.75], 0.1)(progress) for progress in (0, 0.25, 0.5, 0.75, 1)]
    assert steps == pytest.approx([1, 0.1, 0.1, 0.01, 0.01])
    with pytest.raises(ValueError, match="places"):
        Steps([1.5])


def test_optimizers_are_fused_unless_they_say_how_they_compute() -> None:
    layer = torch.nn.Linear(1, 1)
    free = (partial(torch.optim.Adam, lr=1e-3, betas=(0.8, 0.9)), partial(torch.optim.SGD, lr=1))
    for factory in free:
        (group,) = fused(factory)(layer.parameters()).param_groups
        assert group["fused"]
        assert group["lr"] == factory.keywords["lr"]
    adam = torch.optim.Adam
    for told in (partial(adam, foreach=True), partial(adam, fused=False), torch.optim.Rprop):
        assert fused(told) is told


def last_layer(module: EnhancementModule) -> torch.nn.Conv2d:
    """Return the convolution that makes an EDSR's pixels."""
    assert isinstance(module.net, EDSR)
    layer = module.net.tail[1]
    assert isinstance(layer, torch.nn.Conv2d)
    return layer


def watched(values: list[dict[str, float]]) -> Watch:
    """What is said of the metrics of one epoch after the other, interrupted after each."""
    watch = Watch()
    for epoch, metrics in enumerate(values):
        logged = {f"val/{name}": torch.tensor(value) for name, value in metrics.items()}
        trainer = SimpleNamespace(callback_metrics=logged, current_epoch=epoch, is_global_zero=True)
        watch.on_train_epoch_end(trainer, None)  # type: ignore[arg-type]
        again = Watch()
        again.load_state_dict(watch.state_dict())
        watch = again
    return watch


def test_a_gain_of_the_scorer_against_psnr_or_judge_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fine = [
        {"psnr": 30.0, "score": 5.0},
        {"psnr": 31.0, "score": 5.2},
        {"psnr": 30.95, "score": 6.0},
    ]
    assert watched(fine).warnings == []
    (warning,) = watched([*fine, {"psnr": 30.5, "score": 5.5}]).warnings
    assert warning.startswith("epoch 4: since epoch 2 val/score has gained 0.30 while val/psnr has")
    assert "lost 0.50" in caplog.text
    assert watched([{"psnr": 30.0}, {"psnr": 20.0}]).warnings == []  # gamma=0: nothing to game
    judged = [
        {"psnr": 30.0, "score": 5.0, "score_judge": 5.0},
        {"psnr": 30.1, "score": 5.2, "score_judge": 4.9},
    ]
    (warning,) = watched(judged).warnings
    assert "val/score_judge has lost 0.10" in warning


def module_of(
    loss: LossSum | None = None,
    net: torch.nn.Module | None = None,
    **options: Any,  # noqa: ANN401
) -> EnhancementModule:
    torch.manual_seed(0)
    optimizer = partial(torch.optim.Adam, lr=1e-3)
    net = net or EDSR(2, num_blocks=1, num_features=4)
    return EnhancementModule(net, loss or HybridLoss(0), optimizer, Constant(), **options)


# torch.compile looks at the gradients of intermediate tensors.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # of Dynamo
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_compiled_network_and_scorer_train_and_save_the_same() -> None:
    states = []
    for compiled in (False, True):
        module = module_of(
            HybridLoss(5.0, shallow(load_scorer(SAMPLE_SCORER), 9)),
            compile=compiled,
            grad_ratio_every=2,
        )
        data = SamplePairs(2, patch_size=8, batch_size=2, num_steps=3, limit=1)
        quiet_trainer(max_epochs=1, callbacks=[AveragedWeights(decay=0.5)]).fit(module, data)
        for part in (module.net, module.loss.aesthetics["aesthetic"]):
            assert (part._compiled_call_impl is not None) == compiled
        states.append(module.state_dict())
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        assert torch.allclose(value, states[1][name], atol=1e-5), name


@pytest.mark.slow
def test_modes_of_compiling() -> None:
    assert module_of(compile="reduce-overhead").net._compiled_call_impl is not None
    with pytest.raises(ValueError, match=r"model.compile=fast: true, false, or one of def"):
        module_of(compile="fast")


@pytest.mark.slow
def test_averaged_weights_are_what_is_validated_saved_and_drawn(tmp_path: Path) -> None:
    module = module_of()
    drawn: list[dict[str, torch.Tensor]] = []
    trained: list[dict[str, torch.Tensor]] = []

    def weights(module: EnhancementModule) -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in module.net.state_dict().items()}

    class Look(BeforeAfter):
        def picture(self, trainer: Any, module: Any, photo: Any) -> None:  # noqa: ANN401
            drawn.append(weights(module))

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ANN401
            trained.append(weights(pl_module))

    data = SamplePairs(2, patch_size=8, batch_size=2, num_steps=3, limit=1)
    # This average stays at the weights of the first step.
    callbacks = [Look(tmp_path, every=1, num_photos=1), AveragedWeights(decay=1 - 1e-12)]
    trainer = quiet_trainer(max_epochs=2, callbacks=callbacks)
    trainer.fit(module, datamodule=data)
    name = "tail.1.weight"
    trainer.save_checkpoint(tmp_path / "saved.ckpt")
    saved = torch.load(tmp_path / "saved.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(saved[f"net.{name}"], drawn[0][name])
    assert len(drawn) == len(trained) == 2
    assert torch.equal(drawn[0][name], drawn[1][name])
    assert not torch.equal(trained[0][name], trained[1][name])
    assert not torch.equal(drawn[0][name], trained[0][name])


def test_a_judge_alone_brings_the_drift_too() -> None:
    names = set(module_of(judge=NIMA("mnasnet_0_5")).val_metrics)
    assert {"score_judge", "contrast_drift", "saturation_drift"} <= names
    assert not {"score_judge", "contrast_drift"} & set(module_of().val_metrics)


def test_a_photo_without_a_number_ends_the_validation() -> None:
    module = module_of()
    bias = last_layer(module).bias
    assert bias is not None
    torch.nn.init.constant_(bias, float("nan"))
    data = SamplePairs(2, limit=1)
    with pytest.raises(ValueError, match=r"val/psnr of photo 1 in epoch 1 is not a number"):
        quiet_trainer().validate(module, datamodule=data, verbose=False)


def bias(sr_BCHW: Tensor, hr_BCHW: Tensor) -> Tensor:
    return 255 * (sr_BCHW - hr_BCHW).mean().abs()


def own_loss() -> LossSum:
    aesthetic = Term(AestheticLoss(SAMPLE_SCORER), 0.5, warmup=1.0)
    parts = {"charbonnier": Term(charbonnier_loss, 2), "bias": Term(bias), "aesthetic": aesthetic}
    return LossSum({**parts, "other": Term(AestheticLoss(SAMPLE_SCORER, "hinge"))})


def test_terms_of_ones_own_are_validated_by_their_names() -> None:
    module = module_of(own_loss())
    data = SamplePairs(2, limit=2)
    trainer = quiet_trainer()
    (values,) = trainer.validate(module, datamodule=data, verbose=False)
    own, biases, score = [], [], []
    for k in range(2):
        photo = data.val[k]
        with torch.no_grad():
            sr = module.eval()(to_unit(photo.lr)[None], 2)
        difference = 255 * (sr - to_unit(photo.hr)[None]).double().numpy()
        own.append(np.sqrt(difference**2 + 0.255**2).mean())
        biases.append(abs(difference.mean()))
        score.append(load_scorer(SAMPLE_SCORER).score(sr.clamp(0, 1)).item())
    assert values["val/charbonnier"] == pytest.approx(np.mean(own), rel=1e-5)
    assert values["val/bias"] == pytest.approx(np.mean(biases), rel=1e-3)
    assert values["val/aesthetic"] == pytest.approx(10 - np.mean(score), abs=1e-4)
    assert values["val/score"] == pytest.approx(np.mean(score), abs=1e-4)
    assert values["val/score_other"] == pytest.approx(np.mean(score), abs=1e-4)
    total = 2 * np.mean(own) + np.mean(biases) + 0.5 * (10 - np.mean(score)) + values["val/other"]
    assert values["val/loss"] == pytest.approx(total, rel=1e-5)
    assert "val/l2" not in values
    known = module.metric_names()
    assert known is not None
    logged = {name.removeprefix("val/") for name in values}
    expected = {name for name in known if not name.startswith(("grad_", "alignment"))}
    assert {name for name in logged if not is_baseline(name)} == expected


def test_terms_are_logged_with_weight_and_share_of_the_gradient(tmp_path: Path) -> None:
    module = module_of(own_loss(), grad_ratio_every=2)
    trainer = quiet_trainer(max_epochs=1, accumulate_grad_batches=2, log_every_n_steps=1)
    trainer.loggers = [RunCSV(tmp_path)]
    trainer.fit(module, SamplePairs(2, patch_size=8, batch_size=2, num_steps=4, limit=1))
    with open(tmp_path / "metrics.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["train/grad_ratio"]]
    weights = [[float(row[f"train/weight/{name}"]) for name in module.loss.names] for row in rows]
    assert weights == [[2, 1, 0, 1], [2, 1, 0.25, 1]]
    shares = [float(rows[1][f"train/grad_share/{name}"]) for name in module.loss.names]
    assert sum(shares) == pytest.approx(1)
    assert min(shares[0], shares[2]) > 0
    assert trainer.callback_metrics["val/grad_share/charbonnier"] > 0.5


@pytest.mark.parametrize("scales", [[2], [2, 3]])
def test_validation_has_the_baseline_beside_each_metric(scales: list[int]) -> None:
    expected = {scale: [] for scale in scales}  # type: ignore[var-annotated]
    data = SamplePairs(scales if len(scales) > 1 else 2, limit=2)
    data.setup("validate")
    for photo in (data.val[k] for k in range(len(data.val))):
        border = photo.scale + 6
        bicubic = to_bytes(Bicubic(photo.scale)(to_unit(photo.lr)[None]))[0]
        a, b = (x.numpy()[:, border:-border, border:-border] for x in (bicubic, photo.hr))
        expected[photo.scale].append(peak_signal_noise_ratio(b, a))
    net = MDSR(scales, num_blocks=1, num_features=4) if len(scales) > 1 else None
    module = module_of(net=net)
    trainer = quiet_trainer(max_epochs=2, limit_train_batches=1, num_sanity_val_steps=1)
    data = SamplePairs(scales if len(scales) > 1 else 2, limit=2, batch_size=1, patch_size=8)
    trainer.fit(module, datamodule=data)  # the second epoch does not measure it anew
    values = trainer.callback_metrics
    mean = np.mean([np.mean(found) for found in expected.values()])
    assert values["val/psnr_bicubic"].item() == pytest.approx(mean, abs=1e-4)
    for scale in scales if len(scales) > 1 else []:
        found = values[f"val/psnr_bicubic/x{scale}"].item()
        assert found == pytest.approx(np.mean(expected[scale]), abs=1e-4)
    assert not any(is_baseline(name) for name in module.val_metrics)


def test_a_loss_that_never_counts_is_refused() -> None:
    module = module_of(LossSum({"bias": Term(bias, from_step=2)}))
    data = SamplePairs(2, patch_size=8, batch_size=2, num_steps=2, limit=1)
    with pytest.raises(ValueError, match="no term counts before step 2 of 2"):
        quiet_trainer(max_epochs=1, log_every_n_steps=1).fit(module, data)


@pytest.mark.parametrize("name", ["psnr", "a/b", "grad_ratio", "near_input", "values"])
def test_a_term_may_not_have_the_name_of_a_metric(name: str) -> None:
    message = "is taken" if name in ("near_input", "values") else "of a term has to be a word"
    with pytest.raises(ValueError, match=rf"loss\.{name}: the name {message}"):
        module_of(LossSum({name: Term(bias)}))


def test_rows_have_the_means_of_their_step(tmp_path: Path) -> None:
    found: list[float] = []
    seen: list[float] = []

    class Module(EnhancementModule):
        def training_step(self, batch: PairBatch, batch_idx: int) -> Tensor:
            found.append(super().training_step(batch, batch_idx).item())
            return torch.zeros((), requires_grad=True)  # the network stays as it is

    class Reader(Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
            seen.append(trainer.callback_metrics["train/loss"].item())

    trainer = quiet_trainer(
        max_epochs=2, accumulate_grad_batches=2, log_every_n_steps=2, callbacks=[Reader()]
    )
    trainer.loggers = [RunCSV(tmp_path)]
    net = EDSR(2, num_blocks=1, num_features=4)
    module = Module(net, HybridLoss(0), torch.optim.Adam, Constant())
    data = SamplePairs(2, patch_size=8, batch_size=2, num_steps=3, limit=1)
    trainer.fit(module, datamodule=data)
    parts = np.reshape(found, (6, 2))  # steps and their micro-batches
    assert seen[1::2] == pytest.approx(parts.mean(axis=1))
    assert seen[::2] == pytest.approx(parts[:, 0])
    with open(tmp_path / "metrics.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["train/loss"]]
    assert [(row["step"], row["epoch"]) for row in rows] == [("1", "0"), ("3", "1"), ("5", "1")]
    assert [float(row["train/loss"]) for row in rows] == pytest.approx(parts[1::2].mean(axis=1))
    assert all(row["train/l2"] == row["train/loss"] for row in rows)


def test_empty_hooks_are_skipped() -> None:
    class Every(Callback):
        def on_before_backward(self, *_: object) -> None:
            """Does something."""

    callback = Every()
    skip_empty_hooks([callback])
    assert [name for name in STEP_HOOKS if getattr(callback, name)] == ["on_before_backward"]


def test_copies_of_a_module_share_the_scorer() -> None:
    loss = HybridLoss(0.4, NIMA("mnasnet_0_5"))
    loss.register_buffer("own", torch.zeros(1))
    twin = copy.deepcopy(loss)
    assert twin.parts["aesthetic"] is not loss.parts["aesthetic"]
    assert twin.aesthetics["aesthetic"] is loss.aesthetics["aesthetic"]
    assert twin.own is not loss.own


def test_a_moved_run_remembers_its_best_epoch(tmp_path: Path) -> None:
    options: dict[str, Any] = {"monitor": "val/psnr", "mode": "max"}
    before = Checkpoints(tmp_path / "before", **options)
    path = str(tmp_path / "before" / "best.ckpt")
    score = torch.tensor(30.0)
    before.best_model_path = before.kth_best_model_path = path
    before.best_model_score = before.kth_value = score
    before.best_k_models = {path: score}
    after = Checkpoints(tmp_path / "after", **options)
    after.load_state_dict(before.state_dict())
    assert after.best_model_path == str(tmp_path / "after" / "best.ckpt")
    assert after.best_k_models == {after.best_model_path: score}
    assert after.best_model_score == after.kth_value == 30
    assert not after.check_monitor_top_k(quiet_trainer(), torch.tensor(25.0))
