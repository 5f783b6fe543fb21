"""Run folders of version 0.1 are found again, continued and extended."""

import json
from pathlib import Path

import pytest
import torch

from lightning_modules.checkpoint import PREFIX, checksum
from tests.conftest import TINY, Cli

FIXED = {"enable_version_counter": False, "filename": "best", "save_last": True}


def as_of_0_1(folder: Path) -> None:
    """Rewrite a run folder as version 0.1 would have left it."""
    about = json.loads((folder / "run.json").read_text())
    about["settings"] |= {f"callbacks.checkpoint.{key}": value for key, value in FIXED.items()}
    del about["code"]
    (folder / "run.json").write_text(json.dumps(about | {"code_hash": "0" * 64}))
    for path in folder.glob("checkpoints/*.ckpt"):
        content = torch.load(path, weights_only=True)
        del content["sha256"], content["record"]["version"]
        content["record"]["config"]["callbacks"]["checkpoint"] |= FIXED
        weights = content["state_dict"].items()
        state = {name.removeprefix(PREFIX): v for name, v in weights if name.startswith(PREFIX)}
        content["record"]["sha256"] = checksum(content["record"], state)
        torch.save(content, path)


@pytest.mark.slow
def test_its_runs_go_on(cli: Cli, folder: Path) -> None:
    words = [*TINY, "gamma=0", "name=old", "epochs=1"]
    assert cli(*words).code == 0
    as_of_0_1(folder / "outputs/sample_edsr/old")
    refused = cli(*words)
    assert refused.code == 2
    assert refused.err == (
        "error: outputs/sample_edsr/old holds a run, but the code changed since; stale=rerun runs "
        "it again, stale=accept uses it as it is\n"
    )
    assert "already finished" in cli(*words, "stale=accept").out
    done = cli("resume=true", "name=old", "epochs=2", "stale=accept")
    assert done.code == 0, done.err
    assert "epoch 2/2" in done.out
    assert "epoch 1/" not in done.out
