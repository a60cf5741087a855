"""Splits of the seeds: shown in context or held out; fixed subsets; round robin over task types."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import count, zip_longest

from selfspec.data.records import Row, Seed


def split_seeds(seeds: Sequence[Seed]) -> tuple[list[Seed], list[Seed]]:
    """Split seeds into (shown, held out): a tenth of them, at least 8, is held out and in no prompt.

    The split depends on the seeds alone. One seed after another is held out from the largest remaining group of the
    same task type and label, in the order of the hashes of their ids. So the shown seeds keep every label for as long
    as any label has two seeds.
    """
    groups: dict[tuple[str, str], list[Seed]] = {}
    for seed in sorted(seeds, key=lambda seed: hashlib.sha256(seed.id.encode()).hexdigest()):
        groups.setdefault((seed.task_type, seed.output if seed.options else ""), []).append(seed)
    held_out = set()
    for _ in range(_num_held_out(len(seeds))):
        largest = max(groups.values(), key=lambda group: (len(group), group[0].id if group else ""))
        held_out.add(largest.pop(0).id)
    return [s for s in seeds if s.id not in held_out], [s for s in seeds if s.id in held_out]


def num_seeds_for(shots: int) -> int:
    """The smallest number of seeds of which `shots` can be shown."""
    return next(number for number in count(shots) if number - _num_held_out(number) >= shots)


def _num_held_out(num_seeds: int) -> int:
    return min(num_seeds, max(8, num_seeds // 10))


def seed_subset(seeds: Sequence[Seed], count: int | None) -> list[Seed]:
    """A fixed subset of `count` seeds, with task types in turn: a smaller subset is part of every larger one."""
    order = sorted(seeds, key=lambda seed: hashlib.sha256(seed.id.encode()).hexdigest())
    ids = {row.id for row in round_robin(order, count)}
    return [seed for seed in seeds if seed.id in ids]


def round_robin(rows: Sequence[Row], count: int | None) -> list[Row]:
    """The first `count` rows with task types in turn (all rows if None); rows of one type keep their order."""
    types: dict[str, list[Row]] = {}
    for row in rows:
        types.setdefault(row.task_type, []).append(row)  # type: ignore[attr-defined]
    interleaved = [row for turn in zip_longest(*types.values()) for row in turn if row is not None]
    return interleaved[:count]
