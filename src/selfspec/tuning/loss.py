"""Cross-entropy over the response positions of packed examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from selfspec.tuning.batches import EncodedExample
from selfspec.tuning.packing import SegmentMask


def response_loss_sum(model: Any, examples: Sequence[EncodedExample], mask: SegmentMask) -> Tensor:
    """Cross-entropy in nats, summed over all response tokens of `examples` (in float32).

    Args:
        model: A causal language model, inside `segmented_attention`.
        examples: Examples of one forward pass.
        mask: The function that `segmented_attention` yielded.
    """
    logits = response_logits(model, examples, mask).float()
    targets = torch.tensor([token for example in examples for token in example.response], device=logits.device)
    return functional.cross_entropy(logits, targets, reduction="sum")


def response_logits(model: Any, examples: Sequence[EncodedExample], mask: SegmentMask) -> Tensor:
    """Logits that predict each response token: [num_response_tokens, vocabulary]; arguments as `response_loss_sum`."""
    attention_mask = mask([len(example) for example in examples])
    if attention_mask is None:
        return torch.cat([_forward(model, [example]) for example in examples])
    positions = [position for example in examples for position in range(len(example))]
    device = model.get_input_embeddings().weight.device
    position_ids = torch.tensor([positions], device=device)
    return _forward(model, examples, attention_mask=attention_mask, position_ids=position_ids)


def _forward(model: Any, examples: Sequence[EncodedExample], **attention: Tensor) -> Tensor:
    """One forward pass over the concatenated examples."""
    device = model.get_input_embeddings().weight.device
    ids = [token for example in examples for token in (*example.prompt, *example.response)]
    predicting: list[int] = []
    start = 0
    for example in examples:
        first = start + len(example.prompt) - 1  # the last prompt token predicts the first response token
        predicting += range(first, first + len(example.response))
        start += len(example)
    output = model(
        input_ids=torch.tensor([ids], device=device),
        use_cache=False,  # a cache would mix the packed examples
        logits_to_keep=torch.tensor(predicting, device=device),
        **attention,
    )
    logits: Tensor = output.logits[0]
    return logits
