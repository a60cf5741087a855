"""One experiment: Hydra's task function. The config is checked, its stages run, the report is written."""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.markup import escape

from selfspec.config.error_messages import error_message
from selfspec.config.resolvers import register_resolvers_from_environment
from selfspec.config.schema import Config
from selfspec.errors import UserError
from selfspec.launch.executors import choose_executor
from selfspec.launch.job_command import job_command
from selfspec.launch.logged_names import with_logged_names
from selfspec.launch.preparation import prepare_config, print_notes
from selfspec.launch.run_folder import begin_run, check_run_folder
from selfspec.launch.slurm_nodes import check_slurm
from selfspec.pipeline.build import Pipeline, build_pipeline
from selfspec.pipeline.graph import Node, Outcomes, StageFailed, execute_graph, mark_stored, unite_jobs
from selfspec.reporting.board import node_line
from selfspec.reporting.logged_result import log_result
from selfspec.reporting.report import build_report, experiment_title, plain_config, write_page
from selfspec.reporting.tables import results_table
from selfspec.runtime.environment import configure_environment
from selfspec.runtime.files import write_atomic
from selfspec.runtime.progress import Progress
from selfspec.runtime.signals import StopFlag
from selfspec.runtime.store import Store

log = logging.getLogger("selfspec")

register_resolvers_from_environment()

TRACEBACK_VARIABLE = "SELFSPEC_TRACEBACK"  # set if the user set HYDRA_FULL_ERROR=1, which cli.run sets for itself


def run_task(composed: DictConfig, outcomes: Outcomes | None = None) -> float | None:
    """Run a composed experiment; on failure write `error.json` and exit with code 1 (in a sweep: raise).

    Args:
        composed: The config as Hydra composed it.
        outcomes: Results of the sweep's stages, if this process has run them.

    Returns:
        Loss of the specialized model on the held-out seeds (nats a token): what a search may minimise, never a score.
    """
    configure_environment()
    folder = Path(HydraConfig.get().runtime.output_dir)
    may_write = outcomes is not None  # a sweep has checked the folder
    try:
        if not may_write:
            is_run = HydraConfig.get().mode != RunMode.MULTIRUN
            check_run_folder(folder, "hydra.run.dir" if is_run else "hydra.sweep.subdir")
            may_write = True
        (folder / "error.json").unlink(missing_ok=True)  # of an earlier run in the same folder
        config = with_logged_names(prepare_config(composed))
        if HydraConfig.get().mode != RunMode.MULTIRUN:  # a sweep prints the notes of all its jobs
            print_notes([config])
        return run_experiment(config, folder, outcomes or Outcomes())
    except (UserError, OSError) as error:
        log.error(traceback.format_exc())
        message = error_message(error, [])
        stage = error.stage.label if isinstance(error, StageFailed) else None
        if may_write:
            _write_json(folder / "error.json", {"stage": stage, "what": message})
        if os.environ.get(TRACEBACK_VARIABLE):
            raise
        if HydraConfig.get().mode == RunMode.MULTIRUN:  # the sweep continues, and reports it at its end
            raise UserError(message) from error
        print(message, file=sys.stderr)
        sys.exit(1)


def run_experiment(config: Config, folder: Path, outcomes: Outcomes) -> float | None:
    """Run everything from seeds to report; stored outputs are reused."""
    stages = build_pipeline(config)
    store = Store(Path(config.paths.store))
    if config.plan:
        _show_plan(config, stages, store, folder)
        return None
    check_slurm(_launcher_config(), stages.stages, store)
    stage_paths = {stage.label: f"{stage.name}/{stage.key}" for stage in stages.stages}
    config_text = OmegaConf.to_yaml(plain_config(config))
    begin_run(folder, {"stages.json": _json_text(stage_paths), "config.yaml": config_text})
    in_sweep = HydraConfig.get().mode == RunMode.MULTIRUN  # the sweep has its own display
    with Progress(Console(quiet=True) if in_sweep else None) as progress:
        title = experiment_title(config)
        progress.say(f"[bold]{escape(title)}[/]  [dim]{escape(str(folder))}[/]")
        has_executed = _run_missing_stages(config, stages, store, progress, folder, outcomes)
        if has_executed is None:
            return None
        report = build_report(config, stages, store, title, job_command())
        _write_json(folder / "results.json", report)
        write_page(stages, store, report, folder)
        if has_executed:  # if everything was stored, there is nothing new to log
            log_result(config, report, stages, store)
        progress.console.print(results_table(report))
        progress.say(f"[bold]{escape(str(folder / 'report.html'))}[/]")
    return report["held_out_loss"]  # type: ignore[no-any-return]


def _run_missing_stages(
    config: Config, stages: Pipeline, store: Store, progress: Progress, folder: Path, outcomes: Outcomes
) -> bool | None:
    """Run the stages that are not stored.

    Returns:
        Whether any was run; None if they were left to a cluster.

    Raises:
        StageFailed: the first that failed, after all stages that do not depend on it.
    """
    nodes = unite_jobs([(config, stages)])
    mark_stored(nodes, store, outcomes)
    is_idle = not any(node.open for node in nodes.values())
    stop = StopFlag()
    executor = choose_executor({} if is_idle else _launcher_config(), folder, store, progress, stop)
    with nullcontext() if is_idle else stop.installed():  # a sweep installs its own signal handlers
        execute_graph(nodes, store, executor, outcomes, lambda node: _print_stage(node, store, progress))
    for node in nodes.values():
        if node.state == "failed":
            raise StageFailed(node.stage, node.message)
    if any(node.open for node in nodes.values()):
        progress.say("Its stages were left to SLURM; the same command attaches to them, and writes the report.")
        return None
    return bool(outcomes.executed & set(nodes))


def _show_plan(config: Config, stages: Pipeline, store: Store, folder: Path) -> None:
    from selfspec.launch.plan import show_plan

    nodes = unite_jobs([(config, stages)])
    mark_stored(nodes, store, Outcomes())
    show_plan(nodes, 1, _launcher_config(), folder)


def _launcher_config() -> dict[str, Any]:
    """The composed `hydra/launcher`; empty in a sweep, where Hydra uses it itself."""
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        return {}
    return OmegaConf.to_container(HydraConfig.get().launcher, resolve=True)  # type: ignore[return-value]


def _print_stage(node: Node, store: Store, progress: Progress) -> None:
    """Print one line on a stage that is finished, or was submitted to a cluster."""
    if node.state not in ("done", "stored"):
        if node.job or node.state == "failed":
            progress.say(node_line(node))
        return
    counts: dict[str, Any] = store.manifest(node.stage.name, node.stage.key)["counts"]
    text = ", ".join(f"{value} {name.replace('_', ' ')}" for name, value in counts.items() if value)
    seconds = "stored" if node.state == "stored" else f"{node.seconds:.1f} s"
    progress.say(f"  [green]✓[/] {node.stage.label:<22} {seconds:>9}  [dim]{text}[/]")


def _write_json(path: Path, data: Any) -> None:
    write_atomic(path, _json_text(data).encode())


def _json_text(data: Any) -> str:
    return json.dumps(data, indent=1, ensure_ascii=False)
