"""Where the slowest stage spends its time: one batch of 16 attempts, profiled by operation.

python benchmarks/instructions.py
"""

from __future__ import annotations

import cProfile
import pstats
import re
import time

from default_model import default

from selfspec.data.records import TaskRequest
from selfspec.engines.protocol import PromptBatch, Sampling
from selfspec.engines.transformers import TransformersEngine
from selfspec.prompts.templates import PromptRenderer

OPERATIONS = ("linear", "scaled_dot_product_attention", "topk", "sort", "cat")


def main() -> None:
    config, shown, model, tokenizer = default()
    engine, settings = TransformersEngine(model, tokenizer), config.generation.instructions
    kind = next(iter(config.domain.tasks))
    seeds = [seed for seed in shown if seed.task_type == kind][:3]
    requests = [TaskRequest(kind, topic) for topic in config.domain.topics[:4]] * 4
    prompts = PromptRenderer(config.prompts)
    prefix, stop = prompts.list_prefix(config.domain, seeds), config.prompts.input_stop
    items = tuple(prompts.list_task(4, request, config.domain) for request in requests)
    sampling, row_seeds = Sampling(settings.input_tokens, settings.temperature, settings.top_p), tuple(range(16))
    profile, started = cProfile.Profile(), time.monotonic()
    completions = profile.runcall(engine.complete, PromptBatch(prefix, items, sampling, stop, row_seeds))
    seconds = time.monotonic() - started
    tokens = sum(completion.num_tokens for completion in completions)
    print(f"{len(items)} rows, {tokens} tokens in {seconds:.1f} s: {tokens / seconds:.0f} tokens/s")
    spent = {name: row[2] for (_, _, name), row in pstats.Stats(profile).stats.items()}  # type: ignore[attr-defined]
    for operation in OPERATIONS:
        share = sum(own for name, own in spent.items() if re.search(rf"\b{operation}\b", name))
        print(f"  {operation:<30} {share / seconds:5.0%}")


if __name__ == "__main__":
    main()
