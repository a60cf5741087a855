"""Forward passes without padding: examples lie one behind the other, and attention runs within each of them alone.

Logits are computed for response positions only: with 262,144 tokens in the vocabulary, the rest would cost more than
the model. An architecture whose attention can't be exchanged (Falcon, MPT) gets its examples one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface

from selfspec.tuning.batches import Encoded

NAME = "selfspec_segments"


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    segments: Sequence[int],
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each segment of a packed row.

    Args:
        module: The attention layer (for transformers' interface).
        query: [1, heads, tokens, size].
        key: [1, key heads, tokens, size].
        value: [1, key heads, tokens, size].
        attention_mask: Not used: segments say it all.
        segments: Length of each segment; they add up to the tokens.
        dropout: Of attention weights.
        scaling: Of the scores; 1/sqrt(size) if not given.
        sliding_window: How many tokens back one may look, itself counted.

    Returns:
        [1, tokens, heads, size], and no weights.
    """
    parts = []
    for q, k, v in zip(*(torch.split(states, list(segments), dim=2) for states in (query, key, value)), strict=True):
        far = sliding_window is not None and q.shape[2] > sliding_window
        parts.append(
            functional.scaled_dot_product_attention(
                q,
                k,
                v,
                attn_mask=_window(q.shape[2], sliding_window, q.device) if far else None,
                is_causal=not far,
                dropout_p=dropout,
                scale=scaling,
                enable_gqa=query.shape[1] != key.shape[1],
            )
        )
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous(), None


def _window(length: int, window: int | None, device: torch.device) -> Tensor:
    places = torch.arange(length, device=device)
    distance = places[:, None] - places[None, :]
    return (distance >= 0) & (distance < (window or length))


AttentionInterface.register(NAME, attend)


@contextmanager
def packable(model: Any) -> Iterator[bool]:
    """Let `model` attend within segments while the block lasts; says whether its architecture can."""
    possible = bool(getattr(model, "_supports_attention_backend", False))
    before = model.config._attn_implementation
    if possible:
        model.set_attn_implementation(NAME)
    try:
        yield possible
    finally:
        if possible:
            model.set_attn_implementation(before)


def loss_sum(model: Any, rows: Sequence[Encoded], packed: bool) -> Tensor:
    """Cross-entropy summed over all response tokens of `rows` (in float32).

    Args:
        model: A causal language model, inside `packable` if `packed`.
        rows: Examples of one forward pass.
        packed: All in one row, or one by one.
    """
    if not packed:
        return torch.stack([_loss(model, [row], {}) for row in rows]).sum()
    return _loss(model, rows, {"segments": [len(row) for row in rows]})


def _loss(model: Any, rows: Sequence[Encoded], extra: dict[str, Any]) -> Tensor:
    device = model.get_input_embeddings().weight.device
    ids = [token for row in rows for token in (*row.prompt, *row.response)]
    places: list[int] = []
    targets: list[int] = []
    positions: list[int] = []
    begin = 0
    for row in rows:
        first = begin + len(row.prompt) - 1  # the last prompt token predicts the first of the response
        places += range(first, first + len(row.response))
        targets += row.response
        positions += range(len(row))
        begin += len(row)
    if extra:
        extra = {**extra, "position_ids": torch.tensor([positions], device=device)}
    output = model(
        input_ids=torch.tensor([ids], device=device),
        attention_mask=None,
        use_cache=False,  # with a cache, packed examples would see each other
        logits_to_keep=torch.tensor(places, device=device),
        **extra,
    )
    return functional.cross_entropy(output.logits[0].float(), torch.tensor(targets, device=device), reduction="sum")
