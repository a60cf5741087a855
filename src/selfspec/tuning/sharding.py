"""FSDP2: the frozen base lies sharded over the processes and is gathered layer by layer; the adapter, which is small,
is whole in each of them. So checkpoints, the optimizer and the final adapter are those of one process.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard
from transformers import AutoModelForCausalLM
from transformers.distributed import DistributedConfig

from selfspec.config import ModelConfig, PathsConfig, StrategyConfig
from selfspec.models import load, weights
from selfspec.reporting.progress import Progress
from selfspec.tuning.checkpoints import trained


def base(
    model: ModelConfig, paths: PathsConfig, strategy: StrategyConfig, processes: int, progress: Progress
) -> tuple[Any, Any]:
    """(frozen base, tokenizer); every process reads its own rows of each tensor, and none ever holds the model.

    In 4 bits each process reads the model whole, a quarter as large, and `shard` takes its part of it.
    """
    folder = None if model.toy else weights.locate(model, Path(paths.cache), progress)
    with load.files(model, folder) as place:
        placed = {}
        if model.quantization == "none":
            layers = dict.fromkeys(_layer_patterns(load.language(model, place)), "free_full_weight")
            placed["distributed_config"] = DistributedConfig(
                fsdp_size=processes, fsdp_plan=layers, fsdp_cpu_offload=strategy.cpu_offload
            )
        return load.network(model, place, **placed), load.tokenizer(model, place)


def shard(model: nn.Module, strategy: StrategyConfig, processes: int) -> None:
    """Shard a base in 4 bits that has its adapter on: packed weights lose what PEFT looks at once they are shards."""
    mesh = init_device_mesh(load.device().type, (processes,))
    offload = CPUOffloadPolicy() if strategy.cpu_offload else OffloadPolicy()
    own = set(trained(model).values())
    for module in [*_layers(model), model]:
        fully_shard(module, mesh=mesh, ignored_params=own, offload_policy=offload)


def _layer_patterns(config: Any) -> set[str]:
    """`model.layers.*`: the decoder layers of a model, of which no weight is read."""
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config)
    layers = set(_layers(empty))
    return {re.sub(r"\.\d+(?=\.|$)", ".*", name) for name, module in empty.named_modules() if module in layers}


def _layers(model: Any) -> list[nn.Module]:
    kinds = model._no_split_modules  # transformers' names of what must stay on one device
    return [module for module in model.modules() if type(module).__name__ in kinds]
