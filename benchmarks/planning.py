"""CPU seconds for planning a sweep of 1,000 jobs: of Hydra, which composes them, and of our own code.

python benchmarks/planning.py [NUM_SEEDS]     # default 25: 2 domains x 5 data sizes x 4 ranks x 25 seeds
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


def sweep_overrides(num_seeds: int) -> list[list[str]]:
    """Return the overrides of each job."""
    domains, sizes, ranks = ("biomedicine", "finance"), (100, 300, 500, 1000, 3000), (8, 16, 32, 64)
    return [
        [f"domain={domain}", f"data_size.examples={size}", f"lora=r{rank}", f"seed={seed}"]
        for domain, size, rank, seed in itertools.product(domains, sizes, ranks, range(num_seeds))
    ]


def set_up_launcher(folder: Path) -> LocalLauncher:
    """Return the launcher as Hydra sets it up for `-m`."""
    hydra: Any = GlobalHydra.instance().hydra
    overrides = [f"paths.store={folder}/store", f"hydra.sweep.dir={folder}/sweep"]
    composed = hydra.compose_config("config", overrides, RunMode.MULTIRUN, with_log_configuration=False)
    context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks())
    launcher = LocalLauncher()
    launcher.setup(hydra_context=context, task_function=run_task, config=composed)
    return launcher


def plan(overrides: list[list[str]], folder: Path) -> tuple[int, float]:
    """Do what `launch.sweep` does before the first stage; return (number of distinct stages, our CPU seconds)."""
    seconds = []

    def measure(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        start = time.process_time()
        result = function(*arguments)
        seconds.append(time.process_time() - start)
        print(f"  {name:<30} {seconds[-1]:8.2f} s", flush=True)
        return result

    composed = measure("Hydra composes the jobs", compose_jobs, set_up_launcher(folder), overrides, 0)
    jobs = measure("check, freeze, compute keys", prepare_jobs, composed, overrides)
    nodes = measure("unite the stages", lambda: unite_jobs((job.config, job.stages) for job in jobs))
    measure("mark stored stages", mark_stored, nodes, Store(folder / "store"), Outcomes())
    measure("write sweep.json", write_sweep_record, folder / "sweep.json", jobs, nodes)
    return len(nodes), sum(seconds[1:])


def main() -> None:
    """Plan the sweep in an empty store, and print the seconds of each part."""
    overrides = sweep_overrides(int(sys.argv[1]) if len(sys.argv) > 1 else 25)
    register_schema()
    register_resolvers(PROJECT)
    with tempfile.TemporaryDirectory() as folder, initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        num_stages, seconds = plan(overrides, Path(folder))
    assert not HEAVY & set(sys.modules), f"planning imported {HEAVY & set(sys.modules)}"
    print(f"{len(overrides)} jobs, {num_stages} distinct stages; our code {seconds:.1f} s of CPU, without torch")


if __name__ == "__main__":
    main()
