"""Splits of the seeds: shown in context or held out, fixed subsets, round robin over task types."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import zip_longest

from selfspec.data.records import Row, Seed


def split_seeds(seeds: Sequence[Seed]) -> tuple[list[Seed], list[Seed]]:
    """(shown, held out): a tenth, at least 8, is never shown to a model.

    Which ones is fixed by the seeds alone: again and again the task type and label that has most seeds left gives one,
    chosen by its id's hash. So what is shown keeps every label for as long as any has two.
    """
    left: dict[tuple[str, str], list[Seed]] = {}
    for seed in sorted(seeds, key=lambda seed: hashlib.sha256(seed.id.encode()).hexdigest()):
        left.setdefault((seed.task_type, seed.output if seed.options else ""), []).append(seed)
    hidden = set()
    for _ in range(min(len(seeds), max(8, len(seeds) // 10))):
        most = max(left.values(), key=lambda group: (len(group), group[0].id if group else ""))
        hidden.add(most.pop(0).id)
    return [s for s in seeds if s.id not in hidden], [s for s in seeds if s.id in hidden]


def seed_subset(seeds: Sequence[Seed], count: int | None) -> list[Seed]:
    """The first `count` of seeds in a fixed order, task types in turn: a smaller subset is part of a larger one."""
    order = sorted(seeds, key=lambda seed: hashlib.sha256(seed.id.encode()).hexdigest())
    chosen = {row.id for row in round_robin(order, count)}
    return [seed for seed in seeds if seed.id in chosen]


def round_robin(rows: Sequence[Row], count: int | None) -> list[Row]:
    """The first `count` rows when task types take turns (all rows without a count), each type's in their order."""
    types: dict[str, list[Row]] = {}
    for row in rows:
        types.setdefault(row.task_type, []).append(row)  # type: ignore[attr-defined]
    turns = [row for turn in zip_longest(*types.values()) for row in turn if row is not None]
    return turns[:count]
