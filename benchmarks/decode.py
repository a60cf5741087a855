"""Answer evaluation questions with 5 shots: the engine, and `generate` with left padding, on the same prompts.

python benchmarks/decode.py
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
from default_model import load_default

from selfspec.data.reading import read_questions
from selfspec.engines.protocol import PromptBatch, Sampling
from selfspec.engines.transformers import TransformersEngine
from selfspec.prompts.templates import PromptRenderer

MAX_NEW_TOKENS = 32
NUM_QUESTIONS, NUM_SHOTS = 16, 5


def main() -> None:
    config, seeds, model, tokenizer = load_default()
    questions = read_questions(Path(config.domain.evaluation), config.domain.tasks)[:NUM_QUESTIONS]
    renderer, stop = PromptRenderer(config.prompts), config.prompts.response_stop
    prefix = renderer.prefix(config.domain.role, seeds[:NUM_SHOTS])
    items = tuple(renderer.task(question) for question in questions)
    engine = TransformersEngine(model, tokenizer)

    started = time.monotonic()
    batch = PromptBatch(prefix, items, Sampling(MAX_NEW_TOKENS), stop)
    engine_texts = [completion.text for completion in engine.complete(batch)]
    engine_seconds = time.monotonic() - started

    prompts = [engine.bos_ids + engine._encode(prefix) + engine._encode(item) for item in items]
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    started = time.monotonic()
    outputs = model.generate(ids, attention_mask=mask, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
    generate_seconds = time.monotonic() - started
    decoded = [tokenizer.decode(output[longest:], skip_special_tokens=True) for output in outputs]
    generate_texts = [text.split(stop[0])[0] for text in decoded]

    num_equal = sum(one == other for one, other in zip(engine_texts, generate_texts, strict=True))
    ratio = generate_seconds / engine_seconds
    print(f"{len(items)} questions, {longest} prompt tokens, {num_equal} equal texts (bf16 rounding depends on shapes)")
    print(f"engine {engine_seconds:.1f} s, generate {generate_seconds:.1f} s: {ratio:.1f} times")


if __name__ == "__main__":
    main()
