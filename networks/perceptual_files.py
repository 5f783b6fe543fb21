"""Find the ImageNet weights that LPIPS and DISTS need, or say where to get them.

Kept apart from `networks.perceptual`, so that a configuration can be checked without importing
torchvision and torchmetrics or building a network.
"""

import socket
from functools import cache
from pathlib import Path
from urllib.error import URLError

import torch

from system.places import expanded

TIMEOUT = 20.0  # seconds without data before a download is given up
ADDRESS = "https://download.pytorch.org/models/"
# torchvision's files, whose names end in the start of their SHA-256.
FILES = {
    "alex": "alexnet-owt-7be5be79.pth",
    "vgg": "vgg16-397923af.pth",
    "squeeze": "squeezenet1_1-b8a52dc0.pth",
}


def perceptual_problem(
    name: str, net: str | None = None, weights: str | Path | None = None
) -> str | None:
    """Return why the weights of LPIPS or DISTS are not available; None if they are.

    Builds no network. Tries to download a missing file, once per process.

    Args:
        name: how the user calls the metric or the term, for the message; `dists` has VGG-16.
        net: backbone, `alex`, `vgg` or `squeeze`; None is the one of the name.
        weights: file of the backbone's weights; None is torchvision's in PyTorch's cache.
    """
    try:
        backbone_file(name, net or ("vgg" if name == "dists" else "alex"), weights)
    except ValueError as error:
        return str(error)
    return None


def backbone_file(name: str, net: str, weights: str | Path | None = None) -> Path:
    """Return the file of a backbone's weights, downloading it into PyTorch's cache if necessary.

    Args:
        name: see `perceptual_problem`.
        net: `alex`, `vgg` or `squeeze`.
        weights: a file to take instead.

    Raises:
        ValueError: if there is no such backbone or file; or if the download fails, saying which
            file to get and where to put it.
    """
    if net not in FILES:
        raise ValueError(f"{name}: net={net}: allowed are {', '.join(FILES)}")
    if weights is not None:
        path = expanded(weights)
        if not path.is_file():
            raise ValueError(f"{name}: weights={weights}: no such file")
        return path
    path = Path(torch.hub.get_dir()) / "checkpoints" / FILES[net]
    if path.is_file():
        return path
    reason = download(ADDRESS + path.name, path)
    if reason:
        raise ValueError(
            f"{name}: could not download {ADDRESS}{path.name} ({reason}); download it elsewhere "
            f"and put it into {path.parent}, or give the file as weights="
        )
    return path


@cache
def download(url: str, path: Path) -> str:
    """Download a file; return the reason if that fails, which the process remembers."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        start = path.stem.rpartition("-")[2]
        torch.hub.download_url_to_file(url, str(path), hash_prefix=start)
    except (URLError, OSError, RuntimeError, EOFError) as error:
        return str(error).partition("\n")[0] or type(error).__name__
    finally:
        socket.setdefaulttimeout(before)
    return ""
