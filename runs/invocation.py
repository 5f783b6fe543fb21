"""A command as it was called: what its run folder says about where it comes from."""

from dataclasses import dataclass
from pathlib import Path

from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from system.files import replacing, writing


@dataclass(frozen=True)
class Invocation:
    """A command as it was called, on the command line or from Python.

    Args:
        hydra: Hydra's own settings, composed together with the command's configuration.
        folder: the run folder, relative to the working directory if it is below it.
    """

    hydra: DictConfig
    folder: Path

    @property
    def command(self) -> str:
        """Return the name of the command."""
        return str(self.hydra.job.config_name)

    @property
    def overrides(self) -> list[str]:
        """Return the overrides as typed."""
        return list(self.hydra.overrides.task)

    @property
    def choices(self) -> dict[str, str]:
        """Return the chosen option of each group that has one."""
        choices = sorted(self.hydra.runtime.choices.items())
        return {group: option for group, option in choices if option not in (None, "null")}

    @property
    def shares_process(self) -> bool:
        """Return whether the other jobs of a sweep run in this process too."""
        return bool(self.hydra.mode == RunMode.MULTIRUN)

    @property
    def sweep(self) -> str | None:
        """Return the name of the sweep that this is a job of; None outside sweeps."""
        sweep = Path(self.hydra.sweep.dir).absolute()
        return sweep.name if self.folder.absolute().parent == sweep else None

    def write(self, cfg: DictConfig) -> None:
        """Write .hydra/ in the run folder, as Hydra would: settings, Hydra's own, and overrides."""
        hydra = self.folder / ".hydra"
        hydra.mkdir(exist_ok=True)
        with writing(hydra):
            OmegaConf.save(cfg, hydra / "config.yaml")
            OmegaConf.save(OmegaConf.create({"hydra": self.hydra}), hydra / "hydra.yaml")
        with replacing(hydra / "overrides.yaml") as part:  # other ranks may read the file
            OmegaConf.save(self.hydra.overrides.task, part)
