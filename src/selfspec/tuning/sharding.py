"""FSDP2: the frozen base lies sharded over the processes and is gathered layer by layer; the adapter, which is small,
is whole in each of them. So checkpoints, the optimizer and the final adapter are those of one process.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard
from transformers import AutoModelForCausalLM
from transformers.distributed import DistributedConfig

from selfspec.config import ModelConfig, PathsConfig, StrategyConfig
from selfspec.models import load, nf4, weights
from selfspec.reporting.progress import Progress


def base(
    model: ModelConfig, paths: PathsConfig, strategy: StrategyConfig, processes: int, progress: Progress
) -> tuple[Any, Any]:
    """(frozen base, tokenizer); no process ever holds the model.

    Each reads its own rows of every tensor; in 4 bits, one decoder layer after the other, of which it keeps its part.
    """
    folder = None if model.toy else weights.locate(model, Path(paths.cache), progress)
    with load.files(model, folder) as place:
        made = _packed if model.quantization == "nf4" else _whole
        return made(model, place, strategy, processes), load.tokenizer(model, place)


def _whole(model: ModelConfig, folder: Path, strategy: StrategyConfig, processes: int) -> Any:
    layers = dict.fromkeys(_layer_patterns(load.language(model, folder)), "free_full_weight")
    plan = DistributedConfig(fsdp_size=processes, fsdp_plan=layers, fsdp_cpu_offload=strategy.cpu_offload)
    return load.network(model, folder, distributed_config=plan)


def _packed(model: ModelConfig, folder: Path, strategy: StrategyConfig, processes: int) -> Any:
    device, dtype = load.device(), load.dtype(model)
    mesh = init_device_mesh(device.type, (processes,))
    offload = CPUOffloadPolicy() if strategy.cpu_offload else OffloadPolicy()
    made = nf4.skeleton(model, load.language(model, folder), dtype)
    with load.reading(made, folder) as read:
        for module in [*_layers(made), made]:
            fill(module, lambda empty: read(empty).to(device, dtype))
            fully_shard(module, mesh=mesh, offload_policy=offload)
    nf4.describe(made)
    return made


def fill(module: nn.Module, read: Callable[[nn.Parameter], Tensor]) -> None:
    """Read the weights of a module that are not there yet; what shares one goes on sharing it."""
    places = [(part, *held) for part in module.modules() for held in part.named_parameters(recurse=False)]
    made: dict[nn.Parameter, nn.Parameter] = {}
    for part, name, empty in places:
        if empty.is_meta:
            if empty not in made:
                made[empty] = nf4.filled(empty, read(empty))
            setattr(part, name, made[empty])


def _layer_patterns(config: Any) -> set[str]:
    """`model.layers.*`: the decoder layers of a model, of which no weight is read."""
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config)
    layers = set(_layers(empty))
    return {re.sub(r"\.\d+(?=\.|$)", ".*", name) for name, module in empty.named_modules() if module in layers}


def _layers(model: Any) -> list[nn.Module]:
    kinds = model._no_split_modules  # transformers' names of what must stay on one device
    return [module for module in model.modules() if type(module).__name__ in kinds]
