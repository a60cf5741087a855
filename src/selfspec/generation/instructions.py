"""Instruction generation (paper, figure 2): from seeds in context, the base model writes tasks with their inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

from selfspec.config.schema import DomainConfig, GenerationConfig
from selfspec.data.few_shot import draw_few_shot
from selfspec.data.records import Draft, Seed, TaskRequest
from selfspec.engines.protocol import Completion, PromptBatch, Sampling
from selfspec.generation.pools import BLOCK_SIZE, Pool, group_by_type
from selfspec.prompts.templates import PromptRenderer

Placed = tuple[int, TaskRequest]  # a row's place in its block, and its request


def write_instructions(
    pool: Pool,
    number: int,
    generation: GenerationConfig,
    domain: DomainConfig,
    seeds: Sequence[Seed],
    prompts: PromptRenderer,
) -> list[dict[str, Any]]:
    """Raw rows of one block: the request, what was written, whether it ended by itself, the seeds in context."""
    config = generation.instructions

    def write(task_type: str, batch: Sequence[Placed]) -> list[dict[str, Any]]:
        first_type = task_type if generation.demonstrations == "own_type" else ""
        shots = draw_few_shot(seeds, first_type, config.shots, pool.rng("instruction shots", number, task_type))
        prefix, next_number = prompts.list_prefix(domain, shots), config.shots + 1
        tasks = [prompts.list_task(next_number, request, domain) for _, request in batch]
        instructions = _sample(pool, number, "instruction", batch, prefix, tasks, generation, prompts)
        texts = [completion.text.strip() for completion in instructions]
        tasks = [
            prompts.list_input(next_number, request, text, domain)
            for (_, request), text in zip(batch, texts, strict=True)
        ]
        inputs = _sample(pool, number, "input", batch, prefix, tasks, generation, prompts)
        return [
            {
                "place": place,
                "request": asdict(request),
                "instruction": text,
                "input": written.text.strip(),
                "finished": instruction.finished and written.finished,
                "seeds": [seed.id for seed in shots],
                "sampler_seed": pool.row_seed("instruction", number, place),
            }
            for (place, request), text, instruction, written in zip(batch, texts, instructions, inputs, strict=True)
        ]

    placed = list(enumerate(plan_requests(domain, seeds, pool, number)))
    return pool.block(number, group_by_type(placed, lambda row: row[1].task_type), write)


def _sample(
    pool: Pool,
    number: int,
    role: Literal["instruction", "input"],
    batch: Sequence[Placed],
    prefix: str,
    tasks: Sequence[str],
    generation: GenerationConfig,
    prompts: PromptRenderer,
) -> list[Completion]:
    """Sample the instruction or the input of each row of a batch, from the row's own random stream."""
    config, templates = generation.instructions, prompts.templates
    max_new_tokens, stop = {
        "instruction": (config.instruction_tokens, templates.instruction_stop),
        "input": (config.input_tokens, templates.input_stop),
    }[role]
    sampling = Sampling(max_new_tokens, config.temperature, config.top_p)
    row_seeds = tuple(pool.row_seed(role, number, place) for place, _ in batch)
    prompt_batch = PromptBatch(prefix, tuple(tasks), sampling, stop, row_seeds, continues_response=True)
    return pool.load_engine().complete(prompt_batch)


def plan_requests(domain: DomainConfig, seeds: Sequence[Seed], pool: Pool, number: int) -> list[TaskRequest]:
    """One request for each row of a block: every task type is combined with every topic equally often.

    The topics of a task type come in a random order, and none is repeated before all were used, across blocks.
    Within a block the task types have equal shares. Closed tasks take the options of a random seed.
    """
    seeds_of_type = {name: [seed for seed in seeds if seed.task_type == name] for name in sorted(domain.tasks)}
    types = [name for name, group in seeds_of_type.items() if group]
    topics = domain.topics or ("",)
    rng = pool.rng("requests", number)
    requests = []
    for place in range(number * BLOCK_SIZE, (number + 1) * BLOCK_SIZE):
        turn, index = divmod(place, len(types))
        cycle, position = divmod(turn, len(topics))
        order = pool.rng("topics", types[index], cycle).sample(topics, len(topics))
        requests.append(TaskRequest(types[index], order[position], rng.choice(seeds_of_type[types[index]]).options))
    rng.shuffle(requests)
    return requests


def draft_from_row(row: dict[str, Any]) -> Draft:
    """The task of a raw row."""
    request = row["request"]
    options = tuple(request["options"])
    return Draft(request["task_type"], row["instruction"], row["input"], options, request["topic"])
