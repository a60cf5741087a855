"""Response generation (paper, figure 2): the base model answers its tasks, greedily, from solved seeds in context."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from selfspec.config.schema import DomainConfig, GenerationConfig
from selfspec.data.records import Draft, Seed, Task
from selfspec.engines.protocol import Engine, PromptBatch, Sampling
from selfspec.generation.pools import Pool, draw_few_shot, group_into_batches
from selfspec.prompts.templates import RESPONSE_STOP, render_prefix, render_task
from selfspec.retrieval.passage import Passage

FindPassages = Callable[[Task], Sequence[Passage]]


TOKEN_MARGIN = 8  # tokens that tokenising apart may add


@dataclass(frozen=True)
class ResponseSettings:
    """How tasks are answered."""

    generation: GenerationConfig  # shots and length
    domain: DomainConfig  # the role, and which tasks are closed
    shown: Sequence[Seed]  # to draw shots from
    find: FindPassages  # passages for a task, best first
    context: int  # tokens that the model can read; passages are left out from the last until everything fits

    def type_shown(self, drafts: Sequence[tuple[int, Draft]]) -> str:
        """The task type whose seeds a batch of drafts shows first; empty where any will do."""
        return drafts[0][1].task_type if self.generation.demonstrations == "own_type" else ""


def write_responses(
    pool: Pool, number: int, drafts: Sequence[tuple[int, Draft]], answering: ResponseSettings
) -> dict[int, dict[str, Any]]:
    """Raw answers to one block's surviving drafts (place in the block, task), by that place."""
    config, domain, context = answering.generation.responses, answering.domain, answering.context

    def answer(place: int, some: Sequence[tuple[int, Draft]]) -> list[dict[str, Any]]:
        chance, _ = pool.random(number, place)
        shots = draw_few_shot(answering.shown, answering.type_shown(some), config.shots, chance)
        prefix, engine = render_prefix(domain.role, shots), pool.engine()
        found = [answering.find(draft) for _, draft in some]
        room = context - config.max_new_tokens - engine.count(prefix) - TOKEN_MARGIN if any(found) else context
        read = [fit_passages(engine, draft, passages, room) for (_, draft), passages in zip(some, found, strict=True)]
        closed = tuple(domain.tasks[draft.task_type].kind in ("label", "labels") for _, draft in some)
        items = tuple(text for text, _ in read)
        batch = PromptBatch(prefix, items, Sampling(config.max_new_tokens), RESPONSE_STOP, closed=closed)
        facts = {"response_seeds": [seed.id for seed in shots]}
        return [
            {"place": attempt, "text": reply.text, "finished": reply.finished, **facts, "documents": names}
            for (attempt, _), (_, names), reply in zip(some, read, engine.complete(batch), strict=True)
        ]

    by_length = sorted(drafts, key=lambda pair: (len(pair[1].input), pair[0]))  # little padding in a batch
    groups = group_into_batches(by_length, lambda pair: answering.type_shown([pair]), config.batch_size)
    return {row["place"]: row for row in pool.block(number, groups, answer)}


def fit_passages(engine: Engine, draft: Draft, passages: Sequence[Passage], room: int) -> tuple[str, list[str]]:
    """(the prompt's item with as many passages as there is room for, their ids)."""
    for count in range(len(passages), -1, -1):
        text = render_task(draft_as_task(draft), [passage.text for passage in passages[:count]])
        if count == 0 or engine.count(text) <= room:
            break
    return text, [passage.id for passage in passages[:count]]


def draft_as_task(draft: Draft) -> Task:
    """A draft as something that can be shown: a seed without output."""
    return Seed("", draft.task_type, draft.instruction, draft.input, "", options=draft.options)
