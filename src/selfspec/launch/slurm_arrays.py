"""Job arrays: which stages share one, what it depends on, and where its files are."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from selfspec.pipeline.graph import FINISHED, Node

ARRAY_PREFIX = "selfspec-"  # of the names of our arrays
MAX_ARRAY_SIZE = 1000  # stages in one array; SLURM's default limit


def group_into_arrays(nodes: Iterable[Node]) -> list[tuple[str, list[Node]]]:
    """Return (dependency, stages) of each array. Stages share an array if they have the same name and dependency."""
    groups: dict[tuple[str, str], list[Node]] = {}
    for node in nodes:
        parents = [parent.job for parent in node.parents if parent.state not in FINISHED]
        earlier = node.after.job if node.after and node.after.open else ""
        groups.setdefault((dependency_text(parents, earlier), node.stage.name), []).append(node)
    return [
        (dependency, group[first : first + MAX_ARRAY_SIZE])
        for (dependency, _), group in groups.items()
        for first in range(0, len(group), MAX_ARRAY_SIZE)
    ]


def dependency_text(parents: Sequence[str], earlier: str) -> str:
    """Return sbatch's `--dependency`.

    Args:
        parents: Jobs that must succeed.
        earlier: Job of a smaller size of the same pool, which must end; or an empty string.
    """
    succeeded = [":".join(["afterok", *sorted(set(parents))])] if parents else []
    ended = [f"afterany:{earlier}"] if earlier else []
    return ",".join([*succeeded, *ended])


def stage_command(folder: Path) -> str:
    """Return the command of each task of an array: it runs the spec in the subfolder of its number."""
    spec = f"{shlex.quote(str(folder))}/$SLURM_ARRAY_TASK_ID/spec.json"
    return f"{shlex.quote(sys.executable)} -u -m selfspec.launch.worker {spec}"


def log_path(folder: str, job: str, number: int) -> str:
    """Return the log of one task, as submitit's sbatch file names it."""
    return f"{folder}/{job}_{number}_0_log.out"


def spec_folder(node: Node) -> Path:
    """Return the folder with the spec of a submitted stage, and with its error if it failed."""
    return Path(node.log).parent / node.job.partition("_")[2]
