import pytest
import torch

from networks.edsr import DIV2K_MEAN, EDSR


@pytest.mark.parametrize(
    ("scale", "count"), [(2, 1_369_859), (3, 1_554_499), (4, 1_517_571)]
)  # the published numbers, without the 24 fixed mean-shift values
def test_baseline_has_the_published_number_of_parameters(scale: int, count: int) -> None:
    assert sum(p.numel() for p in EDSR(scale).parameters()) == count


def test_full_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        net = EDSR(2, num_blocks=32, num_features=256, res_scale=0.1)
    assert sum(p.numel() for p in net.parameters()) == 40_729_603


def test_authors_checkpoints_load_key_for_key() -> None:
    # Names and shapes of edsr_baseline_x4, written down from the documentation of the format.
    shapes: dict[str, tuple[int, ...]] = {}
    for name in ("sub_mean", "add_mean"):
        shapes |= {f"{name}.weight": (3, 3, 1, 1), f"{name}.bias": (3,)}
    convs = {"head.0": (64, 3), "body.16": (64, 64), "tail.1": (3, 64)}
    convs |= {"tail.0.0": (256, 64), "tail.0.2": (256, 64)}
    convs |= {f"body.{i}.body.{j}": (64, 64) for i in range(16) for j in (0, 2)}
    for name, (num_out, num_in) in convs.items():
        shapes |= {f"{name}.weight": (num_out, num_in, 3, 3), f"{name}.bias": (num_out,)}
    EDSR(4).load_state_dict({name: torch.zeros(shape) for name, shape in shapes.items()})


def test_zero_body_gives_back_the_mean_color() -> None:
    net = EDSR(2, num_blocks=1, num_features=4)
    for p in net.parameters():
        torch.nn.init.zeros_(p)
    sr = net(torch.rand(1, 3, 5, 7))
    assert sr.shape == (1, 3, 10, 14)
    assert torch.allclose(sr[0, :, 3, 3], torch.tensor(DIV2K_MEAN), atol=1e-6)


def test_wrong_scale_is_refused() -> None:
    with pytest.raises(ValueError, match="scale=5"):
        EDSR(5)
