"""Packing: examples in one row give the logits, loss and gradients that each gives alone, and see nothing of others."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention.flex_attention import flex_attention

from selfspec.tuning import packing
from selfspec.tuning.batches import EncodedExample
from selfspec.tuning.loss import response_logits, response_loss_sum
from selfspec.tuning.packing import (
    SegmentMask,
    flex_segment_attention,
    mpt_segment_mask,
    sdpa_segment_attention,
    segmented_attention,
)
from toys import NAMES, naive_loss, sharpen, shuffle_adapter, toy

WINDOW = 8  # of Gemma's and Mistral's sliding attention: most rows are longer
EXCHANGED = [name for name in NAMES if not name.startswith(("falcon", "mpt"))]
LENGTHS = (26, 3, 8, 41, 150)  # of segments; together more than one block of flex attention
SHAPES = [(4, 4, None, None), (4, 2, WINDOW, 0.3), (6, 1, 200, None)]  # heads, key heads, window, scaling
NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


def rows() -> list[EncodedExample]:
    """Rows of 3 to 41 tokens; the second is shorter than the window."""
    draw = torch.Generator().manual_seed(0)
    lengths = [(20, 6), (2, 1), (7, 1), (30, 11)]
    numbers = [torch.randint(3, 2000, (sum(pair),), generator=draw).tolist() for pair in lengths]
    return [EncodedExample(tuple(ids[:n]), tuple(ids[n:])) for ids, (n, _) in zip(numbers, lengths, strict=True)]


def texts() -> list[tuple[int, ...]]:
    """The rows' tokens."""
    return [(*row.prompt, *row.response) for row in rows()]


def whole(text: tuple[int, ...]) -> EncodedExample:
    """A row that learns every place it can."""
    return EncodedExample(text[:1], text[1:])


def logits(model: Any, text: tuple[int, ...]) -> Tensor:
    """What predicts each token but the first, by transformers' own attention."""
    found: Tensor = model(input_ids=torch.tensor([text]), use_cache=False).logits[0, :-1]
    return found


@cache
def tuned(name: str) -> Any:
    """A toy whose attention matters, under an adapter that changes it."""
    changes: dict[str, Any] = {}
    if name.startswith("gemma"):
        changes = {
            "sliding_window": WINDOW,
            "query_pre_attn_scalar": 50,
        }  # so that its scores have a scale of their own
    if name.startswith("mistral"):
        changes = {"sliding_window": WINDOW}
    model, _ = toy(name, **changes)
    return shuffle_adapter(sharpen(model)).eval()


@contextmanager
def packed(model: Any) -> Iterator[SegmentMask]:
    """As `segmented`; MPT's rows in one row too, which on a CPU would not pay."""
    base = model.get_base_model()
    with segmented_attention(base) as mask:
        yield (lambda lengths: mpt_segment_mask(lengths, base.device)) if base.config.model_type == "mpt" else mask


def gradients(model: Any, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


def check_same(model: Any, loss: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    """Equal losses, and equal gradients of every LoRA parameter."""
    assert loss.item() == pytest.approx(expected.item(), rel=tolerance / 10)
    found, wanted = gradients(model, loss), gradients(model, expected)
    assert found and all("lora_" in name for name in found)
    for name, gradient in wanted.items():
        scale = float(gradient.abs().max())
        assert scale > 0
        torch.testing.assert_close(found[name], gradient, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("name", NAMES)
def test_packed_rows_give_the_loss_and_gradients_of_single_ones(name: str) -> None:
    model = tuned(name)
    expected = torch.stack([naive_loss(model, row) for row in rows()]).sum()  # transformers' own attention
    with packed(model) as mask:
        assert mask([3, 4]) is not None
        check_same(model, response_loss_sum(model, rows(), mask), expected)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_packed_rows_give_the_logits_of_single_ones_at_every_place(name: str) -> None:
    model = tuned(name)
    expected = torch.cat([logits(model, text) for text in texts()])
    with packed(model) as mask:
        found = response_logits(model, [whole(text) for text in texts()], mask)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_an_examples_tokens_do_not_reach_the_others(name: str) -> None:
    model = tuned(name)
    first, _, _, last = texts()
    middles = [tuple(range(start, start + 9)) for start in (50, 900)]
    with packed(model) as mask:
        rows_of = [[whole(first), EncodedExample(middle, ()), whole(last)] for middle in middles]
        one, other = (response_logits(model, rows, mask) for rows in rows_of)
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    one, other = (logits(model, (*first, *middle, *last))[-len(last) :] for middle in middles)
    assert (one - other).abs().max() > 0.1  # a leak would show


def test_rows_go_alone_where_packing_would_not_pay_or_not_fit() -> None:
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


def test_rows_go_alone_where_scores_are_bent() -> None:
    """Gemma 2's softcapping is nothing that torch's attention knows."""
    model, _ = toy("gemma-3-270m", model_type="gemma2", attn_logit_softcapping=0.5)
    model = shuffle_adapter(sharpen(model)).eval()
    expected = torch.stack([naive_loss(model, row) for row in rows()]).sum()
    with segmented_attention(model.get_base_model()) as mask:
        assert mask([3, 4]) is None
        check_same(model, response_loss_sum(model, rows(), mask), expected)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_the_models_own_attention_is_back_afterwards(name: str) -> None:
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


def states(heads: int, key_heads: int, device: str = "cpu", **kind: Any) -> list[Tensor]:
    """Query, key, value."""
    torch.manual_seed(0)
    shapes = [(1, number, sum(LENGTHS), 16) for number in (heads, key_heads, key_heads)]
    return [torch.randn(shape).to(device, **kind).requires_grad_() for shape in shapes]


def written_out(query: Tensor, key: Tensor, value: Tensor, window: int | None, scaling: float | None) -> Tensor:
    """Attention by a table of who sees whom, filled pair by pair."""
    segment = [number for number, length in enumerate(LENGTHS) for _ in range(length)]
    seen = [
        [mine == other and k <= q and (window is None or q - k < window) for k, other in enumerate(segment)]
        for q, mine in enumerate(segment)
    ]
    key, value = (part.repeat_interleave(query.shape[1] // key.shape[1], 1) for part in (key, value))
    return functional.scaled_dot_product_attention(query, key, value, torch.tensor(seen), scale=scaling)


@pytest.fixture
def unfused(monkeypatch: Any) -> None:
    """Flex attention as it is, not compiled: on a CPU it then can give gradients, which torch does not offer."""
    monkeypatch.setattr(packing, "_compiled_flex_attention", lambda: flex_attention)
    monkeypatch.setattr("torch.nn.attention.flex_attention._validate_device", lambda *_: None)


def check_written_out(way: Any, heads: int, key_heads: int, window: int | None, scaling: float | None) -> None:
    parts = states(heads, key_heads)
    found, expected = way(*parts, LENGTHS, window=window, scaling=scaling), written_out(*parts, window, scaling)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    towards = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, parts, towards)
    torch.testing.assert_close(torch.autograd.grad(found, parts, towards), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("heads", "key_heads", "window", "scaling"), SHAPES)
def test_attention_in_turn_is_attention_by_a_table(
    heads: int, key_heads: int, window: int | None, scaling: float | None
) -> None:
    check_written_out(sdpa_segment_attention, heads, key_heads, window, scaling)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.usefixtures("unfused")
@pytest.mark.parametrize(("heads", "key_heads", "window", "scaling"), SHAPES)
def test_attention_at_once_is_attention_by_a_table(
    heads: int, key_heads: int, window: int | None, scaling: float | None
) -> None:
    check_written_out(flex_segment_attention, heads, key_heads, window, scaling)


@pytest.mark.slow
@torch.no_grad()
def test_attention_at_once_compiles() -> None:
    heads, key_heads, window, scaling = SHAPES[1]
    parts = [part.detach() for part in states(heads, key_heads)]
    found = flex_segment_attention(*parts, LENGTHS, window=window, scaling=scaling)
    torch.testing.assert_close(found, written_out(*parts, window, scaling), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.usefixtures("unfused")
@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("mpt")])
def test_attention_at_once_gives_the_loss_and_gradients_of_single_rows(monkeypatch: Any, name: str) -> None:
    monkeypatch.setattr(packing, "_choose_kernel", lambda *_: flex_segment_attention)  # as on a GPU
    model = tuned(name)
    expected = torch.stack([naive_loss(model, row) for row in rows()]).sum()
    with packed(model) as mask:
        check_same(model, response_loss_sum(model, rows(), mask), expected)


@pytest.mark.gpu
@NO_GPU
@pytest.mark.parametrize(("heads", "key_heads", "window", "scaling"), SHAPES)
def test_on_a_gpu_attention_at_once_is_attention_in_turn(
    heads: int, key_heads: int, window: int | None, scaling: float | None
) -> None:
    parts = states(heads, key_heads, "cuda", dtype=torch.bfloat16)
    found, expected = (
        way(*parts, LENGTHS, window=window, scaling=scaling) for way in (flex_segment_attention, sdpa_segment_attention)
    )
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2)
    towards = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, parts, towards)
    torch.testing.assert_close(torch.autograd.grad(found, parts, towards), wanted, rtol=5e-2, atol=5e-2)


@pytest.mark.gpu
@NO_GPU
@pytest.mark.parametrize("name", NAMES)
def test_on_a_gpu_packed_rows_give_the_loss_and_gradients_of_single_ones(name: str) -> None:
    model = copy.deepcopy(tuned(name)).to("cuda", torch.bfloat16)
    expected = response_loss_sum(model, rows(), lambda _: None)  # transformers' own attention, row by row
    with segmented_attention(model.get_base_model()) as mask:
        assert mask([3, 4]) is not None
        check_same(model, response_loss_sum(model, rows(), mask), expected, tolerance=0.2)
