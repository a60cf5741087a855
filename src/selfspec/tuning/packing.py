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

from selfspec.tuning.batches import Encoded

NAME = "selfspec_segments"
COMPILER = importlib.util.find_spec("triton") is not None  # what flex attention needs on a GPU
Mask = Callable[[Sequence[int]], Tensor | None]  # lengths of a row's segments -> its mask; None: each goes alone


class Segments(Tensor):
    """A mask of shape [1, 1, 1, segments] that holds the length of each segment of a row, instead of its pairs.

    With four dimensions, transformers hands it to every layer as it is; so it reaches `attend` and, in a layer that
    calls torch's attention by itself (Falcon), that call.
    """

    @classmethod
    def of(cls, lengths: Sequence[int]) -> Segments:
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
            return _called_by_layer(*args, **(kwargs or {}))
        return super().__torch_function__(func, types, args, kwargs or {})  # type: ignore[no-untyped-call]


def _called_by_layer(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Segments,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **_: Any,
) -> Tensor:
    return _choose(query, dropout_p)(query, key, value, attn_mask.lengths, scaling=scale)


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Segments,
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
    way = _choose(query, dropout)
    attended = way(query, key, value, attention_mask.lengths, scaling=scaling, window=sliding_window)
    return attended.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, attend)


def _choose(query: Tensor, dropout: float) -> Callable[..., Tensor]:
    """One kernel for all segments where a GPU and its compiler are at hand; it knows no dropout."""
    if query.is_cuda and COMPILER and not dropout:
        return at_once
    return partial(in_turn, dropout=dropout)


def at_once(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: tuple[int, ...],
    *,
    scaling: float | None = None,
    window: int | None = None,
) -> Tensor:
    """Attention within segments by torch's flex attention; shapes as in `attend`, result [1, heads, tokens, size]."""
    return _compiled()(
        query,
        key,
        value,
        block_mask=_blocks(lengths, window, query.device),
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )


@cache
def _compiled() -> Callable[..., Tensor]:
    return torch.compile(flex_attention)  # as it is, it would write all scores of the row down


@lru_cache(maxsize=4)  # all layers of a forward pass ask for the same one or two
def _blocks(lengths: tuple[int, ...], window: int | None, device: torch.device) -> BlockMask:
    sizes = torch.tensor(lengths)
    first = (sizes.cumsum(0) - sizes).repeat_interleave(sizes)  # where each token's segment begins
    if window:
        first = torch.maximum(first, torch.arange(len(first)) - window + 1)
    first = first.to(device)

    def seen(_: Tensor, __: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (first[query] <= key) & (key <= query)

    return create_block_mask(seen, None, None, len(first), len(first), device=device)


def in_turn(
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
                attn_mask=_window(q.shape[2], window, q.device) if far else None,
                is_causal=not far,
                dropout_p=dropout,
                scale=scaling,
                enable_gqa=query.shape[1] != key.shape[1],
            )
        )
    return torch.cat(parts, dim=2)


def _window(length: int, window: int | None, device: torch.device) -> Tensor:
    places = torch.arange(length, device=device)
    distance = places[:, None] - places[None, :]
    return (distance >= 0) & (distance < (window or length))


@contextmanager
def segmented(model: Any) -> Iterator[Mask]:
    """Let `model` attend within segments while the block lasts; yields what makes the mask of a packed row."""
    before = model.config._attn_implementation
    name, mask = _way(model, before)
    if name != before:
        model.set_attn_implementation(name)
    try:
        yield mask
    finally:
        if name != before:
            model.set_attn_implementation(before)


def _way(model: Any, before: str) -> tuple[str, Mask]:
    """Which attention a model takes for a packed row, and which mask."""
    # What torch's own attention can't do (softcapping, sinks), `attend` can't either.
    if getattr(model, "_supports_attention_backend", False) and model._supports_sdpa:
        return NAME, Segments.of
    if model.config.model_type == "falcon" and before == "sdpa" and not model.config.alibi:
        return before, Segments.of
    if model.config.model_type == "mpt":
        return before, partial(_mpt_mask, model)
    return before, lambda _: None


def _mpt_mask(model: Any, lengths: Sequence[int]) -> Tensor | None:
    # MPT writes the scores of all pairs down: on a CPU a packed row takes two to three times as long as rows alone. Its
    # ALiBi reaches as far as its longest text.
    device = model.get_input_embeddings().weight.device
    if device.type == "cpu" or sum(lengths) > model.config.max_seq_len:
        return None
    return hidden(lengths, device)


def hidden(lengths: Sequence[int], device: torch.device) -> Tensor:
    """MPT's mask of a packed row: [1, 1, tokens, tokens], true where a token does not see another.

    Its ALiBi, counted from the row's end, still is right: it grows evenly from key to key, and softmax does not feel
    what all scores of a token share.
    """
    segment = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths)).to(device)
    return (segment[:, None] == segment).tril().logical_not()[None, None]


def loss_sum(model: Any, rows: Sequence[Encoded], mask: Mask) -> Tensor:
    """Cross-entropy summed over all response tokens of `rows` (in float32).

    Args:
        model: A causal language model, inside `segmented`.
        rows: Examples of one forward pass.
        mask: What `segmented` yielded.
    """
    logits = response_logits(model, rows, mask).float()
    targets = torch.tensor([token for row in rows for token in row.response], device=logits.device)
    return functional.cross_entropy(logits, targets, reduction="sum")


def response_logits(model: Any, rows: Sequence[Encoded], mask: Mask) -> Tensor:
    """What predicts each response token of `rows`: [response tokens, vocabulary]; arguments as in `loss_sum`."""
    seen = mask([len(row) for row in rows])
    if seen is None:
        return torch.cat([_logits(model, [row]) for row in rows])
    positions = [position for row in rows for position in range(len(row))]
    device = model.get_input_embeddings().weight.device
    return _logits(model, rows, attention_mask=seen, position_ids=torch.tensor([positions], device=device))


def _logits(model: Any, rows: Sequence[Encoded], **extra: Tensor) -> Tensor:
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
