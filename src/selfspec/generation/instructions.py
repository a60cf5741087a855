"""Instruction generation (paper, figure 2): from seeds in context, the base model writes tasks with their inputs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from selfspec.config.schema import DomainConfig, GenerationConfig
from selfspec.data.few_shot import draw_few_shot
from selfspec.data.records import Draft, Seed, TaskRequest
from selfspec.engines.protocol import Completion, PromptBatch, Sampling
from selfspec.generation.pools import BLOCK_SIZE, Pool, group_by_type
from selfspec.prompts.templates import PromptRenderer

Placed = tuple[int, TaskRequest]  # an attempt's place in its block, and what is requested


def write_instructions(
    pool: Pool,
    number: int,
    generation: GenerationConfig,
    domain: DomainConfig,
    seeds: Sequence[Seed],
    prompts: PromptRenderer,
) -> list[dict[str, Any]]:
    """Raw attempts of one block: the request, what was written, whether it ended by itself, the seeds in context."""
    config, templates = generation.instructions, prompts.templates

    def write(task_type: str, batch: Sequence[Placed]) -> list[dict[str, Any]]:
        like = task_type if generation.demonstrations == "own_type" else ""
        shots = draw_few_shot(seeds, like, config.shots, pool.rng("instruction shots", number, task_type))
        prefix, following = prompts.list_prefix(domain, shots), config.shots + 1

        def sample(role: str, items: Iterable[str], max_new_tokens: int, stop: tuple[str, ...]) -> list[Completion]:
            sampling = Sampling(max_new_tokens, config.temperature, config.top_p)
            row_seeds = tuple(pool.row_seed(role, number, place) for place, _ in batch)
            prompt = PromptBatch(prefix, tuple(items), sampling, stop, row_seeds, continues_response=True)
            return pool.load_engine().complete(prompt)

        tasks = (prompts.list_task(following, request, domain) for _, request in batch)
        instructions = sample("instruction", tasks, config.instruction_tokens, templates.instruction_stop)
        texts = [completion.text.strip() for completion in instructions]
        tasks = (
            prompts.list_input(following, request, text, domain)
            for (_, request), text in zip(batch, texts, strict=True)
        )
        inputs = sample("input", tasks, config.input_tokens, templates.input_stop)
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


def plan_requests(domain: DomainConfig, seeds: Sequence[Seed], pool: Pool, number: int) -> list[TaskRequest]:
    """One request for each attempt of a block: every task type is combined with every topic equally often.

    The topics of a task type come in a random order, all of them before any comes again, over block after block.
    Within a block the task types have equal shares. Closed tasks take the options of a random seed.
    """
    by_type = {name: [seed for seed in seeds if seed.task_type == name] for name in sorted(domain.tasks)}
    types = [name for name, own in by_type.items() if own]
    topics = domain.topics or ("",)
    rng = pool.rng("requests", number)
    requests = []
    for place in range(number * BLOCK_SIZE, (number + 1) * BLOCK_SIZE):
        turn, index = divmod(place, len(types))
        cycle, position = divmod(turn, len(topics))
        order = pool.rng("topics", types[index], cycle).sample(topics, len(topics))
        requests.append(TaskRequest(types[index], order[position], rng.choice(by_type[types[index]]).options))
    rng.shuffle(requests)
    return requests


def draft_from_row(row: dict[str, Any]) -> Draft:
    """The task that an attempt wrote."""
    request = row["request"]
    options = tuple(request["options"])
    return Draft(request["task_type"], row["instruction"], row["input"], options, request["topic"])
