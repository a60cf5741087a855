"""What a stage asks of SLURM, and the sbatch file that says so (written by submitit)."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from selfspec.errors import UserError
from selfspec.planning.devices import processes_here
from selfspec.stages import DISTRIBUTED, RESOURCE_KIND

SIGNAL_SECONDS = 120  # before its time is up, a stage is told to save and to queue again


@dataclass(frozen=True)
class Resources:
    """The request of one kind of stage."""

    nodes: int
    tasks_per_node: int  # processes, one for each GPU
    gpus: int  # a node
    cpus: int  # a task
    mem: str  # a node
    time: str
    partition: str | None
    account: str | None
    qos: str | None
    constraint: str | None
    sbatch: dict[str, Any] = field(default_factory=dict)  # more options by name: {reservation: ..., exclude: ...}
    setup: list[str] = field(default_factory=list)  # shell lines before the stage: modules, containers, proxies

    def text(self) -> str:
        """The request in a few words."""
        gpus = f", {self.gpus} GPU a node" if self.gpus else ""
        tasks = f"{self.nodes} x {self.tasks_per_node} tasks" if self.tasks_per_node > 1 else f"{self.nodes} node"
        return f"{tasks}, {self.cpus} CPU a task{gpus}, {self.mem}, {self.time}"


def resources_of(stage_name: str, given: Mapping[str, Mapping[str, Any]]) -> Resources:
    """The request of a stage, from `hydra.launcher.resources`.

    Raises:
        UserError: several tasks for a stage that takes one device.
    """
    kind = RESOURCE_KIND[stage_name]
    resources = Resources(**given[kind])
    if resources.time.isdigit():  # YAML reads 24:00:00 without quotes as 86400, and SLURM that as minutes
        raise UserError(f'hydra.launcher.resources.{kind}.time={resources.time} must be "hours:minutes:seconds", '
                        "in quotes where it stands in a YAML.")  # fmt: skip
    if stage_name in DISTRIBUTED or resources.nodes * resources.tasks_per_node == 1:
        return resources
    if kind != stage_name:
        return replace(resources, nodes=1, tasks_per_node=1, gpus=min(resources.gpus, 1))
    raise UserError(
        f"hydra.launcher.resources.{kind} asks for {resources.nodes} x {resources.tasks_per_node} tasks, and "
        f"the stage {stage_name} takes one device; {', '.join(DISTRIBUTED)} take several."
    )


def devices_of(stage_name: str, launcher: Mapping[str, Any]) -> int:
    """Devices that a stage takes: what SLURM is asked for, what an allocation has, or this machine's share."""
    if stage_name not in DISTRIBUTED:
        return 1
    if "resources" in launcher:
        request = resources_of(stage_name, launcher["resources"])
        return request.nodes * request.tasks_per_node
    if launcher.get("srun"):
        return int(os.environ.get("SLURM_NTASKS", "1"))
    return processes_here(launcher)[0] or 1  # Hydra's own SLURM launcher: an experiment a job, in one process


def sbatch_executor(
    resources: Resources, folder: Path, name: str, dependency: str, count: int, path: Mapping[str, str]
) -> Any:
    """submitit's executor for one array.

    Args:
        resources: Of every task of the array.
        folder: Where logs go.
        name: Of the job.
        dependency: `afterok:12_0,afterany:11_3`, or an empty string.
        count: Stages of the array.
        path: Environment that the stages need.
    """
    from submitit import SlurmExecutor

    class Sbatch(SlurmExecutor):  # type: ignore[misc]
        """Its text can be had without SLURM, for a plan; the queue is asked before anything is submitted."""

        @classmethod
        def affinity(cls) -> int:
            return 2

    exports = [f"export {key}={shlex.quote(value)}" for key, value in path.items()]
    executor = Sbatch(folder)
    executor.update_parameters(
        job_name=name,
        nodes=resources.nodes,
        ntasks_per_node=resources.tasks_per_node,
        cpus_per_task=resources.cpus,
        mem=resources.mem,
        time=resources.time,
        signal_delay_s=SIGNAL_SECONDS,
        stderr_to_stdout=True,
        wckey=None,
        srun_args=["--kill-on-bad-exit=1", f"--cpus-per-task={resources.cpus}"],
        setup=[*exports, 'export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$SLURM_CPUS_PER_TASK}"', *resources.setup],
        **_given(resources, "partition", "account", "qos", "constraint"),
        **({"gpus_per_node": resources.gpus} if resources.gpus else {}),
        **({"dependency": dependency} if dependency else {}),
        additional_parameters={"requeue": True, "kill_on_invalid_dep": "yes", **resources.sbatch},
    )
    executor.parameters["map_count"] = count  # which submitit sets where it pickles functions; a stage is a file
    return executor


def stage_command(folder: Path) -> str:
    """What each task of an array runs: the stage whose spec lies in the folder of its number."""
    place = f"{shlex.quote(str(folder))}/$SLURM_ARRAY_TASK_ID/spec.json"
    return f"{shlex.quote(sys.executable)} -u -m selfspec.launch.worker {place}"


def _given(resources: Resources, *names: str) -> dict[str, Any]:
    return {name: getattr(resources, name) for name in names if getattr(resources, name)}


def dependency_text(parents: Sequence[str], before: str) -> str:
    """SLURM's words for: all parents well, and a smaller size of the same pool over."""
    wanted = [":".join(["afterok", *sorted(set(parents))])] if parents else []
    return ",".join([*wanted, *([f"afterany:{before}"] if before else [])])
