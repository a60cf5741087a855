"""Prepare a model for packed rows: examples are concatenated without padding, and each attends to itself only.

Logits are computed for response positions only (see `loss`): with a vocabulary of 262,144 tokens, the others would cost
more than the rest of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from selfspec.models.transformers_internals import accepts_registered_attention, attention_name
from selfspec.tuning.segment_attention import ATTENTION_NAME, SegmentLengths

# From the lengths of a row's segments to its attention mask; None: the model needs a forward pass for each segment.
SegmentMask = Callable[[Sequence[int]], Tensor | None]


@contextmanager
def segmented_attention(model: Any) -> Iterator[SegmentMask]:
    """Within the context, `model` attends within segments; yields the function that builds a packed row's mask."""
    before = attention_name(model)
    name, mask = _choose_attention(model, before)
    if name != before:
        model.set_attn_implementation(name)
    try:
        yield mask
    finally:
        if name != before:
            model.set_attn_implementation(before)


def _choose_attention(model: Any, current: str) -> tuple[str, SegmentMask]:
    """The attention implementation that a model uses for packed rows, and its mask function."""
    # Our kernels lack what torch's attention lacks (softcapping, attention sinks).
    if accepts_registered_attention(model):
        return ATTENTION_NAME, SegmentLengths.from_lengths
    if model.config.model_type == "falcon" and current == "sdpa" and not model.config.alibi:
        return current, SegmentLengths.from_lengths
    if model.config.model_type == "mpt":
        return current, partial(_mpt_mask_or_none, model)
    return current, lambda _: None


def _mpt_mask_or_none(model: Any, lengths: Sequence[int]) -> Tensor | None:
    # MPT materializes the scores of all pairs: on a CPU a packed row takes two to three times as long as its segments
    # one by one. Its ALiBi biases end at max_seq_len.
    device = model.get_input_embeddings().weight.device
    if device.type == "cpu" or sum(lengths) > model.config.max_seq_len:
        return None
    return mpt_segment_mask(lengths, device)


def mpt_segment_mask(lengths: Sequence[int], device: torch.device) -> Tensor:
    """MPT's mask of a packed row: [1, 1, num_tokens, num_tokens], true where a query must not attend to a key.

    ALiBi stays correct although MPT counts it from the end of the row: it grows linearly over the keys, and a constant
    that is added to all scores of a query does not change their softmax.
    """
    segment = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths)).to(device)
    return (segment[:, None] == segment).tril().logical_not()[None, None]
