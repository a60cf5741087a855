"""Hydra's launcher plugin: a sweep costs its distinct stages. All work is in `selfspec.launch`, imported when needed.

This folder has no `__init__.py`: with one, every other plugin would vanish.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class LocalConf:
    """What `hydra/launcher=local` may say."""

    _target_: str = "hydra_plugins.selfspec_launcher.LocalLauncher"
    processes: int = 1


ConfigStore.instance().store(group="hydra/launcher", name="local_schema", node=LocalConf, provider="selfspec")


class LocalLauncher(Launcher):  # type: ignore[misc]
    """Runs the stages of all jobs on this machine, each distinct one once."""

    def __init__(self, processes: int = 1) -> None:
        self.processes = processes

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra hands over."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run one batch of jobs."""
        from selfspec.launch import sweep

        return sweep.launch(self, job_overrides, initial_job_idx)
