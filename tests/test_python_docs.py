"""docs/python.md runs as it stands, in one process, in an empty folder."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "python.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.parametrize("name", ["plain_loop", "notebook"])
def test_examples_are_shown_as_they_are(name: str) -> None:
    assert f"examples/{name}.py" in PAGE
    assert (ROOT / "examples" / f"{name}.py").read_text() in BLOCKS


@pytest.mark.filterwarnings("ignore:The number of training batches:UserWarning")
@pytest.mark.slow
def test_examples_run_as_they_stand(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "weights").symlink_to(ROOT / "weights")
    names: dict[str, Any] = {}
    for block in BLOCKS:
        exec(compile(block, "docs/python.md", "exec"), names)
    assert isinstance(names["score"], float)
    assert 1 < names["score"] < 10
    p = names["distribution"].numpy()
    assert names["score"] == pytest.approx((p * np.arange(1, 11)).sum(), abs=1e-5)
    assert names["scores"].tolist() == pytest.approx([names["score"]], abs=1e-5)
    for tensor in (names["images"], names["sr"]):
        assert tensor.grad.abs().max() > 0
    assert names["large"].shape == (3, 600, 902)
    assert Path("chelsea_x2.png").exists()
    printed = capsys.readouterr().out
    assert len(re.findall(r"^[12] \{'l2': [\d.]+, 'aesthetic': [\d.]+\}$", printed, re.M)) == 2
    assert re.search(r"^bicubic \{.psnr.: \d\d\.\d+", printed, re.M)
    assert "'val/aesthetic': " in printed
    assert names["record"].net["num_blocks"] == 4
