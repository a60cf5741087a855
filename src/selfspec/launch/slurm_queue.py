"""The state of our jobs in SLURM: from squeue, and from sacct for jobs that squeue no longer lists."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from selfspec.errors import UserError

ACTIVE_STATES = {
    "PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING",
    "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT",
}  # fmt: skip
ENDING_STATES = {"COMPLETING"}  # its output is stored, or it was cancelled and is being killed
TIMEOUT_SECONDS = 120


@dataclass
class QueuedArray:
    """A job array in the queue."""

    job: str
    active_tasks: list[int] = field(default_factory=list)  # tasks that wait or run


class SlurmQueue:
    """Reads SLURM's queue and its accounting."""

    def arrays(self, prefix: str) -> dict[str, QueuedArray]:
        """Return the arrays with a waiting or running task whose name begins with `prefix`, by name."""
        arrays: dict[str, QueuedArray] = {}
        for job, state, _, name in self._squeue():
            number, _, task = job.partition("_")
            if name.startswith(prefix) and state in ACTIVE_STATES - ENDING_STATES and task.isdigit():
                arrays.setdefault(name, QueuedArray(number)).active_tasks.append(int(task))
        return arrays

    def states(self, jobs: Iterable[str]) -> dict[str, tuple[str, str]]:
        """Return (state, node) of each job that SLURM lists."""
        requested = set(jobs)
        states = {job: (state, host) for job, state, host, _ in self._squeue() if job in requested}
        missing = sorted(requested - set(states))
        return {**states, **self._sacct(missing)} if missing else states

    def _squeue(self) -> list[tuple[str, str, str, str]]:
        """(job, state, node, name) of every job that slurmctld remembers, also of those that ended minutes ago."""
        lines = run_slurm_command(["squeue", "--noheader", "--array", "--states=all", "--format=%i|%T|%N|%j"])
        rows = (line.split("|", 3) for line in lines)  # names of other users' jobs may contain anything
        return [(row[0], row[1], row[2], row[3]) for row in rows if len(row) == 4]

    def _sacct(self, jobs: list[str]) -> dict[str, tuple[str, str]]:
        columns = "--format=JobID,State,NodeList"
        try:
            lines = run_slurm_command(
                ["sacct", "--noheader", "--parsable2", "--allocations", columns, f"--jobs={','.join(jobs)}"]
            )
        except UserError:  # a cluster without accounting
            return {}
        rows = (line.split("|", 2) for line in lines)
        return {job: (state.split()[0], "" if host == "None assigned" else host) for job, state, host in rows}


def run_slurm_command(command: list[str]) -> list[str]:
    """The lines that a SLURM command prints.

    Raises:
        UserError: The command is not installed, or SLURM did not answer.
    """
    settings = os.environ.get("SLURM_CONF")
    if settings and not Path(settings).exists():  # SLURM's commands look for the file for a minute, without a word
        raise UserError(f"{command[0]} can't run, because there is no file SLURM_CONF={settings}.")
    try:
        result = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            check=True,
            timeout=TIMEOUT_SECONDS,
            start_new_session=True,  # Ctrl-C must not reach it
        )
    except FileNotFoundError:
        raise UserError(f"{command[0]} is not installed here; run this command on a node with SLURM.") from None
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        lines = str(error.stderr or f"no answer within {TIMEOUT_SECONDS} s").strip().splitlines()
        raise UserError(f"{command[0]} failed: {lines[-1] if lines else 'no message'}") from error
    return result.stdout.splitlines()
