"""Tell the trainings of scorers from those of enhancers."""

from collections.abc import Mapping

from omegaconf import DictConfig

from configuration.signatures import locate
from lightning_modules.kinds import Kind


def configured_kind(cfg: DictConfig) -> Kind:
    """Ask the LightningModule class that a configuration names.

    A class that cannot be imported is a mistake that `check_node` reports; the kind is then that of
    the other settings.
    """
    try:
        module, _ = locate(str(cfg.model._target_))
    except Exception:  # a user's module may raise anything
        module = None
    kind: Kind | None = getattr(module, "kind", None)
    return kind or kind_of_settings(cfg)


def trains_scorer(cfg: DictConfig) -> bool:
    """Return whether a configuration trains a scorer rather than an enhancer."""
    return configured_kind(cfg) == "scorer"


def stored_kind(run: Mapping[str, object], config: Mapping[str, object]) -> Kind:
    """Read the kind of a training from its run folder, without importing the class it names.

    Args:
        run: the content of run.json or result.json; runs of version 0.1 do not say their kind.
        config: the run's configuration.
    """
    kind = run.get("kind")
    return kind if kind in ("enhancer", "scorer") else kind_of_settings(config)


def kind_of_settings(config: Mapping[str, object] | DictConfig) -> Kind:
    """Infer the kind from the settings: only enhancers have a `net`."""
    return "enhancer" if config.get("net") or not config.get("model") else "scorer"
