"""The executor of a run or a sweep, and the one that runs stages in this process."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selfspec.errors import UserError
from selfspec.launch.local_processes import LocalProcesses
from selfspec.launch.stage_files import error_text
from selfspec.launch.worker import run_stage
from selfspec.pipeline.graph import Executor, Node
from selfspec.runtime.machine import visible_gpus
from selfspec.runtime.progress import Progress
from selfspec.runtime.signals import StopFlag
from selfspec.runtime.store import Store

log = logging.getLogger("selfspec")


def choose_executor(
    launcher: Mapping[str, Any], folder: Path, store: Store, progress: Progress, stop: StopFlag
) -> Executor:
    """Return the executor of `hydra/launcher`; under Hydra's other launchers, stages run in this process.

    Args:
        launcher: The composed `hydra.launcher`.
        folder: Of the sweep or the run: for specs, logs and the copy of the code.
        store: Of the stages' outputs.
        progress: Prints messages.
        stop: Checked while stages run in other processes.

    Raises:
        UserError: A setting of the launcher is impossible on this machine.
    """
    name = str(launcher.get("_target_", "")).rpartition(".")[2]
    if name == "SlurmLauncher":
        from selfspec.launch.slurm import SlurmExecutor

        return SlurmExecutor(folder, store, launcher, stop, progress.say)
    if name == "LocalLauncher":
        _check_local_settings(launcher)
        if launcher["processes"] > 1 or launcher["devices"] > 1 or launcher["srun"]:
            return LocalProcesses(folder, launcher["processes"], stop, launcher["devices"], launcher["srun"])
    return InProcess(store, progress, stop)


def _check_local_settings(launcher: Mapping[str, Any]) -> None:
    for key in ("processes", "devices"):
        if launcher[key] < 1:
            raise UserError(f"hydra.launcher.{key}={launcher[key]} must be at least 1.")
    processes, devices, num_visible = launcher["processes"], launcher["devices"], len(visible_gpus())
    if 0 < num_visible < processes * devices and not launcher["srun"]:  # srun takes GPUs of its nodes
        raise UserError(
            f"hydra.launcher.processes={processes} and devices={devices} need {processes * devices} GPUs, and "
            f"{num_visible} {'is' if num_visible == 1 else 'are'} visible; lower one."
        )


class InProcess:
    """Runs one stage at a time in this process. torch is imported once, and the base model stays loaded."""

    slots, ahead, wait = 1, False, True

    def __init__(self, store: Store, progress: Progress, stop: StopFlag) -> None:
        self.store, self.progress, self.stop_flag = store, progress, stop
        self._ended: list[tuple[Node, str, str]] = []

    def start(self, nodes: Sequence[Node]) -> None:
        """Run the stages to their end."""
        for node in nodes:
            try:
                run_stage(node.stage, node.config, self.store, self.progress, self.stop_flag)
                self._ended.append((node, "done", ""))
            except Exception as error:
                log.error(traceback.format_exc())  # as text: the traceback's frames would keep the model in memory
                self._ended.append((node, "failed", error_text(error)))

    def poll(self) -> list[tuple[Node, str, str]]:
        """Return the stages that `start` ran since the last call."""
        ended, self._ended = self._ended, []
        return ended

    def stop(self) -> None:
        """Do nothing: no other process runs."""
