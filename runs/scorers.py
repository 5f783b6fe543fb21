"""The settings of a scorer that is trained: what its backbone expects, and its weights."""

import logging

from omegaconf import DictConfig, OmegaConf

from networks.pretrained import find_packaged_weights
from networks.timm_backbone import find_backbone

log = logging.getLogger(__name__)


def expected_by_backbone(scorer: DictConfig) -> dict[str, object]:
    """Return, by dotted name, what a library's backbone expects where the settings are null.

    These become part of the run's configuration and of its checkpoints, so that another version of
    the library cannot change them.
    """
    if scorer.get("library") is None:
        return {}
    kind = find_backbone(scorer.backbone, scorer.library, crop=scorer.crop)
    expected = {
        "resize": kind.resize,
        "crop": kind.crop,
        "mean": list(kind.mean),
        "std": list(kind.std),
    }
    expected = {name: value for name, value in expected.items() if scorer[name] is None}
    if expected:
        shown = ", ".join(f"{name} {value}" for name, value in expected.items())
        log.info("scorer: %s of %s, with its own %s", scorer.backbone, scorer.library, shown)
    return {f"scorer.{name}": value for name, value in expected.items()}


def pretrained_file(scorer: DictConfig) -> str | None:
    """Return the file of the initial weights of the backbone; None if there is none."""
    if scorer.pretrained != "imagenet":
        path: str | None = scorer.pretrained
        return path
    package = find_backbone(scorer.backbone, scorer.get("library")).package
    return None if package is None else str(find_packaged_weights(scorer.backbone, package))


def scorer_files(cfg: DictConfig) -> list[str]:
    """Return the checkpoints of the scorers in the aesthetic term."""
    given = cfg.scorer.checkpoint
    return list(given) if OmegaConf.is_list(given) else [given]
