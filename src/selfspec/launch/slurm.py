"""Stages as SLURM jobs: submitted at once with their dependencies, then watched; the cluster goes on without us.

A stage's job is found again by the name of its array, `selfspec-<hash>`, and by a record in the store of which stages
that array holds, written before it is submitted. So the same command attaches to what runs, and so does another sweep.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selfspec.config.hashing import digest
from selfspec.errors import UserError
from selfspec.launch.executors import last_line, recorded_error, write_spec
from selfspec.launch.resources import (
    Resources,
    dependency_text,
    resources_of,
    sbatch_executor,
    stage_command,
)
from selfspec.launch.slurm_queue import ACTIVE_STATES, SlurmQueue
from selfspec.pipeline.graph import FINISHED, Node
from selfspec.runtime.code_snapshot import snapshot_environment
from selfspec.runtime.files import write_atomic
from selfspec.runtime.signals import StopFlag
from selfspec.runtime.store import Store
from selfspec.stages import RESOURCE_KIND

log = logging.getLogger("selfspec")


ARRAY_PREFIX = "selfspec-"


ALLOCATION_PREFIXES = (
    "SLURM_",
    "SBATCH_",
    "SRUN_",
    "MASTER_",
    "RANK",
    "WORLD_SIZE",
    "LOCAL_",
    "GROUP_RANK",
    "TORCHELASTIC_",
)


MAX_ARRAY_SIZE = 1000  # stages in one array; SLURM's default limit


RECORD_LIFETIME_SECONDS = (
    7 * 86400.0
)  # a record of jobs that are not in this queue; another cluster may share the store


FILE_DELAY_SECONDS = 60.0  # for a shared file system to show what a finished job wrote


REMEDIES = {
    "CANCELLED": "it was cancelled; the same command submits it again",
    "TIMEOUT": "raise hydra.launcher.resources.{stage}.time",
    "OUT_OF_MEMORY": "raise hydra.launcher.resources.{stage}.mem",
    "NODE_FAIL": "its node failed; the same command submits it again",
}


class SlurmExecutor:
    """Submits every stage with its dependencies, and follows them; interrupted, it lets them go on."""

    slots, ahead = sys.maxsize, True

    def __init__(
        self, folder: Path, store: Store, launcher: Mapping[str, Any], stop: StopFlag, say: Callable[[str], None]
    ) -> None:
        self.folder, self.store, self.flag, self.say = folder, store, stop, say
        self.wait, self.poll_seconds, self.resources = (launcher[n] for n in ("wait", "poll_seconds", "resources"))
        self.queue = SlurmQueue()
        self._watched: list[Node] = []
        self._submitted: set[str] = set()
        self._ended: dict[str, float] = {}  # jobs that left the queue without a word, and since when

    def start(self, nodes: Sequence[Node]) -> None:
        """Submit stages, or attach to their jobs if they are in the queue."""
        with self.store.claim("submit", self.flag.raise_if_set) as records:  # one sweep at a time looks and submits
            found = self._in_queue(records)
            self._watched += nodes
            for node in nodes:  # a job whose parent was submitted anew waits for the old one, in vain
                if node.stage.key in found and not self._submitted & {parent.stage.key for parent in node.parents}:
                    node.job, node.log = found[node.stage.key]
            for wanted, stages in group_into_arrays(node for node in nodes if not node.job):
                self.flag.raise_if_set()
                self._submit(stages, resources_of(stages[0].stage.name, self.resources), wanted, records)

    def poll(self) -> list[tuple[Node, str, str]]:
        """What SLURM and the store say of our stages."""
        self._pause()
        self._watched = [node for node in self._watched if node.open]
        try:
            states = self.queue.states([node.job for node in self._watched])
        except UserError as error:  # SLURM's controller restarts, or has no time: its jobs go on meanwhile
            log.warning(str(error))
            return []
        changes = []
        for node in self._watched:
            state, node.host = states.get(node.job, ("UNKNOWN", node.host))
            if change := self._change(node, state):
                changes.append((node, *change))
        return changes

    def stop(self) -> None:
        """Detach."""
        jobs = [node.job for node in self._watched if node.open and node.job]
        arrays = sorted({job.partition("_")[0] for job in jobs}, key=int)
        self.say(f"Detached: {len(jobs)} stages go on in SLURM; the same command attaches to them again, "
                 f"and scancel {' '.join(arrays)} stops them.")  # fmt: skip

    def _change(self, node: Node, state: str) -> tuple[str, str] | None:
        """(new state, why) of a stage whose job is in `state`, or None if nothing changed."""
        if state in ACTIVE_STATES:
            self._ended.pop(node.job, None)
            now = "running" if state in ("RUNNING", "COMPLETING") else "queued"
            return (now, "") if now != node.state else None
        if self.store.find(node.stage.name, node.stage.key):
            return "done", ""
        if node.job not in self._ended:
            self._ended[node.job] = time.monotonic()
            return None  # a requeued job looks ended for a moment
        if state in ("COMPLETED", "UNKNOWN") and time.monotonic() - self._ended[node.job] < FILE_DELAY_SECONDS:
            return None  # files may come late
        if what := recorded_error(spec_folder(node)):
            return "failed", what
        remedy = REMEDIES.get(state, "").format(stage=RESOURCE_KIND[node.stage.name])
        last = last_line(Path(node.log))
        told = f"SLURM ended job {node.job} as {state}" + (f" on {node.host}" if node.host else "")
        return "failed", "; ".join(
            filter(None, [told, remedy, f"see {node.log}" + (f" ({last})" if last else "")])
        ) + "."

    def _pause(self) -> None:
        until = time.monotonic() + self.poll_seconds
        while time.monotonic() < until:
            self.flag.raise_if_set()
            time.sleep(0.1)

    def _in_queue(self, records: Path) -> dict[str, tuple[str, str]]:
        """Stages that have a job: (its number, its log) by key. Old records are removed."""
        jobs = self.queue.arrays(ARRAY_PREFIX)
        found = {}
        for record in records.glob(f"{ARRAY_PREFIX}*.json"):
            if record.stem not in jobs:
                if time.time() - record.stat().st_mtime > RECORD_LIFETIME_SECONDS:
                    record.unlink()
                continue
            facts, array = json.loads(record.read_text()), jobs[record.stem]
            for number in array.alive:
                found[facts["keys"][number]] = (f"{array.job}_{number}", log_path(facts["folder"], array.job, number))
        return found

    def _submit(self, nodes: Sequence[Node], resources: Resources, wanted: str, records: Path) -> None:
        keys = [node.stage.key for node in nodes]
        name = ARRAY_PREFIX + digest([keys, str(self.folder)])[:12]
        place = self.folder / "slurm" / name
        for number, node in enumerate(nodes):
            write_spec(node, place / str(number))
        write_atomic(records / f"{name}.json", json.dumps({"folder": str(place), "keys": keys}).encode())
        executor = sbatch_executor(resources, place, name, wanted, len(nodes), snapshot_environment(self.folder))
        try:
            with _outside_allocation():
                job = executor._submit_command(stage_command(place)).job_id
        except Exception as error:
            said = str(error).strip().splitlines()[-1]
            raise UserError(f"SLURM refused {len(nodes)} stages {nodes[0].stage.name}: {said}") from error
        for number, node in enumerate(nodes):
            node.job, node.log = f"{job}_{number}", log_path(str(place), job, number)
        self._submitted.update(keys)


@contextmanager
def _outside_allocation() -> Iterator[None]:
    """Ctrl-C waits until sbatch is done, and an allocation in which we run is not handed to the jobs."""
    outer = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(ALLOCATION_PREFIXES) and name != "SLURM_CONF"
    }
    for name in outer:
        del os.environ[name]
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.environ |= outer


def group_into_arrays(nodes: Iterable[Node]) -> list[tuple[str, list[Node]]]:
    """(dependency, stages) of each array: an array is for stages of the same request and the same parents."""
    groups: dict[tuple[str, str], list[Node]] = {}
    for node in nodes:
        parents = [parent.job for parent in node.parents if parent.state not in FINISHED]
        before = node.after.job if node.after and node.after.open else ""
        groups.setdefault((dependency_text(parents, before), node.stage.name), []).append(node)
    return [
        (wanted, group[first : first + MAX_ARRAY_SIZE])
        for (wanted, _), group in groups.items()
        for first in range(0, len(group), MAX_ARRAY_SIZE)
    ]


def log_path(folder: str, job: str, number: int) -> str:
    """Where submitit's sbatch file sends what a stage prints."""
    return f"{folder}/{job}_{number}_0_log.out"


def spec_folder(node: Node) -> Path:
    """Where the spec of a submitted stage lies, and its error if it failed."""
    return Path(node.log).parent / node.job.partition("_")[2]
