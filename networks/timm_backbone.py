"""Backbones of timm for NIMA: any of its image models by name, with its own normalisation and crop.

timm (Wightman, "PyTorch Image Models", 2019) is the extra `timm`. A backbone's features are the
model's own pooled features, those that its classifier would see. A name is an architecture, or an
architecture and the tag of its published weights, such as `convnext_tiny.in12k`; the tag also
selects how the input is normalised.
"""

import contextlib
import difflib
import functools
import logging
import socket
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, get_args
from urllib.parse import urlsplit

import torch
from torch import nn

from networks.backbones import BACKBONES, Backbone
from networks.pretrained import read_weights
from networks.views import MAX_VIEW, Library
from networks.weights import State
from system.places import expanded
from system.terminal import printable

log = logging.getLogger(__name__)

# Transformers that take both resample their position embeddings, and pad to whole patches.
ANY_SIZE = {"dynamic_img_size": True, "dynamic_img_pad": True}
PREFIXES = ("", "features.", "net.features.")  # of the backbone, or of one of our scorers


def installed() -> ModuleType:
    """Return timm.

    Raises:
        ValueError: saying how to install it, if it is missing.
    """
    try:
        import timm
    except ImportError as error:
        raise ValueError("library=timm needs timm: pip install '.[timm]'") from error
    return timm


def find_backbone(
    name: str,
    library: str | None = None,
    *,
    crop: int | None = None,
    drop_path: float = 0.0,
) -> Backbone:
    """Return a backbone of ours, or of a library.

    Args:
        name: its name.
        library: see `NIMA`.
        crop: see `timm_backbone`.
        drop_path: see `timm_backbone`.

    Raises:
        ValueError: if there is none of this name, or it has no drop path.
    """
    if library is not None:
        if library not in get_args(Library):
            raise ValueError(f"library={library}: allowed is {', '.join(get_args(Library))}")
        return timm_backbone(name, crop=crop, drop_path=drop_path)
    if name not in BACKBONES:
        allowed = ", ".join(BACKBONES)
        raise ValueError(f"backbone={name}: allowed are {allowed}; scorer=timm takes timm's")
    if drop_path:
        raise ValueError(f"drop_path={drop_path}: only backbones of timm have it")
    return BACKBONES[name]


@functools.lru_cache(maxsize=16)
def timm_backbone(name: str, *, crop: int | None = None, drop_path: float = 0.0) -> Backbone:
    """Describe a backbone of timm.

    Args:
        name: architecture, with or without the tag of its weights.
        crop: side in pixels of the images to see; None takes what the weights were trained with.
        drop_path: share of residual branches that training drops in the last block, falling
            linearly to 0 in the first (stochastic depth; Huang et al., ECCV 2016).

    Raises:
        ValueError: if timm is missing or has no such model, or the model has no drop path.
    """
    published = published_settings(name)
    side = crop or min(published.input_size[1:])
    if not 1 <= side <= MAX_VIEW:
        raise ValueError(f"crop={crop}: 1 to {MAX_VIEW}")
    if not 0 <= drop_path < 1:
        raise ValueError(f"drop_path={drop_path}: 0 or more, and less than 1")
    options: dict[str, Any] = {"num_classes": 0}
    if drop_path:
        options["drop_path_rate"] = drop_path
    fixed = published.fixed_input_size
    attempts = [options | {"img_size": side, **more} for more in (ANY_SIZE, {})]
    features, options = first_built(name, attempts if fixed else [options])
    return Backbone(
        functools.partial(installed().create_model, name, **options),
        features.head_hidden_size,
        load=functools.partial(load_timm, name, options),
        mean=published.mean,
        std=published.std,
        crop=side,
        resize=int(side / published.crop_pct),
        only_side=side if fixed and not options.keys() >= ANY_SIZE.keys() else None,
    )


def first_built(name: str, attempts: Sequence[dict[str, Any]]) -> tuple[Any, dict[str, Any]]:
    """Build a model without memory by the first arguments that it takes; return it and them.

    Raises:
        ValueError: if it takes none of them.
    """
    for options in attempts:
        try:
            with torch.device("meta"):
                return installed().create_model(name, **options), options
        except TypeError as error:
            reason = error
    raise ValueError(f"timm cannot build {name}: {reason}") from reason


def published_settings(name: str) -> Any:  # noqa: ANN401
    """Return what timm says about a model: its input, normalisation and weights.

    Raises:
        ValueError: naming the nearest model, or the model's tags, if there is none of this name.
    """
    timm = installed()
    architecture, _, tag = name.partition(".")
    known = timm.list_models()
    if architecture not in known:  # which excludes timm's `hf-hub:` and `local-dir:`, too
        near = difflib.get_close_matches(architecture, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"backbone={name}: timm {timm.__version__} has no such model{hint}")
    tags = [model for model in timm.list_pretrained(f"{architecture}*") if "." in model]
    tags = [model for model in tags if model.partition(".")[0] == architecture]
    if tag and name not in tags:
        near = difflib.get_close_matches(name, tags, n=1, cutoff=0.85)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(tags) or 'none'}"
        raise ValueError(f"backbone={name}: timm {timm.__version__} has no such weights; {hint}")
    return timm.get_pretrained_cfg(name) or timm.models.PretrainedCfg()


def load_timm(
    name: str, options: Mapping[str, object], features: nn.Module, pretrained: str
) -> None:
    """Load published weights, or those of a file, by timm's own ways of converting them.

    Args:
        name: name of the model in timm.
        options: what `features` was built with.
        features: the backbone.
        pretrained: `imagenet` downloads the weights that the name stands for, whatever they were
            trained on; otherwise a file of timm, of the model's authors, or of one of our scorers.

    Raises:
        ValueError: if the weights cannot be fetched or read, or are of another model.
    """
    own = features.state_dict()
    if pretrained == "imagenet":
        state = fetch(name, options)
    else:
        state = converted(name, options, read_weights(expanded(pretrained)), own, pretrained)
    features.load_state_dict({key: state[key] for key in own})


def fetch(name: str, options: Mapping[str, object]) -> State:
    """Download the published weights of a model, or take them from the cache of an earlier time.

    Raises:
        ValueError: if there are none, or they cannot be reached.
    """
    published = published_settings(name)
    if not published.has_weights:
        raise ValueError(f"pretrained=imagenet: timm has no published weights of {name}")
    where = f"https://huggingface.co/{published.hf_hub_id}" if published.hf_hub_id else ""
    log.info("fetching the weights of %s (%s)", name, where or published.url)
    hub = logging.getLogger("huggingface_hub")  # reports every attempt
    level = hub.level
    hub.setLevel(logging.ERROR)
    try:
        with without_retries():
            model: nn.Module = installed().create_model(name, pretrained=True, **options)
    except Exception as error:  # of the hub, the network, the file system
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"pretrained=imagenet: could not fetch the weights of {name} ({reason}); download "
            f"{where or published.url} elsewhere and give pretrained=FILE"
        ) from error
    finally:
        hub.setLevel(level)
    return model.state_dict()


@contextlib.contextmanager
def without_retries() -> Iterator[None]:
    """Have the hub read its cache alone if it cannot be reached: it would try for a minute."""
    from huggingface_hub import constants

    before, host = constants.HF_HUB_OFFLINE, urlsplit(constants.ENDPOINT).hostname
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def converted(
    name: str, options: Mapping[str, object], state: State, own: State, source: str
) -> State:
    """Convert weights to the names and sizes of a model.

    Raises:
        ValueError: if they are of another model.
    """
    for prefix in PREFIXES:
        if all(prefix + key in state for key in own):
            state = {key: state[prefix + key] for key in own}
            break
    else:  # timm compares the names strictly only if the classifier is there
        options = {key: value for key, value in options.items() if key != "num_classes"}
    try:
        model: nn.Module = installed().create_model(
            name, pretrained=True, pretrained_cfg_overlay={"state_dict": state}, **options
        )
    except Exception as error:  # the converters expect their own files
        reason = printable(" ".join(str(error).split()), 200)
        raise ValueError(f"{source}: not weights of {name} ({reason})") from error
    return model.state_dict()


def layer_groups(
    features: nn.Module, name: str, decay: float
) -> list[tuple[nn.ParameterList, float]]:
    """Group the parameters of a backbone by depth, as timm does.

    Args:
        features: the backbone.
        name: its name, for messages.
        decay: learning rate of a group as a multiple of that of the next deeper one.

    Returns:
        Each group with the factor on its learning rate, which is 1 in the deepest.

    Raises:
        ValueError: if the backbone does not group its layers.
    """
    if not hasattr(features, "group_matcher"):
        raise ValueError(
            f"model.layer_decay={decay}: {name} does not group its layers by depth; most backbones "
            "of scorer=timm do"
        )
    from timm.optim import param_groups_layer_decay

    groups = param_groups_layer_decay(
        features, weight_decay=0.0, weight_decay_exclude_1d=False, layer_decay=decay
    )
    return [(nn.ParameterList(group["params"]), group["lr_scale"]) for group in groups]
