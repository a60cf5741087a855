"""Run by torchrun: tunes the seeds-only adapter of one config after the other, all processes together.

    torchrun --nproc-per-node 2 tests/pair.py CELLS.json

CELLS.json: a list of {"folder": ..., "overrides": [...], "stop_after": null or a number of steps}; "torn": true if
somebody was killed there while saving DeepSpeed's next checkpoint. What went wrong in a cell goes into its folder as
`error.txt`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import processors
from selfspec.errors import Interrupted
from selfspec.launch.worker import run_stage
from selfspec.pipeline.build import build_pipeline
from selfspec.runtime.distributed import ProcessGroup, join_process_group
from selfspec.runtime.progress import Progress
from selfspec.runtime.signals import StopFlag
from selfspec.runtime.store import Store
from toys import experiment
from tuning_runs import StopAfter


def tune(cell: dict[str, Any], group: ProcessGroup) -> None:
    config = experiment(Path(cell["folder"]), *cell["overrides"])
    wanted = build_pipeline(config).adapters["seeds_only"]
    stop = StopAfter(cell["stop_after"]) if cell["stop_after"] else StopFlag()
    stop.process_group = group
    with stop.installed() as listening:
        run_stage(wanted, config, Store(Path(config.paths.store)), Progress(), listening)


def tear(folder: Path) -> None:
    """Half of a checkpoint lies beside the whole one."""
    (saved,) = folder.glob("store/work/*/deepspeed/step-*")
    following = saved.with_name(f"step-{int(saved.name[5:]) + 1}")
    following.mkdir()
    for part in list(saved.iterdir())[:2]:
        (following / part.name).write_bytes(part.read_bytes()[:1000])


def main() -> None:
    processors.allow()
    with join_process_group() as group:
        for cell in json.loads(Path(sys.argv[1]).read_text()):
            if group.is_first and cell.get("torn"):
                tear(Path(cell["folder"]))
            try:
                tune(cell, group)
            except Interrupted:
                pass
            except Exception as error:
                Path(cell["folder"], f"error-{group.rank}.txt").write_text(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
