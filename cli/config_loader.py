"""Compose configurations faster than Hydra, whose loader reads and merges some 25 files each time.

Files are read once for each choice of options. Keys are set in copies of what they make.
"""

import copy
import functools
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from system.places import CONF

MAX_KNOWN = 64  # choices of options that are kept; each takes a megabyte
Stamp = tuple[tuple[str, int, int], ...]


class CachingLoader(ConfigLoaderImpl):
    """Hydra's loader with a memory; for as long as no file changes."""

    def __init__(self, config_search_path: ConfigSearchPath) -> None:
        super().__init__(config_search_path)
        self.known: dict[tuple[object, ...], DictConfig] = {}

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """Compose a configuration, as Hydra would."""
        parsed = OverridesParser.create().parse_overrides(overrides)
        modes = (run_mode, from_shell, validate_sweep_overrides)
        if any(override.key_or_group == "hydra.searchpath" for override in parsed):
            return super().load_configuration(config_name, overrides, *modes)
        keys = [self.sets_a_key(override) for override in parsed]
        chosen = [word for word, key in zip(overrides, keys, strict=True) if not key]
        known = self.known.get((config_name, *chosen, RunMode.RUN))  # which refuses more
        if known is None:
            known = super().load_configuration(config_name, chosen, *modes)
            if len(self.known) >= MAX_KNOWN:
                self.known.clear()
            self.known[config_name, *chosen, run_mode] = known
        cfg = copy.deepcopy(known)
        if cfg.hydra.searchpath:  # of a file: what seems to be a key may be a group there
            return super().load_configuration(config_name, overrides, *modes)
        try:
            self._apply_overrides_to_config(list(itertools.compress(parsed, keys)), cfg)
            record(cfg.hydra, parsed)
        except OmegaConfBaseException as error:
            raise ConfigCompositionException from error
        return cfg

    def sets_a_key(self, override: Override) -> bool:
        """Return whether an override changes nothing but its key: it chooses no option or file."""
        key = override.key_or_group
        if override.package is not None or override.is_sweep_override():
            return False
        if key.startswith("hydra.job."):  # read for other settings of Hydra's
            return False
        return isinstance(override.value(), dict) or not self.repository.group_exists(key)

    def get_group_options(
        self,
        group_name: str,
        results_filter: ObjectType | None = ObjectType.CONFIG,
        config_name: str | None = None,
        overrides: list[str] | None = None,
    ) -> list[str]:
        """Return the options of a group."""
        if overrides:
            return super().get_group_options(group_name, results_filter, config_name, overrides)
        return list(self.repository.get_group_options(group_name, results_filter))


def record(hydra: DictConfig, parsed: list[Override]) -> None:
    """Write into Hydra's own settings what was asked for, and where."""
    own = [override for override in parsed if override.is_hydra_override()]
    task = [override for override in parsed if not override.is_hydra_override()]
    hydra.overrides.hydra = [override.input_line for override in own]
    hydra.overrides.task = [override.input_line for override in task]
    style = hydra.job.config.override_dirname
    hydra.job.override_dirname = get_overrides_dirname(
        task, list(style.exclude_keys), style.item_sep, style.kv_sep
    )
    hydra.runtime.cwd = os.getcwd()


def loader_of(folder: Path | None) -> CachingLoader:
    """Return the loader of conf/ and, with precedence, a folder of the user's."""
    return known_loader(
        folder, tuple(stamps(CONF)), () if folder is None else tuple(stamps(folder))
    )


@functools.lru_cache(maxsize=2)
def known_loader(folder: Path | None, shipped: Stamp, own: Stamp) -> CachingLoader:
    """Return the loader of files that have not changed."""
    del shipped, own
    path = create_config_search_path(str(CONF))
    if folder is not None:
        schema = SearchPathQuery(provider="schema")
        path.prepend(provider="command-line", path=f"file://{folder}", anchor=schema)
    return CachingLoader(path)


def stamps(folder: Path) -> Iterator[tuple[str, int, int]]:
    """Yield name, time and size of every configuration file in a folder."""
    for place, _, names in os.walk(folder):
        for name in sorted(names):
            if name.endswith(".yaml"):
                path = os.path.join(place, name)
                about = os.lstat(path)  # editors leave links to nothing
                yield path, about.st_mtime_ns, about.st_size
