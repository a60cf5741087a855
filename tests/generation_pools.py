"""Pools of generated rows, stored as if a model had written them, and the candidates that are read from them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from selfspec.config.validation import validate
from selfspec.data.reading import read_seeds
from selfspec.data.splits import split_seeds
from selfspec.generation.candidates import CandidateRows, GenerationInputs
from selfspec.generation.pools import Pool, pool_keys
from selfspec.pipeline.build import build_pipeline
from selfspec.runtime.context import StageContext
from selfspec.runtime.progress import Progress
from selfspec.runtime.signals import StopFlag
from selfspec.runtime.store import Store
from toys import PROJECT, prompts, toy_experiment


def examples_context(folder: Path, *overrides: str) -> StageContext:
    """The context of the stage `examples` of an experiment, before the stage runs."""
    config = validate(toy_experiment(folder, *overrides))
    (stage,) = (stage for stage in build_pipeline(config).stages if stage.label == "examples")
    (folder / "output").mkdir(parents=True, exist_ok=True)
    quiet = Progress(Console(quiet=True))
    return StageContext(stage, Store(folder / "store"), folder / "work", folder / "output", config, quiet, StopFlag())


def build_pool(seed: int = 0, **fields: Any) -> Pool:
    """A pool with the given fields; without any, only its random streams can be used."""
    defaults = {
        "name": "instructions",
        "key": "key",
        "batch_size": 16,
        "load_engine": fail_to_load_engine,
    }
    return Pool(**{**defaults, "seed": seed, **fields})


def fail_to_load_engine() -> Any:
    raise AssertionError("no engine is needed")


def store_blocks(context: StageContext, blocks: Mapping[str, Sequence[Mapping[str, Any]]], number: int = 0) -> None:
    """Store block `number` of the pools, as if a model had written it."""
    keys = pool_keys(context.stage.values, context.stage.inputs)
    for name, rows in blocks.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        key = f"{keys[name]}-{number:05d}"
        context.store.make(name, key, {"counts": {}}, lambda _, out, text=text: write_rows(out, text))


def write_rows(folder: Path, text: str) -> None:
    (folder / "rows.jsonl").write_text(text, encoding="utf-8")


def candidate_rows(context: StageContext, **changes: Any) -> CandidateRows:
    """Candidates of the domain, which need no engine if the pools' blocks are stored."""
    domain, generation = context.config.domain, context.config.generation
    seeds = read_seeds(Path(domain.seeds), domain.tasks)
    find = changes.pop("find", lambda draft: ())
    inputs = GenerationInputs(seeds, split_seeds(seeds)[0], QUESTIONS, find)
    loaders = (fail_to_load_engine, fail_to_load_engine)
    rows = CandidateRows(context, domain, generation, inputs, 1000, *loaders, prompts(), context.config.seed)
    return replace(rows, **changes)


QUESTIONS = [
    ("question-1", "Grey herons in the northern delta have begun to nest a full month before their usual time.")
]
SEEDS = read_seeds(PROJECT / "src/selfspec/domains/biomedicine/seeds.jsonl", toy_experiment(Path()).domain.tasks)
BY_TYPE = {seed.task_type: seed for seed in split_seeds(SEEDS)[0]}  # one seed of each type
WORDS = "amber birch cedar delta ember fjord grove heath inlet jetty knoll ledge marsh north ocean plain quarry ridge"


def unique_text(number: int) -> str:
    """A text unlike those of all other numbers."""
    return f"{' '.join(f'{word}{number}' for word in WORDS.split()[:9])}."


def raw_row(task: str, text: str, **changes: Any) -> dict[str, Any]:
    """One row of a block of instructions, as a model wrote it."""
    seed = BY_TYPE[task]
    request = {"task_type": task, "topic": "cardiology", "options": list(seed.options)}
    output = {"instruction": f"Look at this text and do what a {task} wants.", "input": text, "finished": True}
    return {"request": request, **output, "seeds": [seed.id], "sampler_seed": 7, **changes}
