"""Twenty steps of hybrid training leave the scorer as it was."""

from functools import partial

import torch

from datamodules.sample import SamplePairs
from lightning_modules.enhancement import EnhancementModule
from lightning_modules.losses import HybridLoss
from lightning_modules.schedules import Constant, Cosine, Exponential
from networks.edsr import EDSR
from networks.nima import NIMA
from tests.conftest import quiet_trainer


def test_scorer_does_not_change_in_twenty_steps() -> None:
    torch.manual_seed(0)
    scorer = NIMA("mnasnet_0_5")
    before = {name: value.clone() for name, value in scorer.state_dict().items()}
    loss = HybridLoss(0.4, lambda: scorer)
    assert loss.aesthetic is not None
    frozen = {name: value.clone() for name, value in loss.aesthetic.scorer.state_dict().items()}
    module = EnhancementModule(
        EDSR(2, num_blocks=1, num_features=4),
        loss,
        partial(torch.optim.Adam, lr=1e-3),
        Constant(),
    )
    start = module.net.tail[1].weight.detach().clone()
    data = SamplePairs(2, patch_size=8, batch_size=2, num_steps=20, limit=1)
    trainer = quiet_trainer(max_epochs=1, limit_val_batches=0)
    trainer.fit(module, datamodule=data)
    assert trainer.global_step == 20
    assert not torch.equal(start, module.net.tail[1].weight)  # the enhancer did learn
    for name, value in scorer.state_dict().items():
        assert torch.equal(value, before[name]), name
    for name, value in loss.aesthetic.scorer.state_dict().items():
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
