"""Pools: chains of immutable blocks of raw model output in the store."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from selfspec.data.jsonl import read_jsonl, write_jsonl
from selfspec.data.records import Seed
from selfspec.engines.protocol import Engine
from selfspec.runtime.batches import NumberedBatch, make_output, run_batches
from selfspec.runtime.context import StageContext

Row = TypeVar("Row")


BLOCK_SIZE = 64  # attempts


def group_into_batches(rows: Sequence[Row], kind: Callable[[Row], str], size: int) -> list[list[Row]]:
    """Batches of at most `size` rows of one `kind` each, in the order of the rows."""
    kinds: dict[str, list[Row]] = {}
    for row in rows:
        kinds.setdefault(kind(row), []).append(row)
    return [some[start : start + size] for some in kinds.values() for start in range(0, len(some), size)]


def draw_few_shot(shown: Sequence[Seed], task_type: str, count: int, chance: random.Random) -> list[Seed]:
    """Seeds to show: random ones of the task type, filled up with any others, in random order.

    Without a type they are just random [M]. A small model that was not shown a task's form does not guess it.
    """
    mixed = chance.sample(list(shown), len(shown))
    drawn = sorted(mixed, key=lambda seed: bool(task_type) and seed.task_type != task_type)[:count]
    return chance.sample(drawn, len(drawn))


@dataclass(frozen=True)
class Pool:
    """A chain of immutable blocks in the store, each its own output."""

    job: StageContext
    name: str  # instructions, responses
    key: str
    engine: Callable[[], Engine]  # loads the model at the first call

    def random(self, block: int, batch: int) -> tuple[random.Random, int]:
        """The random state of one batch: for draws of seeds, and a number for the sampler."""
        state = hashlib.sha256(f"{self.key}/{block}/{batch}".encode()).digest()
        return random.Random(state), int.from_bytes(state[:7], "big")

    def block(
        self, number: int, groups: Sequence[Sequence[Any]], make: Callable[[int, Any], list[dict[str, Any]]]
    ) -> list[dict[str, Any]]:
        """The rows of one block: read, or made batch by batch.

        Args:
            number: The block's place in the pool.
            groups: What each batch is made of.
            make: A batch's rows, from its place in the block and its group; called for those not done yet.
        """
        batches = [NumberedBatch(partial(make, place, group), len(group)) for place, group in enumerate(groups)]
        folder = self.output(f"{number:05d}", f"block {number + 1}", batches, {"block": number})
        return list(read_jsonl(folder / "rows.jsonl"))

    def output(self, name: str, about: str, batches: Sequence[NumberedBatch], facts: dict[str, Any]) -> Path:
        """An output of the pool, with the rows of these batches in `rows.jsonl`."""

        def fill(work: Path, output: Path) -> None:
            size = sum(batch.size for batch in batches)
            with self.job.progress.step(f"{self.name}, {about}", size, "row") as step:
                rows = run_batches(self.job.stop, work, batches, step)
            write_jsonl(output / "rows.jsonl", rows)
            told["counts"] = {"rows": len(rows)}

        told = {"pool": self.key, **facts}
        return make_output(self.job.store, self.job.stop, self.name, f"{self.key}-{name}", told, fill)
