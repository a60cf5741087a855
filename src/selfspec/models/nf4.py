"""QLoRA's base (Dettmers et al. 2023, arXiv 2305.14314): frozen linear layers in 4-bit NormalFloat, by bitsandbytes.

Attributes of bitsandbytes' layers that are set here are checked by tests/unit/test_library_internals.py.
"""

from __future__ import annotations

import importlib.util
from typing import Any

from selfspec.errors import UserError

# While weights are quantized, allocations of at least this size are mapped. It is below the size of a shard: on glibc's
# heap, shards that stay between freed layers keep the freed memory from the system.
QUANTIZATION_MMAP_BYTES = 1 << 16


def check_bitsandbytes() -> None:
    """Check that bitsandbytes is installed.

    Raises:
        UserError: It is not; the message says how to install it.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            'quantization=nf4 needs bitsandbytes; get it with: pip install -e ".[qlora]" -c constraints.txt'
        )


def nf4_config(dtype: Any) -> Any:
    """Quantization config for `from_pretrained`: NF4 with double quantization, computed in torch's `dtype`.

    Packed weights are stored as numbers of the same type, so that FSDP can shard them.
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
    """AdamW with 8-bit states, paged to the machine's memory when the GPU's is full (QLoRA, section 3)."""
    from bitsandbytes.optim import PagedAdamW8bit

    return PagedAdamW8bit


def describe_shards(network: Any) -> None:
    """Set the quantization attributes that PEFT reads on weights that sharding replaced."""
    from bitsandbytes.nn import Linear4bit

    for module in network.modules():
        if isinstance(module, Linear4bit):
            module.weight.compress_statistics = module.quant_state.nested
            module.weight.quant_type = module.quant_state.quant_type


def keep_differentiable(network: Any) -> None:
    """Keep bitsandbytes from repacking weights at the first inference on processors with avx512_bf16.

    Repacked weights compute in bfloat16 and pass no gradient on, so that later tuning would silently go wrong.
    """
    from bitsandbytes.nn import Linear4bit

    for module in network.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
