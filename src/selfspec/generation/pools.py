"""Pools: chains of immutable blocks of raw model output in the store.

A block is the output for 64 candidates. It is a function of its pool's key and its number; filters work on what is read
from it, so a changed filter generates again only what depends on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from selfspec.config.hashing import digest
from selfspec.data.jsonl import read_jsonl, write_jsonl
from selfspec.engines.protocol import Engine
from selfspec.filters.registry import filter_names
from selfspec.runtime.batches import NumberedBatch, make_output, run_batches
from selfspec.runtime.context import StageContext
from selfspec.runtime.random_streams import random_stream, stream_seed

Row = TypeVar("Row")
BLOCK_SIZE = 64  # candidates


@dataclass(frozen=True)
class PoolDefinition:
    """What a pool's key depends on, beside the key of the pool before it.

    Args:
        name: Of the pool, and of its folder in the store.
        version: Raised whenever what a block holds changes.
        values: Dotted names of values in the key of the stage that draws from the pool.
        inputs: Names of the stage's inputs.
    """

    name: str
    version: int
    values: tuple[str, ...]
    inputs: tuple[str, ...] = ()

    def key(self, values: Mapping[str, Any], inputs: Mapping[str, str], previous: str) -> str:
        """The pool's key, from the values and inputs of a stage and the key of the pool before."""
        pool_values = {name: value for name in self.values if (value := _value(values, name)) is not None}
        pool_inputs = {name: inputs[name] for name in self.inputs if name in inputs}
        return digest({"pool": self.name, "version": self.version, "previous": previous, **pool_values, **pool_inputs})


def _value(values: Mapping[str, Any], name: str) -> Any:
    """The value of a dotted name; None where it has its default, and so is not in the key."""
    value: Any = values
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _switches(filters: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"generation.filters.{name}" for name in filters)


# Votes are of the candidates that pass the filters before `self_consistency`, judgements of those that reach `judge`.
ANSWER_FILTERS = filter_names("answer")
VOTING, JUDGING = ANSWER_FILTERS.index("self_consistency"), ANSWER_FILTERS.index("judge")

INSTRUCTIONS = PoolDefinition(
    "instructions",
    version=5,
    values=(
        *("seed", "domain", "model", "weights", "engine", "prompts", "round"),
        *("generation.instructions", "generation.demonstrations"),
    ),
    inputs=("seeds",),
)
RESPONSES = PoolDefinition(
    "responses",
    version=5,
    values=(
        *_switches(filter_names("task")),
        *("generation.filters.novelty_threshold", "generation.filters.extra", "generation.contamination"),
        *("generation.responses", "rounds", "retrieval"),
    ),
    inputs=("against", "index", "adapter"),
)
VOTES = PoolDefinition("votes", 7, (*_switches(ANSWER_FILTERS[:VOTING]), "generation.self_consistency"))
JUDGEMENTS = PoolDefinition("judgements", 5, (*_switches(ANSWER_FILTERS[VOTING:JUDGING]), "generation.judge"))
POOLS = (INSTRUCTIONS, RESPONSES, VOTES, JUDGEMENTS)  # in the order in which a candidate passes them


def pool_keys(values: Mapping[str, Any], inputs: Mapping[str, str]) -> dict[str, str]:
    """Keys of all pools that a stage draws from, by name: each depends on the one before.

    Args:
        values: What of the config is in the stage's key (`Stage.values`, or a manifest's).
        inputs: Keys and hashes of the stage's inputs.
    """
    keys: dict[str, str] = {}
    previous = ""
    for pool in POOLS:
        previous = keys[pool.name] = pool.key(values, inputs, previous)
    return keys


def group_by_type(rows: Sequence[Row], task_type: Callable[[Row], str]) -> dict[str, list[Row]]:
    """The rows of each task type, in their order."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(task_type(row), []).append(row)
    return groups


@dataclass(frozen=True)
class Pool:
    """A pool of one stage: reads blocks from the store, or computes and stores them."""

    name: str
    key: str
    seed: int  # of the experiment
    batch_size: int
    load_engine: Callable[[], Engine]  # loads the model at the first call
    round_number: int = 1  # later rounds that write new instructions draw other numbers
    context: StageContext | None = None  # of the stage; without it nothing can be stored

    def role(self, name: str) -> str:
        """Name of a random stream in the pool's round."""
        return name if self.round_number == 1 else f"{name}, round {self.round_number}"

    def rng(self, role: str, *place: int | str) -> Random:
        """The random stream of a role at a place of the pool."""
        return random_stream(self.seed, self.role(role), *place)

    def row_seed(self, role: str, *place: int | str) -> int:
        """The seed of one row's own stream."""
        return stream_seed(self.seed, self.role(role), *place)

    def block(
        self,
        number: int,
        groups: Mapping[str, Sequence[Row]],
        complete: Callable[[str, Sequence[Row]], list[dict[str, Any]]],
    ) -> list[dict[str, Any]]:
        """The rows of one block, sorted by their place in it: read, or computed batch by batch.

        Args:
            number: Of the block.
            groups: The block's rows by task type; a batch is of one type.
            complete: Raw rows of a batch, each with its `place`, from the task type and the batch.
        """
        batches = [
            NumberedBatch(partial(complete, task_type, batch), len(batch))
            for task_type, rows in groups.items()
            for batch in batches_of(rows, self.batch_size)
        ]
        folder = self.output(f"{number:05d}", f"block {number + 1}", batches, {"block": number})
        return list(read_jsonl(folder / "rows.jsonl"))

    def output(self, name: str, note: str, batches: Sequence[NumberedBatch], facts: dict[str, Any]) -> Path:
        """An output of the pool in the store, with the rows of these batches in `rows.jsonl`."""
        context = self.context
        assert context is not None

        def fill(work: Path, output: Path) -> None:
            scratch = work / f"batches-of-{self.batch_size}"  # batches of another size have other rows
            scratch.mkdir(exist_ok=True)
            size = sum(batch.size for batch in batches)
            with context.progress.step(f"{self.name}, {note}", size, "row") as step:
                rows = run_batches(context.stop, scratch, batches, step)
            write_jsonl(output / "rows.jsonl", sorted(rows, key=lambda row: int(row["place"])))
            manifest["counts"] = {"rows": len(rows)}

        manifest = {"pool": self.key, **facts}
        return make_output(context.store, context.stop, self.name, f"{self.key}-{name}", manifest, fill)


def batches_of(rows: Sequence[Row], size: int) -> list[Sequence[Row]]:
    """Batches of at most `size` rows, in order."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]
