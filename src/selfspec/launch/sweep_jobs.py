"""The jobs of a sweep: each composed once by Hydra, through the door, with its stages; and their record on disk."""

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
from selfspec.launch.logged_names import with_logged_names
from selfspec.launch.preparation import prepare_config, print_notes
from selfspec.pipeline.build import Pipeline, build_pipeline
from selfspec.pipeline.graph import Graph
from selfspec.runtime.files import write_atomic


@dataclass(frozen=True)
class SweepJob:
    """One job of a sweep, as Hydra composed it and as it came through the door."""

    composed: DictConfig
    number: int
    overrides: list[str]
    folder: Path
    config: Config
    stages: Pipeline

    def done(self, nodes: Graph) -> bool:
        """Whether nothing of it is left to do, be it that a stage failed."""
        return not any(nodes[stage.key].open for stage in self.stages.stages)


def compose_jobs(launcher: Any, job_overrides: Sequence[Sequence[str]], first: int) -> list[DictConfig]:
    """The config of every job, as Hydra composes it."""
    found = []
    for number, overrides in enumerate(job_overrides, start=first):
        composed = launcher.hydra_context.config_loader.load_sweep_config(launcher.config, list(overrides))
        with open_dict(composed):
            composed.hydra.job.id = composed.hydra.job.num = number
        found.append(composed)
    return found


def prepare_jobs(composed: Sequence[DictConfig], job_overrides: Sequence[Sequence[str]]) -> list[SweepJob]:
    """All of them through the door, before the first stage starts.

    Raises:
        UserError: the first thing that is wrong with any.
    """
    state = Singleton.get_state()
    jobs = [_prepare_job(one, list(overrides)) for one, overrides in zip(composed, job_overrides, strict=True)]
    Singleton.set_state(state)
    print_notes(job.config for job in jobs)
    return jobs


def _prepare_job(composed: DictConfig, overrides: list[str]) -> SweepJob:
    """With the folder that Hydra will give the job. No config is copied: that would double the time of planning."""
    HydraConfig.instance().cfg = composed  # what `${hydra:...}` reads; `set_config` would copy
    folder = Path(str(composed.hydra.sweep.dir), str(composed.hydra.sweep.subdir)).absolute()
    composed.hydra.runtime.output_dir = str(folder)
    own = composed.items_ex(resolve=False, keys=[name for name in composed if name != "hydra"])
    plain = DictConfig(dict(own), flags={"no_deepcopy_set_nodes": True})  # as a task function gets it, without `hydra`
    config = with_logged_names(prepare_config(plain))
    number = int(composed.hydra.job.num)
    return SweepJob(composed, number, filter_overrides(overrides), folder, config, build_pipeline(config))


def run_task_function(launcher: Any, composed: DictConfig, task_function: TaskFunction | None = None) -> JobReturn:
    """Run a job's task function as Hydra does: the launcher's own, or the one given."""
    returned = run_job(
        hydra_context=launcher.hydra_context,
        task_function=task_function or launcher.task_function,
        config=composed,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
    configure_log(launcher.config.hydra.hydra_logging, launcher.config.hydra.verbose)
    return returned


def unstarted_return(job: SweepJob) -> JobReturn:
    """What Hydra is told of a job that was only planned or submitted: nothing went wrong."""
    returned = JobReturn(overrides=job.overrides, cfg=job.composed, working_dir=str(job.folder))
    returned.status, returned.return_value = JobStatus.COMPLETED, None
    return returned


def write_sweep_record(path: Path, jobs: Sequence[SweepJob], nodes: Graph) -> None:
    """Write `sweep.json`, before anything runs; jobs of earlier batches of the same sweep stay in it."""
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
