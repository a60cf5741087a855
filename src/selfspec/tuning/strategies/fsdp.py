"""FSDP2: the frozen base lies sharded over the processes and is gathered layer by layer; the adapter, which is small,
is whole in each of them. So checkpoints, the optimizer and the final adapter are those of one process.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard
from transformers import AutoModelForCausalLM, core_model_loading, modeling_utils
from transformers.distributed import DistributedConfig

from selfspec.config.schema import ModelConfig, PathsConfig, StrategyConfig
from selfspec.models.load import default_device, load_network, load_tokenizer, model_files, read_text_config
from selfspec.models.nf4 import describe_shards
from selfspec.models.weights import locate_weights
from selfspec.runtime.progress import Progress


def load_sharded_base(
    model: ModelConfig, paths: PathsConfig, strategy: StrategyConfig, processes: int, progress: Progress
) -> tuple[Any, Any]:
    """(frozen base, tokenizer); no process ever holds the model.

    Each reads its own rows of every tensor; in 4 bits a decoder layer at a time, of which it keeps its part.
    """
    folder = None if model.toy else locate_weights(model, Path(paths.cache), progress)
    with model_files(model, folder) as place:
        made = _load_nf4 if model.quantization == "nf4" else _load_unquantized
        return made(model, place, strategy, processes), load_tokenizer(model, place)


def _load_unquantized(model: ModelConfig, folder: Path, strategy: StrategyConfig, processes: int) -> Any:
    layers = dict.fromkeys(_layer_patterns(read_text_config(model, folder)), "free_full_weight")
    plan = DistributedConfig(fsdp_size=processes, fsdp_plan=layers, fsdp_cpu_offload=strategy.cpu_offload)
    return load_network(model, folder, distributed_config=plan)


def _load_nf4(model: ModelConfig, folder: Path, strategy: StrategyConfig, processes: int) -> Any:
    mesh = init_device_mesh(default_device().type, (processes,))
    offload = CPUOffloadPolicy() if strategy.cpu_offload else OffloadPolicy()

    def part(module: nn.Module) -> None:
        fully_shard(module.requires_grad_(False), mesh=mesh, offload_policy=offload)
        for parameter in module.parameters():
            parameter._is_hf_initialized = True  # type: ignore[attr-defined]  # else transformers draws it anew

    with _after_each_layer(part):
        made = load_network(model, folder)
    part(made)
    describe_shards(made)
    return made


@contextmanager
def _after_each_layer(do: Callable[[nn.Module], None]) -> Iterator[None]:
    """While transformers reads a model: what is done with a decoder layer as soon as all of its weights are there.

    It reads them in the order of their names, packs each, and sets it by this one function. Before, it would reserve a
    GPU's memory for the whole model.
    """
    read_one = core_model_loading.set_param_for_module

    def read_and_look(model: Any, name: str, *more: Any) -> None:
        read_one(model, name, *more)
        path = name.split(".")
        around = (model.get_submodule(".".join(path[:depth])) for depth in range(1, len(path)))
        for layer in around:
            if _is_layer(layer, model) and not any(parameter.is_meta for parameter in layer.parameters()):
                do(layer)

    with (
        patch.object(core_model_loading, "set_param_for_module", read_and_look),
        patch.object(modeling_utils, "caching_allocator_warmup", lambda *_: None),
    ):
        yield


def _layer_patterns(config: Any) -> set[str]:
    """`model.layers.*`: the decoder layers of a model, of which no weight is read."""
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config)
    layers = (name for name, module in empty.named_modules() if _is_layer(module, empty))
    return {re.sub(r"\.\d+(?=\.|$)", ".*", name) for name in layers}


def _is_layer(module: nn.Module, model: Any) -> bool:
    return type(module).__name__ in model._no_split_modules  # transformers' names of what must stay on one device
