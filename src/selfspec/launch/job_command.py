"""The command that repeats one job, from any folder of this machine."""

from __future__ import annotations

import shlex
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from selfspec.config.paths import with_absolute_path


def job_command() -> str:
    """The command of the job that Hydra composed last, with the job's own overrides and those of its search path.

    Other overrides of Hydra are left out: they place the run's folder, and settings of a launcher may hold a password.
    """
    hydra = HydraConfig.get()
    folders = [source.path for source in hydra.runtime.config_sources if source.provider == "command-line"]
    options = [f"--config-dir={Path(folder).absolute()}" for folder in folders]
    if hydra.job.config_name != "config":
        options.append(f"--config-name={hydra.job.config_name}")
    if hydra.mode == RunMode.MULTIRUN:
        options.append("hydra.mode=RUN")  # a preset of a sweep sets MULTIRUN
    options += [text for text in hydra.overrides.hydra if text.startswith("hydra.searchpath=")]
    return shlex.join(["selfspec", "run", *options, *map(with_absolute_path, hydra.overrides.task)])
