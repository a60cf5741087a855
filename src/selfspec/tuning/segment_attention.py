"""Causal attention within the segments of a packed row: one flex-attention kernel, or a call of SDPA per segment."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from functools import cache, lru_cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from transformers import AttentionInterface

ATTENTION_NAME = "selfspec_segments"
HAS_TRITON = importlib.util.find_spec("triton") is not None  # flex attention on a GPU is compiled to it


class SegmentLengths(Tensor):
    """An attention mask of shape [1, 1, 1, num_segments] that holds the length of each segment of a packed row.

    Transformers passes a mask with four dimensions to every layer unchanged. So it reaches `attend_within_segments`
    and, in a model whose layers call torch's attention themselves (Falcon), that call.
    """

    @classmethod
    def from_lengths(cls, lengths: Sequence[int]) -> SegmentLengths:
        """The mask of a row whose segments have these lengths."""
        return torch.tensor(lengths).view(1, 1, 1, -1).as_subclass(cls)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each segment."""
        return tuple(self.flatten().tolist())

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """As for any tensor, except that torch's attention becomes attention within segments."""
        if func is functional.scaled_dot_product_attention:
            return _replace_sdpa(*args, **(kwargs or {}))
        return super().__torch_function__(func, types, args, kwargs or {})  # type: ignore[no-untyped-call]


def _replace_sdpa(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: SegmentLengths,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **_: Any,
) -> Tensor:
    """Attention within segments with the arguments of `scaled_dot_product_attention`."""
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
    """Causal attention within each segment of a packed row, with the signature of transformers' `AttentionInterface`.

    Args:
        module: The attention layer; not used.
        query: [1, num_heads, num_tokens, head_dim].
        key: [1, num_key_heads, num_tokens, head_dim].
        value: [1, num_key_heads, num_tokens, head_dim].
        attention_mask: Lengths of the segments; they add up to num_tokens.
        dropout: Probability that an attention weight is dropped.
        scaling: Factor of the scores; None: 1 / sqrt(head_dim).
        sliding_window: Number of tokens that a token attends to, itself included; None: all before it.

    Returns:
        [1, num_tokens, num_heads, head_dim], and no attention weights.
    """
    kernel = _choose_kernel(query, dropout)
    output = kernel(query, key, value, attention_mask.lengths, scaling=scaling, window=sliding_window)
    return output.transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION_NAME, attend_within_segments)


def _choose_kernel(query: Tensor, dropout: float) -> Callable[..., Tensor]:
    """Flex attention on a GPU with Triton, unless there is dropout, which it does not have; else SDPA."""
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
    """Attention within segments in one kernel; shapes as in `attend_within_segments`, output as the query."""
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
    return torch.compile(flex_attention)  # not compiled, it materializes all scores


@lru_cache(maxsize=4)  # the layers of one forward pass need one mask, or two with sliding windows
def _block_mask(lengths: tuple[int, ...], window: int | None, device: torch.device) -> BlockMask:
    sizes = torch.tensor(lengths)
    first_visible = (sizes.cumsum(0) - sizes).repeat_interleave(sizes)  # for each token, the start of its segment
    if window:
        first_visible = torch.maximum(first_visible, torch.arange(len(first_visible)) - window + 1)
    first_visible = first_visible.to(device)

    def is_visible(_: Tensor, __: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (first_visible[query] <= key) & (key <= query)

    return create_block_mask(is_visible, None, None, len(first_visible), len(first_visible), device=device)


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
    """Attention within segments, one call per segment; shapes as in `attend_within_segments`, output as the query."""
    outputs = []
    for q, k, v in zip(*(torch.split(states, list(lengths), dim=2) for states in (query, key, value)), strict=True):
        exceeds_window = window is not None and q.shape[2] > window
        outputs.append(
            functional.scaled_dot_product_attention(
                q,
                k,
                v,
                attn_mask=_sliding_window_mask(q.shape[2], window, q.device) if exceeds_window else None,
                is_causal=not exceeds_window,
                dropout_p=dropout,
                scale=scaling,
                enable_gqa=query.shape[1] != key.shape[1],
            )
        )
    return torch.cat(outputs, dim=2)


def _sliding_window_mask(length: int, window: int | None, device: torch.device) -> Tensor:
    """[length, length], true where the query (row) attends to the key (column)."""
    positions = torch.arange(length, device=device)
    distance = positions[:, None] - positions[None, :]
    return (distance >= 0) & (distance < (window or length))
