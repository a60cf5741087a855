"""Schema of the groups `lora`, `tuning` and `strategy`."""

from __future__ import annotations

from dataclasses import dataclass

from selfspec.config.fields import runtime_field


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adaptation of the base model's linear layers."""

    r: int
    alpha: int
    dropout: float
    target_modules: tuple[str, ...]  # [all-linear], or names of modules: [q_proj, v_proj]
    rslora: bool = False  # scale = alpha / sqrt(r) (Kalajdzievski 2023, arXiv 2312.03732), for high ranks
    dora: bool = False  # magnitude and direction apart (Liu et al. 2024, arXiv 2402.09353)


@dataclass(frozen=True)
class TuningConfig:
    """How the adapter is tuned."""

    learning_rate: float
    epochs: int
    batch_size: int | None  # examples an optimizer step; null: 8 up to 500 examples, else 32
    schedule: str  # constant, linear, cosine
    warmup_ratio: float
    weight_decay: float
    max_grad_norm: float
    max_length: int  # tokens of one example; longer ones are left out, and counted
    keep: str  # best: the adapter after the epoch with the least loss on held-out seeds; last: after the last epoch
    patience: int | None  # epochs without a lower loss on held-out seeds after which tuning stops; null: never
    micro_batch_tokens: int = runtime_field()
    activation_checkpointing: bool = runtime_field()  # compute a layer's activations again in the backward pass
    checkpoint_minutes: float = runtime_field()


@dataclass(frozen=True)
class StrategyConfig:
    """Over which processes the adapter is tuned, a device each."""

    name: str = runtime_field()  # auto, ddp, fsdp, deepspeed_zero2, deepspeed_zero3, deepspeed_zero3_offload
    cpu_offload: bool = runtime_field(False)  # fsdp: the shards wait in the machine's memory
