"""Planning a sweep of 1,000 jobs: CPU seconds of Hydra, which composes them, and of what is ours.

python benchmarks/planning.py [seeds]     # 25: 2 domains x 5 data sizes x 4 ranks x 25 seeds
"""

from __future__ import annotations

import itertools
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.types import HydraContext, RunMode

from hydra_plugins.selfspec_launcher import LocalLauncher
from selfspec.config.composition import register_schema
from selfspec.config.resolvers import register_resolvers
from selfspec.launch.experiment import run_task
from selfspec.launch.sweep_jobs import compose_jobs, prepare_jobs, write_sweep_record
from selfspec.pipeline.graph import Outcomes, mark_stored, unite_jobs
from selfspec.runtime.store import Store

PROJECT = Path(__file__).resolve().parent.parent
HEAVY = {"torch", "transformers", "peft", "pytorch_lightning", "wandb"}


def sweep(seeds: int) -> list[list[str]]:
    """The overrides of each job."""
    domains, sizes, ranks = ("biomedicine", "finance"), (100, 300, 500, 1000, 3000), (8, 16, 32, 64)
    return [
        [f"domain={domain}", f"data_size.examples={size}", f"lora=r{rank}", f"seed={seed}"]
        for domain, size, rank, seed in itertools.product(domains, sizes, ranks, range(seeds))
    ]


def launcher(folder: Path) -> LocalLauncher:
    """As `-m` starts it."""
    hydra: Any = GlobalHydra.instance().hydra
    places = [f"paths.store={folder}/store", f"hydra.sweep.dir={folder}/sweep"]
    composed = hydra.compose_config("config", places, RunMode.MULTIRUN, with_log_configuration=False)
    context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks())
    made = LocalLauncher()
    made.setup(hydra_context=context, task_function=run_task, config=composed)
    return made


def plan(overrides: list[list[str]], folder: Path) -> tuple[int, float]:
    """What `launch.sweep` does before the first stage: (distinct stages, our CPU seconds)."""
    spent = []

    def timed(name: str, work: Callable[..., Any], *arguments: Any) -> Any:
        started = time.process_time()
        made = work(*arguments)
        spent.append(time.process_time() - started)
        print(f"  {name:<30} {spent[-1]:8.2f} s", flush=True)
        return made

    composed = timed("Hydra composes", compose_jobs, launcher(folder), overrides, 0)
    entered = timed("checked, typed, keys", prepare_jobs, composed, overrides)
    nodes = timed("one graph", lambda: unite_jobs((job.config, job.stages) for job in entered))
    timed("what is stored", mark_stored, nodes, Store(folder / "store"), Outcomes())
    timed("sweep.json", write_sweep_record, folder / "sweep.json", entered, nodes)
    return len(nodes), sum(spent[1:])


def main() -> None:
    overrides = sweep(int(sys.argv[1]) if len(sys.argv) > 1 else 25)
    register_schema()
    register_resolvers(PROJECT)
    with tempfile.TemporaryDirectory() as folder, initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        stages, seconds = plan(overrides, Path(folder))
    assert not HEAVY & set(sys.modules), f"planning imported {HEAVY & set(sys.modules)}"
    print(f"{len(overrides)} jobs, {stages} distinct stages; ours {seconds:.1f} s of CPU, without torch")


if __name__ == "__main__":
    main()
