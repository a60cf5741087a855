"""A real SLURM of four virtual nodes on this machine, and what tests ask of it."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from conftest import PROJECT

SCRIPT = PROJECT / "slurm" / "one-machine-cluster.sh"
REQUEST = "hydra.launcher.resources"
SLURM = [
    "hydra/launcher=slurm",
    "hydra.launcher.poll_seconds=0.5",
    *(f"{REQUEST}.{stage}.{what}" for stage in ("examples", "adapter", "scores") for what in ("cpus=1", "mem=1500MB")),
]


@dataclass
class Cluster:
    """How to reach it."""

    env: dict[str, str]

    def __call__(self, *command: str) -> str:
        """What a SLURM command prints."""
        env = {**os.environ, **self.env}
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout.strip()

    def jobs(self, state: str = "R") -> dict[str, str]:
        """Names of our arrays' tasks by job, of those in `state`."""
        lines = self("squeue", "-h", "-r", "-t", state, "-o", "%i %j").splitlines()
        return dict(line.split() for line in lines)

    def history(self) -> list[list[str]]:
        """(job, state) of every job that was submitted (the controller remembers them for ten minutes)."""
        return [line.split() for line in self("squeue", "-h", "-r", "--states=all", "-o", "%i %T").splitlines()]

    def job_of(self, sweep: Path, key: str) -> str:
        """The job of a stage, from the folder that the sweep made for it; an empty string before it is submitted."""
        for script in sweep.glob("slurm/*/*_submission.sh"):
            for spec in script.parent.glob("*/spec.json"):
                if f'"key": "{key}"' in spec.read_text():
                    return f"{script.name.partition('_')[0]}_{spec.parent.name}"
        return ""


def wait_for(what: Callable[[], object], seconds: float = 120) -> None:
    """Until it is true."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.05)
