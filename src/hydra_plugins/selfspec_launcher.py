"""Hydra's launcher plugins: a sweep runs each distinct stage once. `selfspec.launch` is imported when a sweep starts.

This folder must not have an `__init__.py`: it would hide the plugins of other packages.
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
    """Settings of `hydra/launcher=local`."""

    _target_: str = "hydra_plugins.selfspec_launcher.LocalLauncher"
    processes: int = 1
    devices: int = 1
    srun: bool = False


@dataclass
class ResourcesConf:
    """The SLURM request of one kind of stage.

    `partition` and the fields below it default to the launcher's own. A new field is added here and in
    selfspec/launch/resources.py.
    """

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
    """The request of each kind of stage."""

    index: ResourcesConf = field(default_factory=ResourcesConf)
    examples: ResourcesConf = field(default_factory=ResourcesConf)
    adapter: ResourcesConf = field(default_factory=ResourcesConf)
    scores: ResourcesConf = field(default_factory=ResourcesConf)


@dataclass
class SlurmConf:
    """Settings of `hydra/launcher=slurm`."""

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
    """Runs the distinct stages of all jobs on this machine."""

    def __init__(self, **settings: Any) -> None:
        """Ignore the settings: `launch.executors.choose_executor` reads them from the composed config."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep Hydra's context, the task function and the config."""
        from selfspec.pipeline.graph import Outcomes

        self.outcomes = Outcomes()  # a stage that fails in one batch of jobs is not run again in the next
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run one batch of jobs."""
        from selfspec.launch.sweep import launch_sweep

        return launch_sweep(self, job_overrides, initial_job_idx)


class SlurmLauncher(LocalLauncher):
    """Runs the distinct stages of all jobs as SLURM jobs."""
