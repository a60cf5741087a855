"""Attention within segments on a CUDA GPU: one kernel for all segments equals one call for each."""

from __future__ import annotations

import copy

import pytest
import torch

from segment_rows import LENGTHS, SHAPES, check_same, rows, states, tuned
from selfspec.tuning.loss import response_loss_sum
from selfspec.tuning.packing import segmented_attention
from selfspec.tuning.segment_attention import flex_segment_attention, sdpa_segment_attention
from toys import MODEL_NAMES

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")]


@pytest.mark.parametrize(("heads", "key_heads", "window", "scaling"), SHAPES)
def test_flex_attention_equals_sdpa_on_a_gpu(
    heads: int, key_heads: int, window: int | None, scaling: float | None
) -> None:
    parts = states(heads, key_heads, "cuda", dtype=torch.bfloat16)
    actual, expected = (
        kernel(*parts, LENGTHS, window=window, scaling=scaling)
        for kernel in (flex_segment_attention, sdpa_segment_attention)
    )
    torch.testing.assert_close(actual, expected, rtol=2e-2, atol=2e-2)
    towards = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, parts, towards)
    torch.testing.assert_close(torch.autograd.grad(actual, parts, towards), wanted, rtol=5e-2, atol=5e-2)


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_packed_rows_give_the_loss_and_gradients_of_single_ones_on_a_gpu(name: str) -> None:
    model = copy.deepcopy(tuned(name)).to("cuda", torch.bfloat16)
    expected = response_loss_sum(model, rows(), lambda _: None)  # transformers' own attention, row by row
    with segmented_attention(model.get_base_model()) as mask:
        assert mask([3, 4]) is not None
        check_same(model, response_loss_sum(model, rows(), mask), expected, tolerance=0.2)
