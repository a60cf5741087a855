"""Rows that another batch size changes, by rounding: sampled and greedy texts, and log-probabilities of options.

python benchmarks/batch_sizes.py [model.dtype=float32]     # the default model, in bf16 without the override
"""

from __future__ import annotations

import sys
from pathlib import Path

from default_model import load_default

from selfspec.data.reading import read_questions
from selfspec.engines.protocol import Completion, Engine, PromptBatch, Sampling
from selfspec.engines.transformers import TransformersEngine
from selfspec.prompts.templates import PromptRenderer
from selfspec.runtime.random_streams import stream_seed

NUM_QUESTIONS, NUM_SHOTS, MAX_NEW_TOKENS = 48, 3, 48
SIZES = (1, 4, 16)


def main() -> None:
    config, seeds, model, tokenizer = load_default(sys.argv[1:])
    renderer, engine = PromptRenderer(config.prompts), TransformersEngine(model, tokenizer)
    questions = read_questions(Path(config.domain.evaluation), config.domain.tasks)
    closed = [question for question in questions if question.options][:NUM_QUESTIONS]
    prefix = renderer.prefix(config.domain.role, seeds[:NUM_SHOTS])
    items = tuple(map(renderer.task, closed))
    options = tuple(question.options for question in closed)
    for title, temperature in (("greedy", 0.0), ("sampled", 1.0)):
        batch = PromptBatch(
            prefix,
            items,
            Sampling(MAX_NEW_TOKENS, temperature, top_p=0.9),
            config.prompts.response_stop,
            seeds=tuple(stream_seed(config.seed, "benchmark", number) for number in range(len(items))),
            options=options,
        )
        alone, *others = (complete_in_batches(engine, batch, size) for size in SIZES)
        for size, rows in zip(SIZES[1:], others, strict=True):
            print(f"{title}, batches of {size:>2} and of 1: {compare(alone, rows)}")


def complete_in_batches(engine: Engine, batch: PromptBatch, size: int) -> list[Completion]:
    """The completions of all rows, `size` rows at a time."""
    rows: list[Completion] = []
    for start in range(0, len(batch.items), size):
        part = slice(start, start + size)
        rows += engine.complete(
            PromptBatch(
                batch.prefix,
                batch.items[part],
                batch.sampling,
                batch.stop,
                seeds=batch.seeds[part],
                options=batch.options[part],
            )
        )
    return rows


def compare(one: list[Completion], other: list[Completion]) -> str:
    """The number of rows whose texts differ, and the largest difference of an option's log-probability."""
    num_different = sum(a.text != b.text for a, b in zip(one, other, strict=True))
    pairs = [
        (x, y)
        for a, b in zip(one, other, strict=True)
        for x, y in zip(a.option_logprobs, b.option_logprobs, strict=True)
    ]
    largest = max(abs(x - y) for x, y in pairs)
    share = num_different / len(one)
    return (
        f"{num_different} of {len(one)} texts differ ({share:.0%}); log-probabilities differ by at most {largest:.1e}"
    )


if __name__ == "__main__":
    main()
