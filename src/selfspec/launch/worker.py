"""The worker: runs the stage of a JSON spec, `python -m selfspec.launch.worker SPEC`."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import dacite
from rich.console import Console

from selfspec import __version__
from selfspec.config.schema import Config
from selfspec.errors import Interrupted, UserError
from selfspec.launch.stage_files import error_text, record_error
from selfspec.pipeline.build import build_pipeline
from selfspec.planning.devices import check_stage_device
from selfspec.runtime.batches import make_output
from selfspec.runtime.code_snapshot import git_commit
from selfspec.runtime.context import StageContext
from selfspec.runtime.distributed import join_process_group, terminate_with_parent
from selfspec.runtime.progress import Progress
from selfspec.runtime.signals import StopFlag
from selfspec.runtime.stage import Stage
from selfspec.runtime.store import Store

log = logging.getLogger("selfspec")

REQUEUE_SECONDS = 60.0  # within which SLURM ends the processes of a job that was requeued


def run_stage(stage: Stage, config: Config, store: Store, progress: Progress, stop: StopFlag) -> None:
    """Compute the output of a stage unless it is stored, together with the other processes of the stage.

    Raises:
        UserError: Something that the user can correct.
        Interrupted: A signal arrived; the same call resumes from the saved work.
    """
    metadata = {
        "label": stage.label,
        "model": stage.config.model.name,
        "version": stage.definition.version,
        "values": stage.values,
        "inputs": dict(stage.inputs),
        "selfspec": __version__,
        "git": git_commit(),
        "counts": {},
    }

    def write_output(work: Path, output: Path) -> None:
        context = StageContext(stage, store, work, output, config, progress, stop)
        metadata["counts"] = stage.definition(context, **context.inputs(), **stage.sections())

    make_output(store, stop, stage.name, stage.key, metadata, write_output)


def run_spec(spec: Path, stop: StopFlag) -> None:
    """Run the stage of a spec, as one of the processes that torchrun or srun started for it.

    Raises:
        UserError: Something that the user can correct.
        Interrupted: A signal arrived. After SIGUSR2 in a SLURM job, the job is requeued first.
    """
    terminate_with_parent()
    plain: dict[str, Any] = json.loads(spec.read_text())
    config = dacite.from_dict(Config, plain["config"], dacite.Config(cast=[tuple], strict=True))
    stage = next((stage for stage in build_pipeline(config).stages if stage.key == plain["key"]), None)
    if stage is None:
        raise UserError(
            f"{spec} names the stage {plain['key']}, which its config does not have; start the sweep again."
        )
    store = Store(Path(config.paths.store))
    with join_process_group() as group:
        stop.process_group = group
        check_stage_device(stage, group.world_size, group.local_world_size)
        try:
            with Progress(None if group.is_first else Console(quiet=True)) as progress:
                run_stage(stage, config, store, progress, stop)
        except Interrupted as interrupted:
            if str(interrupted) == "SIGUSR2" and "SLURM_JOB_ID" in os.environ:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)  # SLURM sends it to the processes of a requeued job
                if group.is_first:
                    requeue(store.work_folder(stage.key) / "requeued", store.has_new_work())
                time.sleep(REQUEUE_SECONDS)  # if this process ended before the requeue, the job would be over
            raise


def requeue(idle_file: Path, has_new_work: bool) -> None:
    """Requeue this SLURM job; its work is saved. The time limit or a preemption is near.

    Args:
        idle_file: Records that a start of the job did no work; removed with the work folder that it is in.
        has_new_work: Whether this start of the job saved any work.

    Raises:
        UserError: Two starts in a row did no work: the job would be requeued without end.
    """
    job, num_restarts = os.environ["SLURM_JOB_ID"], int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    if not has_new_work:
        if idle_file.exists() and idle_file.read_text() == f"{job} {num_restarts - 1}":
            raise UserError(f"Job {job} was stopped twice before one batch of work was done; give it more time.")
        idle_file.parent.mkdir(exist_ok=True)
        idle_file.write_text(f"{job} {num_restarts}")
    print(f"Job {job} saved its work and is requeued.", flush=True)
    subprocess.run(["scontrol", "requeue", job], check=True)


def run_worker(spec: Path) -> int:
    """Run the stage of a spec and return the exit code; an error is written beside the spec."""
    stop = StopFlag()
    stop.install_handlers()  # before the slow imports, so that a signal during them is not lost
    logging.basicConfig(stream=sys.stdout, format="%(asctime)s %(message)s", level=logging.INFO)
    for handler in logging.getLogger().handlers:  # of libraries, only warnings and errors are logged
        handler.addFilter(lambda record: record.name == log.name or record.levelno >= logging.WARNING)
    log.info("%s, from %s", spec.parent, Path(__file__).parent)
    try:
        run_spec(spec, stop)
    except Interrupted as interrupted:
        return 128 + int(getattr(signal, str(interrupted)))
    except Exception as error:
        record_error(spec.parent, error)
        text = error_text(error) if isinstance(error, UserError) else traceback.format_exc()
        print(text, file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(run_worker(Path(sys.argv[1])))
