from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_modules.checkpoint_io import WholeFiles, content_sha256, read_whole


def test_a_full_disk_leaves_the_checkpoint_before(small_disk: Path) -> None:
    path = small_disk / "checkpoints" / "last.ckpt"
    WholeFiles().save_checkpoint({"weights": torch.ones(100_000)}, path)
    before = path.read_bytes()
    with pytest.raises(OSError, match=r"cannot be written: No space left on device.*last\.ckpt"):
        WholeFiles().save_checkpoint({"weights": torch.zeros(200_000)}, path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
    WholeFiles().save_checkpoint({"weights": torch.zeros(10)}, path)
    assert torch.equal(torch.load(path, weights_only=True)["weights"], torch.zeros(10))


def test_the_checksum_covers_all_there_is(tmp_path: Path) -> None:
    content: dict[str, Any] = {
        "state_dict": {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(1)},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(3.0)}}, "lr": 1e-4}],
        "loops": {"done": (1, None, True), "empty": torch.zeros(0)},
    }
    path = tmp_path / "a.ckpt"
    WholeFiles().save_checkpoint(content, path)
    loaded = torch.load(path, weights_only=True)
    before = loaded.pop("sha256")
    assert before == content_sha256(loaded) == content_sha256(content)
    assert content_sha256({**content, "state_dict": {}}) != before
    content["optimizer_states"][0]["state"][0]["step"] += 1
    assert content_sha256(content) != before
    content["optimizer_states"][0]["state"][0]["step"] -= 1
    content["state_dict"]["a"] = content["state_dict"]["a"].to(memory_format=torch.preserve_format)
    assert content_sha256(content) == before
    content["state_dict"]["a"] = content["state_dict"]["a"].reshape(3, 2)
    assert content_sha256(content) != before


def test_what_is_no_checkpoint_of_a_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    torch.save({"weight": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"a\.ckpt: not a checkpoint of a training run"):
        read_whole(path)
