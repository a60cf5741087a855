"""Self-consistency (ours, beyond the paper): closed tasks are answered again, sampled, several times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from selfspec.data.records import SEPARATOR
from selfspec.engines.protocol import Engine, PromptBatch, Sampling
from selfspec.generation.pools import Pool, batches_of, group_by_type
from selfspec.generation.responses import Placed, ResponseSettings

END_TOKENS = 8  # tokens of a stop text and of the line breaks before it


def sample_votes(pool: Pool, number: int, drafts: Sequence[Placed], settings: ResponseSettings) -> dict[int, list[str]]:
    """Sampled responses to the closed drafts of one block, by the candidate's place in its block.

    A response that reached its limit of tokens is an empty text: a set of labels that was cut can be another valid set.
    """
    config = settings.generation.self_consistency
    groups = group_by_type(drafts, lambda row: row[1].task_type)

    def sample(task_type: str, batch: Sequence[Placed]) -> list[dict[str, Any]]:
        engine = pool.load_engine()
        prefix = settings.prompts.prefix(settings.domain.role, settings.shots(pool, "vote shots", number, task_type))
        limit = _max_label_tokens(engine, groups[task_type])
        items = settings.items(engine, prefix, batch, limit)
        rows = [
            (text, pool.row_seed("vote", number, place, sample))
            for (place, _), (text, _) in zip(batch, items, strict=True)
            for sample in range(config.samples)
        ]
        sampling, stop = Sampling(limit, config.temperature), settings.prompts.templates.response_stop
        texts = []
        for part in batches_of(rows, pool.batch_size):
            prompts, row_seeds = zip(*part, strict=True)
            closed = (True,) * len(part)
            completions = engine.complete(PromptBatch(prefix, prompts, sampling, stop, row_seeds, closed=closed))
            texts += [completion.text if completion.finished else "" for completion in completions]
        samples = batches_of(texts, config.samples)
        return [{"place": place, "samples": list(texts)} for (place, _), texts in zip(batch, samples, strict=True)]

    return {row["place"]: row["samples"] for row in pool.block(number, groups, sample)}


def _max_label_tokens(engine: Engine, drafts: Sequence[Placed]) -> int:
    """The most tokens that a vote on any of these closed tasks needs: all of its options, and a stop text."""
    return max(engine.count(SEPARATOR.join(draft.options)) for _, draft in drafts) + END_TOKENS
