"""Packing: examples in one row give the loss and the gradients that each gives alone, and see nothing of each other."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from selfspec.tuning.batches import Encoded
from selfspec.tuning.packing import loss_sum, packable
from toys import naive_loss, sharpen, shuffle_adapter, toy

WINDOW = 8  # of Gemma's sliding attention: most rows are longer
PACKABLE = ["llama-2-7b", "smollm2-135m", "gemma-3-270m", "qwen3-8b", "mistral-7b-v0.3", "olmo-2-13b"]
ONE_BY_ONE = ["falcon-40b", "falcon-7b", "mpt-30b"]


def rows() -> list[Encoded]:
    """Rows of 3 to 41 tokens; the second is shorter than the window."""
    draw = torch.Generator().manual_seed(0)
    lengths = [(20, 6), (2, 1), (7, 1), (30, 11)]
    numbers = [torch.randint(3, 2000, (sum(pair),), generator=draw).tolist() for pair in lengths]
    return [Encoded(tuple(ids[:n]), tuple(ids[n:])) for ids, (n, _) in zip(numbers, lengths, strict=True)]


def tuned(name: str) -> Any:
    """A toy whose attention matters, under an adapter that changes it."""
    gemmas = {"sliding_window": WINDOW, "query_pre_attn_scalar": 50}  # so that its scores have a scale of their own
    model, _ = toy(name, **(gemmas if name.startswith("gemma") else {}))
    return shuffle_adapter(sharpen(model)).eval()


def gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


def check_same(model: Any, loss: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal losses, and equal gradients of every LoRA parameter."""
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    found, wanted = gradients(model, loss), gradients(model, expected)
    assert found and all("lora_" in name for name in found)
    for name, gradient in wanted.items():
        scale = float(gradient.abs().max())
        assert scale > 0
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-4 * scale)


@pytest.mark.parametrize("name", PACKABLE)
def test_packed_rows_give_the_loss_and_gradients_of_single_ones(name: str) -> None:
    model = tuned(name)
    expected = torch.stack([naive_loss(model, row) for row in rows()]).sum()  # transformers' own attention
    with packable(model.get_base_model()) as packed:
        assert packed
        check_same(model, loss_sum(model, rows(), packed), expected)


@pytest.mark.parametrize("name", ONE_BY_ONE)
def test_where_attention_stays_rows_go_one_by_one(name: str) -> None:
    model = tuned(name)
    expected = torch.stack([naive_loss(model, row) for row in rows()]).sum()
    with packable(model.get_base_model()) as packed:
        assert not packed
        check_same(model, loss_sum(model, rows(), packed), expected)


@pytest.mark.parametrize("name", PACKABLE)
@torch.no_grad()
def test_an_examples_tokens_do_not_reach_the_others(name: str) -> None:
    model = tuned(name)
    first, _, _, last = rows()
    middles = [Encoded(tuple(range(start, start + 9)), ()) for start in (50, 900)]  # nothing to predict, no loss
    with packable(model.get_base_model()) as packed:
        one, other = (loss_sum(model, [first, middle, last], packed) for middle in middles)
    assert one.item() == pytest.approx(other.item(), rel=1e-6)
    joined = [
        Encoded((*first.prompt, *first.response, *middle.prompt, *last.prompt), last.response) for middle in middles
    ]
    one, other = (naive_loss(model, row) for row in joined)
    assert one.item() != pytest.approx(other.item(), rel=1e-3)  # a leak would show


@pytest.mark.parametrize("name", PACKABLE + ONE_BY_ONE)
@torch.no_grad()
def test_the_models_own_attention_is_back_afterwards(name: str) -> None:
    model, tokenizer = toy(name)
    ids = torch.tensor([tokenizer("Does the trial show that aspirin helps?").input_ids])
    attention, logits = model.config._attn_implementation, model(ids).logits
    with packable(model) as packed:
        assert (model.config._attn_implementation != attention) == packed
    assert model.config._attn_implementation == attention
    assert torch.equal(model(ids).logits, logits)
    with pytest.raises(RuntimeError, match="interrupted"), packable(model):
        raise RuntimeError("interrupted")
    assert model.config._attn_implementation == attention
    assert torch.equal(model(ids).logits, logits)
