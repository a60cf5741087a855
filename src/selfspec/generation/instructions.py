"""Instruction generation (paper, figure 2): from seeds in context, the base model writes tasks with their inputs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from random import Random
from typing import Any

from selfspec.config.schema import DomainConfig, GenerationConfig
from selfspec.data.records import Draft, Seed, TaskRequest
from selfspec.engines.protocol import Completion, PromptBatch, Sampling
from selfspec.generation.pools import BLOCK_SIZE, Pool, draw_few_shot, group_into_batches
from selfspec.prompts.templates import (
    INPUT_STOP,
    INSTRUCTION_STOP,
    render_input_item,
    render_list_item,
    render_list_prefix,
)


def write_instructions(
    pool: Pool, number: int, generation: GenerationConfig, domain: DomainConfig, shown: Sequence[Seed]
) -> list[dict[str, Any]]:
    """Raw attempts of one block: what was asked for, what was written, whether it ended by itself, the seeds shown."""
    config, own_type = generation.instructions, generation.demonstrations == "own_type"
    requests = plan_requests(domain, shown, pool, number)

    def write(place: int, some: Sequence[TaskRequest]) -> list[dict[str, Any]]:
        chance, sampler_seed = pool.random(number, place)
        shots = draw_few_shot(
            shown, some[0].task_type if own_type else "", config.shots, chance
        )  # one draw a batch: its rows share the prompt
        prefix, following = render_list_prefix(domain, shots), config.shots + 1

        def sample(items: Iterable[str], tokens: int, stop: tuple[str, ...], seed: int) -> list[Completion]:
            sampling = Sampling(tokens, config.temperature, config.top_p, seed)
            return pool.engine().complete(PromptBatch(prefix, tuple(items), sampling, stop, begun=True))

        begun = (render_list_item(following, request, domain) for request in some)
        written = sample(begun, config.instruction_tokens, INSTRUCTION_STOP, sampler_seed)
        pairs = list(zip(some, (completion.text.strip() for completion in written), strict=True))
        begun = (render_input_item(following, request, text, domain) for request, text in pairs)
        inputs = sample(begun, config.input_tokens, INPUT_STOP, sampler_seed + 1)
        return [
            {
                "request": asdict(request),
                "instruction": instruction,
                "input": passage.text.strip(),
                "finished": first.finished and passage.finished,
                "seeds": [seed.id for seed in shots],
                "sampler_seed": sampler_seed,
            }
            for (request, instruction), first, passage in zip(pairs, written, inputs, strict=True)
        ]

    groups = group_into_batches(requests, lambda request: request.task_type if own_type else "", config.batch_size)
    return pool.block(number, groups, write)


def plan_requests(domain: DomainConfig, shown: Sequence[Seed], pool: Pool, number: int) -> list[TaskRequest]:
    """One request an attempt of a block: each task type crossed with each topic equally often, one behind the other.

    The pairs are dealt out like cards: all of them in a random order, then all of them anew, over block after block.
    Within a block the task types have equal shares. Closed tasks take the options of a random seed.
    """
    by_type = {name: [seed for seed in shown if seed.task_type == name] for name in sorted(domain.tasks)}
    types = [name for name, seeds in by_type.items() if seeds]
    topics = domain.topics or ("",)
    chance, _ = pool.random(number, -1)
    requests = []
    for place in range(number * BLOCK_SIZE, (number + 1) * BLOCK_SIZE):
        turn, name = divmod(place, len(types))  # each task type has its turn, with the topic that its own deck shows
        deck, card = divmod(turn, len(topics))
        dealt = Random(f"{pool.key}/{types[name]}/{deck}").sample(topics, len(topics))
        requests.append(TaskRequest(types[name], dealt[card], chance.choice(by_type[types[name]]).options))
    chance.shuffle(requests)
    return requests


def draft_from_row(attempt: dict[str, Any]) -> Draft:
    """What an attempt wrote, as a task."""
    request = attempt["request"]
    options = tuple(request["options"])
    return Draft(request["task_type"], attempt["instruction"], attempt["input"], options, request["topic"])
