"""One LoRA step on 8 seeds: packed with response logits, against padding to the longest with all logits.

python benchmarks/tuning.py
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from default_model import default
from peft import LoraConfig, get_peft_model
from torch.nn import functional

from selfspec.prompts.templates import PromptRenderer
from selfspec.tuning.batches import EncodedExample, encode_rows
from selfspec.tuning.loss import response_loss_sum
from selfspec.tuning.packing import segmented_attention


def padded(model: torch.nn.Module, rows: list[EncodedExample]) -> torch.Tensor:
    longest = max(map(len, rows))
    ids = torch.tensor([[*row.prompt, *row.response, *[0] * (longest - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    labels = torch.tensor([[*[-100] * len(row.prompt), *row.response, *[-100] * (longest - len(row))] for row in rows])
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    return functional.cross_entropy(
        logits[:, :-1].reshape(-1, logits.shape[-1]).float(), labels[:, 1:].reshape(-1), reduction="sum"
    )


def timed(way: Callable[[], torch.Tensor], model: torch.nn.Module) -> tuple[float, float]:
    """(loss, seconds of the second of two steps)."""
    for _ in range(2):
        model.zero_grad()
        started = time.monotonic()
        loss = way()
        torch.autograd.backward(loss)
        seconds = time.monotonic() - started
    return float(loss.detach()), seconds


def main() -> None:
    config, shown, base, tokenizer = default()
    rows = encode_rows(shown[:8], config.domain.role, tokenizer, PromptRenderer(config.prompts))
    model = get_peft_model(base, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    model.train()
    naive_loss, naive = timed(lambda: padded(model, rows), model)
    with segmented_attention(base) as mask:
        loss, seconds = timed(lambda: response_loss_sum(model, rows, mask), model)
    tokens = sum(map(len, rows))
    print(f"8 examples, {tokens} tokens; loss {loss:.2f} packed, {naive_loss:.2f} padded")
    print(f"packed {tokens / seconds:.0f} tokens/s, padded {tokens / naive:.0f} tokens/s: {naive / seconds:.1f} times")


if __name__ == "__main__":
    main()
