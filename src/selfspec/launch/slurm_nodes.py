"""What SLURM's nodes offer, compared with what stages request."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selfspec.errors import UserError
from selfspec.launch.resources import Resources, resources_of
from selfspec.launch.slurm_queue import run_slurm_command
from selfspec.runtime.stage import Stage
from selfspec.runtime.store import Store
from selfspec.stages.registry import RESOURCE_KIND

MEGABYTES = {"": 1, "K": 2**-10, "M": 1, "G": 2**10, "T": 2**20}


@dataclass(frozen=True)
class SlurmNode:
    """A node, as a member of one partition."""

    partition: str
    is_default: bool  # whether jobs without a partition go to this one
    cpus: int
    megabytes: int
    gpus: int


def check_slurm(launcher: Mapping[str, Any], stages: Iterable[Stage], store: Store) -> None:
    """Check, before anything is written, that SLURM answers and can run these stages.

    SLURM itself lets a job wait without end for a node that no partition has.

    Args:
        launcher: The composed `hydra.launcher`.
        stages: Of a run or a sweep.
        store: With the outputs of finished stages.

    Raises:
        UserError: It does not or can't; the message says what to set.
    """
    names = {stage.name for stage in stages if not store.find(stage.name, stage.key)} if "resources" in launcher else ()
    if not names:
        return
    try:
        nodes = find_nodes()
    except UserError as error:
        text = str(error).rstrip(".")
        raise UserError(f"{text}; set SLURM_CONF, or run this command on a node of the cluster.") from error
    for name in sorted(names):
        if reason := describe_unmet(resources_of(name, launcher["resources"]), nodes):
            raise UserError(refusal(name, reason))


def refusal(stage_name: str, reason: str) -> str:
    """One sentence on a request that SLURM can't meet."""
    key = f"hydra.launcher.resources.{RESOURCE_KIND[stage_name]}"
    return f"SLURM can't run the stage {stage_name}: {reason}; change {key} or hydra.launcher.partition."


def find_nodes() -> list[SlurmNode]:
    """The nodes of all partitions.

    Raises:
        UserError: SLURM does not answer.
    """
    lines = run_slurm_command(["sinfo", "--all", "--noheader", "--Node", "--format=%P|%c|%m|%G"])
    return [_node(*line.split("|")) for line in lines if line.count("|") == 3]


def describe_unmet(resources: Resources, nodes: Sequence[SlurmNode]) -> str:
    """What a request asks for that no nodes offer, or an empty string."""
    members = [
        node for node in nodes if node.partition == resources.partition or (not resources.partition and node.is_default)
    ]
    if not members:
        return ""  # sbatch says whether there is such a partition
    where = f"partition {members[0].partition}"
    requested = {
        "CPUs": (resources.tasks_per_node * resources.cpus, [node.cpus for node in members]),
        "MB": (_megabytes(resources.mem), [node.megabytes for node in members]),
        "GPUs": (resources.gpus, [node.gpus for node in members]),
    }
    for unit, (number, offered) in requested.items():
        if number > max(offered):
            return f"{number} {unit} per node are requested, and the nodes of {where} have at most {max(offered)}"
    if resources.nodes > len(members):
        return f"{resources.nodes} nodes are requested, and {where} has {len(members)}"
    return ""


def _node(partition: str, cpus: str, megabytes: str, gres: str) -> SlurmNode:
    gpus = sum(int(count) for count in re.findall(r"\bgpu:(?:[^:,(]+:)?(\d+)", gres))
    return SlurmNode(partition.rstrip("*"), partition.endswith("*"), int(cpus), int(megabytes.rstrip("+")), gpus)


def _megabytes(text: str) -> int:
    """SLURM's notation of memory, such as 200GB; 0 for one that is not known."""
    match = re.fullmatch(r"(\d+)([KMGT]?)B?", text.upper())
    return int(int(match[1]) * MEGABYTES[match[2]]) if match else 0
