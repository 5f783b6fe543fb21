import numpy as np
import pytest
import torch

from networks.nima import NIMA, fold_batch_norms, mean_score, std_score


@pytest.fixture(scope="module")
def scorer() -> NIMA:
    torch.manual_seed(0)
    net = NIMA("mnasnet_0_5", num_buckets=10)
    net.train()
    for _ in range(3):  # batch norms with statistics of their own
        net(torch.rand(4, 3, 64, 64))
    return net.eval()


@pytest.mark.parametrize(
    ("backbone", "count"), [("mnasnet_0_5", 950_322), ("mnasnet_1_0", 3_115_122)]
)
def test_number_of_parameters(backbone: str, count: int) -> None:
    assert sum(p.numel() for p in NIMA(backbone).parameters()) == count


@pytest.mark.parametrize("size", [(32, 32), (64, 96), (75, 201)])
def test_any_size_gives_a_distribution(scorer: NIMA, size: tuple[int, int]) -> None:
    p = scorer(torch.rand(2, 3, *size))
    assert p.shape == (2, 10)
    assert p.min() >= 0
    assert torch.allclose(p.sum(dim=1), torch.ones(2))


def test_mean_and_std_of_a_distribution() -> None:
    p = np.array([[0.1, 0.2, 0.3, 0.4], [1, 0, 0, 0]])
    k = np.arange(1, 5)
    mean = (p * k).sum(axis=1)
    assert np.allclose(mean_score(torch.from_numpy(p)), mean)
    std = np.sqrt((p * (k - mean[:, None]) ** 2).sum(axis=1))
    assert np.allclose(std_score(torch.from_numpy(p)), std)


def test_gradient_reaches_the_pixels(scorer: NIMA) -> None:
    image = torch.rand(1, 3, 64, 64, requires_grad=True)
    mean_score(scorer(image)).sum().backward()
    assert image.grad is not None
    assert (image.grad != 0).float().mean() > 0.9


def test_folded_batch_norms_change_only_rounding(scorer: NIMA) -> None:
    import copy

    folded = copy.deepcopy(scorer)
    fold_batch_norms(folded)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
    image = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(folded(image), scorer(image), atol=1e-5)


def test_state_dict_without_metadata_loads(scorer: NIMA) -> None:
    bare = {name: value.clone() for name, value in scorer.state_dict().items()}
    assert not hasattr(bare, "_metadata")
    NIMA("mnasnet_0_5").load_state_dict(bare)


def test_whole_images_go_through_the_scorers_own_rule() -> None:
    scorer = NIMA("mnasnet_0_5", resize=64, crop=32).eval()
    image = torch.rand(1, 3, 120, 90)
    seen = scorer.prepare(image)
    assert seen.shape == (1, 3, 32, 32)
    assert torch.allclose(seen * 255, (seen * 255).round(), atol=1e-4)  # whole grey levels
    small = torch.rand(1, 3, 64, 64).mul(255).round() / 255
    assert torch.equal(scorer.prepare(small), small[..., 16:48, 16:48])  # nothing but the crop
    assert torch.allclose(scorer.score(small), mean_score(scorer(small[..., 16:48, 16:48])))


def test_nothing_is_downloaded_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    NIMA("mnasnet_1_0")
    with pytest.raises(ValueError, match=r"(?s)could not fetch .*mnasnet.*put it into"):
        NIMA("mnasnet_1_0", pretrained="imagenet")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backbone": "resnet"}, "allowed are mnasnet_0_5"),
        ({"num_buckets": 1}, "2 or more"),
        ({"crop": 300}, "crop <= resize"),
        ({"pretrained": "coco.pth"}, "coco.pth: no such file"),
        ({"resize_filter": "cubic"}, "bilinear, nearest"),
        ({"std": [1, 1, 0]}, "above 0"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NIMA(**arguments)  # type: ignore[arg-type]
