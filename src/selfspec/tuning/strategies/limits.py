"""What a strategy can't take, told before any work: nothing heavy is imported, since the door asks."""

from __future__ import annotations

import importlib.util

from selfspec.config.schema import LoraConfig, ModelConfig, StrategyConfig
from selfspec.errors import UserError
from selfspec.runtime.machine import gpu_count


def check_strategy_choice(strategy: StrategyConfig, model: ModelConfig, lora: LoraConfig, processes: int = 1) -> None:
    """Refuse a base or an adapter that a strategy can't lay over several processes, as far as they are known.

    Raises:
        UserError: what to choose instead.
    """
    if strategy.name == "fsdp" or (strategy.name == "auto" and processes > 1):
        check_shardable_adapter(lora)
    if strategy.name.startswith("deepspeed_zero3") and model.quantization == "nf4":
        raise UserError(
            f"quantization=nf4 packs several weights into a number, which strategy={strategy.name} can't part among "
            "processes; choose strategy=fsdp or strategy=deepspeed_zero2."
        )


def check_shardable_adapter(lora: LoraConfig) -> None:
    """Refuse an adapter whose first weights need whole ones of the base where these lie in parts.

    Raises:
        UserError: what to choose instead.
    """
    if lora.dora:
        raise UserError(
            "lora=dora measures the base's weights, of which strategy=fsdp (auto, on several devices) gives no process "
            "a whole one; choose strategy=ddp or lora=r8."
        )


def check_deepspeed_installed(strategy: StrategyConfig) -> None:
    """Whether DeepSpeed is there, for a strategy that is DeepSpeed's.

    Raises:
        UserError: it is not, and how to get it.
    """
    if strategy.name.startswith("deepspeed") and importlib.util.find_spec("deepspeed") is None:
        raise UserError(
            f'strategy={strategy.name} needs DeepSpeed; get it with: pip install -e ".[deepspeed]" -c constraints.txt'
        )


def check_strategy_device(strategy: StrategyConfig) -> None:
    """Refuse what needs a GPU on a machine without one: Lightning's DeepSpeed, and shards that wait in its memory.

    Raises:
        UserError: what to choose instead.
    """
    if strategy.name.startswith("deepspeed") and not gpu_count():
        raise UserError(
            f"strategy={strategy.name} needs GPUs, and this machine has none; choose strategy=fsdp or strategy=ddp, "
            "which run on processors too."
        )
    if strategy.cpu_offload and not gpu_count():
        raise UserError(
            "strategy.cpu_offload=true keeps the base in the machine's memory and not on a GPU, and this machine has "
            "none; leave it out."
        )
