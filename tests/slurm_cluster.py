"""A real SLURM with four virtual nodes on this machine, for tests."""

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
    *(
        f"{REQUEST}.{stage}.{request}"
        for stage in ("examples", "adapter", "scores")
        for request in ("cpus=1", "mem=1500MB")
    ),
]


@dataclass
class Cluster:
    """A running SLURM, reached with the variables `env`."""

    env: dict[str, str]

    def __call__(self, *command: str) -> str:
        """Run a SLURM command and return what it prints."""
        env = {**os.environ, **self.env}
        result = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr[-3000:]
        return result.stdout.strip()

    def jobs(self, state: str = "R") -> dict[str, str]:
        """Return the names of the jobs in `state`, by job number."""
        lines = self("squeue", "-h", "-r", "-t", state, "-o", "%i %j").splitlines()
        return dict(line.split() for line in lines)

    def history(self) -> list[list[str]]:
        """Return (job, state) of every submitted job; the controller remembers them for ten minutes."""
        return [line.split() for line in self("squeue", "-h", "-r", "--states=all", "-o", "%i %T").splitlines()]

    def job_of(self, sweep: Path, key: str) -> str:
        """Return the job of a stage, from the stage's folder in the sweep; an empty string before it is submitted."""
        for script in sweep.glob("slurm/*/*_submission.sh"):
            for spec in script.parent.glob("*/spec.json"):
                if f'"key": "{key}"' in spec.read_text():
                    return f"{script.name.partition('_')[0]}_{spec.parent.name}"
        return ""

    def resume(self, node: str) -> None:
        """Bring a node back that was set down; one that registers again meanwhile is back without the command."""

        def is_back() -> bool:
            command = ["scontrol", "update", f"nodename={node}", "state=resume"]
            subprocess.run(command, env={**os.environ, **self.env}, capture_output=True, check=False)
            return "down" not in self("sinfo", "-h", "-n", node, "-o", "%T")

        wait_for(is_back)


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    """Wait until the condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"the condition did not hold within {seconds} s"
        time.sleep(0.05)
