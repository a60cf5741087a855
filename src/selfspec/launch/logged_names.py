"""What names the runs of loggers: the group of a sweep, and the overrides that tell its jobs apart."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode

from selfspec.config.hashing import digest
from selfspec.config.schema import Config

OVERRIDES_VARIABLE = "SELFSPEC_TYPED"  # the overrides of the command, for processes that other launchers start


def with_logged_names(config: Config) -> Config:
    """The config with the group of its runs, and in a sweep with the overrides that tell its jobs apart.

    The group of a sweep depends on its overrides alone: the same command continues in the same group.
    """
    hydra = HydraConfig.get()
    group = "-".join(Path(hydra.runtime.output_dir).parts[-2:])
    job_overrides: tuple[str, ...] = ()
    if hydra.mode == RunMode.MULTIRUN:
        typed = os.environ.get(OVERRIDES_VARIABLE, "")
        group, job_overrides = f"sweep-{digest(typed)[:8]}", differing_overrides(hydra.overrides.task, typed)
    logger = replace(config.logger, group=config.logger.group or group, job_overrides=job_overrides)
    return replace(config, logger=logger)


def differing_overrides(job_overrides: Iterable[str], typed: str) -> tuple[str, ...]:
    """The overrides of one job that other jobs of its sweep need not have.

    Args:
        job_overrides: Of the job.
        typed: Of the command, quoted as in a shell.
    """
    parser = OverridesParser.create()
    swept = {_key(text): parser.parse_override(text).is_sweep_override() for text in shlex.split(typed)}
    last = {_key(text): text for text in job_overrides}  # of a key that is given twice, as Hydra takes it
    return tuple(
        text
        for key, text in last.items()
        if swept.get(key, True) and not key.lstrip("+~").startswith(("paths.", "logger"))
    )


def _key(override: str) -> str:
    return override.partition("=")[0]
