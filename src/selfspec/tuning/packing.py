"""Forward passes without padding: examples lie one behind the other, and attention runs within each of them alone.

Logits are computed for response positions only: with 262,144 tokens in the vocabulary, the rest would cost more than
the model.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from transformers import AttentionInterface

ATTENTION_NAME = "selfspec_segments"


HAS_TRITON = importlib.util.find_spec("triton") is not None  # what flex attention needs on a GPU


SegmentMask = Callable[[Sequence[int]], Tensor | None]  # lengths of a row's segments -> its mask; None: each goes alone


class SegmentLengths(Tensor):
    """A mask of shape [1, 1, 1, segments] that holds the length of each segment of a row, instead of its pairs.

    With four dimensions, transformers hands it to every layer as it is; so it reaches `attend` and, in a layer that
    calls torch's attention by itself (Falcon), that call.
    """

    @classmethod
    def of(cls, lengths: Sequence[int]) -> SegmentLengths:
        """The mask of a row whose segments have these lengths."""
        return torch.tensor(lengths).view(1, 1, 1, -1).as_subclass(cls)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each segment."""
        return tuple(self.flatten().tolist())

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """As for any tensor, but for torch's attention."""
        if func is functional.scaled_dot_product_attention:
            return _attention_called_by_layer(*args, **(kwargs or {}))
        return super().__torch_function__(func, types, args, kwargs or {})  # type: ignore[no-untyped-call]


def _attention_called_by_layer(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: SegmentLengths,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **_: Any,
) -> Tensor:
    return _choose_kernel(query, dropout_p)(query, key, value, attn_mask.lengths, scaling=scale)


def attend_within_segments(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: SegmentLengths,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each segment of a packed row, as transformers calls it.

    Args:
        module: The attention layer (for transformers' interface).
        query: [1, heads, tokens, size].
        key: [1, key heads, tokens, size].
        value: [1, key heads, tokens, size].
        attention_mask: Lengths of the segments; they add up to the tokens.
        dropout: Of attention weights.
        scaling: Of the scores; 1/sqrt(size) if not given.
        sliding_window: How many tokens back one may look, itself counted.

    Returns:
        [1, tokens, heads, size], and no weights.
    """
    way = _choose_kernel(query, dropout)
    attended = way(query, key, value, attention_mask.lengths, scaling=scaling, window=sliding_window)
    return attended.transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION_NAME, attend_within_segments)


def _choose_kernel(query: Tensor, dropout: float) -> Callable[..., Tensor]:
    """One kernel for all segments where a GPU and its compiler are at hand; it knows no dropout."""
    if query.is_cuda and HAS_TRITON and not dropout:
        return flex_segment_attention
    return partial(sdpa_segment_attention, dropout=dropout)


def flex_segment_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: tuple[int, ...],
    *,
    scaling: float | None = None,
    window: int | None = None,
) -> Tensor:
    """Attention within segments by torch's flex attention; shapes as in `attend`, result [1, heads, tokens, size]."""
    return _compiled_flex_attention()(
        query,
        key,
        value,
        block_mask=_block_mask(lengths, window, query.device),
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )


@cache
def _compiled_flex_attention() -> Callable[..., Tensor]:
    return torch.compile(flex_attention)  # as it is, it would write all scores of the row down


@lru_cache(maxsize=4)  # all layers of a forward pass ask for the same one or two
def _block_mask(lengths: tuple[int, ...], window: int | None, device: torch.device) -> BlockMask:
    sizes = torch.tensor(lengths)
    first = (sizes.cumsum(0) - sizes).repeat_interleave(sizes)  # where each token's segment begins
    if window:
        first = torch.maximum(first, torch.arange(len(first)) - window + 1)
    first = first.to(device)

    def seen(_: Tensor, __: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (first[query] <= key) & (key <= query)

    return create_block_mask(seen, None, None, len(first), len(first), device=device)


def sdpa_segment_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: Sequence[int],
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    window: int | None = None,
) -> Tensor:
    """Attention within segments, a call for each; shapes as in `attend`, result [1, heads, tokens, size]."""
    parts = []
    for q, k, v in zip(*(torch.split(states, list(lengths), dim=2) for states in (query, key, value)), strict=True):
        far = window is not None and q.shape[2] > window
        parts.append(
            functional.scaled_dot_product_attention(
                q,
                k,
                v,
                attn_mask=_sliding_window_mask(q.shape[2], window, q.device) if far else None,
                is_causal=not far,
                dropout_p=dropout,
                scale=scaling,
                enable_gqa=query.shape[1] != key.shape[1],
            )
        )
    return torch.cat(parts, dim=2)


def _sliding_window_mask(length: int, window: int | None, device: torch.device) -> Tensor:
    places = torch.arange(length, device=device)
    distance = places[:, None] - places[None, :]
    return (distance >= 0) & (distance < (window or length))


@contextmanager
def segmented_attention(model: Any) -> Iterator[SegmentMask]:
    """Let `model` attend within segments while the block lasts; yields what makes the mask of a packed row."""
    before = model.config._attn_implementation
    name, mask = _attention_and_mask(model, before)
    if name != before:
        model.set_attn_implementation(name)
    try:
        yield mask
    finally:
        if name != before:
            model.set_attn_implementation(before)


def _attention_and_mask(model: Any, before: str) -> tuple[str, SegmentMask]:
    """Which attention a model takes for a packed row, and which mask."""
    # What torch's own attention can't do (softcapping, sinks), `attend` can't either.
    if getattr(model, "_supports_attention_backend", False) and model._supports_sdpa:
        return ATTENTION_NAME, SegmentLengths.of
    if model.config.model_type == "falcon" and before == "sdpa" and not model.config.alibi:
        return before, SegmentLengths.of
    if model.config.model_type == "mpt":
        return before, partial(_mpt_mask, model)
    return before, lambda _: None


def _mpt_mask(model: Any, lengths: Sequence[int]) -> Tensor | None:
    # MPT writes the scores of all pairs down: on a CPU a packed row takes two to three times as long as rows alone. Its
    # ALiBi reaches as far as its longest text.
    device = model.get_input_embeddings().weight.device
    if device.type == "cpu" or sum(lengths) > model.config.max_seq_len:
        return None
    return mpt_segment_mask(lengths, device)


def mpt_segment_mask(lengths: Sequence[int], device: torch.device) -> Tensor:
    """MPT's mask of a packed row: [1, 1, tokens, tokens], true where a token does not see another.

    Its ALiBi, counted from the row's end, still is right: it grows evenly from key to key, and softmax does not feel
    what all scores of a token share.
    """
    segment = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths)).to(device)
    return (segment[:, None] == segment).tril().logical_not()[None, None]
