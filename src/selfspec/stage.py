"""The one stage entry: runs one stage, in this process or started as `python -m selfspec.stage SPEC`.

SPEC is a JSON file with the resolved config and the key of the stage to run. torchrun and srun start it as several
processes that share the work.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import dacite
from rich.console import Console

from selfspec import __version__, code, pipeline, ranks, together
from selfspec.config import Config
from selfspec.errors import Interrupted, UserError
from selfspec.pipeline import Stage
from selfspec.planning import devices
from selfspec.ranks import ALONE
from selfspec.reporting.progress import Progress
from selfspec.store import WRITTEN, Store

log = logging.getLogger("selfspec")
REQUEUE_SECONDS = 60.0


@dataclass(frozen=True)
class Job:
    """What a stage function has around it: folders and the display. Nothing here can change its result."""

    stage: Stage
    store: Store
    work: Path  # scratch that outlives a kill
    output: Path  # becomes the finished output
    config: Config  # for paths and the logger; results are functions of the sections that a stage asks for
    progress: Progress
    stop: Stop

    def inputs(self) -> dict[str, Path | tuple[Path, ...]]:
        """Where each input of the stage lies."""
        parents = {parent.key: self.store.root / parent.name / parent.key for parent in self.stage.parents}
        for name, files in self.stage.files.items():
            if pipeline.hashed(files) != self.stage.inputs[name]:
                what = files if isinstance(files, Path) else " or ".join(map(str, files))
                raise UserError(f"{what} changed while the run went; start it again, and what is stored is kept.")
        return {
            name: self.stage.files[name] if name in self.stage.files else parents[key]
            for name, key in self.stage.inputs.items()
        }


class Stop:
    """The flag that signal handlers set. Work asks it after each batch or optimizer step."""

    SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)

    def __init__(self) -> None:
        self.signal, self.ranks = 0, ALONE

    def check(self, save: Callable[[], None] = lambda: None) -> None:
        """Save and leave, if a signal asked any of the stage's processes for it.

        Raises:
            Interrupted: a signal came; the work so far is kept.
        """
        if number := self.ranks.agree(self.signal):
            save()
            raise Interrupted(signal.Signals(number).name)

    def arm(self) -> None:
        """Signals set the flag from now on; a second one acts at once."""
        for number in self.SIGNALS:
            signal.signal(number, self._note)

    @contextmanager
    def listening(self) -> Iterator[Stop]:
        """Armed while the block lasts."""
        before = {number: signal.getsignal(number) for number in self.SIGNALS}
        self.arm()
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        print("Stopping after the work in hand; a second signal stops at once.", file=sys.stderr)
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def run(stage: Stage, config: Config, store: Store, progress: Progress, stop: Stop) -> None:
    """Make one stage's output, or find it; alone, or together with the other processes of the stage.

    Raises:
        UserError: something the user can mend.
        Interrupted: a signal came; the same call goes on from the work so far.
    """
    facts = {
        "label": stage.label,
        "version": pipeline.VERSIONS[stage.name],
        "slice": stage.slice,
        "inputs": dict(stage.inputs),
        "selfspec": __version__,
        "git": code.commit(),
        "counts": {},
    }

    def fill(work: Path, output: Path) -> None:
        job = Job(stage, store, work, output, config, progress, stop)
        facts["counts"] = pipeline.function(stage.name)(job, **job.inputs(), **pipeline.sections(stage))

    together.make(store, stop, stage.name, stage.key, facts, fill)


def main(spec: Path, stop: Stop) -> None:
    """Run the stage that SPEC names."""
    ranks.end_with_parent()
    plain: dict[str, Any] = json.loads(spec.read_text())
    config = dacite.from_dict(Config, plain["config"], dacite.Config(cast=[tuple], strict=True))
    wanted = [stage for stage in pipeline.build(config).stages if stage.key == plain["key"]]
    if not wanted:
        raise UserError(f"{spec} names the stage {plain['key']}, which its config does not lead to; plan it again.")
    store = Store(Path(config.paths.store))
    with ranks.joined() as group:
        stop.ranks = group
        devices.check_stage(wanted[0], group.world, group.local_world)
        try:
            with Progress(None if group.first else Console(quiet=True)) as progress:
                run(wanted[0], config, store, progress, stop)
        except Interrupted as interrupted:
            if str(interrupted) == "SIGUSR2" and "SLURM_JOB_ID" in os.environ:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)  # with which SLURM ends this process when it is queued
                if group.first:
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


def entry(spec: Path) -> int:
    """Run it; its error goes beside the spec. Returns the exit code."""
    stop = Stop()
    stop.arm()  # before the slow imports: a signal that comes meanwhile waits
    logging.basicConfig(stream=sys.stdout, format="%(asctime)s %(message)s", level=logging.INFO)
    for handler in logging.getLogger().handlers:  # libraries are heard when something is wrong
        handler.addFilter(lambda record: record.name == log.name or record.levelno >= logging.WARNING)
    log.info("%s, from %s", spec.parent, Path(__file__).parent)
    try:
        main(spec, stop)
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
    sys.exit(entry(Path(sys.argv[1])))
