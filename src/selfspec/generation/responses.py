"""Response generation (paper, figure 2): the base model answers its tasks, greedily, from solved seeds in context."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from selfspec import prompts
from selfspec.config import DomainConfig, ResponsesConfig
from selfspec.engines import Batch, Sampling
from selfspec.generation import Pool
from selfspec.prompts import Draft
from selfspec.records import Seed, Task


def block(
    pool: Pool,
    number: int,
    drafts: Sequence[tuple[int, Draft]],
    config: ResponsesConfig,
    domain: DomainConfig,
    shown: list[Seed],
) -> dict[int, dict[str, Any]]:
    """Raw answers to one block's surviving drafts, by the attempt's place in its block."""

    def answer(place: int, some: Sequence[tuple[int, Draft]]) -> list[dict[str, Any]]:
        chance, _ = pool.random(number, place)
        shots = chance.sample(shown, config.shots)
        items = tuple(prompts.item(as_task(draft)) for _, draft in some)
        batch = Batch(prompts.prefix(domain.role, shots), items, Sampling(config.max_new_tokens), prompts.STOP)
        facts = {"response_seeds": [seed.id for seed in shots]}
        completions = pool.engine().complete(batch)
        return [
            {"place": attempt, "text": completion.text, "finished": completion.finished, **facts}
            for (attempt, _), completion in zip(some, completions, strict=True)
        ]

    by_length = sorted(drafts, key=lambda pair: (len(pair[1].input), pair[0]))  # little padding in a batch
    groups = [by_length[start : start + config.batch_size] for start in range(0, len(drafts), config.batch_size)]
    rows = pool.block(number, [partial(answer, place, some) for place, some in enumerate(groups)], len(drafts))
    return {row["place"]: row for row in rows}


def as_task(draft: Draft) -> Task:
    """A draft as something that can be shown: a seed without output."""
    return Seed("", draft.task_type, draft.instruction, draft.input, "", options=draft.options)
