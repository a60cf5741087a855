"""The counted parameters, linear layers, adapters, cache and activations equal those of the real architectures."""

from __future__ import annotations

import json
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig as PeftLora
from peft import get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from selfspec.config.schema import LoraConfig
from selfspec.planning.memory import activation_bytes_per_token
from selfspec.planning.parameters import Shape, model_shape, shape_from_config
from selfspec.tuning.batches import EncodedExample
from selfspec.tuning.loss import response_loss_sum
from selfspec.tuning.packing import segmented_attention
from toys import MODEL_NAMES, model_config, toy

ATTENTION_INPUTS = ("q_proj", "v_proj", "query_key_value", "Wqkv")


@lru_cache
def full_model(name: str) -> Any:
    """The real architecture on the meta device."""
    architecture = dict(model_config(name).architecture)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture.pop("model_type"), **architecture))


def shape_of(name: str, **changes: Any) -> Shape:
    shape = model_shape(model_config(name, **changes))
    assert shape
    return shape


def peft_lora(shape: Shape, rank: int, names: tuple[str, ...], **options: Any) -> PeftLora:
    modules = [layer.name for layer in shape.linear_layers if layer.name in names]
    return PeftLora(r=rank, target_modules=modules or "all-linear", task_type="CAUSAL_LM", **options)


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_shape_has_the_parameters_and_linear_layers_of_the_architecture(name: str) -> None:
    model, shape = full_model(name), shape_of(name, toy=False)
    assert shape.num_parameters == sum(parameter.numel() for parameter in model.parameters())
    head = model.get_output_embeddings()
    linear = Counter(
        (path.rpartition(".")[2], module.in_features, module.out_features)
        for path, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    )
    counted = Counter(
        (layer.name, layer.in_features, layer.out_features) for layer in shape.linear_layers * shape.num_layers
    )
    assert counted == linear
    assert shape.num_parameters == pytest.approx(model_config(name).parameters, rel=1e-4)


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("names", [("all-linear",), ATTENTION_INPUTS])
@pytest.mark.parametrize("name", MODEL_NAMES)
def test_adapter_has_the_counted_number_of_parameters(name: str, names: tuple[str, ...], dora: bool) -> None:
    model, shape = toy(name)[0], shape_of(name)
    assert shape.num_parameters == sum(parameter.numel() for parameter in model.parameters())
    adapted = get_peft_model(model, peft_lora(shape, 4, names, use_dora=dora))
    num_trainable = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    assert shape.num_adapter_parameters(LoraConfig(4, 8, 0.0, names, dora=dora)) == num_trainable


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_kv_cache_has_the_counted_number_of_values(name: str) -> None:
    model, cache = toy(name)[0], DynamicCache()
    with torch.no_grad():
        model(input_ids=torch.arange(3, 24)[None], past_key_values=cache, use_cache=True)
    cached = sum(states.numel() for layer in cache.layers for states in (layer.keys, layer.values))
    assert cached == 21 * shape_of(name).num_cached_values


@pytest.mark.parametrize(("dtype", "bytes_per_number"), [(torch.bfloat16, 2), (torch.float32, 4)])
@pytest.mark.parametrize("name", MODEL_NAMES)
def test_autograd_keeps_the_counted_bytes(name: str, dtype: Any, bytes_per_number: int) -> None:
    base, tokenizer = toy(name)
    model = get_peft_model(base.to(dtype), peft_lora(shape_of(name), 4, ("all-linear",))).train()
    weights = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, Any] = {}

    def pack(tensor: Any) -> Any:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor  # a reference, so that its address is not reused
        return tensor

    row = EncodedExample(tuple(range(5, 305)), tuple(range(5, 25)))
    with segmented_attention(base) as mask, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        response_loss_sum(model, [row], mask)
    shape, lora = shape_of(name), LoraConfig(4, 8, 0.0, ("all-linear",))
    attention_length = len(row) if shape.model_type == "mpt" else 0
    per_token = activation_bytes_per_token(shape, bytes_per_number, lora, attention_length)
    counted = shape.num_layers * len(row) * per_token
    counted += len(row.response) * len(tokenizer) * 4  # log-probabilities
    assert counted == pytest.approx(sum(tensor.untyped_storage().nbytes() for tensor in kept.values()), rel=0.05)


def test_config_json_in_model_path_replaces_the_architecture(tmp_path: Path) -> None:
    architecture = {**model_config("llama-2-7b").architecture, "num_hidden_layers": 3}
    (tmp_path / "config.json").write_text(json.dumps(architecture))
    assert shape_of("gemma-3-270m", toy=False, path=str(tmp_path)).num_layers == 3
    (tmp_path / "config.json").write_text(json.dumps({**architecture, "model_type": "mamba"}))
    assert model_shape(model_config("gemma-3-270m", toy=False, path=str(tmp_path))) is None


def test_unknown_or_incomplete_architecture_has_no_shape() -> None:
    assert shape_from_config({"model_type": "mamba", "hidden_size": 8}) is None
    assert shape_from_config({"model_type": "llama", "hidden_size": 8}) is None
