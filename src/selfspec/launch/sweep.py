"""A sweep: all jobs composed and through the door first, their stages united and run once, then each job's report."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, configure_log, setup_globals
from omegaconf import OmegaConf

from selfspec import experiment
from selfspec.errors import UserError
from selfspec.launch import executors, graph, jobs, plan
from selfspec.launch.graph import Graph, Node
from selfspec.launch.jobs import Job
from selfspec.reporting.board import Board, counted, failures, line, size
from selfspec.reporting.progress import Progress
from selfspec.reporting.sweep import write_report
from selfspec.stage import Stop
from selfspec.store import Store, write_atomic

NOTE_SECONDS = 2.0  # between two writings of stages.json


def launch(launcher: Any, job_overrides: Sequence[Sequence[str]], first: int) -> Sequence[JobReturn]:
    """Run one batch of jobs for one of our launchers (see `hydra_plugins.selfspec_launcher`)."""
    setup_globals()
    hydra = launcher.config.hydra
    configure_log(hydra.hydra_logging, hydra.verbose)
    folder = Path(str(hydra.sweep.dir)).absolute()
    composed = jobs.compose(launcher, job_overrides, first)
    if launcher.task_function is not experiment.task:  # somebody else's function: it is just run
        folder.mkdir(parents=True, exist_ok=True)
        return [jobs.run(launcher, one) for one in composed]
    experiment.surroundings()
    entered = jobs.enter(composed, job_overrides)
    settings: Any = OmegaConf.to_container(hydra.launcher, resolve=True)
    nodes = graph.unite((job.config, job.stages) for job in entered)
    searching = not str(hydra.sweeper._target_).endswith(".BasicSweeper")
    if searching and settings.get("wait") is False:
        raise UserError("A search needs each job's result to choose the next; leave hydra.launcher.wait at true.")
    if any(job.config.plan for job in entered):
        graph.settle(nodes, Store(Path(entered[0].config.paths.store)))
        plan.show(nodes, len(entered), settings, folder)
        if searching:  # what it would try next depends on results
            sys.exit()
        return [jobs.left_alone(job) for job in entered]
    return Sweep(launcher, entered, nodes, folder, settings).run()


class Sweep:
    """One batch of jobs on its way."""

    def __init__(self, launcher: Any, entered: Sequence[Job], nodes: Graph, folder: Path, settings: Any) -> None:
        self.launcher, self.jobs, self.nodes, self.folder, self.settings = launcher, entered, nodes, folder, settings
        self.returns: dict[int, JobReturn] = {}
        self.sharing: dict[str, list[Job]] = {key: [] for key in nodes}
        for job in entered:
            for stage in job.stages.stages:
                self.sharing[stage.key].append(job)
        self._noted = 0.0

    def run(self) -> Sequence[JobReturn]:
        """The graph first; each job's task function as soon as its stages are done."""
        self.folder.mkdir(parents=True, exist_ok=True)
        jobs.keep(self.folder / "sweep.json", self.jobs, self.nodes)
        store = Store(Path(self.jobs[0].config.paths.store))
        self._log()
        with Stop().listening() as stop, Progress(board=Board(self.nodes, self.folder)) as self.progress:
            self.progress.say(f"[bold]{size(len(self.jobs), self.nodes)}[/]  [dim]{self.folder}[/]")
            executor = executors.choose(self.settings, self.folder, store, self.progress, stop)
            try:
                graph.execute(self.nodes, store, executor, self._changed)
            finally:
                self._note()
                write_report(self.folder)
            self._sum_up()
        configure_log(self.launcher.config.hydra.hydra_logging, self.launcher.config.hydra.verbose)
        return [self.returns.get(job.number) or jobs.left_alone(job) for job in self.jobs]

    def _changed(self, node: Node) -> None:
        """Tell of a stage, and run the task functions of jobs that have nothing left to wait for."""
        if not (node.open and self.progress.console.is_terminal):  # where the table shows it
            self.progress.say(line(node))
        if time.monotonic() - self._noted > NOTE_SECONDS:
            self._note()
        if node.open:
            return
        for job in self.sharing[node.stage.key]:
            if job.number not in self.returns and job.done(self.nodes):
                self.returns[job.number] = jobs.run(self.launcher, job.composed)
                self._log()
                own = [text for text in job.overrides if any(text not in other.overrides for other in self.jobs)]
                self.progress.say(f"  [bold]job {job.number}[/] {' '.join(own)}  [dim]{job.folder.name}[/]")

    def _note(self) -> None:
        """How far each stage is, on disk: a report drawn half way tells it."""
        names = ("state", "told", "job", "host", "log")
        facts = {
            key: {**{name: getattr(node, name) for name in names}, "seconds": round(node.elapsed, 1)}
            for key, node in self.nodes.items()
        }
        path = self.folder / "stages.json"
        earlier = json.loads(path.read_text()) if path.exists() and self.jobs[0].number > 0 else {}
        write_atomic(path, json.dumps({**earlier, **facts}, indent=1).encode())
        self._noted = time.monotonic()

    def _sum_up(self) -> None:
        if any(node.state == "failed" for node in self.nodes.values()):
            self.progress.console.print(failures(self.nodes))
        self.progress.say(f"{size(len(self.jobs), self.nodes)}: {counted(self.nodes.values())}")
        left = sum(node.open for node in self.nodes.values())
        if left:
            self.progress.say(f"{left} stages were left to SLURM; the same command attaches to them.")
        report = self.folder / "report.html"
        self.progress.say(f"[bold]{report}[/]  [dim]again: python -m selfspec.reporting.sweep {self.folder}[/]")

    def _log(self) -> None:
        """What is logged goes into the sweep's own log: the terminal belongs to its display."""
        logging.basicConfig(filename=self.folder / "sweep.log", level=logging.INFO, force=True)
