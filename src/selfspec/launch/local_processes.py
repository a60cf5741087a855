"""The executor that runs stages in processes of their own, on this machine or in a SLURM allocation."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from selfspec.launch.stage_files import last_line, recorded_error, write_spec
from selfspec.pipeline.graph import Node
from selfspec.runtime.code_snapshot import snapshot_environment
from selfspec.runtime.machine import visible_gpus
from selfspec.runtime.signals import StopFlag
from selfspec.stages.registry import DISTRIBUTED

POLL_SECONDS = 0.05
GRACE_SECONDS = 60.0  # for a stage to save its work after SIGTERM


class LocalProcesses:
    """Runs several stages at a time, each in one process or, if the stage is distributed, in several.

    Each process gets a GPU of its own where there are GPUs. In a SLURM allocation, srun starts the processes on its
    nodes.
    """

    ahead, wait = False, True

    def __init__(self, folder: Path, slots: int, stop: StopFlag, devices: int = 1, srun: bool = False) -> None:
        """Create the executor.

        Args:
            folder: Of the sweep or the run: for specs, logs and the copy of the code.
            slots: Number of stages at a time.
            stop: Checked at each poll.
            devices: Number of processes of a distributed stage.
            srun: Whether srun starts the processes.
        """
        self.folder, self.slots, self.stop_flag, self.devices, self.srun = folder, slots, stop, devices, srun
        self._running: dict[subprocess.Popen[bytes], tuple[Node, int]] = {}  # with the slot of each stage

    def start(self, nodes: Sequence[Node]) -> None:
        """Start a worker for each stage; its output goes to the stage's own log."""
        for node in nodes:
            slot = min(set(range(self.slots)) - {used for _, used in self._running.values()})
            self._running[self._start_process(node, slot)] = (node, slot)

    def poll(self) -> list[tuple[Node, str, str]]:
        """Return the stages that ended since the last call, as (node, state, error)."""
        time.sleep(POLL_SECONDS)
        self.stop_flag.raise_if_set()
        ended = [process for process in self._running if process.poll() is not None]
        return [self._remove(process) for process in ended]

    def stop(self) -> None:
        """Let all stages save their work and end."""
        for process in self._running:
            process.terminate()
        for process in self._running:
            try:
                process.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()

    def _start_process(self, node: Node, slot: int) -> subprocess.Popen[bytes]:
        folder = self.folder / "stages" / f"{node.stage.name}-{node.stage.key}"
        spec = write_spec(node, folder)
        node.log = str(folder / "log.txt")
        is_shared = node.stage.name in DISTRIBUTED and not self.srun
        num_processes = self.devices if is_shared else 1
        torchrun = ["selfspec.launch.torchrun", str(num_processes)]
        module = torchrun if num_processes > 1 else ["selfspec.launch.worker"]
        prefix = srun_command(node.stage.name) if self.srun else []
        devices = {} if self.srun else self._device_variables(slot, num_processes)
        with Path(node.log).open("wb") as output:
            return subprocess.Popen(
                [*prefix, sys.executable, "-u", "-m", *module, str(spec)],
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **snapshot_environment(self.folder), **devices},
                start_new_session=True,  # Ctrl-C reaches only the sweep, which lets its stages save
            )

    def _remove(self, process: subprocess.Popen[bytes]) -> tuple[Node, str, str]:
        node, _ = self._running.pop(process)
        if process.returncode == 0:
            return node, "done", ""
        if message := recorded_error(Path(node.log).parent):
            return node, "failed", message
        last = last_line(Path(node.log))
        hint = f"see {node.log}" + (f" ({last})." if last else ".")
        if process.returncode < 0:
            name = signal.Signals(-process.returncode).name
            return node, "failed", f"It was killed by {name} (out of memory?); {hint}"
        return node, "failed", f"It ended with code {process.returncode}; {hint}"

    def _device_variables(self, slot: int, num_processes: int) -> dict[str, str]:
        """Environment variables that give a stage its GPUs, or its share of the CPU cores where there are none."""
        if gpus := visible_gpus():
            first = slot * self.devices
            return {"CUDA_VISIBLE_DEVICES": ",".join(gpus[first : first + num_processes])}
        cores = max(1, (os.cpu_count() or 1) // (self.slots * num_processes))
        return {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(cores))}


def srun_command(stage_name: str) -> list[str]:
    """Return the srun command of a stage: a distributed stage gets all tasks of the allocation, others one."""
    all_tasks = stage_name in DISTRIBUTED
    nodes, tasks = (os.environ["SLURM_NNODES"], os.environ["SLURM_NTASKS"]) if all_tasks else ("1", "1")
    # Tasks of a distributed stage see all GPUs of their node, and take the one of their number.
    gpus = ["--gpus-per-task=1"] if os.environ.get("SLURM_GPUS_ON_NODE") and not all_tasks else []
    cpus = os.environ.get("SLURM_CPUS_PER_TASK", "1")  # since SLURM 22.05, srun does not inherit it
    request = [f"--nodes={nodes}", f"--ntasks={tasks}", f"--cpus-per-task={cpus}", *gpus]
    return ["srun", "--exact", "--kill-on-bad-exit=1", *request]
