"""Schema of the groups `lora`, `tuning` and `strategy`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from selfspec.config.fields import Fraction, NonNegativeFloat, PositiveFloat, PositiveInt, runtime_field

ALL_LINEAR = "all-linear"  # PEFT's name for every linear layer except the output head; in `lora.target_modules`


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adaptation of the base model's linear layers."""

    r: PositiveInt
    alpha: PositiveInt
    dropout: Fraction
    target_modules: tuple[str, ...]  # [all-linear], or names of modules: [q_proj, v_proj]
    rslora: bool = False  # scale = alpha / sqrt(r) (Kalajdzievski 2023, arXiv 2312.03732), for high ranks
    dora: bool = False  # separate magnitude and direction (Liu et al. 2024, arXiv 2402.09353)
    # Further keywords of PEFT's LoraConfig.
    extra: dict[str, Any] = field(default_factory=dict, hash=False, metadata={"key_default": {}})


@dataclass(frozen=True)
class TuningConfig:
    """Optimization of the adapter."""

    learning_rate: PositiveFloat
    epochs: PositiveInt
    batch_size: PositiveInt | None  # examples per optimizer step; null: 8 up to 500 examples, else 32
    schedule: Literal["constant", "linear", "cosine"]
    warmup_ratio: Fraction
    weight_decay: NonNegativeFloat
    max_grad_norm: NonNegativeFloat  # 0: gradients are not clipped
    max_length: PositiveInt  # tokens of an example; longer examples are left out and counted
    keep: Literal["best", "last"]  # best: the epoch with the lowest loss on held-out seeds; last: the last epoch
    patience: PositiveInt | None  # epochs without a lower held-out loss before tuning stops; null: never
    micro_batch_tokens: PositiveInt = runtime_field()  # tokens of one forward pass
    activation_checkpointing: bool = runtime_field()  # recompute a layer's activations in the backward pass
    checkpoint_minutes: NonNegativeFloat = runtime_field()


@dataclass(frozen=True)
class StrategyConfig:
    """How the processes that tune an adapter, one for each device, share the work."""

    name: Literal["auto", "ddp", "fsdp", "deepspeed_zero2", "deepspeed_zero3", "deepspeed_zero3_offload"] = (
        runtime_field()
    )
    cpu_offload: bool = runtime_field(False)  # fsdp: keep the shards in the memory of the CPU
