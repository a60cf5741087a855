"""The jobs of a sweep: each composed once by Hydra, checked, and with its stages; and their record on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides, run_job
from hydra.types import TaskFunction
from omegaconf import DictConfig, open_dict

from selfspec.config.schema import Config
from selfspec.launch.job_command import job_command
from selfspec.launch.logged_names import with_logged_names
from selfspec.launch.preparation import prepare_config, print_notes
from selfspec.pipeline.build import Pipeline, build_pipeline
from selfspec.pipeline.graph import Graph
from selfspec.runtime.files import write_atomic


@dataclass(frozen=True)
class SweepJob:
    """One job of a sweep."""

    composed: DictConfig  # by Hydra, with its `hydra` section
    number: int
    overrides: list[str]
    folder: Path
    config: Config  # checked and frozen
    stages: Pipeline
    command: str  # repeats this job alone

    def done(self, nodes: Graph) -> bool:
        """Whether all of its stages have ended; some may have failed."""
        return not any(nodes[stage.key].open for stage in self.stages.stages)


def compose_jobs(launcher: Any, job_overrides: Sequence[Sequence[str]], first: int) -> list[DictConfig]:
    """Compose the config of every job.

    Args:
        launcher: The launcher, after Hydra called its `setup`.
        job_overrides: The overrides of each job.
        first: Number of the first job.
    """
    configs = []
    for number, overrides in enumerate(job_overrides, start=first):
        composed = launcher.hydra_context.config_loader.load_sweep_config(launcher.config, list(overrides))
        with open_dict(composed):
            composed.hydra.job.id = composed.hydra.job.num = number
        configs.append(composed)
    return configs


def prepare_jobs(composed: Sequence[DictConfig], job_overrides: Sequence[Sequence[str]]) -> list[SweepJob]:
    """Check all jobs and build their stages, before the first stage starts.

    Raises:
        UserError: The first error of any job.
    """
    state = Singleton.get_state()
    jobs = [_prepare_job(config, list(overrides)) for config, overrides in zip(composed, job_overrides, strict=True)]
    Singleton.set_state(state)
    print_notes(job.config for job in jobs)
    return jobs


def _prepare_job(composed: DictConfig, overrides: list[str]) -> SweepJob:
    """Check a job in the folder that Hydra will give it. No config is copied, which would double the planning time."""
    HydraConfig.instance().cfg = composed  # `${hydra:...}` reads it; `set_config` would copy it
    folder = Path(str(composed.hydra.sweep.dir), str(composed.hydra.sweep.subdir)).absolute()
    composed.hydra.runtime.output_dir = str(folder)
    sections = composed.items_ex(resolve=False, keys=[name for name in composed if name != "hydra"])
    task_config = DictConfig(dict(sections), flags={"no_deepcopy_set_nodes": True})
    config = with_logged_names(prepare_config(task_config))
    number = int(composed.hydra.job.num)
    return SweepJob(
        composed, number, filter_overrides(overrides), folder, config, build_pipeline(config), job_command()
    )


def run_task_function(launcher: Any, composed: DictConfig, task_function: TaskFunction | None = None) -> JobReturn:
    """Run a job's task function as Hydra's own launcher does: the launcher's own, or the one given."""
    job_return = run_job(
        hydra_context=launcher.hydra_context,
        task_function=task_function or launcher.task_function,
        config=composed,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
    configure_log(launcher.config.hydra.hydra_logging, launcher.config.hydra.verbose)
    return job_return


def unstarted_return(job: SweepJob) -> JobReturn:
    """Return what Hydra expects of a job that was only planned or submitted: it completed, without a result."""
    job_return = JobReturn(overrides=job.overrides, cfg=job.composed, working_dir=str(job.folder))
    job_return.status, job_return.return_value = JobStatus.COMPLETED, None
    return job_return


def write_sweep_record(path: Path, jobs: Sequence[SweepJob], nodes: Graph) -> None:
    """Write `sweep.json`, before anything runs; it keeps the jobs of earlier batches of the same sweep."""
    record: dict[str, Any] = {
        "store": jobs[0].config.paths.store,
        "jobs": [_job_record(job) for job in jobs],
        "stages": {key: {"label": node.stage.label, "name": node.stage.name} for key, node in nodes.items()},
    }
    first = jobs[0].number
    if path.exists() and first > 0:
        earlier = json.loads(path.read_text())
        record["jobs"] = earlier["jobs"][:first] + record["jobs"]
        record["stages"] = {**earlier["stages"], **record["stages"]}
    write_atomic(path, json.dumps(record, indent=1).encode())


def _job_record(job: SweepJob) -> Mapping[str, Any]:
    return {
        "number": job.number,
        "overrides": job.overrides,
        "command": job.command,
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
