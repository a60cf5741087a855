"""Self-consistency (METHOD, beyond the paper): closed tasks are answered again, sampled, several times."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from selfspec.data.records import Draft
from selfspec.engines.protocol import PromptBatch, Sampling
from selfspec.generation.pools import Pool, draw_few_shot, group_into_batches
from selfspec.generation.responses import TOKEN_MARGIN, ResponseSettings, fit_passages
from selfspec.prompts.templates import RESPONSE_STOP, render_prefix

MAX_LABEL_TOKENS = 24  # more than any label has


def sample_votes(
    pool: Pool, number: int, drafts: Sequence[tuple[int, Draft]], answering: ResponseSettings
) -> dict[int, list[str]]:
    """Sampled answers to one block's closed drafts, by the attempt's place in its block."""
    config, settings = answering.generation.self_consistency, answering.generation.responses

    def sample(place: int, some: Sequence[tuple[int, Draft]]) -> list[dict[str, Any]]:
        _, sampler_seed = pool.random(number, place)
        like = answering.type_shown(some)
        chance = Random(f"{pool.key}/{number}/{like}")  # batches of a type share their prompt, and so its cache
        prefix = render_prefix(answering.domain.role, draw_few_shot(answering.shown, like, settings.shots, chance))
        room = answering.context - MAX_LABEL_TOKENS - pool.engine().count(prefix) - TOKEN_MARGIN
        read = [fit_passages(pool.engine(), draft, answering.find(draft), room)[0] for _, draft in some]
        items = tuple(item for item in read for _ in range(config.samples))
        sampling = Sampling(MAX_LABEL_TOKENS, config.temperature, seed=sampler_seed)
        batch = PromptBatch(prefix, items, sampling, RESPONSE_STOP, closed=(True,) * len(items))
        texts = [completion.text for completion in pool.engine().complete(batch)]
        return [
            {"place": attempt, "samples": texts[n * config.samples : (n + 1) * config.samples]}
            for n, (attempt, _) in enumerate(some)
        ]

    size = max(1, settings.batch_size // config.samples)
    groups = group_into_batches(drafts, lambda pair: answering.type_shown([pair]), size)
    return {row["place"]: row["samples"] for row in pool.block(number, groups, sample)}
