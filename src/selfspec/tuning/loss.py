"""Cross-entropy over response positions of packed examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from selfspec.tuning.batches import EncodedExample
from selfspec.tuning.packing import SegmentMask


def response_loss_sum(model: Any, rows: Sequence[EncodedExample], mask: SegmentMask) -> Tensor:
    """Cross-entropy summed over all response tokens of `rows` (in float32).

    Args:
        model: A causal language model, inside `segmented`.
        rows: Examples of one forward pass.
        mask: What `segmented` yielded.
    """
    logits = response_logits(model, rows, mask).float()
    targets = torch.tensor([token for row in rows for token in row.response], device=logits.device)
    return functional.cross_entropy(logits, targets, reduction="sum")


def response_logits(model: Any, rows: Sequence[EncodedExample], mask: SegmentMask) -> Tensor:
    """What predicts each response token of `rows`: [response tokens, vocabulary]; arguments as in `loss_sum`."""
    seen = mask([len(row) for row in rows])
    if seen is None:
        return torch.cat([_logits(model, [row]) for row in rows])
    positions = [position for row in rows for position in range(len(row))]
    device = model.get_input_embeddings().weight.device
    return _logits(model, rows, attention_mask=seen, position_ids=torch.tensor([positions], device=device))


def _logits(model: Any, rows: Sequence[EncodedExample], **extra: Tensor) -> Tensor:
    device = model.get_input_embeddings().weight.device
    ids = [token for row in rows for token in (*row.prompt, *row.response)]
    places: list[int] = []
    begin = 0
    for row in rows:
        first = begin + len(row.prompt) - 1  # the last prompt token predicts the first of the response
        places += range(first, first + len(row.response))
        begin += len(row)
    output = model(
        input_ids=torch.tensor([ids], device=device),
        use_cache=False,  # packed examples would see each other in a cache
        logits_to_keep=torch.tensor(places, device=device),
        **extra,
    )
    logits: Tensor = output.logits[0]
    return logits
