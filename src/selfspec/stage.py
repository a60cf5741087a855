"""The one stage entry: runs one stage, in this process or started as `python -m selfspec.stage SPEC`.

SPEC is a JSON file with the resolved config and the key of the stage to run.
"""

from __future__ import annotations

import ctypes
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import dacite

from selfspec import __version__, pipeline
from selfspec.config import Config
from selfspec.errors import Interrupted, UserError
from selfspec.pipeline import Stage
from selfspec.reporting.progress import Progress
from selfspec.store import Store, file_hash

PR_SET_PDEATHSIG = 1  # of Linux's prctl


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

    def inputs(self) -> dict[str, Path]:
        """Where each input of the stage lies."""
        parents = {parent.key: self.store.root / parent.name / parent.key for parent in self.stage.parents}
        for name, path in self.stage.files.items():
            if file_hash(path) != self.stage.inputs[name]:
                raise UserError(f"{path} changed while the run went; start it again, and what is stored is kept.")
        return {name: self.stage.files.get(name) or parents[key] for name, key in self.stage.inputs.items()}


class Stop:
    """The flag that signal handlers set. Work asks it after each batch or optimizer step."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def check(self, save: Callable[[], None] = lambda: None) -> None:
        """Save and leave, if a signal asked for it.

        Raises:
            Interrupted: a signal came; the work so far is kept.
        """
        if self.signal is not None:
            save()
            raise Interrupted(signal.Signals(self.signal).name)

    def arm(self) -> None:
        """SIGTERM and SIGINT set the flag from now on; a second signal acts at once."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    @contextmanager
    def listening(self) -> Iterator[Stop]:
        """Armed while the block lasts."""
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        self.arm()
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        print("Stopping after the work in hand; a second signal stops at once.", file=sys.stderr)
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler)


def run(stage: Stage, config: Config, store: Store, progress: Progress, stop: Stop) -> Path:
    """Make one stage's output, or find it.

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
        "git": git_commit(),
        "counts": {},
    }

    def fill(work: Path, output: Path) -> None:
        job = Job(stage, store, work, output, config, progress, stop)
        taken = pipeline.sections(config, stage.name)
        facts["counts"] = pipeline.function(stage.name)(job, **job.inputs(), **taken)

    return store.make(stage.name, stage.key, facts, fill, stop.check)


def git_commit() -> str:
    """The commit of the code that runs, or an empty string outside a clone."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def main(spec: Path) -> None:
    """Run the stage that SPEC names."""
    if sys.platform == "linux":  # a stage does not outlive the sweep that started it: it saves, and ends
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    plain: dict[str, Any] = json.loads(spec.read_text())
    config = dacite.from_dict(Config, plain["config"], dacite.Config(cast=[tuple], strict=True))
    wanted = [stage for stage in pipeline.build(config).stages if stage.key == plain["key"]]
    if not wanted:
        raise UserError(f"{spec} names the stage {plain['key']}, which its config does not lead to; plan it again.")
    with Stop().listening() as stop, Progress() as progress:
        run(wanted[0], config, Store(Path(config.paths.store)), progress, stop)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except Interrupted:
        sys.exit(128 + signal.SIGTERM)
    except Exception as error:
        told = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        Path(sys.argv[1]).with_name("error.json").write_text(json.dumps({"what": told}))
        if isinstance(error, UserError):
            sys.exit(told)
        raise
