"""Answering evaluation questions with 5 shots: the engine against `generate` with left padding, same prompts.

python benchmarks/decode.py
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
from default_model import default

from selfspec.data.reading import read_questions
from selfspec.engines.protocol import PromptBatch, Sampling
from selfspec.engines.transformers import TransformersEngine
from selfspec.prompts.templates import PromptRenderer

TOKENS = 32


def main() -> None:
    config, shown, model, tokenizer = default()
    questions = read_questions(Path(config.domain.evaluation), config.domain.tasks)[:16]
    prompts, stop = PromptRenderer(config.prompts), config.prompts.response_stop
    prefix = prompts.prefix(config.domain.role, shown[:5])
    items = tuple(prompts.task(question) for question in questions)
    engine = TransformersEngine(model, tokenizer)

    started = time.monotonic()
    mine = [c.text for c in engine.complete(PromptBatch(prefix, items, Sampling(TOKENS), stop))]
    seconds = time.monotonic() - started

    rows = [engine.bos_ids + engine._encode(prefix) + engine._encode(item) for item in items]
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    started = time.monotonic()
    output = model.generate(ids, attention_mask=mask, max_new_tokens=TOKENS, do_sample=False)
    plain = time.monotonic() - started
    theirs = [tokenizer.decode(row[longest:], skip_special_tokens=True).split(stop[0])[0] for row in output]

    equal = sum(one == other for one, other in zip(mine, theirs, strict=True))
    print(f"{len(items)} questions, {longest} prompt tokens, {equal} equal texts (bf16 rounds differently by shape)")
    print(f"engine {seconds:.1f} s, generate {plain:.1f} s: {plain / seconds:.1f} times")


if __name__ == "__main__":
    main()
