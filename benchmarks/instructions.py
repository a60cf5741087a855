"""Profile the slowest stage by operation: one batch of 16 attempts of instruction generation.

python benchmarks/instructions.py
"""

from __future__ import annotations

import cProfile
import pstats
import re
import time

from default_model import load_default

from selfspec.data.records import TaskRequest
from selfspec.engines.protocol import PromptBatch, Sampling
from selfspec.engines.transformers import TransformersEngine
from selfspec.prompts.templates import PromptRenderer

OPERATIONS = ("linear", "scaled_dot_product_attention", "topk", "sort", "cat")


def main() -> None:
    config, seeds, model, tokenizer = load_default()
    engine, settings = TransformersEngine(model, tokenizer), config.generation.instructions
    task_type = next(iter(config.domain.tasks))
    shots = [seed for seed in seeds if seed.task_type == task_type][:3]
    requests = [TaskRequest(task_type, topic) for topic in config.domain.topics[:4]] * 4
    renderer, stop = PromptRenderer(config.prompts), config.prompts.input_stop
    prefix = renderer.list_prefix(config.domain, shots)
    items = tuple(renderer.list_task(len(shots) + 1, request, config.domain) for request in requests)
    sampling, row_seeds = Sampling(settings.input_tokens, settings.temperature, settings.top_p), tuple(range(16))
    profile, started = cProfile.Profile(), time.monotonic()
    completions = profile.runcall(engine.complete, PromptBatch(prefix, items, sampling, stop, row_seeds))
    seconds = time.monotonic() - started
    num_tokens = sum(completion.num_tokens for completion in completions)
    print(f"{len(items)} rows, {num_tokens} tokens in {seconds:.1f} s: {num_tokens / seconds:.0f} tokens/s")
    stats = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    own_seconds = {function: row[2] for (_, _, function), row in stats.items()}
    for operation in OPERATIONS:
        pattern = rf"\b{operation}\b"
        total = sum(value for function, value in own_seconds.items() if re.search(pattern, function))
        print(f"  {operation:<30} {total / seconds:5.0%}")


if __name__ == "__main__":
    main()
