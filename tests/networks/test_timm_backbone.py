"""Scorers on backbones of timm: what timm itself computes, and what is refused."""

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.data import resolve_model_data_config
from torch import nn
from torch.nn import functional as F

from lightning_modules.checkpoint import load_network, save_safetensors
from lightning_modules.loss_terms import AestheticLoss
from lightning_modules.losses import input_gradient
from lightning_modules.nima import NIMAModule
from lightning_modules.record import Record
from lightning_modules.schedules import Constant
from networks.nima import NIMA, inference_copy, mean_score
from networks.timm_backbone import layer_groups, timm_backbone

SMALL = ["test_convnext", "test_resnet", "test_efficientnet", "test_vit", "test_coatnet"]


def scorer(name: str, **arguments: object) -> NIMA:
    """Random weights, batch norms with statistics of their own, scores that tell images apart."""
    torch.manual_seed(0)
    net = NIMA(name, library="timm", **arguments)  # type: ignore[arg-type]
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            assert isinstance(module.running_mean, torch.Tensor)
            module.running_mean.normal_(std=0.2)
    nn.init.normal_(net.head.weight, std=0.1)
    return net.eval()


@pytest.fixture(scope="module", params=SMALL)
def small(request: pytest.FixtureRequest) -> NIMA:
    return scorer(request.param)


@pytest.fixture
def fresh() -> Iterator[None]:
    """Backbones that nobody has asked for yet."""
    timm_backbone.cache_clear()
    yield
    timm_backbone.cache_clear()


def test_features_and_input_are_those_of_timm(small: NIMA) -> None:
    reference: Any = timm.create_model(small.backbone).eval()
    found = reference.load_state_dict(small.features.state_dict(), strict=False)
    assert all(name.startswith(("head", "fc", "classifier")) for name in found.missing_keys)
    wanted = resolve_model_data_config(reference)
    side = wanted["input_size"][-1]
    assert (small.crop, small.resize) == (side, int(side / wanted["crop_pct"]))
    images = torch.rand(2, 3, side, side)
    mean, std = (torch.tensor(wanted[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        maps = reference.forward_features((images - mean) / std)
        expected = reference.forward_head(maps, pre_logits=True)
        assert torch.allclose(small.pooled_features(images), expected, atol=1e-5)


def test_any_size_is_rated_and_the_gradient_reaches_the_pixels(small: NIMA) -> None:
    for size in ((192, 192), (75, 90)):
        images = torch.rand(1, 3, *size, requires_grad=True)
        p = small(images)
        assert p.sum().item() == pytest.approx(1)
        (gradient,) = torch.autograd.grad(mean_score(p).sum(), images)
        assert gradient.isfinite().all()
        assert (gradient != 0).float().mean() > 0.9


def test_the_copy_in_a_loss_computes_the_same(small: NIMA) -> None:
    images = torch.rand(2, 3, 192, 192)
    loss = AestheticLoss(small)
    with torch.no_grad():
        expected = mean_score(small(images)).mean().item()
        term = loss(images, images).item()
        assert small.num_buckets - term == pytest.approx(expected, abs=1e-4)
        rounded = mean_score(inference_copy(small, "bfloat16")(images)).mean().item()
        assert rounded == pytest.approx(expected, abs=0.1)


def test_batch_norms_with_an_activation_are_not_folded_away() -> None:
    net = scorer("levit_128s")  # has convolutions before batch norms with an activation
    images = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        assert torch.allclose(inference_copy(net)(images), net(images), atol=1e-5)


def test_a_backbone_of_one_size_sees_images_resized_to_it() -> None:
    net = scorer("test_coatnet", crop=96)
    assert net.only_side == 96
    assert scorer("test_vit", crop=96).only_side is None  # resamples its position embeddings
    images = torch.rand(1, 3, 130, 110)
    resized = F.interpolate(images, (96, 96), mode="bilinear", antialias=True)
    assert torch.equal(net(images), net(resized))


@pytest.mark.parametrize("name", ["test_convnext", "test_vit"])
def test_a_checkpoint_builds_the_scorer_again(name: str, tmp_path: Path) -> None:
    net = scorer(name, num_buckets=7, crop=96, dropout=0.3, drop_path=0.1)
    spec = {"_target_": "networks.nima.NIMA", "backbone": name, "library": "timm"}
    record = Record(kind="scorer", net=spec, data="nothing", gamma=None)
    save_safetensors(tmp_path / "a.safetensors", net, record, dtype=torch.float32)
    loaded, record = load_network(tmp_path / "a.safetensors", "scorer")
    assert isinstance(loaded, NIMA)
    assert record.net["mean"] == pytest.approx(net.mean.flatten().tolist())
    assert {key: record.net[key] for key in ("crop", "drop_path", "dropout", "library")} == {
        "crop": 96,
        "drop_path": 0.1,
        "dropout": 0.3,
        "library": "timm",
    }
    images = torch.rand(1, 3, 96, 96)
    assert torch.equal(loaded(images), net(images))


def test_drop_path_and_dropout_act_in_training_only() -> None:
    images = torch.rand(1, 3, 64, 64).expand(16, -1, -1, -1)
    for drop_path, dropout in ((0.5, 0.0), (0.0, 0.5)):
        net = scorer("test_convnext", drop_path=drop_path, dropout=dropout).train()
        for name, parameter in net.named_parameters():
            if name.endswith(".gamma"):  # scales the branch of a block; starts near 0
                nn.init.ones_(parameter)
        features = net.pooled_features(images)
        assert (features.std(dim=0).max() > 1e-3) == (drop_path > 0)
        assert net(images).std(dim=0).max() > 1e-3
        net.eval()
        assert net(images).std(dim=0).max() < 1e-6


@pytest.mark.parametrize("name", ["test_convnext", "test_vit"])
def test_layers_learn_slower_the_further_from_the_head(name: str) -> None:
    net = scorer(name)
    groups = layer_groups(net.features, name, 0.5)
    ids = [id(p) for group, _ in groups for p in group.parameters()]
    assert sorted(ids) == sorted(id(p) for p in net.features.parameters())
    assert sorted({factor for _, factor in groups}) == [0.5**k for k in range(len(groups))][::-1]
    depth = {id(p): factor for group, factor in groups for p in group.parameters()}
    stem = {"test_convnext": "stem.0.weight", "test_vit": "patch_embed.proj.weight"}[name]
    assert depth[id(net.features.get_parameter(stem))] == 0.5 ** (len(groups) - 1)

    adam = partial(torch.optim.Adam, lr=0.1)
    module = NIMAModule(net, adam, Constant(), backbone_lr=0.1, layer_decay=0.5)
    factors = [factor for _, factor in module.parameter_groups()]
    assert factors == [*(0.1 * factor for _, factor in groups), 1.0]
    with pytest.raises(ValueError, match="above 0, at most 1"):
        NIMAModule(net, adam, Constant(), layer_decay=0.0)
    for other in (scorer("poolformer_s12", crop=64), NIMA("mnasnet_0_5")):
        with pytest.raises(ValueError, match=f"0.5: {other.backbone} does not group its layers"):
            NIMAModule(other, adam, Constant(), layer_decay=0.5)


@pytest.mark.parametrize("kind", ["timm", "model", "scorer"])
def test_weights_come_from_a_file(kind: str, tmp_path: Path) -> None:
    other = scorer("test_convnext", num_buckets=5)
    path = tmp_path / "weights.pth"
    if kind == "scorer":
        torch.save(other.state_dict(), path)
    else:
        whole = timm.create_model("test_convnext")
        whole.load_state_dict(other.features.state_dict(), strict=False)
        state = whole.state_dict()
        torch.save(state if kind == "timm" else {"model": state}, path)
    net = scorer("test_convnext", pretrained=str(path))
    for key, value in other.features.state_dict().items():
        assert torch.equal(net.features.state_dict()[key], value)
    with pytest.raises(ValueError, match=r"weights.pth: not weights of test_resnet \(Error"):
        scorer("test_resnet", pretrained=str(path))


def test_position_embeddings_of_a_file_are_resampled_for_another_crop(tmp_path: Path) -> None:
    whole: Any = timm.create_model("test_vit")
    torch.save(whole.state_dict(), tmp_path / "vit.pth")
    net = scorer("test_vit", crop=96, pretrained=str(tmp_path / "vit.pth"))
    whole.set_input_size(96)  # timm's own resampling
    state = whole.state_dict()
    for key, value in net.features.state_dict().items():
        assert torch.allclose(value, state[key], atol=1e-6), key


def test_published_weights_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    build = timm.create_model

    def offline(name: str, pretrained: bool = False, **options: object) -> nn.Module:
        if pretrained:
            raise OSError("no connection\nsecond line")
        return build(name, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("timm.create_model", offline)
    scorer("test_convnext")
    message = (
        r"could not fetch the weights of test_convnext \(no connection\); download "
        r"https://huggingface.co/timm/test_convnext.r160_in1k elsewhere and give pretrained=FILE$"
    )
    with pytest.raises(ValueError, match=message):
        scorer("test_convnext", pretrained="imagenet")
    monkeypatch.setattr("timm.models.PretrainedCfg.has_weights", False)
    with pytest.raises(ValueError, match="no published weights of test_convnext"):
        scorer("test_convnext", pretrained="imagenet")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backbone": "convnext_tyni"}, "has no such model; did you mean convnext_tiny?"),
        ({"backbone": "convnext_tiny.in12"}, "did you mean convnext_tiny.in12k?"),
        ({"backbone": "resnet10t.zzz"}, "no such weights; there are resnet10t.c3_in1k"),
        ({"backbone": "hf-hub:timm/resnet18"}, "has no such model"),  # nothing from elsewhere
        ({"backbone": "local-dir:/tmp"}, "has no such model"),
        ({"backbone": "vgg11", "drop_path": 0.1}, "timm cannot build vgg11: .*drop_path_rate"),
        ({"backbone": "test_convnext", "drop_path": 1.0}, "0 or more, and less than 1"),
        ({"backbone": "test_convnext", "library": "torch"}, "allowed is timm"),
        ({"backbone": "test_convnext", "library": None}, "scorer=timm takes timm's"),
        ({"backbone": "mnasnet_0_5", "library": None, "drop_path": 0.1}, "only backbones of timm"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NIMA(**({"library": "timm"} | arguments))  # type: ignore[arg-type]


@pytest.mark.usefixtures("fresh")
def test_without_timm_the_way_to_install_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"needs timm: pip install '.\[timm\]'"):
        NIMA("test_convnext", library="timm")


def test_gradients_of_attention_can_be_penalised() -> None:
    net = scorer("test_vit", crop=64)
    net.dropout.p = 0.0
    module = NIMAModule(net, partial(torch.optim.SGD, lr=0.1), Constant(), gradient_penalty=0.1)
    images = torch.rand(2, 3, 64, 64, requires_grad=True)
    with module.attention():
        p = module(images)
    input_gradient(mean_score(p), images).square().sum().backward()
    assert all(q.grad is None or q.grad.isfinite().all() for q in net.parameters())
    assert torch.allclose(net(images), p, atol=1e-5)
