import pytest
import torch

from networks.mdsr import MDSR
from networks.scales import at_scale, scales_of


@pytest.mark.parametrize(("num_blocks", "count"), [(16, 3_227_203), (80, 7_953_987)])
def test_published_number_of_parameters(num_blocks: int, count: int) -> None:
    with torch.device("meta"):
        net = MDSR(num_blocks=num_blocks)
    assert sum(p.numel() for p in net.parameters()) == count


def test_authors_checkpoints_load_key_for_key() -> None:
    # Names and shapes of mdsr_baseline, written down from the documentation of the format.
    shapes: dict[str, tuple[int, ...]] = {}
    for name in ("sub_mean", "add_mean"):
        shapes |= {f"{name}.weight": (3, 3, 1, 1), f"{name}.bias": (3,)}
    convs = {"head.0": (64, 3, 3), "body.16": (64, 64, 3), "tail.0": (3, 64, 3)}
    convs |= {f"body.{i}.body.{j}": (64, 64, 3) for i in range(16) for j in (0, 2)}
    convs |= {
        f"pre_process.{s}.{i}.body.{j}": (64, 64, 5)
        for s in range(3) for i in range(2) for j in (0, 2)
    }  # fmt: skip
    convs |= {"upsample.0.0": (256, 64, 3), "upsample.1.0": (576, 64, 3)}
    convs |= {"upsample.2.0": (256, 64, 3), "upsample.2.2": (256, 64, 3)}
    for name, (num_out, num_in, side) in convs.items():
        shapes |= {f"{name}.weight": (num_out, num_in, side, side), f"{name}.bias": (num_out,)}
    MDSR().load_state_dict({name: torch.zeros(shape) for name, shape in shapes.items()})


def test_a_scale_trains_its_own_branch_and_what_is_shared() -> None:
    # The authors' own PyTorch code trains the first branch at every scale.
    net = MDSR(num_blocks=1, num_features=4)
    for branch, scale in enumerate(net.scales):
        net.zero_grad()
        net(torch.rand(1, 3, 9, 9), scale).square().mean().backward()
        touched = {
            name for name, p in net.named_parameters() if p.grad is not None and p.grad.any()
        }
        others = [k for k in range(3) if k != branch]
        assert not any(name.startswith((f"pre_process.{k}", f"upsample.{k}"))
                       for name in touched for k in others)  # fmt: skip
        for part in (
            "head.0",
            f"pre_process.{branch}.0",
            "body.0",
            f"upsample.{branch}.0",
            "tail.0",
        ):
            assert any(name.startswith(part) for name in touched), part


def test_one_scale_of_several() -> None:
    net = MDSR([2, 4], num_blocks=1, num_features=4)
    lr = torch.rand(2, 3, 5, 6)
    assert scales_of(net) == [2, 4]
    view = at_scale(net, 4)
    assert scales_of(view) == [4]
    assert torch.equal(view(lr), net(lr, 4))
    assert view(lr).shape == (2, 3, 20, 24)
    with pytest.raises(ValueError, match=r"scale=3: this MDSR is for x2, x4"):
        at_scale(net, 3)
    with pytest.raises(ValueError, match=r"scale=3: this MDSR has 2, 4"):
        net(lr, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scales": [2, 5]}, r"scales=\[2, 5\]"),
        ({"scales": []}, r"scales=\[\]"),
        ({"scales": [2, 2]}, r"different"),
        ({"num_blocks": 0}, "num_blocks=0"),
    ],
)
def test_wrong_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MDSR(**arguments)  # type: ignore[arg-type]
