"""Few-shot examples: which seeds a prompt shows."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from selfspec.data.records import Seed


def draw_few_shot(seeds: Sequence[Seed], task_type: str, count: int, rng: Random) -> list[Seed]:
    """Seeds to show in context: random ones of the task type first, filled up with others, in random order.

    Args:
        seeds: To draw from.
        task_type: Whose seeds come first; with an empty string all are equal [M]. A small model that is not shown the
            form of a task does not find it.
        count: How many.
        rng: Where the numbers come from.
    """
    mixed = rng.sample(list(seeds), len(seeds))
    drawn = sorted(mixed, key=lambda seed: bool(task_type) and seed.task_type != task_type)[:count]
    return rng.sample(drawn, len(drawn))
