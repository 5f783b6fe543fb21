"""Trainings of a part of a network: what stays, what is saved, how it resumes."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from datamodules.sample import SamplePairs
from lightning_modules.callbacks import AveragedWeights
from lightning_modules.checkpoint import load_network, network_state
from lightning_modules.enhancement import EnhancementModule
from lightning_modules.interpolation import mixed
from lightning_modules.losses import HybridLoss
from lightning_modules.schedules import Constant
from lightning_modules.trainable import PLACE
from networks.can import CAN
from networks.edsr import EDSR
from networks.lora import adapted
from networks.mdsr import MDSR
from networks.srcnn import SRCNN
from networks.tensor_files import load_plain
from tests.commands.test_train import run_at, weights
from tests.conftest import TINY, Cli, quiet_trainer
from tests.runs.test_interruptions import Kill, assert_same_run, kill, killed

__all__ = ["kill"]  # a fixture


def module_of(net: nn.Module, **options: Any) -> EnhancementModule:  # noqa: ANN401
    torch.manual_seed(0)
    optimizer = partial(torch.optim.Adam, lr=1e-2)
    return EnhancementModule(net, HybridLoss(0), optimizer, Constant(), **options)


def edsr() -> EDSR:
    torch.manual_seed(0)
    return EDSR(2, num_blocks=1, num_features=4)


def fit(module: EnhancementModule, **options: Any) -> Any:  # noqa: ANN401
    data = SamplePairs(2, patch_size=8, batch_size=2, num_steps=3, limit=1)
    trainer = quiet_trainer(max_epochs=1, limit_val_batches=0, log_every_n_steps=1, **options)
    trainer.fit(module, data)
    return trainer


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


def test_the_tail_alone_is_trained() -> None:
    module, before = module_of(edsr(), train="tail"), edsr().state_dict()
    trainer = fit(module)
    names = {"tail.0.0.weight", "tail.0.0.bias", "tail.1.weight", "tail.1.bias"}
    assert changed(before, module.net.state_dict()) == names
    optimized = [p for group in trainer.optimizers[0].param_groups for p in group["params"]]
    assert len(optimized) == 4
    multi = module_of(MDSR([2, 3], num_blocks=1, num_features=4), train="tail").net
    trained = {name.split(".")[0] for name, p in multi.named_parameters() if p.requires_grad}
    assert trained == {"upsample", "tail"}


def test_networks_that_do_not_list_their_last_layers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"model.train=tail: SRCNN does not list its last_layers"):
        module_of(SRCNN(2), train="tail")


@pytest.mark.parametrize("options", [{}, {"precision": "bf16-mixed"}], ids=["fp32", "bf16"])
def test_lora_begins_as_the_network_it_starts_from_and_leaves_its_weights_alone(
    options: dict[str, Any],
) -> None:
    module, base = module_of(edsr(), train="lora", lora_rank=2), module_of(edsr())
    lr = torch.rand(1, 3, 8, 8)
    assert torch.equal(module(lr, 2), base(lr, 2))
    trainer = fit(module, **options)
    start = base.net.state_dict()
    for name, layer in adapted(module.net):
        frozen = layer.get_parameter("parametrizations.weight.original")
        assert torch.equal(frozen, start[f"{name}.weight"]), name
    merged = module.net.state_dict()
    assert changed(start, merged) == {name for name in start if name.endswith("weight")} - {
        "sub_mean.weight",
        "add_mean.weight",
    }
    optimized = [p for group in trainer.optimizers[0].param_groups for p in group["params"]]
    assert len(optimized) == 2 * len(list(adapted(module.net)))
    # Mixing with the start is the strength of the adapters: W + s * (alpha / rank) * B A.
    for s in (0.0, 0.5, 1.0):
        for name, layer in adapted(module.net):
            a, b = (layer.get_parameter(f"parametrizations.weight.0.{k}").detach() for k in "AB")
            weight = start[f"{name}.weight"]
            expected = weight + s * 4 * (b @ a).view_as(weight)  # alpha 8, rank 2
            found = mixed(start, merged, s)[f"{name}.weight"]
            assert torch.allclose(found, expected, atol=1e-6), (s, name)


@pytest.mark.filterwarnings("ignore:Found .* in eval mode")
def test_batch_norms_do_not_follow_the_photos() -> None:
    def can() -> CAN:
        torch.manual_seed(0)
        return CAN(2, num_layers=4, num_features=4)

    module = module_of(can(), train="lora")
    fit(module)
    assert not any("norm" in name for name in changed(can().state_dict(), module.net.state_dict()))


def test_averages_hold_merged_weights_and_resume() -> None:
    module = module_of(edsr(), train="lora", lora_rank=2)
    averages = AveragedWeights(decay=0.5)
    data = SamplePairs(2, patch_size=8, batch_size=2, num_steps=3, limit=1)
    trainer = quiet_trainer(
        max_epochs=1, limit_val_batches=0, log_every_n_steps=1, callbacks=[averages]
    )
    trainer.fit(module, data)
    model = averages._average_model
    assert model is not None
    state = {name.removeprefix("module."): v for name, v in model.state_dict().items()}
    assert network_state(state).keys() == edsr().state_dict().keys()
    assert any(name.startswith(PLACE) for name in state)
    twin = module_of(edsr(), train="lora", lora_rank=2)
    twin.load_state_dict({name: v for name, v in state.items() if name != "n_averaged"})
    for (name, one), two in zip(twin.named_parameters(), model.module.parameters(), strict=True):
        assert torch.equal(one, two), name


@pytest.mark.slow
def test_a_killed_lora_run_resumes_exactly_and_its_files_are_plain(cli: Cli, kill: Kill) -> None:
    assert cli(*TINY, "gamma=0", "epochs=1", "paths.output_dir=base").code == 0
    base = run_at("base") / "checkpoints" / "best.ckpt"
    words = [*TINY, "gamma=auto", "share=0.5", "model.train=lora", f"init_from={base}", "epochs=3"]
    words += ["callbacks=enhancement_ema", "callbacks.photo_table=null"]
    words += ["callbacks.before_after=null"]
    done = cli(*words, "paths.output_dir=straight")
    assert done.code == 0, done.err
    killed(cli, kill, ("last", 2, "after"), *words, "paths.output_dir=killed")
    done = cli(*words, "paths.output_dir=killed")
    assert done.code == 0, done.err
    assert "epoch 2/3" not in done.out
    run = run_at("straight")
    assert_same_run(run, run_at("killed"))
    best = run / "checkpoints" / "best.ckpt"
    network, record = load_network(best, "enhancer")
    start, _ = load_network(base)
    assert changed(start.state_dict(), network.state_dict())
    assert all(name.startswith(("net.", PLACE)) for name in weights(run))
    checkpoint = load_plain(best)
    assert record.gamma == checkpoint["record"]["metrics"]["train/weight/aesthetic"] > 0
    assert checkpoint["log_ratio"] is not None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.train=lora"], "model.train=lora: needs init_from=FILE, or official"),
        (["model.train=head"], "model.train=head: should be 'all', 'tail' or 'lora'"),
        (["net=srcnn", "model.train=tail"], "model.train=tail: SRCNN does not list its last_la"),
        (["model.train=lora", "model.lora_rank=0"], "model.train=lora: needs init_from"),
    ],
)
def test_mistakes(cli: Cli, words: list[str], message: str) -> None:
    done = cli("gamma=0", *words)
    assert done.code == 2
    assert message in done.err


def test_a_rank_that_is_none_is_refused_in_one_line(cli: Cli, enhancer: Path) -> None:
    words = [f"init_from={enhancer}", "net.num_blocks=1", "net.num_features=4"]
    done = cli("gamma=0", "model.train=lora", *words, "model.lora_rank=0")
    assert done.code == 2
    assert done.err.strip() == "error: model.lora_rank=0: 1 or more"
