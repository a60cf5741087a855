"""QLoRA's base (Dettmers et al. 2023, arXiv 2305.14314): frozen linear layers in 4-bit NormalFloat, by bitsandbytes."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from selfspec.errors import UserError

MMAP_BLOCK_BYTES = 1 << 20  # bytes from which a weight is mapped while others are packed


def check_bitsandbytes() -> None:
    """Whether bitsandbytes is there.

    Raises:
        UserError: it is not, and how to get it.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            'quantization=nf4 needs bitsandbytes; get it with: pip install -e ".[qlora]" -c constraints.txt'
        )


def nf4_config(dtype: Any) -> Any:
    """What `from_pretrained` is told: NF4 with double quantisation, computed in torch's `dtype`.

    The packed weights are stored as numbers of the same type, which is what lets FSDP shard them.
    """
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_quant_storage=dtype,
    )


def paged_adamw() -> Any:
    """AdamW in 8 bits, whose pages wait in the machine's memory when the GPU's is full (QLoRA, arXiv 2305.14314)."""
    from bitsandbytes.optim import PagedAdamW8bit

    return PagedAdamW8bit


def describe_shards(network: Any) -> None:
    """Say of weights that became shards how they are packed, which PEFT asks them."""
    from bitsandbytes.nn import Linear4bit

    for module in network.modules():
        if isinstance(module, Linear4bit):
            module.weight.compress_statistics = module.quant_state.nested
            module.weight.quant_type = module.quant_state.quant_type


def keep_differentiable(network: Any) -> None:
    """Keep bitsandbytes from repacking weights for processors with avx512_bf16 when they are first read for inference:
    the repacked ones compute in bfloat16 and pass no gradient on, so that tuning after it would silently go wrong.
    """
    from bitsandbytes.nn import Linear4bit

    for module in network.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


@contextmanager
def torch_linear_in_falcon() -> Iterator[None]:
    """Falcon has a linear layer of its own that does what torch's does; transformers would silently not quantise it."""
    from torch.nn import Linear
    from transformers.models.falcon import modeling_falcon

    with patch.object(modeling_falcon, "FalconLinear", Linear):
        yield
