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
from pathlib import Path

from selfspec.errors import UserError
from selfspec.launch.graph import Node
from selfspec.models.memory import gpu_count
from selfspec.reporting.progress import Progress
from selfspec.stage import Stop, run
from selfspec.store import Store

POLL_SECONDS = 0.05
GRACE_SECONDS = 60.0  # for a stage to save when it is asked to stop
log = logging.getLogger("selfspec")


class InProcess:
    """One stage at a time, here; the base model stays loaded from one to the next."""

    slots = 1

    def __init__(self, store: Store, progress: Progress, stop: Stop) -> None:
        self.store, self.progress, self.stop_flag = store, progress, stop
        self._ended: list[tuple[Node, str]] = []

    def start(self, node: Node) -> None:
        """Run the stage to its end."""
        try:
            run(node.stage, node.config, self.store, self.progress, self.stop_flag)
            self._ended.append((node, ""))
        except Exception as error:
            log.error(traceback.format_exc())  # as text: frames would keep the model's memory
            self._ended.append((node, told(error)))

    def finished(self) -> list[tuple[Node, str]]:
        """What `start` has run."""
        ended, self._ended = self._ended, []
        return ended

    def stop(self) -> None:
        """Nothing runs beside this."""


class Processes:
    """Several stages at a time on this machine: a process each, with a device of its own where there are GPUs."""

    def __init__(self, folder: Path, slots: int, stop: Stop) -> None:
        self.folder, self.slots, self.flag = folder, slots, stop
        self._running: dict[subprocess.Popen[bytes], tuple[Node, int]] = {}

    def start(self, node: Node) -> None:
        """Begin `python -m selfspec.stage SPEC`; what it prints goes to its own log."""
        place = self.folder / f"{node.stage.name}-{node.stage.key}"
        place.mkdir(parents=True, exist_ok=True)
        spec = {"config": dataclasses.asdict(node.config), "key": node.stage.key}
        (place / "spec.json").write_text(json.dumps(spec, indent=1))
        node.log = str(place / "log.txt")
        slot = min(set(range(self.slots)) - {used for _, used in self._running.values()})
        (place / "error.json").unlink(missing_ok=True)
        with Path(node.log).open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "selfspec.stage", str(place / "spec.json")],
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **self._device(slot)},
                start_new_session=True,  # Ctrl-C reaches the sweep, which asks its stages to save
            )
        self._running[process] = (node, slot)

    def finished(self) -> list[tuple[Node, str]]:
        """Processes that ended, with the last lines of their logs if they failed."""
        time.sleep(POLL_SECONDS)
        self.flag.check()
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

    def _end(self, process: subprocess.Popen[bytes]) -> tuple[Node, str]:
        node, _ = self._running.pop(process)
        if process.returncode == 0:
            return node, ""
        error = Path(node.log).with_name("error.json")
        if error.exists():
            return node, json.loads(error.read_text())["what"]
        if process.returncode < 0:
            return (
                node,
                f"It was killed by {signal.Signals(-process.returncode).name} (out of memory?); see {node.log}.",
            )
        return node, f"It ended with code {process.returncode} and no word; see {node.log}."

    def _device(self, slot: int) -> dict[str, str]:
        """A GPU each where there are some, else a share of the processor's cores."""
        given = os.environ.get("CUDA_VISIBLE_DEVICES")
        gpus = [str(number) for number in range(gpu_count())] if given is None else list(filter(None, given.split(",")))
        if gpus:
            return {"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]}
        return {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // self.slots)))}


def told(error: Exception) -> str:
    """An error as one sentence."""
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
