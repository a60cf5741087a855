"""Ways to run a stage: in this process (one device: torch is imported once), or in processes of their own."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selfspec.errors import UserError
from selfspec.launch.worker import run_stage
from selfspec.pipeline.graph import Executor, Node
from selfspec.runtime.code_snapshot import snapshot_environment
from selfspec.runtime.files import write_atomic
from selfspec.runtime.machine import gpu_count
from selfspec.runtime.progress import Progress
from selfspec.runtime.signals import StopFlag
from selfspec.runtime.store import Store
from selfspec.stages import DISTRIBUTED

POLL_SECONDS = 0.05


GRACE_SECONDS = 60.0  # for a stage to save when it is asked to stop


log = logging.getLogger("selfspec")


def choose_executor(
    launcher: Mapping[str, Any], folder: Path, store: Store, progress: Progress, stop: StopFlag
) -> Executor:
    """The executor that `hydra/launcher` names; stages run in this process under a launcher that is not ours.

    Args:
        launcher: The composed `hydra.launcher`.
        folder: Of the sweep or the run: for specs, logs and the copy of the code.
        store: Where outputs are found.
        progress: For what is said on the way.
        stop: Asked while stages run elsewhere.
    """
    name = str(launcher.get("_target_", "")).rpartition(".")[2]
    if name == "SlurmLauncher":
        from selfspec.launch.slurm import SlurmExecutor

        return SlurmExecutor(folder, store, launcher, stop, progress.say)
    if name == "LocalLauncher":
        for key in ("processes", "devices"):
            if launcher[key] < 1:
                raise UserError(f"hydra.launcher.{key}={launcher[key]} must be at least 1.")
        if 0 < gpu_count() < launcher["devices"]:
            raise UserError(
                f"hydra.launcher.devices={launcher['devices']} is more than this machine's {gpu_count()} GPUs."
            )
        if launcher["processes"] > 1 or launcher["devices"] > 1 or launcher["srun"]:
            return Processes(folder, launcher["processes"], stop, launcher["devices"], launcher["srun"])
    return InProcess(store, progress, stop)


class InProcess:
    """One stage at a time, here; the base model stays loaded from one to the next."""

    slots, ahead, wait = 1, False, True

    def __init__(self, store: Store, progress: Progress, stop: StopFlag) -> None:
        self.store, self.progress, self.stop_flag = store, progress, stop
        self._ended: list[tuple[Node, str, str]] = []

    def start(self, nodes: Sequence[Node]) -> None:
        """Run the stage to its end."""
        for node in nodes:
            try:
                run_stage(node.stage, node.config, self.store, self.progress, self.stop_flag)
                self._ended.append((node, "done", ""))
            except Exception as error:
                log.error(traceback.format_exc())  # as text: frames would keep the model's memory
                self._ended.append((node, "failed", error_text(error)))

    def poll(self) -> list[tuple[Node, str, str]]:
        """What `start` has run."""
        ended, self._ended = self._ended, []
        return ended

    def stop(self) -> None:
        """Nothing runs beside this."""


class Processes:
    """Several stages at a time on this machine: a process each, with a device of its own where there are GPUs; or
    several processes and devices for a stage that can share them.

    Inside a SLURM allocation, srun starts them over its nodes.
    """

    ahead, wait = False, True

    def __init__(self, folder: Path, slots: int, stop: StopFlag, devices: int = 1, srun: bool = False) -> None:
        self.folder, self.slots, self.flag, self.devices, self.srun = folder, slots, stop, devices, srun
        self._running: dict[subprocess.Popen[bytes], tuple[Node, int]] = {}

    def start(self, nodes: Sequence[Node]) -> None:
        """Begin `python -m selfspec.launch.worker SPEC`; what it prints goes to its own log."""
        for node in nodes:
            place = self.folder / "stages" / f"{node.stage.name}-{node.stage.key}"
            spec = write_spec(node, place)
            node.log = str(place / "log.txt")
            slot = min(set(range(self.slots)) - {used for _, used in self._running.values()})
            step = srun_command(node.stage.name) if self.srun else []
            shared = self.devices if node.stage.name in DISTRIBUTED and not self.srun else 1
            module = ["selfspec.launch.torchrun", str(shared)] if shared > 1 else ["selfspec.launch.worker"]
            device = {} if self.srun else self._device(slot, shared)
            with Path(node.log).open("wb") as output:
                process = subprocess.Popen(
                    [*step, sys.executable, "-u", "-m", *module, str(spec)],
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                    env={**os.environ, **snapshot_environment(self.folder), **device},
                    start_new_session=True,  # Ctrl-C reaches the sweep, which asks its stages to save
                )
            self._running[process] = (node, slot)

    def poll(self) -> list[tuple[Node, str, str]]:
        """Processes that ended, with what they say of it."""
        time.sleep(POLL_SECONDS)
        self.flag.raise_if_set()
        ended = [process for process in self._running if process.poll() is not None]
        return [self._end(process) for process in ended]

    def stop(self) -> None:
        """Ask all to save, and wait for that."""
        for process in self._running:
            process.terminate()
        for process in self._running:
            try:
                process.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()

    def _end(self, process: subprocess.Popen[bytes]) -> tuple[Node, str, str]:
        node, _ = self._running.pop(process)
        if process.returncode == 0:
            return node, "done", ""
        if what := recorded_error(Path(node.log).parent):
            return node, "failed", what
        last = last_line(Path(node.log))
        where = f"see {node.log}" + (f" ({last})." if last else ".")
        if process.returncode < 0:
            name = signal.Signals(-process.returncode).name
            return node, "failed", f"It was killed by {name} (out of memory?); {where}"
        return node, "failed", f"It ended with code {process.returncode}; {where}"

    def _device(self, slot: int, shared: int) -> dict[str, str]:
        """A GPU for each of the `shared` processes where there are some, else a share of the processor's cores."""
        given = os.environ.get("CUDA_VISIBLE_DEVICES")
        gpus = [str(number) for number in range(gpu_count())] if given is None else list(filter(None, given.split(",")))
        if gpus:
            first = slot * self.devices
            return {"CUDA_VISIBLE_DEVICES": ",".join(gpus[(first + place) % len(gpus)] for place in range(shared))}
        cores = max(1, (os.cpu_count() or 1) // (self.slots * shared))
        return {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(cores))}


def write_spec(node: Node, place: Path) -> Path:
    """What `python -m selfspec.launch.worker` reads to run the stage of `node`; beside it the stage leaves its error."""
    place.mkdir(parents=True, exist_ok=True)
    (place / "error.json").unlink(missing_ok=True)
    spec = {"config": dataclasses.asdict(node.config), "key": node.stage.key}
    write_atomic(place / "spec.json", json.dumps(spec, indent=1).encode())
    return place / "spec.json"


def recorded_error(place: Path) -> str:
    """The sentence that a failed stage left, or an empty string."""
    error = place / "error.json"
    return str(json.loads(error.read_text())["what"]) if error.exists() else ""


def last_line(log: Path) -> str:
    """The last thing that a stage said."""
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1].strip() if lines else ""


def srun_command(stage_name: str) -> list[str]:
    """The srun command of a stage inside an allocation: tuning takes all of its tasks, other stages one."""
    all_tasks = stage_name in DISTRIBUTED
    nodes, tasks = (os.environ["SLURM_NNODES"], os.environ["SLURM_NTASKS"]) if all_tasks else ("1", "1")
    gpus = ["--gpus-per-task=1"] if os.environ.get("SLURM_GPUS_ON_NODE") and not all_tasks else []  # else all see all
    cpus = os.environ.get("SLURM_CPUS_PER_TASK", "1")  # which srun does not inherit since SLURM 22.05
    shape = [f"--nodes={nodes}", f"--ntasks={tasks}", f"--cpus-per-task={cpus}", *gpus]
    return ["srun", "--exact", "--kill-on-bad-exit=1", *shape]


def error_text(error: Exception) -> str:
    """An error as one sentence."""
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
