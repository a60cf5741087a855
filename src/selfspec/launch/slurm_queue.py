"""What SLURM says of our jobs: squeue for those it remembers, sacct for older ones."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field

from selfspec.errors import UserError

ACTIVE_STATES = {
    "PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING",
    "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT",
}  # fmt: skip


ENDING_STATES = {"COMPLETING"}  # what it made is stored, or it was cancelled and is being killed


@dataclass
class QueuedArray:
    """A job array in the queue."""

    job: str
    alive: list[int] = field(default_factory=list)  # tasks that wait or run


class SlurmQueue:
    """Asks SLURM."""

    def arrays(self, prefix: str) -> dict[str, QueuedArray]:
        """Arrays whose name begins with `prefix` and of which a task waits or runs, by name."""
        found: dict[str, QueuedArray] = {}
        for job, state, _, name in self._squeue():
            number, _, task = job.partition("_")
            if name.startswith(prefix) and state in ACTIVE_STATES - ENDING_STATES and task.isdigit():
                found.setdefault(name, QueuedArray(number)).alive.append(int(task))
        return found

    def states(self, jobs: Iterable[str]) -> dict[str, tuple[str, str]]:
        """(state, node) by job."""
        wanted = set(jobs)
        found = {job: (state, host) for job, state, host, _ in self._squeue() if job in wanted}
        missing = sorted(wanted - set(found))
        return {**found, **self._sacct(missing)} if missing else found

    def _squeue(self) -> list[tuple[str, str, str, str]]:
        """(job, state, node, name) of every job that slurmctld knows, those that ended minutes ago included."""
        lines = _run_slurm_command(["squeue", "--noheader", "--array", "--states=all", "--format=%i|%T|%N|%j"])
        rows = (line.split("|", 3) for line in lines)  # a name, somebody else's, may hold anything
        return [(row[0], row[1], row[2], row[3]) for row in rows if len(row) == 4]

    def _sacct(self, jobs: list[str]) -> dict[str, tuple[str, str]]:
        fields = "--format=JobID,State,NodeList"
        try:
            lines = _run_slurm_command(
                ["sacct", "--noheader", "--parsable2", "--allocations", fields, f"--jobs={','.join(jobs)}"]
            )
        except UserError:  # a cluster without accounting: squeue has told all that is known
            return {}
        rows = (line.split("|", 2) for line in lines)
        return {job: (state.split()[0], "" if host == "None assigned" else host) for job, state, host in rows}


def _run_slurm_command(command: list[str]) -> list[str]:
    """The lines that a SLURM command prints.

    Raises:
        UserError: it is not installed, or SLURM did not answer.
    """
    try:
        done = subprocess.run(  # in a session of its own: Ctrl-C is for us
            command, capture_output=True, text=True, errors="replace", check=True, timeout=120, start_new_session=True
        )
    except FileNotFoundError:
        raise UserError(f"{command[0]} is not installed here; start the sweep where SLURM's commands are.") from None
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        said = str(error.stderr or "no answer in 120 s").strip().splitlines()
        raise UserError(f"{command[0]} failed: {said[-1] if said else 'no word'}") from error
    return done.stdout.splitlines()
