"""Low-rank adapters against NumPy."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from networks.edsr import EDSR
from networks.lora import adapted, add_adapters, num_parameters
from networks.weights import load_weights


def network() -> EDSR:
    torch.manual_seed(0)
    return EDSR(2, num_blocks=1, num_features=4)


def moved(net: nn.Module) -> nn.Module:
    """Gives the adapters something to add."""
    for _, layer in adapted(net):
        nn.init.normal_(layer.get_parameter("parametrizations.weight.0.B"))
    return net


def test_merged_weights_are_w_plus_scaled_b_times_a() -> None:
    plain = network().state_dict()
    net = network()
    add_adapters(net, rank=3, alpha=6)
    assert net.state_dict().keys() == plain.keys()
    for name, value in net.state_dict().items():
        assert torch.equal(value, plain[name]), name  # B is 0
    moved(net)
    layers = dict(adapted(net))
    assert len(layers) == sum(isinstance(m, nn.Conv2d) for m in network().modules())
    merged = net.state_dict()
    for name, layer in layers.items():
        a, b = (layer.get_parameter(f"parametrizations.weight.0.{k}").detach() for k in "AB")
        assert a.shape[0] == b.shape[1] == 3
        weight = plain[f"{name}.weight"].double().numpy()
        expected = weight + 2 * (b.double().numpy() @ a.double().numpy()).reshape(weight.shape)
        assert np.allclose(merged[f"{name}.weight"].numpy(), expected, atol=1e-6), name
    twin = network()
    load_weights(twin, merged, "here")  # which needs to know nothing of adapters
    lr = torch.rand(1, 3, 8, 8)
    assert torch.equal(twin(lr), net(lr))


def test_only_adapters_are_trained() -> None:
    net = network()
    num = sum(p.numel() for p in net.parameters())
    add_adapters(net, rank=2, alpha=2)
    trained = [name for name, p in net.named_parameters() if p.requires_grad]
    assert trained
    assert all(name.endswith((".0.A", ".0.B")) for name in trained)
    assert num_parameters(net) == num
    rank, shapes = 2, [m.weight.shape for m in network().modules() if isinstance(m, nn.Conv2d)]
    expected = sum(rank * (out + wide * k * k) for out, wide, k, _ in shapes)
    assert sum(p.numel() for p in net.parameters() if p.requires_grad) == expected


def test_plain_weights_can_be_loaded_and_copies_are_whole() -> None:
    torch.manual_seed(1)
    other = EDSR(2, num_blocks=1, num_features=4)
    net = network()
    add_adapters(net, rank=2, alpha=2)
    twin = copy.deepcopy(moved(net))
    load_weights(net, other.state_dict(), "here")
    lr = torch.rand(1, 3, 8, 8)
    assert torch.equal(net(lr), other(lr))
    assert not torch.equal(twin(lr), net(lr))
    load_weights(net, twin.state_dict(), "here")
    assert torch.equal(net(lr), twin(lr))


def test_frozen_layers_have_no_adapter_and_linear_ones_may() -> None:
    net = nn.Sequential(nn.Linear(4, 2), nn.Conv2d(3, 3, 1).requires_grad_(False), nn.ReLU())
    add_adapters(net, rank=1, alpha=1)
    assert [parametrize.is_parametrized(layer) for layer in net] == [True, False, False]


@pytest.mark.parametrize(("rank", "alpha"), [(0, 1.0), (1, 0.0), (1, float("inf"))])
def test_numbers_out_of_range(rank: int, alpha: float) -> None:
    with pytest.raises(ValueError, match=r"model.lora_(rank=0: 1 or more|alpha=.*: above 0)"):
        add_adapters(network(), rank, alpha)
