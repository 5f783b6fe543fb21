"""Random weights in place of the published ones, which tests cannot download."""

import socket
from pathlib import Path

import pytest
import torch
import torchvision

from networks.perceptual import TORCHVISION
from networks.perceptual_files import FILES, download


def fill_cache(folder: Path, net: str, *, whole: bool) -> Path:
    """Write random weights in place of the published ones, which cannot be downloaded here.

    torchvision's constructors also need the classifier, which is stored as a single zero here.
    """
    path = folder / "checkpoints" / FILES[net]
    path.parent.mkdir(parents=True, exist_ok=True)
    with torch.device("meta"):
        shapes = torchvision.models.get_model(TORCHVISION[net]).state_dict()
    random = torch.Generator().manual_seed(0)
    state = {
        key: torch.randn(value.shape, generator=random) * (2 / max(1, value[:1].numel())) ** 0.5
        for key, value in shapes.items()
        if key.startswith("features.")
    }
    if whole:
        state |= {
            key: torch.zeros(()).expand(value.shape)
            for key, value in shapes.items()
            if key not in state
        }
    torch.save(state, path)
    return path


def go_offline(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Leave PyTorch with an empty cache and no network; return the folder of the cache's files."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(folder))
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    download.cache_clear()
    return folder / "checkpoints"
