"""Run by torchrun: tunes the seeds-only adapter of one config after the other, all processes together.

    torchrun --nproc-per-node 2 tests/pair.py CELLS.json

CELLS.json: a list of {"folder": ..., "overrides": [...], "stop_after": null or a number of steps}. What went wrong in a
cell goes into its folder as `error.txt`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from selfspec import pipeline, ranks, stage
from selfspec.errors import Interrupted
from selfspec.reporting.progress import Progress
from selfspec.stage import Stop
from selfspec.store import Store
import processors
from test_tuning import StopAfter
from toys import experiment


def tune(cell: dict[str, Any], group: ranks.Ranks) -> None:
    config = experiment(Path(cell["folder"]), *cell["overrides"])
    wanted = pipeline.build(config).adapters["seeds_only"]
    stop = StopAfter(cell["stop_after"]) if cell["stop_after"] else Stop()
    stop.ranks = group
    with stop.listening() as listening:
        stage.run(wanted, config, Store(Path(config.paths.store)), Progress(), listening)


def main() -> None:
    processors.allow()
    with ranks.joined() as group:
        for cell in json.loads(Path(sys.argv[1]).read_text()):
            try:
                tune(cell, group)
            except Interrupted:
                pass
            except Exception as error:
                Path(cell["folder"], f"error-{group.rank}.txt").write_text(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
