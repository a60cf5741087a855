"""Hydra's launcher plugins: a sweep costs its distinct stages. All work is in `selfspec.launch`, imported when needed.

This folder has no `__init__.py`: with one, every other plugin would vanish.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional  # noqa: UP035 (OmegaConf reads these)

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
    devices: int = 1
    srun: bool = False


@dataclass
class ResourcesConf:
    """What one kind of stage asks of SLURM; what is left out is the launcher's own."""

    nodes: int = 1
    tasks_per_node: int = 1
    gpus: int = 0
    cpus: int = 1
    mem: str = "4GB"
    time: str = "01:00:00"
    partition: Optional[str] = "${hydra.launcher.partition}"  # noqa: UP045
    account: Optional[str] = "${hydra.launcher.account}"  # noqa: UP045
    qos: Optional[str] = "${hydra.launcher.qos}"  # noqa: UP045
    constraint: Optional[str] = "${hydra.launcher.constraint}"  # noqa: UP045
    sbatch: Dict[str, Any] = "${hydra.launcher.sbatch}"  # type: ignore  # noqa: UP006
    setup: List[str] = "${hydra.launcher.setup}"  # type: ignore  # noqa: UP006


@dataclass
class StagesConf:
    """A request for each kind of stage."""

    index: ResourcesConf = field(default_factory=ResourcesConf)
    examples: ResourcesConf = field(default_factory=ResourcesConf)
    adapter: ResourcesConf = field(default_factory=ResourcesConf)
    scores: ResourcesConf = field(default_factory=ResourcesConf)


@dataclass
class SlurmConf:
    """What `hydra/launcher=slurm` may say."""

    _target_: str = "hydra_plugins.selfspec_launcher.SlurmLauncher"
    wait: bool = True
    poll_seconds: float = 10.0
    partition: Optional[str] = None  # noqa: UP045
    account: Optional[str] = None  # noqa: UP045
    qos: Optional[str] = None  # noqa: UP045
    constraint: Optional[str] = None  # noqa: UP045
    sbatch: Dict[str, Any] = field(default_factory=dict)  # noqa: UP006
    setup: List[str] = field(default_factory=list)  # noqa: UP006
    resources: StagesConf = field(default_factory=StagesConf)


for name, node in (("local_schema", LocalConf), ("slurm_schema", SlurmConf)):
    ConfigStore.instance().store(group="hydra/launcher", name=name, node=node, provider="selfspec")


class LocalLauncher(Launcher):  # type: ignore[misc]
    """Runs the stages of all jobs on this machine, each distinct one once."""

    def __init__(self, **settings: Any) -> None:
        """Settings are read from the composed config (`launch.executors.choose`), as a plain run does it."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra hands over; stages that fail in one batch of jobs are not run again in the next."""
        from selfspec.pipeline.graph import Outcomes

        self.outcomes = Outcomes()
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run one batch of jobs."""
        from selfspec.launch.sweep import launch_sweep

        return launch_sweep(self, job_overrides, initial_job_idx)


class SlurmLauncher(LocalLauncher):
    """Runs them as SLURM jobs."""
