"""A sweep: all jobs composed and through the door first, their stages united and run once, then each job's report."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, configure_log, setup_globals
from omegaconf import OmegaConf

from selfspec.errors import UserError
from selfspec.launch.executors import choose_executor
from selfspec.launch.experiment import run_task
from selfspec.launch.plan import show_plan
from selfspec.launch.sweep_jobs import (
    SweepJob,
    compose_jobs,
    prepare_jobs,
    run_task_function,
    unstarted_return,
    write_sweep_record,
)
from selfspec.pipeline.graph import Graph, Node, execute_graph, mark_stored, unite_jobs
from selfspec.reporting.board import Board, count_jobs_and_stages, count_states, failure_table, node_line
from selfspec.reporting.sweep.report import write_sweep_report
from selfspec.runtime.environment import configure_environment
from selfspec.runtime.files import write_atomic
from selfspec.runtime.progress import Progress
from selfspec.runtime.signals import StopFlag
from selfspec.runtime.store import Store

RECORD_INTERVAL_SECONDS = 2.0  # between two writings of stages.json


def launch_sweep(launcher: Any, job_overrides: Sequence[Sequence[str]], first: int) -> Sequence[JobReturn]:
    """Run one batch of jobs for one of our launchers (see `hydra_plugins.selfspec_launcher`)."""
    setup_globals()
    hydra = launcher.config.hydra
    configure_log(hydra.hydra_logging, hydra.verbose)
    folder = Path(str(hydra.sweep.dir)).absolute()
    composed = compose_jobs(launcher, job_overrides, first)
    if launcher.task_function is not run_task:  # somebody else's function: it is just run
        folder.mkdir(parents=True, exist_ok=True)
        return [run_task_function(launcher, one) for one in composed]
    configure_environment()
    entered = prepare_jobs(composed, job_overrides)
    settings: Any = OmegaConf.to_container(hydra.launcher, resolve=True)
    nodes = unite_jobs((job.config, job.stages) for job in entered)
    searching = not str(hydra.sweeper._target_).endswith(".BasicSweeper")
    if searching and settings.get("wait") is False:
        raise UserError("A search needs each job's result to choose the next; leave hydra.launcher.wait at true.")
    if any(job.config.plan for job in entered):
        mark_stored(nodes, Store(Path(entered[0].config.paths.store)), launcher.outcomes)
        show_plan(nodes, len(entered), settings, folder)
        if searching:  # what it would try next depends on results
            sys.exit()
        return [unstarted_return(job) for job in entered]
    return Sweep(launcher, entered, nodes, folder, settings).run()


class Sweep:
    """One batch of jobs on its way."""

    def __init__(self, launcher: Any, entered: Sequence[SweepJob], nodes: Graph, folder: Path, settings: Any) -> None:
        self.launcher, self.jobs, self.nodes, self.folder, self.settings = launcher, entered, nodes, folder, settings
        self.returns: dict[int, JobReturn] = {}
        self.sharing: dict[str, list[SweepJob]] = {key: [] for key in nodes}
        for job in entered:
            for stage in job.stages.stages:
                self.sharing[stage.key].append(job)
        self._noted = 0.0

    def run(self) -> Sequence[JobReturn]:
        """The graph first; each job's task function as soon as its stages are done."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_sweep_record(self.folder / "sweep.json", self.jobs, self.nodes)
        store = Store(Path(self.jobs[0].config.paths.store))
        self._log()
        with StopFlag().installed() as stop, Progress(board=Board(self.nodes, self.folder)) as self.progress:
            self.progress.say(f"[bold]{count_jobs_and_stages(len(self.jobs), self.nodes)}[/]  [dim]{self.folder}[/]")
            executor = choose_executor(self.settings, self.folder, store, self.progress, stop)
            try:
                execute_graph(self.nodes, store, executor, self.launcher.outcomes, self._changed)
            finally:
                self._note()
                write_sweep_report(self.folder)
            self._sum_up()
        configure_log(self.launcher.config.hydra.hydra_logging, self.launcher.config.hydra.verbose)
        return [self.returns.get(job.number) or unstarted_return(job) for job in self.jobs]

    def _changed(self, node: Node) -> None:
        """Tell of a stage, and run the task functions of jobs that have nothing left to wait for."""
        if not (node.open and self.progress.console.is_terminal):  # where the table shows it
            self.progress.say(node_line(node))
        if time.monotonic() - self._noted > RECORD_INTERVAL_SECONDS:
            self._note()
        if node.open:
            return
        for job in self.sharing[node.stage.key]:
            if job.number not in self.returns and job.done(self.nodes):
                self.returns[job.number] = run_task_function(
                    self.launcher, job.composed, partial(run_task, outcomes=self.launcher.outcomes)
                )
                self._log()
                own = [text for text in job.overrides if any(text not in other.overrides for other in self.jobs)]
                self.progress.say(f"  [bold]job {job.number}[/] {' '.join(own)}  [dim]{job.folder.name}[/]")

    def _note(self) -> None:
        """How far each stage is, on disk: a report drawn half way tells it."""
        names = ("state", "message", "job", "host", "log")
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
            self.progress.console.print(failure_table(self.nodes))
        self.progress.say(f"{count_jobs_and_stages(len(self.jobs), self.nodes)}: {count_states(self.nodes.values())}")
        left = sum(node.open for node in self.nodes.values())
        if left:
            self.progress.say(f"{left} stages were left to SLURM; the same command attaches to them.")
        report = self.folder / "report.html"
        self.progress.say(f"[bold]{report}[/]  [dim]again: selfspec report {self.folder}[/]")

    def _log(self) -> None:
        """What is logged goes into the sweep's own log: the terminal belongs to its display."""
        logging.basicConfig(filename=self.folder / "sweep.log", level=logging.INFO, force=True)
