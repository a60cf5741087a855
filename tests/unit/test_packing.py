"""Packed examples give the logits, loss and gradients that each gives alone, and do not attend to each other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention.flex_attention import flex_attention

from segment_rows import LENGTHS, SHAPES, check_same, logits, rows, states, texts, tuned, whole
from selfspec.tuning import segment_attention
from selfspec.tuning.batches import EncodedExample
from selfspec.tuning.loss import response_logits, response_loss_sum
from selfspec.tuning.packing import SegmentMask, mpt_segment_mask, segmented_attention
from selfspec.tuning.segment_attention import flex_segment_attention, sdpa_segment_attention
from toys import MODEL_NAMES, naive_loss, scale_linear_weights, toy, with_random_adapter

EXCHANGED = [name for name in MODEL_NAMES if not name.startswith(("falcon", "mpt"))]


@contextmanager
def packed(model: Any) -> Iterator[SegmentMask]:
    """As `segmented_attention`, but MPT packs on a CPU too."""
    base = model.get_base_model()
    with segmented_attention(base) as mask:
        yield (lambda lengths: mpt_segment_mask(lengths, base.device)) if base.config.model_type == "mpt" else mask


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_packed_rows_give_the_loss_and_gradients_of_single_ones(name: str) -> None:
    model = tuned(name)
    expected = torch.stack([naive_loss(model, row) for row in rows()]).sum()  # transformers' own attention
    with packed(model) as mask:
        assert mask([3, 4]) is not None
        check_same(model, response_loss_sum(model, rows(), mask), expected)


@pytest.mark.parametrize("name", MODEL_NAMES)
@torch.no_grad()
def test_packed_rows_give_the_logits_of_single_ones_at_every_position(name: str) -> None:
    model = tuned(name)
    expected = torch.cat([logits(model, text) for text in texts()])
    with packed(model) as mask:
        actual = response_logits(model, [whole(text) for text in texts()], mask)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", MODEL_NAMES)
@torch.no_grad()
def test_packed_examples_do_not_attend_to_each_other(name: str) -> None:
    model = tuned(name)
    first, _, _, last = texts()
    middles = [tuple(range(start, start + 9)) for start in (50, 900)]
    with packed(model) as mask:
        rows_of = [[whole(first), EncodedExample(middle, ()), whole(last)] for middle in middles]
        one, other = (response_logits(model, rows, mask) for rows in rows_of)
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    one, other = (logits(model, (*first, *middle, *last))[-len(last) :] for middle in middles)
    assert (one - other).abs().max() > 0.1  # a leak would show


def test_mpt_does_not_pack_on_a_cpu_or_beyond_its_longest_sequence() -> None:
    model = tuned("mpt-7b")
    expected = torch.stack([naive_loss(model, row) for row in rows()]).sum()
    with segmented_attention(model.get_base_model()) as mask:
        assert mask([3, 4]) is None  # on a CPU
        check_same(model, response_loss_sum(model, rows(), mask), expected)
    elsewhere = toy("mpt-7b", max_seq_len=32)[0].to("meta")
    with segmented_attention(elsewhere) as mask:
        fits = mask([20, 12])
        assert fits is not None and fits.shape == (1, 1, 32, 32)
        assert mask([20, 13]) is None


def test_a_model_with_softcapping_does_not_pack() -> None:
    """Torch's attention has no softcapping, which Gemma 2 needs."""
    model, _ = toy("gemma-3-270m", model_type="gemma2", attn_logit_softcapping=0.5)
    model = with_random_adapter(scale_linear_weights(model)).eval()
    expected = torch.stack([naive_loss(model, row) for row in rows()]).sum()
    with segmented_attention(model.get_base_model()) as mask:
        assert mask([3, 4]) is None
        check_same(model, response_loss_sum(model, rows(), mask), expected)


@pytest.mark.parametrize("name", MODEL_NAMES)
@torch.no_grad()
def test_the_models_own_attention_is_restored(name: str) -> None:
    model, tokenizer = toy(name)
    ids = torch.tensor([tokenizer("Does the trial show that aspirin helps?").input_ids])
    attention, expected = model.config._attn_implementation, model(ids).logits
    with segmented_attention(model):
        assert (model.config._attn_implementation != attention) == (name in EXCHANGED)
    assert model.config._attn_implementation == attention
    assert torch.equal(model(ids).logits, expected)
    with pytest.raises(RuntimeError, match="interrupted"), segmented_attention(model):
        raise RuntimeError("interrupted")
    assert model.config._attn_implementation == attention
    assert torch.equal(model(ids).logits, expected)


def reference_attention(query: Tensor, key: Tensor, value: Tensor, window: int | None, scaling: float | None) -> Tensor:
    """Attention with a mask that is filled pair by pair."""
    segment = [number for number, length in enumerate(LENGTHS) for _ in range(length)]
    seen = [
        [own == other and k <= q and (window is None or q - k < window) for k, other in enumerate(segment)]
        for q, own in enumerate(segment)
    ]
    key, value = (part.repeat_interleave(query.shape[1] // key.shape[1], 1) for part in (key, value))
    return functional.scaled_dot_product_attention(query, key, value, torch.tensor(seen), scale=scaling)


@pytest.fixture
def uncompiled(monkeypatch: Any) -> None:
    """Flex attention without compilation: on a CPU, compiled flex attention has no backward pass."""
    monkeypatch.setattr(segment_attention, "_compiled_flex_attention", lambda: flex_attention)
    monkeypatch.setattr("torch.nn.attention.flex_attention._validate_device", lambda *_: None)


def check_kernel(kernel: Any, heads: int, key_heads: int, window: int | None, scaling: float | None) -> None:
    parts = states(heads, key_heads)
    actual, expected = (
        kernel(*parts, LENGTHS, window=window, scaling=scaling),
        reference_attention(*parts, window, scaling),
    )
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    towards = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, parts, towards)
    torch.testing.assert_close(torch.autograd.grad(actual, parts, towards), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("heads", "key_heads", "window", "scaling"), SHAPES)
def test_sdpa_segment_attention_equals_masked_attention(
    heads: int, key_heads: int, window: int | None, scaling: float | None
) -> None:
    check_kernel(sdpa_segment_attention, heads, key_heads, window, scaling)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize(("heads", "key_heads", "window", "scaling"), SHAPES)
def test_flex_segment_attention_equals_masked_attention(
    heads: int, key_heads: int, window: int | None, scaling: float | None
) -> None:
    check_kernel(flex_segment_attention, heads, key_heads, window, scaling)


@pytest.mark.slow
@torch.no_grad()
def test_flex_segment_attention_compiles() -> None:
    heads, key_heads, window, scaling = SHAPES[1]
    parts = [part.detach() for part in states(heads, key_heads)]
    actual = flex_segment_attention(*parts, LENGTHS, window=window, scaling=scaling)
    torch.testing.assert_close(actual, reference_attention(*parts, window, scaling), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("name", [name for name in MODEL_NAMES if not name.startswith("mpt")])
def test_flex_segment_attention_gives_the_loss_and_gradients_of_single_rows(monkeypatch: Any, name: str) -> None:
    monkeypatch.setattr(segment_attention, "_choose_kernel", lambda *_: flex_segment_attention)  # as on a GPU
    model = tuned(name)
    expected = torch.stack([naive_loss(model, row) for row in rows()]).sum()
    with packed(model) as mask:
        check_same(model, response_loss_sum(model, rows(), mask), expected)
