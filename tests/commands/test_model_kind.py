"""Whether a training is of a scorer or an enhancer is asked of its class, not of a name."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from configuration.model_kind import configured_kind, stored_kind

OWN = """\
from lightning_modules.enhancement import EnhancementModule
from lightning_modules.nima import NIMAModule

class Ranking(NIMAModule):
    pass

class NIMAModule(EnhancementModule):
    pass
"""


@pytest.mark.parametrize(
    ("target", "net", "kind"),
    [
        ("lightning_modules.nima.NIMAModule", None, "scorer"),
        ("lightning_modules.enhancement.EnhancementModule", {"scale": 2}, "enhancer"),
        ("own_kinds.Ranking", None, "scorer"),
        ("own_kinds.NIMAModule", {"scale": 2}, "enhancer"),
        ("not.there.Module", None, "scorer"),
        ("not.there.NIMAModule", {"scale": 2}, "enhancer"),
    ],
)
def test_the_class_says_what_it_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, net: object, kind: str
) -> None:
    (tmp_path / "own_kinds.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    cfg = OmegaConf.create({"model": {"_target_": target}, "net": net})
    assert configured_kind(cfg) == kind


def test_a_stored_run_is_read_without_importing_its_class() -> None:
    config = {"model": {"_target_": "not.there.Ranking"}, "net": None}
    assert stored_kind({"kind": "enhancer"}, config) == "enhancer"
    assert stored_kind({}, config) == "scorer"  # version 0.1 does not say
    assert stored_kind({}, {"checkpoint": "best.ckpt"}) == "enhancer"  # not a training
