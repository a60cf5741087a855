"""Run by torchrun: all processes together tune the seeds-only adapters of several configs, one after the other.

    torchrun --nproc-per-node 2 tests/torchrun_tuning.py CELLS.json

CELLS.json: a list of {"folder": ..., "overrides": [...], "stop_after": null or a number of steps}. With "torn": true,
an incomplete DeepSpeed checkpoint is written first, as by a process killed while saving. Errors of a cell are written
to `error-RANK.txt` in its folder.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from deepspeed_on_cpu import allow_deepspeed_on_cpu
from selfspec.errors import Interrupted
from selfspec.launch.worker import run_stage
from selfspec.pipeline.build import build_pipeline
from selfspec.runtime.distributed import ProcessGroup, join_process_group
from selfspec.runtime.progress import Progress
from selfspec.runtime.signals import StopFlag
from selfspec.runtime.store import Store
from toys import toy_experiment
from tuning_runs import StopAfter


def tune(cell: dict[str, Any], group: ProcessGroup) -> None:
    config = toy_experiment(Path(cell["folder"]), *cell["overrides"])
    stage = build_pipeline(config).adapters["seeds_only"]
    stop = StopAfter(cell["stop_after"]) if cell["stop_after"] else StopFlag()
    stop.process_group = group
    with stop.installed() as flag:
        run_stage(stage, config, Store(Path(config.paths.store)), Progress(), flag)


def write_torn_checkpoint(folder: Path) -> None:
    """Write the next checkpoint incompletely, beside the complete one."""
    (saved,) = folder.glob("store/work/*/deepspeed/step-*")
    following = saved.with_name(f"step-{int(saved.name[5:]) + 1}")
    following.mkdir()
    for part in list(saved.iterdir())[:2]:
        (following / part.name).write_bytes(part.read_bytes()[:1000])


def main() -> None:
    allow_deepspeed_on_cpu()
    with join_process_group() as group:
        for cell in json.loads(Path(sys.argv[1]).read_text()):
            if group.is_first and cell.get("torn"):
                write_torn_checkpoint(Path(cell["folder"]))
            try:
                tune(cell, group)
            except Interrupted:
                pass
            except Exception as error:
                Path(cell["folder"], f"error-{group.rank}.txt").write_text(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
