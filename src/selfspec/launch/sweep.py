"""A sweep: all jobs composed and through the door first, their stages united and run once, then each job's report."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, configure_log, filter_overrides, run_job, setup_globals
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from selfspec import door, experiment, pipeline
from selfspec.config import Config
from selfspec.errors import UserError
from selfspec.launch import graph
from selfspec.launch.executors import InProcess, Processes
from selfspec.launch.graph import Graph, Node
from selfspec.pipeline import Pipeline
from selfspec.reporting.progress import Progress
from selfspec.reporting.sweep import write_report
from selfspec.stage import Stop
from selfspec.store import Store, write_atomic


@dataclass(frozen=True)
class Job:
    """One job of a sweep, as Hydra composed it and as it came through the door."""

    composed: DictConfig
    number: int
    overrides: list[str]
    folder: Path
    config: Config
    stages: Pipeline

    def done(self, nodes: Graph) -> bool:
        """Whether nothing of it is left to do, be it that a stage failed."""
        return all(nodes[stage.key].state not in ("waiting", "running") for stage in self.stages.stages)


def launch(launcher: Any, job_overrides: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
    """Run one batch of jobs for one of our launchers (see `hydra_plugins.selfspec_launcher`)."""
    setup_globals()
    if launcher.processes < 1:
        raise UserError(f"hydra.launcher.processes={launcher.processes} must be at least 1.")
    config = launcher.config
    configure_log(config.hydra.hydra_logging, config.hydra.verbose)
    Path(str(config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
    composed = [_compose(launcher, list(overrides), first + n) for n, overrides in enumerate(job_overrides)]
    if launcher.task_function is not experiment.task:  # somebody else's function: it is just run
        return [_run(launcher, one) for one in composed]
    experiment.surroundings()
    state = Singleton.get_state()
    jobs = [_enter(one, first + n, list(job_overrides[n])) for n, one in enumerate(composed)]
    Singleton.set_state(state)
    return _run_all(launcher, jobs, Path(str(config.hydra.sweep.dir)).absolute())


def _run_all(launcher: Any, jobs: list[Job], folder: Path) -> list[JobReturn]:
    """The graph first; each job's task function as soon as its stages are done."""
    nodes = graph.unite((job.config, job.stages) for job in jobs)
    store = Store(Path(jobs[0].config.paths.store))
    _keep(folder / "sweep.json", _record(jobs, nodes))
    returns: dict[int, JobReturn] = {}
    _log_to(folder)
    with Stop().listening() as stop, Progress() as progress:
        progress.say(f"[bold]{len(jobs)} jobs, {len(nodes)} distinct stages[/]  [dim]{folder}[/]")

        def changed(node: Node) -> None:
            progress.say(line(node))
            if node.state != "running":
                for job in jobs:
                    if job.number not in returns and job.done(nodes):
                        returns[job.number] = _run(launcher, job.composed)
                        _log_to(folder)
                        progress.say(
                            f"  [bold]job {job.number}[/] {' '.join(job.overrides)}  [dim]{job.folder.name}[/]"
                        )

        processes = launcher.processes
        executor = InProcess(store, progress, stop) if processes == 1 else Processes(folder / "stages", processes, stop)
        try:
            graph.execute(nodes, store, executor, changed)
        finally:
            write_report(folder)
        failed = [node for node in nodes.values() if node.state == "failed"]
        for node in failed:
            progress.say(f"[red]failed[/] {node.stage.label}: {node.told}  [dim]{node.log}[/]")
        progress.say(f"[bold]{folder / 'report.html'}[/]  [dim]again: python -m selfspec.reporting.sweep {folder}[/]")
    return [returns[job.number] for job in jobs]


def _log_to(folder: Path) -> None:
    """What is logged goes into the sweep's own log: the terminal belongs to its display."""
    logging.basicConfig(filename=folder / "sweep.log", level=logging.INFO, force=True)


def _keep(path: Path, record: dict[str, Any]) -> None:
    """Write the record, with the jobs of earlier batches of the same sweep before it."""
    if path.exists() and record["jobs"][0]["number"] > 0:
        earlier = json.loads(path.read_text())
        record["jobs"] = earlier["jobs"][: record["jobs"][0]["number"]] + record["jobs"]
        record["stages"] = {**earlier["stages"], **record["stages"]}
    write_atomic(path, json.dumps(record, indent=1).encode())


def line(node: Node) -> str:
    """One line on a node whose state changed."""
    marks = {"done": "[green]✓[/]", "stored": "[green]✓[/]", "failed": "[red]✗[/]", "cancelled": "[yellow]-[/]"}
    name = f"{node.config.domain.name} {node.config.model.name} {node.config.data_size.examples}"
    seconds = f"{node.seconds:.1f} s" if node.state in ("done", "failed") else node.state
    return f"  {marks.get(node.state, '·')} {node.stage.label:<22} {seconds:>9}  [dim]{name}  {node.stage.key}[/]"


def _compose(launcher: Any, overrides: list[str], number: int) -> DictConfig:
    composed: DictConfig = launcher.hydra_context.config_loader.load_sweep_config(launcher.config, overrides)
    with open_dict(composed):
        composed.hydra.job.id = composed.hydra.job.num = number
    return composed


def _enter(composed: DictConfig, number: int, overrides: list[str]) -> Job:
    """Through the door, with the folder that Hydra will give the job."""
    HydraConfig.instance().set_config(composed)
    folder = Path(str(composed.hydra.sweep.dir), str(composed.hydra.sweep.subdir)).absolute()
    with read_write(composed.hydra.runtime), open_dict(composed.hydra.runtime):
        composed.hydra.runtime.output_dir = str(folder)
    HydraConfig.instance().set_config(composed)
    plain = OmegaConf.masked_copy(composed, [str(name) for name in composed if name != "hydra"])
    config = experiment.grouped(door.enter(plain))
    return Job(composed, number, filter_overrides(overrides), folder, config, pipeline.build(config))


def _run(launcher: Any, composed: DictConfig) -> JobReturn:
    returned = run_job(
        hydra_context=launcher.hydra_context,
        task_function=launcher.task_function,
        config=composed,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
    configure_log(launcher.config.hydra.hydra_logging, launcher.config.hydra.verbose)
    return returned


def _record(jobs: list[Job], nodes: Graph) -> dict[str, Any]:
    """What `sweep.json` holds, written before anything runs: jobs, their folders, the keys of their stages."""
    return {
        "store": jobs[0].config.paths.store,
        "jobs": [
            {
                "number": job.number,
                "overrides": job.overrides,
                "folder": str(job.folder),
                "choices": {
                    "domain": job.config.domain.name,
                    "model": job.config.model.name,
                    "examples": job.config.data_size.examples,
                    "lora_r": job.config.lora.r,
                    "seed": job.config.seed,
                },
                "stages": {stage.label: f"{stage.name}/{stage.key}" for stage in job.stages.stages},
            }
            for job in jobs
        ],
        "stages": {key: {"label": node.stage.label, "name": node.stage.name} for key, node in nodes.items()},
    }
