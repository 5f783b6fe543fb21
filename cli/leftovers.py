"""Drop arguments left over from an option whose class was replaced on the command line.

`net._target_=mynet.MyNet` alone replaces the class of the chosen network. The settings of that
network which the new class does not have would stop it; typed ones and those that follow others
stay, and are refused.
"""

from collections.abc import Iterable

from omegaconf import DictConfig, OmegaConf, open_dict

from configuration.parsing import parse_task
from configuration.signatures import locate
from configuration.trust import import_from_here

KEPT = ("batch_size", "checkpoint")  # of data and scorers; commands read them
CLASS = "._target_"


def drop_leftovers(cfg: DictConfig, words: Iterable[str]) -> None:
    """Remove the arguments that no class typed as `KEY._target_=...` takes."""
    typed = [override.key_or_group for override in parse_task(words) if not override.is_delete()]
    for key in typed:
        if not key.endswith(CLASS):
            continue
        parent = key.removesuffix(CLASS)
        try:
            node = OmegaConf.select(cfg, parent)
            import_from_here(cfg)
            _, parameters = locate(node._target_)
        except Exception:  # refused with the other mistakes
            continue
        if not parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            continue
        with open_dict(node):
            for name in [str(name) for name in node]:
                given = any(f"{other}.".startswith(f"{parent}.{name}.") for other in typed)
                follows = OmegaConf.is_interpolation(node, name)
                if name in parameters or name.startswith("_") or given or follows or name in KEPT:
                    continue
                del node[name]
