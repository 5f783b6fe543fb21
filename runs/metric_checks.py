"""Check the image metrics of a configuration before any work starts."""

from collections.abc import Iterator
from importlib import import_module

from omegaconf import DictConfig, OmegaConf

from configuration.hints import nearest
from configuration.signatures import check_node
from lightning_modules.metric_catalogue import METRICS

PERCEPTUAL = {"networks.perceptual.LPIPS": "lpips", "networks.perceptual.DISTS": "dists"}
FEATURES = "lightning_modules.feature_metric.Features"


def metric_problems(cfg: DictConfig) -> Iterator[str]:
    """Find unknown metrics, and an epoch chosen by the wrong end of one; imports nothing heavy."""
    if not OmegaConf.is_list(cfg.metrics) or not cfg.metrics:
        return  # refused by its type
    names = [name for name in cfg.metrics if isinstance(name, str)]
    for name in names:
        if names.count(name) > 1:
            yield f"metrics: {name} is given twice"
        elif name not in METRICS and "." not in name:
            yield f"metrics: no such metric as {name}{nearest(name, METRICS)}"
    for k, node in enumerate(cfg.metrics):
        if isinstance(node, DictConfig) and "_target_" not in node:
            yield f"metrics.{k}: needs a _target_, the dotted path of a class"
    checkpoint = (cfg.get("callbacks") or {}).get("checkpoint")
    if checkpoint is not None and (cfg.get("net") or "model" not in cfg):
        yield from monitor_problems(checkpoint, [*cfg.metrics])


def monitor_problems(checkpoint: DictConfig, metrics: list[object]) -> Iterator[str]:
    """Check the metric by which the best epoch is chosen, if it is one of the catalogue."""
    monitor, mode = checkpoint.get("monitor"), checkpoint.get("mode")
    name = str(monitor).removeprefix("val/").partition("/")[0]
    if name not in METRICS:
        return
    if name not in metrics and all(isinstance(given, str) for given in metrics):
        yield f"callbacks.checkpoint.monitor={monitor}: metrics does not list {name}"
    wanted = "min" if METRICS[name].better == "lower" else "max"
    if mode in ("min", "max") and mode != wanted:
        yield (
            f"callbacks.checkpoint.mode={mode}: {METRICS[name].better} values of {monitor} are "
            f"better; callbacks.checkpoint.mode={wanted} selects them"
        )


def metric_class_problems(cfg: DictConfig) -> Iterator[str]:
    """Find metrics that cannot be imported, and weights that are not available."""
    for k, given in enumerate(cfg.metrics):
        if isinstance(given, DictConfig):
            wrong = list(check_node(f"metrics.{k}", given))
            yield from wrong
            if not wrong and given._target_ in PERCEPTUAL:
                name = PERCEPTUAL[given._target_]
                yield from weights_problems(name, given.get("net"), given.get("weights"))
        elif given in METRICS:
            about = METRICS[given]
            if about.function in PERCEPTUAL:
                net = about.arguments.get("net")
                yield from weights_problems(given, None if net is None else str(net), None)
            elif about.function == FEATURES:
                yield from packaged_problems(given, about.backbone)
        else:
            module, _, attribute = given.rpartition(".")
            try:
                getattr(import_module(module), attribute)
            except Exception as error:  # a user's module may raise anything
                reason = str(error).strip().partition("\n")[0]
                yield f"metrics: {given} cannot be imported ({reason})"


def weights_problems(name: str, net: str | None, weights: str | None) -> Iterator[str]:
    """Yield why the weights of a perceptual metric are not available, if they are not."""
    from networks.perceptual_files import perceptual_problem

    problem = perceptual_problem(name, net, weights)
    if problem is not None:
        yield f"metrics: {problem}"


def packaged_problems(name: str, backbone: str) -> Iterator[str]:
    """Yield why the ImageNet weights of a backbone are not available, if they are not."""
    from networks.backbones import BACKBONES
    from networks.pretrained import find_packaged_weights

    package = BACKBONES[backbone].package
    assert package is not None
    try:
        find_packaged_weights(backbone, package)
    except ValueError as error:
        yield f"metrics: {name}: {error}"
