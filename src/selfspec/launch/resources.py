"""The SLURM request of each kind of stage.

A new field of the request is added here (`Resources`, `sbatch_parameters`) and in `ResourcesConf` of
hydra_plugins/selfspec_launcher.py.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from selfspec.data.text import count_noun
from selfspec.errors import UserError
from selfspec.planning.devices import processes_here
from selfspec.stages.registry import DISTRIBUTED, RESOURCE_KIND

SIGNAL_SECONDS = 120  # before its time limit, SLURM sends a stage the signal to save and to requeue


@dataclass(frozen=True)
class Resources:
    """The SLURM request of one kind of stage."""

    nodes: int
    tasks_per_node: int  # processes, one for each GPU
    gpus: int  # per node
    cpus: int  # per task
    mem: str  # per node
    time: str
    partition: str | None
    account: str | None
    qos: str | None
    constraint: str | None
    sbatch: dict[str, Any] = field(default_factory=dict)  # other options by name: {reservation: ..., exclude: ...}
    setup: list[str] = field(default_factory=list)  # shell lines before the stage: modules, containers, proxies

    def text(self) -> str:
        """Return the request in a few words."""
        tasks = count_noun(self.nodes, "node")
        if self.tasks_per_node > 1:
            tasks = f"{self.nodes} x {self.tasks_per_node} tasks"
        gpus = f", {count_noun(self.gpus, 'GPU')} per node" if self.gpus else ""
        return f"{tasks}, {count_noun(self.cpus, 'CPU')} per task{gpus}, {self.mem}, {self.time}"


def resources_of(stage_name: str, requests: Mapping[str, Mapping[str, Any]]) -> Resources:
    """Return the request of a stage.

    Args:
        stage_name: Of the stage.
        requests: The composed `hydra.launcher.resources`.

    Raises:
        UserError: Several tasks for a stage that takes one device, or a time in minutes.
    """
    kind = RESOURCE_KIND[stage_name]
    resources = Resources(**requests[kind])
    if resources.time.isdigit():  # YAML reads 24:00:00 without quotes as 86400, and SLURM reads that as minutes
        raise UserError(
            f'hydra.launcher.resources.{kind}.time={resources.time} must be "hours:minutes:seconds", with quotes in a '
            "YAML file."
        )
    if stage_name in DISTRIBUTED or resources.nodes * resources.tasks_per_node == 1:
        return resources
    if kind != stage_name:
        return replace(resources, nodes=1, tasks_per_node=1, gpus=min(resources.gpus, 1))
    raise UserError(
        f"hydra.launcher.resources.{kind} requests {resources.nodes} x {resources.tasks_per_node} tasks, but "
        f"the stage {stage_name} takes one device; {', '.join(DISTRIBUTED)} take several."
    )


def devices_of(stage_name: str, launcher: Mapping[str, Any]) -> int:
    """Return the number of devices of a stage: in its SLURM request, in the allocation, or on this machine.

    Args:
        stage_name: Of the stage.
        launcher: The composed `hydra.launcher`.
    """
    if stage_name not in DISTRIBUTED:
        return 1
    if "resources" in launcher:
        request = resources_of(stage_name, launcher["resources"])
        return request.nodes * request.tasks_per_node
    if launcher.get("srun"):
        return int(os.environ.get("SLURM_NTASKS", "1"))
    return processes_here(launcher)[0] or 1  # Hydra's own SLURM launcher runs a whole experiment in one process


def sbatch_parameters(
    resources: Resources, job_name: str, dependency: str, environment: Mapping[str, str]
) -> dict[str, Any]:
    """Return the request as keywords of submitit's `SlurmExecutor.update_parameters`.

    Args:
        resources: Request of every task of the array.
        job_name: Of the array.
        dependency: `afterok:12_0,afterany:11_3`, or an empty string.
        environment: Variables that the stages need.
    """
    exports = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    optional = {  # submitit's own keywords; an empty value means no option
        "partition": resources.partition,
        "account": resources.account,
        "qos": resources.qos,
        "constraint": resources.constraint,
        "gpus_per_node": resources.gpus,
        "dependency": dependency,
    }
    # Options that submitit writes as they are; None means no option.
    others = {"requeue": True, "kill_on_invalid_dep": "yes", **resources.sbatch}
    return {
        "job_name": job_name,
        "nodes": resources.nodes,
        "ntasks_per_node": resources.tasks_per_node,
        "cpus_per_task": resources.cpus,
        "mem": resources.mem,
        "time": resources.time,
        "signal_delay_s": SIGNAL_SECONDS,
        "stderr_to_stdout": True,
        "wckey": None,
        "srun_args": ["--kill-on-bad-exit=1", f"--cpus-per-task={resources.cpus}"],
        "setup": [*exports, 'export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$SLURM_CPUS_PER_TASK}"', *resources.setup],
        **{name: value for name, value in optional.items() if value},
        "additional_parameters": {name: value for name, value in others.items() if value is not None},
    }
