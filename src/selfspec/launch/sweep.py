"""A sweep: all jobs are composed and checked first; their distinct stages run once; then each job writes its report."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, configure_log, setup_globals
from omegaconf import OmegaConf
from rich.markup import escape

from selfspec.errors import UserError
from selfspec.launch.executors import choose_executor
from selfspec.launch.experiment import run_task
from selfspec.launch.plan import show_plan
from selfspec.launch.run_folder import check_sweep_folders
from selfspec.launch.slurm_nodes import check_slurm
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
from selfspec.reporting.sweep.state import read_sweep
from selfspec.reporting.sweep.table import build_table
from selfspec.reporting.sweep.terminal import sweep_results_table
from selfspec.runtime.environment import configure_environment
from selfspec.runtime.files import write_atomic
from selfspec.runtime.progress import Progress
from selfspec.runtime.signals import StopFlag
from selfspec.runtime.store import Store

RECORD_INTERVAL_SECONDS = 2.0  # minimum time between two writes of stages.json
RECORDED_FIELDS = ("state", "message", "job", "host", "log")  # of a node, in stages.json


def launch_sweep(launcher: Any, job_overrides: Sequence[Sequence[str]], first: int) -> Sequence[JobReturn]:
    """Run one batch of jobs for one of our launchers (see `hydra_plugins.selfspec_launcher`).

    Args:
        launcher: The launcher, after Hydra called its `setup`.
        job_overrides: The overrides of each job.
        first: Number of the first job.
    """
    setup_globals()
    hydra = launcher.config.hydra
    configure_log(hydra.hydra_logging, hydra.verbose)
    folder = Path(str(hydra.sweep.dir)).absolute()
    composed = compose_jobs(launcher, job_overrides, first)
    if launcher.task_function is not run_task:  # a program that uses our launcher for a task function of its own
        folder.mkdir(parents=True, exist_ok=True)
        return [run_task_function(launcher, config) for config in composed]
    configure_environment()
    jobs = prepare_jobs(composed, job_overrides)
    check_sweep_folders(folder, {job.number: job.folder for job in jobs})
    settings: dict[str, Any] = OmegaConf.to_container(hydra.launcher, resolve=True)  # type: ignore[assignment]
    nodes = unite_jobs((job.config, job.stages) for job in jobs)
    is_search = not str(hydra.sweeper._target_).endswith(".BasicSweeper")
    if is_search and settings.get("wait") is False:
        raise UserError("A search needs the results of its jobs to choose the next ones; set hydra.launcher.wait=true.")
    if not any(job.config.plan for job in jobs):
        return Sweep(launcher, jobs, nodes, folder, settings).run()
    mark_stored(nodes, Store(Path(jobs[0].config.paths.store)), launcher.outcomes)
    show_plan(nodes, len(jobs), settings, folder)
    if is_search:  # its next jobs depend on results
        sys.exit()
    return [unstarted_return(job) for job in jobs]


class Sweep:
    """One batch of jobs while it runs."""

    def __init__(
        self, launcher: Any, jobs: Sequence[SweepJob], nodes: Graph, folder: Path, settings: Mapping[str, Any]
    ) -> None:
        """Prepare the sweep.

        Args:
            launcher: The launcher, after Hydra called its `setup`.
            jobs: The prepared jobs.
            nodes: Their distinct stages.
            folder: Of the sweep.
            settings: The composed `hydra.launcher`.
        """
        self.launcher, self.jobs, self.nodes, self.folder, self.settings = launcher, jobs, nodes, folder, settings
        self.returns: dict[int, JobReturn] = {}  # by job number
        self.jobs_by_stage: dict[str, list[SweepJob]] = {key: [] for key in nodes}
        for job in jobs:
            for stage in job.stages.stages:
                self.jobs_by_stage[stage.key].append(job)
        self._recorded_at = 0.0

    def run(self) -> Sequence[JobReturn]:
        """Run the graph, and each job's task function as soon as its stages have ended."""
        store = Store(Path(self.jobs[0].config.paths.store))
        check_slurm(self.settings, (node.stage for node in self.nodes.values()), store)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_sweep_record(self.folder / "sweep.json", self.jobs, self.nodes)
        self._configure_log()
        with StopFlag().installed() as stop, Progress(board=Board(self.nodes, self.folder)) as self.progress:
            self.progress.say(
                f"[bold]{count_jobs_and_stages(len(self.jobs), self.nodes)}[/]  [dim]{escape(str(self.folder))}[/]"
            )
            executor = choose_executor(self.settings, self.folder, store, self.progress, stop)
            try:
                execute_graph(self.nodes, store, executor, self.launcher.outcomes, self._on_change)
            finally:
                self._record_stages()
                write_sweep_report(self.folder)
            self._print_summary()
        configure_log(self.launcher.config.hydra.hydra_logging, self.launcher.config.hydra.verbose)
        return [self.returns.get(job.number) or unstarted_return(job) for job in self.jobs]

    def _on_change(self, node: Node) -> None:
        """Print and record a stage's new state; run the task functions of jobs whose stages have all ended."""
        is_in_table = node.open and self.progress.console.is_terminal
        if not is_in_table:
            self.progress.say(node_line(node))
        if time.monotonic() - self._recorded_at > RECORD_INTERVAL_SECONDS:
            self._record_stages()
        if node.open:
            return
        for job in self.jobs_by_stage[node.stage.key]:
            if job.number not in self.returns and job.done(self.nodes):
                self._run_job(job)

    def _run_job(self, job: SweepJob) -> None:
        task = partial(run_task, outcomes=self.launcher.outcomes)
        self.returns[job.number] = run_task_function(self.launcher, job.composed, task)
        self._configure_log()
        varied = [text for text in job.overrides if any(text not in other.overrides for other in self.jobs)]
        self.progress.say(f"  [bold]job {job.number}[/] {escape(' '.join(varied))}  [dim]{escape(job.folder.name)}[/]")

    def _record_stages(self) -> None:
        """Write the state of each stage to stages.json, for reports that are drawn while the sweep runs."""
        stages = {
            key: {**{name: getattr(node, name) for name in RECORDED_FIELDS}, "seconds": round(node.elapsed, 1)}
            for key, node in self.nodes.items()
        }
        path = self.folder / "stages.json"
        earlier = json.loads(path.read_text()) if path.exists() and self.jobs[0].number > 0 else {}
        write_atomic(path, json.dumps({**earlier, **stages}, indent=1).encode())
        self._recorded_at = time.monotonic()

    def _print_summary(self) -> None:
        if any(node.state == "failed" for node in self.nodes.values()):
            self.progress.console.print(failure_table(self.nodes))
        self.progress.say(f"{count_jobs_and_stages(len(self.jobs), self.nodes)}: {count_states(self.nodes.values())}")
        num_open = sum(node.open for node in self.nodes.values())
        if num_open:
            self.progress.say(f"{num_open} stages were left to SLURM; the same command attaches to them.")
        table = build_table(read_sweep(self.folder).jobs)
        if table.rows:
            self.progress.console.print(sweep_results_table(table))
        report = self.folder / "report.html"
        self.progress.say(f"[bold]{escape(str(report))}[/]  [dim]again: selfspec report {escape(str(self.folder))}[/]")

    def _configure_log(self) -> None:
        """Send log messages to the sweep's own file: the terminal shows its display."""
        logging.basicConfig(filename=self.folder / "sweep.log", level=logging.INFO, force=True)
