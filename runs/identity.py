"""A run's identity: its settings, input files, data and code."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig, OmegaConf

from configuration.parsing import flatten
from lightning_modules.metric_catalogue import DEFAULT
from lightning_modules.moved import present_names
from runs.naming import NOT_SETTINGS, within
from system.files import file_sha256, text_sha256
from system.json_files import JsonObject
from system.places import expanded

NOT_IN_HASH = NOT_SETTINGS | {
    "trainer.max_epochs",  # the same as `epochs`
    *("trainer.log_every_n_steps", "trainer.num_sanity_val_steps", "trainer.enable_model_summary"),
    *("callbacks.progress", "callbacks.epoch_line", "callbacks.before_after", "callbacks.pictures"),
    *("callbacks.watch", "callbacks.photo_table", "model.grad_ratio_every"),
    "model.trusted",
    # Version 0.1 let runs set these; they are fixed now.
    *("callbacks.checkpoint.enable_version_counter", "callbacks.checkpoint.filename"),
    "callbacks.checkpoint.save_last",
    # Locations of the data, whose fingerprint counts instead.
    *("data.root", "data.images", "data.ratings", "data.train_list", "data.val_list"),
    *("data.test_list", "data.tables"),
    *("data.train_hr", "data.val_hr", "data.train_lr", "data.val_lr"),
}


# Settings that earlier runs lack, with the values that those runs had.
ADDED: dict[str, object] = {
    **{"metrics": list(DEFAULT), "model.metrics": list(DEFAULT)},
    **{"loss.aesthetic.views": None, "loss.aesthetic.rho": 0},
    **{"data.shrink_to": None, "data.train_crop": None, "model.robust": None},
    **{"judges": None, "baseline": None, "epoch": "best", "criteria.count": None},
    **{"criteria.judges": 0.75, "criteria.against": 0, "criteria.psnr_loss": 0.3},
    "model.train": "all",
}


def not_read(config: DictConfig) -> set[str]:
    """Return the configuration keys that have no effect given the other settings."""
    keys = set()
    if "scales" in (config.get("net") or {}):  # MDSR has scales of its own
        keys.add("scale")
    if config.get("model") and not config.get("net"):  # trains a scorer
        keys.add("metrics")
    if (config.get("model") or {}).get("train") != "lora":
        keys |= {"model.lora_rank", "model.lora_alpha"}
    if config.get("gamma") != "auto":
        keys |= {"share", "loss.aesthetic.share"}
    terms: DictConfig = config.get("loss") or OmegaConf.create({})
    raw = OmegaConf.to_container(terms, resolve=False)
    assert isinstance(raw, dict)
    # Terms of the user's own may read the scorer as well.
    others = repr([term for name, term in raw.items() if name != "aesthetic"])
    for key_of_term, term in terms.items():
        name = str(key_of_term)
        if term is not None and term.get("weight") == 0:
            read = {"weight", "score_always"}
            if name != "aesthetic" and term.get("score_always"):
                read.add("scorer")
            keys |= {f"loss.{name}.{key}" for key in term if key not in read}
        elif term is not None and str(term.get("_target_")).endswith(".AestheticLoss"):
            keys |= {f"loss.{name}.{key}" for key in unread_of_aesthetic(term)}
    if not uses_scorer(config) and "${scorer." not in others:
        keys.add("scorer")
    elif config.gamma != 0:
        keys.add("loss.aesthetic.score_always")  # the scorer rates them anyway
    return keys


def unread_of_aesthetic(term: DictConfig) -> set[str]:
    """Return the settings of an aesthetic term that have no effect given its others."""
    views = term.get("views") or []
    unread = {name for name in ("shift", "noise", "resize", "jpeg") if name not in views}
    unread |= set() if views else {"num_views", "seed"}
    unread |= {"target"} if term.get("mode") != "hinge" else set()
    scorer = term.get("scorer")
    return unread if OmegaConf.is_list(scorer) and len(scorer) > 1 else unread | {"reduce"}


def uses_scorer(config: DictConfig) -> bool:
    """Return whether an enhancer's loss has the scorer, if only to rate validation photos."""
    term = (config.get("loss") or {}).get("aesthetic")
    return term is not None and (config.get("gamma") != 0 or bool(term.get("score_always")))


def is_setting(key: str) -> bool:
    """Return whether a dotted key can change a result."""
    return not within(key, NOT_IN_HASH)


def is_seed(key: str) -> bool:
    """Return whether a key is the seed or a copy of it."""
    return key == "seed" or key.endswith(".seed")


def settings_in(config: Mapping[str, Any]) -> JsonObject:
    """Return the settings, by dotted key, that can change a result."""
    return {
        key: value
        for key, value in config.items()
        if is_setting(key) and (key not in ADDED or value != ADDED[key])
    }


@dataclass
class Identity:
    """A run's identity: its settings, the hashes of its inputs, and the fingerprint of its data.

    Args:
        config: the resolved configuration, without the keys that have no effect.
        files: input files by key, or several for a key; their content counts, not their paths.
        code: SHA-256 of the Python files that the run depends on, see `code_files`.
        data: hash of the data set's content; None if settings and code determine it.
        derived: keys computed from others, see `derived_keys`.
    """

    config: JsonObject
    files: Mapping[str, str | list[str]]
    code: dict[str, str]
    data: str | None = None
    derived: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.inputs = {key: content_sha256(path) for key, path in self.files.items()}
        if self.data is not None:
            self.inputs["data"] = self.data
        hashed = flatten(self.config)
        paths = list(self.files.values())
        self.settings = {
            key: "(file)" if value in paths else value for key, value in settings_in(hashed).items()
        }

    @property
    def config_hash(self) -> str:
        """Hash the settings and the content of the input files."""
        return text_sha256(json.dumps([self.settings, self.inputs], sort_keys=True))

    @property
    def code_hash(self) -> str:
        """Hash the code."""
        return text_sha256(json.dumps(self.code, sort_keys=True))

    def changes(self, settings: JsonObject) -> dict[str, str]:
        """Return `key=old (now new)` by key for each setting that differs from earlier ones.

        A setting derived from another one that differs is left out, and so is one that a class has
        and the class now chosen instead does not.
        """
        settings = present_names(settings)
        changed = [
            key
            for key in sorted(settings.keys() | self.settings.keys())
            if settings.get(key) != self.settings.get(key)
        ]
        replaced = [key.removesuffix("._target_") for key in changed if key.endswith("._target_")]
        in_both = settings.keys() & self.settings.keys()
        return {
            key: f"{key}={settings.get(key, ADDED.get(key))} "
            f"(now {self.settings.get(key, ADDED.get(key))})"
            for key in changed
            if not any(source in changed for source in self.sources(key))
            and (key in in_both or not within(key, replaced))
        }

    def sources(self, key: str) -> list[str]:
        """Return the settings that a derived one is computed from."""
        for parent, text in self.derived.items():
            if within(key, [parent]):
                rest = key.removeprefix(parent)
                return [f"{source}{rest}" for source in re.findall(r"\$\{([\w.]+)", text)]
        return []

    def record(self) -> JsonObject:
        """Return the entries of run.json and result.json that describe the identity."""
        return {
            "config": self.config,
            "config_hash": self.config_hash,
            "settings": self.settings,
            "inputs": self.inputs,
            "code_hash": self.code_hash,
            "code": self.code,
        }


def content_sha256(path: str | list[str]) -> str:
    """Hash the content of a file, or of several in order."""
    if isinstance(path, str):
        return file_sha256(expanded(path))
    return text_sha256(json.dumps([content_sha256(one) for one in path]))


def derived_keys(cfg: DictConfig) -> dict[str, str]:
    """Return the keys computed from others, with the formula: `{"net.scale": "${scale}"}`."""
    config = flatten(OmegaConf.to_container(cfg, resolve=False))
    return {key: text for key, text in config.items() if isinstance(text, str) and "${" in text}
