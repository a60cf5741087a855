"""Response generation (paper, figure 2): the model answers its tasks, greedily, from solved seeds in context."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from selfspec.config.schema import DomainConfig, GenerationConfig
from selfspec.data.few_shot import draw_few_shot
from selfspec.data.records import CLOSED_KINDS, Draft, Seed, Task
from selfspec.engines.protocol import Engine, PromptBatch, Sampling
from selfspec.generation.pools import Pool, group_by_type
from selfspec.prompts.templates import PromptRenderer
from selfspec.retrieval.passage import Passage

FindPassages = Callable[[Task], Sequence[Passage]]
Placed = tuple[int, Draft]  # a candidate's place in its block, and its task
TOKEN_MARGIN = 8  # tokens that tokenising prefix and task apart may add


@dataclass(frozen=True)
class ResponseSettings:
    """How tasks are answered.

    Args:
        generation: Number of shots, token limits.
        domain: The role, and which tasks are closed.
        seeds: Few-shot examples are drawn from these.
        prompts: Renders the prompts.
        find_passages: Passages for a task, best first.
        context_length: The model's, in tokens; passages that do not fit are left out, from the last on.
    """

    generation: GenerationConfig
    domain: DomainConfig
    seeds: Sequence[Seed]
    prompts: PromptRenderer
    find_passages: FindPassages
    context_length: int

    def shots(self, pool: Pool, role: str, number: int, task_type: str) -> list[Seed]:
        """The few-shot examples in the prompts of a block's tasks of one type."""
        first_type = task_type if self.generation.demonstrations == "own_type" else ""
        return draw_few_shot(self.seeds, first_type, self.generation.responses.shots, pool.rng(role, number, task_type))

    def items(
        self, engine: Engine, prefix: str, batch: Sequence[Placed], max_new_tokens: int
    ) -> list[tuple[str, list[str]]]:
        """(task with the passages that fit, their ids) of each row."""
        available = self.context_length - max_new_tokens - engine.count(prefix) - TOKEN_MARGIN
        return [self._with_passages(engine, draft, available) for _, draft in batch]

    def _with_passages(self, engine: Engine, draft: Draft, available: int) -> tuple[str, list[str]]:
        passages = self.find_passages(draft)
        for count in range(len(passages), 0, -1):
            text = self.prompts.task(draft, [passage.text for passage in passages[:count]])
            if engine.count(text) <= available:
                return text, [passage.id for passage in passages[:count]]
        return self.prompts.task(draft), []


def write_responses(
    pool: Pool, number: int, drafts: Sequence[Placed], settings: ResponseSettings
) -> dict[int, dict[str, Any]]:
    """Raw responses to the remaining drafts of one block, by the candidate's place in its block."""
    domain, max_new_tokens = settings.domain, settings.generation.responses.max_new_tokens

    def answer(task_type: str, batch: Sequence[Placed]) -> list[dict[str, Any]]:
        engine, shots = pool.load_engine(), settings.shots(pool, "response shots", number, task_type)
        prefix = settings.prompts.prefix(domain.role, shots)
        items = settings.items(engine, prefix, batch, max_new_tokens)
        closed = (domain.tasks[task_type].kind in CLOSED_KINDS,) * len(batch)
        stop = settings.prompts.templates.response_stop
        texts = tuple(text for text, _ in items)
        completions = engine.complete(PromptBatch(prefix, texts, Sampling(max_new_tokens), stop, closed=closed))
        return [
            {
                "place": place,
                "text": completion.text,
                "finished": completion.finished,
                "response_seeds": [seed.id for seed in shots],
                "documents": documents,
            }
            for (place, _), (_, documents), completion in zip(batch, items, completions, strict=True)
        ]

    by_length = sorted(drafts, key=lambda row: (len(row[1].input), row[0]))  # little padding in a batch
    groups = group_by_type(by_length, lambda row: row[1].task_type)
    return {row["place"]: row for row in pool.block(number, groups, answer)}
