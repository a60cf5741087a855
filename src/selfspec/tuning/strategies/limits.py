"""Checks of a strategy before any work. Nothing heavy is imported, because validation calls them."""

from __future__ import annotations

import importlib.util

from selfspec.config.schema import LoraConfig, ModelConfig, StrategyConfig
from selfspec.errors import UserError
from selfspec.runtime.machine import gpu_count
from selfspec.tuning.lora_settings import changes_base_weights


def uses_fsdp(strategy: StrategyConfig, processes: int) -> bool:
    """Whether FSDP2 shards the base over these processes."""
    return processes > 1 and strategy.name in ("auto", "fsdp")


def uses_zero3(strategy: StrategyConfig, processes: int) -> bool:
    """Whether DeepSpeed's ZeRO-3 shards the base over these processes."""
    return processes > 1 and strategy.name.startswith("deepspeed_zero3")


def shards_base(strategy: StrategyConfig, processes: int) -> bool:
    """Whether each of these processes holds a shard of the base."""
    return uses_fsdp(strategy, processes) or uses_zero3(strategy, processes)


def check_strategy_choice(strategy: StrategyConfig, model: ModelConfig, lora: LoraConfig, processes: int = 1) -> None:
    """Check that a strategy can distribute this base and this adapter over `processes`, as far as they are known.

    Raises:
        UserError: It can't; the message says what to choose.
    """
    if strategy.name != "auto":
        processes = max(processes, 2)  # a strategy that is named is meant for several
    if uses_fsdp(strategy, processes):
        check_shardable_adapter(lora)
    if uses_zero3(strategy, processes):
        _check_whole_weights(lora, strategy.name)
        if model.quantization == "nf4":
            raise UserError(
                f"strategy={strategy.name} can't partition the packed weights of quantization=nf4; "
                "choose strategy=fsdp or strategy=deepspeed_zero2."
            )


def check_shardable_adapter(lora: LoraConfig) -> None:
    """Check that the adapter can be initialized on a base that is sharded by FSDP.

    Raises:
        UserError: Its initialization needs whole weights of the base.
    """
    if lora.dora:
        raise UserError(
            "lora=dora needs whole weights of the base, which strategy=fsdp (or auto, on several devices) shards; "
            "choose strategy=ddp or lora=r8."
        )
    _check_whole_weights(lora, "fsdp")


def _check_whole_weights(lora: LoraConfig, strategy_name: str) -> None:
    if changes_base_weights(lora):
        raise UserError(
            f"lora.extra.init_lora_weights={lora.extra['init_lora_weights']} needs whole weights of the base, which "
            f"strategy={strategy_name} shards; choose strategy=ddp or another initialization."
        )


def check_deepspeed_installed(strategy: StrategyConfig) -> None:
    """Check that DeepSpeed is installed, if the strategy uses it.

    Raises:
        UserError: It is not; the message says how to install it.
    """
    if strategy.name.startswith("deepspeed") and importlib.util.find_spec("deepspeed") is None:
        raise UserError(
            f'strategy={strategy.name} needs DeepSpeed; get it with: pip install -e ".[deepspeed]" -c constraints.txt'
        )


def check_strategy_device(strategy: StrategyConfig) -> None:
    """Check that this machine has a GPU, if the strategy needs one: DeepSpeed, and shards offloaded to the CPU.

    Raises:
        UserError: It has none; the message says what to choose.
    """
    if strategy.name.startswith("deepspeed") and not gpu_count():
        raise UserError(
            f"strategy={strategy.name} needs GPUs, and this machine has none; choose strategy=fsdp or strategy=ddp, "
            "which run on CPUs too."
        )
    if strategy.cpu_offload and not gpu_count():
        raise UserError(
            "strategy.cpu_offload=true keeps the base in the machine's memory instead of a GPU's, and this machine has "
            "no GPU; leave it out."
        )
