"""Examples, adapted toy models and attention states, shared by tests on CPUs and GPUs."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from selfspec.tuning.batches import EncodedExample
from toys import scale_linear_weights, toy, with_random_adapter

WINDOW = 8  # sliding window of Gemma and Mistral; most rows are longer
LENGTHS = (26, 3, 8, 41, 150)  # of segments; their sum exceeds one block of flex attention
SHAPES = [(4, 4, None, None), (4, 2, WINDOW, 0.3), (6, 1, 200, None)]  # heads, key heads, window, scaling


def rows() -> list[EncodedExample]:
    """Rows of 3 to 41 tokens; the second is shorter than the window."""
    rng = torch.Generator().manual_seed(0)
    lengths = [(20, 6), (2, 1), (7, 1), (30, 11)]
    numbers = [torch.randint(3, 2000, (sum(pair),), generator=rng).tolist() for pair in lengths]
    return [EncodedExample(tuple(ids[:n]), tuple(ids[n:])) for ids, (n, _) in zip(numbers, lengths, strict=True)]


def texts() -> list[tuple[int, ...]]:
    """The rows' tokens."""
    return [(*row.prompt, *row.response) for row in rows()]


def whole(text: tuple[int, ...]) -> EncodedExample:
    """An example whose targets are all tokens but the first."""
    return EncodedExample(text[:1], text[1:])


def logits(model: Any, text: tuple[int, ...]) -> Tensor:
    """Logits that predict each token but the first, with transformers' own attention."""
    actual: Tensor = model(input_ids=torch.tensor([text]), use_cache=False).logits[0, :-1]
    return actual


@cache
def tuned(name: str) -> Any:
    """A toy model with sharp attention and an adapter that changes its output."""
    changes: dict[str, Any] = {}
    if name.startswith("gemma"):
        changes = {
            "sliding_window": WINDOW,
            "query_pre_attn_scalar": 50,
        }  # so that its scores have a scale of their own
    if name.startswith("mistral"):
        changes = {"sliding_window": WINDOW}
    model, _ = toy(name, **changes)
    return with_random_adapter(scale_linear_weights(model)).eval()


def gradients(model: Any, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


def check_same(model: Any, loss: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    """Equal losses, and equal gradients of every LoRA parameter."""
    assert loss.item() == pytest.approx(expected.item(), rel=tolerance / 10)
    actual, wanted = gradients(model, loss), gradients(model, expected)
    assert actual and all("lora_" in name for name in actual)
    for name, gradient in wanted.items():
        scale = float(gradient.abs().max())
        assert scale > 0
        torch.testing.assert_close(actual[name], gradient, rtol=tolerance, atol=tolerance * scale)


def states(heads: int, key_heads: int, device: str = "cpu", **kind: Any) -> list[Tensor]:
    """Query, key, value."""
    torch.manual_seed(0)
    shapes = [(1, number, sum(LENGTHS), 16) for number in (heads, key_heads, key_heads)]
    return [torch.randn(shape).to(device, **kind).requires_grad_() for shape in shapes]
