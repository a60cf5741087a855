"""Self-consistency (ours, beyond the paper): closed tasks are answered again, sampled, several times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from selfspec.engines.protocol import PromptBatch, Sampling
from selfspec.generation.pools import Pool, batches_of, group_by_type
from selfspec.generation.responses import Placed, ResponseSettings

MAX_LABEL_TOKENS = 24  # more than any label has


def sample_votes(pool: Pool, number: int, drafts: Sequence[Placed], settings: ResponseSettings) -> dict[int, list[str]]:
    """Sampled responses to the closed drafts of one block, by the candidate's place in its block."""
    config = settings.generation.self_consistency

    def sample(task_type: str, batch: Sequence[Placed]) -> list[dict[str, Any]]:
        engine = pool.load_engine()
        prefix = settings.prompts.prefix(settings.domain.role, settings.shots(pool, "vote shots", number, task_type))
        items = settings.items(engine, prefix, batch, MAX_LABEL_TOKENS)
        rows = [
            (text, pool.row_seed("vote", number, place, sample))
            for (place, _), (text, _) in zip(batch, items, strict=True)
            for sample in range(config.samples)
        ]
        sampling, stop = Sampling(MAX_LABEL_TOKENS, config.temperature), settings.prompts.templates.response_stop
        texts = []
        for part in batches_of(rows, pool.batch_size):
            prompts, row_seeds = zip(*part, strict=True)
            closed = (True,) * len(part)
            completions = engine.complete(PromptBatch(prefix, prompts, sampling, stop, row_seeds, closed=closed))
            texts += [completion.text for completion in completions]
        samples = batches_of(texts, config.samples)
        return [{"place": place, "samples": list(texts)} for (place, _), texts in zip(batch, samples, strict=True)]

    groups = group_by_type(drafts, lambda row: row[1].task_type)
    return {row["place"]: row["samples"] for row in pool.block(number, groups, sample)}
