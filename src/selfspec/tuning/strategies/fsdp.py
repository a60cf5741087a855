"""FSDP2: the frozen base is sharded over the processes and gathered layer by layer; each process holds the whole
adapter, which is small. So checkpoints, optimizer and final adapter are the same as with one process.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard
from transformers.distributed import DistributedConfig

from selfspec.config.schema import ModelConfig, PathsConfig, StrategyConfig
from selfspec.models.architecture import build_on_meta
from selfspec.models.load import default_device, load_network, load_tokenizer, model_files, read_text_config
from selfspec.models.nf4 import describe_shards
from selfspec.models.transformers_internals import after_each_decoder_layer, is_decoder_layer, mark_initialized
from selfspec.models.weights import locate_weights
from selfspec.runtime.progress import Progress


def load_sharded_base(
    model: ModelConfig, paths: PathsConfig, strategy: StrategyConfig, num_processes: int, progress: Progress
) -> tuple[Any, Any]:
    """(frozen base, tokenizer); no process ever holds the whole model.

    Each process reads its own rows of every tensor. In 4 bits it reads a whole decoder layer, and keeps its shard.
    """
    folder = None if model.toy else locate_weights(model, Path(paths.cache), progress)
    with model_files(model, folder) as files:
        load = _load_nf4 if model.quantization == "nf4" else _load_unquantized
        return load(model, files, strategy, num_processes), load_tokenizer(model, files)


def _load_unquantized(model: ModelConfig, folder: Path, strategy: StrategyConfig, num_processes: int) -> Any:
    layers = dict.fromkeys(_layer_patterns(read_text_config(model, folder)), "free_full_weight")
    plan = DistributedConfig(fsdp_size=num_processes, fsdp_plan=layers, fsdp_cpu_offload=strategy.cpu_offload)
    return load_network(model, folder, distributed_config=plan)


def _load_nf4(model: ModelConfig, folder: Path, strategy: StrategyConfig, num_processes: int) -> Any:
    mesh = init_device_mesh(default_device().type, (num_processes,))
    offload = CPUOffloadPolicy() if strategy.cpu_offload else OffloadPolicy()

    def shard(module: nn.Module) -> None:
        fully_shard(module.requires_grad_(False), mesh=mesh, offload_policy=offload)
        mark_initialized(module)

    with after_each_decoder_layer(shard):
        base = load_network(model, folder)
    shard(base)
    describe_shards(base)
    return base


def _layer_patterns(config: Any) -> set[str]:
    """Names of a model's decoder layers as patterns (`model.layers.*`), without reading its weights."""
    model = build_on_meta(config)
    layers = (name for name, module in model.named_modules() if is_decoder_layer(module, model))
    return {re.sub(r"\.\d+(?=\.|$)", ".*", name) for name in layers}
