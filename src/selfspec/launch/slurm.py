"""The executor that runs stages as SLURM jobs: all are submitted at once, with their dependencies, then watched.

The name of an array, `selfspec-<hash>`, is recorded in the store with the stages that it holds, before the array is
submitted. From these records and the queue, the same command, or another sweep, finds the job of a stage and attaches
to it.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selfspec.config.hashing import digest
from selfspec.errors import UserError
from selfspec.launch.resources import resources_of, sbatch_parameters
from selfspec.launch.slurm_arrays import ARRAY_PREFIX, group_into_arrays, log_path, spec_folder, stage_command
from selfspec.launch.slurm_queue import ACTIVE_STATES, SlurmQueue
from selfspec.launch.stage_files import last_line, recorded_error, write_spec
from selfspec.launch.submitit_adapter import submit_array
from selfspec.pipeline.graph import Node
from selfspec.runtime.code_snapshot import snapshot_environment
from selfspec.runtime.files import write_atomic
from selfspec.runtime.signals import StopFlag
from selfspec.runtime.store import Store
from selfspec.stages.registry import RESOURCE_KIND

log = logging.getLogger("selfspec")

# Variables that an allocation sets for its processes, by the beginning of their names.
ALLOCATION_PREFIXES = (
    *("SLURM_", "SBATCH_", "SRUN_", "MASTER_", "RANK", "WORLD_SIZE", "LOCAL_", "GROUP_RANK", "TORCHELASTIC_"),
)
# A record whose array is not in this queue is kept for so long: another cluster may share the store.
RECORD_LIFETIME_SECONDS = 7 * 86400.0
FILE_DELAY_SECONDS = 60.0  # a shared file system shows within this time what a finished job wrote

REMEDIES = {
    "CANCELLED": "it was cancelled; the same command submits it again",
    "TIMEOUT": "raise hydra.launcher.resources.{stage}.time",
    "OUT_OF_MEMORY": "raise hydra.launcher.resources.{stage}.mem",
    "NODE_FAIL": "its node failed; the same command submits it again",
}


class SlurmExecutor:
    """Submits every stage with its dependencies and watches the jobs; when it is interrupted, the jobs continue."""

    slots, ahead = sys.maxsize, True

    def __init__(
        self, folder: Path, store: Store, launcher: Mapping[str, Any], stop: StopFlag, say: Callable[[str], None]
    ) -> None:
        """Create the executor.

        Args:
            folder: Of the sweep or the run: for specs, logs and the copy of the code.
            store: Of the stages' outputs, and of the records of submitted arrays.
            launcher: The composed `hydra.launcher`.
            stop: Checked while waiting.
            say: Prints a message.
        """
        self.folder, self.store, self.stop_flag, self.say = folder, store, stop, say
        self.wait, self.poll_seconds, self.requests = (launcher[n] for n in ("wait", "poll_seconds", "resources"))
        self.queue = SlurmQueue()
        self._watched: list[Node] = []
        self._submitted: set[str] = set()  # keys of stages
        self._left_queue_at: dict[str, float] = {}  # by job, for jobs that ended without an output

    def start(self, nodes: Sequence[Node]) -> None:
        """Submit stages, or attach to their jobs if they are in the queue."""
        # One sweep at a time reads the queue and submits, so that no stage is submitted twice.
        with self.store.claim("submit", self.stop_flag.raise_if_set) as records:
            queued = self._find_queued_stages(records)
            self._watched += nodes
            for node in nodes:
                # A job whose parent was submitted again waits for the parent's old job, which never succeeds.
                has_new_parent = bool(self._submitted & {parent.stage.key for parent in node.parents})
                if node.stage.key in queued and not has_new_parent:
                    node.job, node.log = queued[node.stage.key]
            for dependency, stages in group_into_arrays(node for node in nodes if not node.job):
                self.stop_flag.raise_if_set()
                self._submit(stages, dependency, records)

    def poll(self) -> list[tuple[Node, str, str]]:
        """Return the stages whose state changed in SLURM or the store, as (node, state, error)."""
        self._pause()
        self._watched = [node for node in self._watched if node.open]
        try:
            states = self.queue.states([node.job for node in self._watched])
        except UserError as error:  # SLURM's controller restarts or is busy; the jobs continue
            log.warning(str(error))
            return []
        changes = []
        for node in self._watched:
            state, node.host = states.get(node.job, ("UNKNOWN", node.host))
            if change := self._find_change(node, state):
                changes.append((node, *change))
        return changes

    def stop(self) -> None:
        """Leave the jobs in SLURM, and print how to attach to them or to cancel them."""
        jobs = [node.job for node in self._watched if node.open and node.job]
        arrays = sorted({job.partition("_")[0] for job in jobs}, key=int)
        self.say(
            f"Detached: {len(jobs)} stages continue in SLURM; the same command attaches to them again, "
            f"and scancel {' '.join(arrays)} cancels them."
        )

    def _find_change(self, node: Node, slurm_state: str) -> tuple[str, str] | None:
        """The new state and the error of a stage, or None if nothing changed."""
        if slurm_state in ACTIVE_STATES:
            self._left_queue_at.pop(node.job, None)
            state = "running" if slurm_state in ("RUNNING", "COMPLETING") else "queued"
            return (state, "") if state != node.state else None
        if self.store.find(node.stage.name, node.stage.key):
            return "done", ""
        if node.job not in self._left_queue_at:
            self._left_queue_at[node.job] = time.monotonic()
            return None  # for a moment, a requeued job looks as if it had ended
        seconds = time.monotonic() - self._left_queue_at[node.job]
        if slurm_state in ("COMPLETED", "UNKNOWN") and seconds < FILE_DELAY_SECONDS:
            return None
        return "failed", recorded_error(spec_folder(node)) or _describe_end(node, slurm_state)

    def _pause(self) -> None:
        end = time.monotonic() + self.poll_seconds
        while time.monotonic() < end:
            self.stop_flag.raise_if_set()
            time.sleep(0.1)

    def _find_queued_stages(self, records: Path) -> dict[str, tuple[str, str]]:
        """(job, log) of each stage in the queue, by key. Expired records are removed."""
        arrays = self.queue.arrays(ARRAY_PREFIX)
        stages = {}
        for path in records.glob(f"{ARRAY_PREFIX}*.json"):
            if path.stem not in arrays:
                if time.time() - path.stat().st_mtime > RECORD_LIFETIME_SECONDS:
                    path.unlink()
                continue
            record, array = json.loads(path.read_text()), arrays[path.stem]
            for number in array.active_tasks:
                log_file = log_path(record["folder"], array.job, number)
                stages[record["keys"][number]] = (f"{array.job}_{number}", log_file)
        return stages

    def _submit(self, nodes: Sequence[Node], dependency: str, records: Path) -> None:
        """Submit one array, and record its stages before."""
        keys = [node.stage.key for node in nodes]
        name = ARRAY_PREFIX + digest([keys, str(self.folder)])[:12]
        folder = self.folder / "slurm" / name
        for number, node in enumerate(nodes):
            write_spec(node, folder / str(number))
        write_atomic(records / f"{name}.json", json.dumps({"folder": str(folder), "keys": keys}).encode())
        resources = resources_of(nodes[0].stage.name, self.requests)
        parameters = sbatch_parameters(resources, name, dependency, snapshot_environment(self.folder))
        try:
            with _outside_allocation():
                job = submit_array(folder, stage_command(folder), len(nodes), parameters)
        except Exception as error:
            raise UserError(_describe_refusal(nodes, str(error))) from error
        for number, node in enumerate(nodes):
            node.job, node.log = f"{job}_{number}", log_path(str(folder), job, number)
        self._submitted.update(keys)


def _describe_refusal(nodes: Sequence[Node], message: str) -> str:
    """Why sbatch refused stages: the last two lines that it printed, since its own reason stands before the last."""
    lines = [line.strip().removeprefix("sbatch: ").removeprefix("error: ") for line in message.strip().splitlines()]
    reason = ": ".join(dict.fromkeys(line.rstrip(".") for line in reversed(lines[-2:]) if line))
    count, name = len(nodes), nodes[0].stage.name
    return (
        f"SLURM refused {count} {name} {'stage' if count == 1 else 'stages'}: {reason}; change "
        f"hydra.launcher.resources.{RESOURCE_KIND[name]} (nodes, tasks_per_node, gpus, cpus, mem, time) or "
        "hydra.launcher.partition."
    )


def _describe_end(node: Node, slurm_state: str) -> str:
    """How SLURM ended a job that recorded no error, and what to do."""
    remedy = REMEDIES.get(slurm_state, "").format(stage=RESOURCE_KIND[node.stage.name])
    last = last_line(Path(node.log))
    end = f"SLURM ended job {node.job} as {slurm_state}" + (f" on {node.host}" if node.host else "")
    return "; ".join(filter(None, [end, remedy, f"see {node.log}" + (f" ({last})" if last else "")])) + "."


@contextmanager
def _outside_allocation() -> Iterator[None]:
    """Hide the variables of an allocation from sbatch, which would pass them to the jobs; delay Ctrl-C meanwhile.

    Outside an allocation, MASTER_ADDR and MASTER_PORT are the user's own, for the processes of all jobs.
    """
    kept = ("SLURM_CONF",) if "SLURM_JOB_ID" in os.environ else ("SLURM_CONF", "MASTER_ADDR", "MASTER_PORT")
    hidden = {
        name: value for name, value in os.environ.items() if name.startswith(ALLOCATION_PREFIXES) and name not in kept
    }
    for name in hidden:
        del os.environ[name]
    earlier_mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, earlier_mask)
        os.environ |= hidden
