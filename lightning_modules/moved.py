"""Classes that have moved: run folders and checkpoints of version 0.1 name their old places."""

from typing import Any

MOVED = {
    "datamodules.div2k.Benchmark": "datamodules.benchmark.Benchmark",
    "datamodules.div2k.PhotoFolders": "datamodules.folders.PhotoFolders",
    "lightning_modules.callbacks.BeforeAfter": "lightning_modules.picture_callbacks.BeforeAfter",
    "lightning_modules.callbacks.PhotoTable": "lightning_modules.picture_callbacks.PhotoTable",
    "lightning_modules.callbacks.RatingPictures": (
        "lightning_modules.picture_callbacks.RatingPictures"
    ),
}


def present_names(content: Any) -> Any:  # noqa: ANN401
    """Replace the former names of classes in plain data, at any depth, by the present ones."""
    if isinstance(content, dict):
        return {key: present_names(value) for key, value in content.items()}
    if isinstance(content, list):
        return [present_names(value) for value in content]
    return MOVED.get(content, content) if isinstance(content, str) else content
