"""A LoRA step on 8 seeds: packed with logits of the responses only, and padded to the longest with all logits.

python benchmarks/tuning.py
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from default_model import load_default
from peft import LoraConfig, get_peft_model
from torch.nn import functional

from selfspec.prompts.templates import PromptRenderer
from selfspec.tuning.batches import EncodedExample, encode_rows
from selfspec.tuning.loss import response_loss_sum
from selfspec.tuning.packing import segmented_attention

IGNORED_LABEL = -100


def padded_loss_sum(model: torch.nn.Module, rows: list[EncodedExample]) -> torch.Tensor:
    longest = max(map(len, rows))
    ids, mask, labels = [], [], []
    for row in rows:
        padding = longest - len(row)
        ids.append([*row.prompt, *row.response, *[0] * padding])
        mask.append([1] * len(row) + [0] * padding)
        labels.append([*[IGNORED_LABEL] * len(row.prompt), *row.response, *[IGNORED_LABEL] * padding])
    logits = model(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask), use_cache=False).logits
    predictions, targets = logits[:, :-1].reshape(-1, logits.shape[-1]).float(), torch.tensor(labels)[:, 1:].reshape(-1)
    return functional.cross_entropy(predictions, targets, ignore_index=IGNORED_LABEL, reduction="sum")


def time_step(compute_loss: Callable[[], torch.Tensor], model: torch.nn.Module) -> tuple[float, float]:
    """(loss, seconds) of the second of two steps; the first one warms up."""
    for _ in range(2):
        model.zero_grad()
        started = time.monotonic()
        loss = compute_loss()
        torch.autograd.backward(loss)
        seconds = time.monotonic() - started
    return float(loss.detach()), seconds


def main() -> None:
    config, seeds, base, tokenizer = load_default()
    rows = encode_rows(seeds[:8], config.domain.role, tokenizer, PromptRenderer(config.prompts))
    model = get_peft_model(base, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    model.train()
    padded_loss, padded_seconds = time_step(lambda: padded_loss_sum(model, rows), model)
    with segmented_attention(base) as mask:
        packed_loss, packed_seconds = time_step(lambda: response_loss_sum(model, rows, mask), model)
    num_tokens, ratio = sum(map(len, rows)), padded_seconds / packed_seconds
    packed_rate, padded_rate = num_tokens / packed_seconds, num_tokens / padded_seconds
    print(f"{len(rows)} examples, {num_tokens} tokens; loss {packed_loss:.2f} packed, {padded_loss:.2f} padded")
    print(f"packed {packed_rate:.0f} tokens/s, padded {padded_rate:.0f} tokens/s: {ratio:.1f} times")


if __name__ == "__main__":
    main()
