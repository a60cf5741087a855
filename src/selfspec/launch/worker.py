"""The worker entry: runs the stage of a JSON spec, `python -m selfspec.launch.worker SPEC`."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

import dacite
from rich.console import Console

from selfspec import __version__
from selfspec.config.schema import Config
from selfspec.errors import Interrupted, UserError
from selfspec.pipeline.build import build_pipeline
from selfspec.planning.devices import check_stage_device
from selfspec.runtime.batches import make_output
from selfspec.runtime.code_snapshot import git_commit
from selfspec.runtime.context import StageContext
from selfspec.runtime.distributed import join_process_group, terminate_with_parent
from selfspec.runtime.files import WRITTEN
from selfspec.runtime.progress import Progress
from selfspec.runtime.signals import StopFlag
from selfspec.runtime.stage import Stage
from selfspec.runtime.store import Store

log = logging.getLogger("selfspec")


REQUEUE_SECONDS = 60.0


def run_stage(stage: Stage, config: Config, store: Store, progress: Progress, stop: StopFlag) -> None:
    """Make one stage's output, or find it; alone, or together with the other processes of the stage.

    Raises:
        UserError: something the user can mend.
        Interrupted: a signal came; the same call goes on from the work so far.
    """
    facts = {
        "label": stage.label,
        "version": stage.definition.version,
        "values": stage.values,
        "inputs": dict(stage.inputs),
        "selfspec": __version__,
        "git": git_commit(),
        "counts": {},
    }

    def fill(work: Path, output: Path) -> None:
        context = StageContext(stage, store, work, output, config, progress, stop)
        facts["counts"] = stage.definition(context, **context.inputs(), **stage.sections())

    make_output(store, stop, stage.name, stage.key, facts, fill)


def run_spec(spec: Path, stop: StopFlag) -> None:
    """Run the stage that SPEC names."""
    terminate_with_parent()
    plain: dict[str, Any] = json.loads(spec.read_text())
    config = dacite.from_dict(Config, plain["config"], dacite.Config(cast=[tuple], strict=True))
    wanted = [stage for stage in build_pipeline(config).stages if stage.key == plain["key"]]
    if not wanted:
        raise UserError(f"{spec} names the stage {plain['key']}, which its config does not lead to; plan it again.")
    store = Store(Path(config.paths.store))
    with join_process_group() as group:
        stop.process_group = group
        check_stage_device(wanted[0], group.world_size, group.local_world_size)
        try:
            with Progress(None if group.is_first else Console(quiet=True)) as progress:
                run_stage(wanted[0], config, store, progress, stop)
        except Interrupted as interrupted:
            if str(interrupted) == "SIGUSR2" and "SLURM_JOB_ID" in os.environ:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)  # with which SLURM ends this process when it is queued
                if group.is_first:
                    requeue(store.root / "work" / f"{wanted[0].key}.requeued")
                time.sleep(REQUEUE_SECONDS)  # had it ended first, the job would be over
            raise


def requeue(mark: Path) -> None:
    """Give the node back and queue again (SLURM's time limit or a preemption is near); what was done is saved.

    Raises:
        UserError: the second time in a row without any work: it would go on for ever.
    """
    job, starts = os.environ["SLURM_JOB_ID"], int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    if not WRITTEN and mark.exists() and mark.read_text() == f"{job} {starts - 1}":
        raise UserError(f"Job {job} was stopped twice before one batch of work was done; give it more time.")
    if not WRITTEN:
        mark.write_text(f"{job} {starts}")
    print(f"Job {job} saved its work and queues again.", flush=True)
    subprocess.run(["scontrol", "requeue", job], check=True)


def run_worker(spec: Path) -> int:
    """Run it; its error goes beside the spec. Returns the exit code."""
    stop = StopFlag()
    stop.install_handlers()  # before the slow imports: a signal that comes meanwhile waits
    logging.basicConfig(stream=sys.stdout, format="%(asctime)s %(message)s", level=logging.INFO)
    for handler in logging.getLogger().handlers:  # libraries are heard when something is wrong
        handler.addFilter(lambda record: record.name == log.name or record.levelno >= logging.WARNING)
    log.info("%s, from %s", spec.parent, Path(__file__).parent)
    try:
        run_spec(spec, stop)
    except Interrupted as interrupted:
        return 128 + int(getattr(signal, str(interrupted)))
    except Exception as error:
        told = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        with suppress(FileExistsError), spec.with_name("error.json").open("x") as file:
            json.dump({"what": told}, file)  # of several processes the first tells what went wrong
        print(told if isinstance(error, UserError) else traceback.format_exc(), file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(run_worker(Path(sys.argv[1])))
