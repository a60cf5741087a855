"""Parameters, linear layers, the adapter and the cache, counted by formula, are those of the real architectures."""

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
from toys import NAMES, model_config, toy

NARROW = ("q_proj", "v_proj", "query_key_value", "Wqkv")


@lru_cache
def full(name: str) -> Any:
    """The real architecture, without memory for its weights."""
    numbers = dict(model_config(name).architecture)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(numbers.pop("model_type"), **numbers))


def shape_of(name: str, **changes: Any) -> Shape:
    found = model_shape(model_config(name, **changes))
    assert found
    return found


@pytest.mark.parametrize("name", NAMES)
def test_parameters_and_linear_layers_are_those_of_the_architecture(name: str) -> None:
    model, found = full(name), shape_of(name, toy=False)
    assert found.parameters == sum(parameter.numel() for parameter in model.parameters())
    head = model.get_output_embeddings()
    linear = Counter(
        (path.rpartition(".")[2], module.in_features, module.out_features)
        for path, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    )
    counted = Counter((layer.name, layer.inputs, layer.outputs) for layer in found.linear * found.layers)
    assert counted == linear
    assert found.parameters == pytest.approx(model_config(name).parameters, rel=1e-4)


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("names", [("all-linear",), NARROW])
@pytest.mark.parametrize("name", NAMES)
def test_an_adapter_has_the_counted_parameters(name: str, names: tuple[str, ...], dora: bool) -> None:
    model, found = toy(name)[0], shape_of(name)
    assert found.parameters == sum(parameter.numel() for parameter in model.parameters())
    adapted = get_peft_model(model, settings(found, 4, names, use_dora=dora))
    trained = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    assert found.trainable(LoraConfig(4, 8, 0.0, names, dora=dora)) == trained


def settings(found: Shape, rank: int, names: tuple[str, ...], **more: Any) -> PeftLora:
    own = [layer.name for layer in found.linear if layer.name in names]
    return PeftLora(r=rank, target_modules=own or "all-linear", task_type="CAUSAL_LM", **more)


@pytest.mark.parametrize("name", NAMES)
def test_the_cache_holds_the_counted_keys_and_values(name: str) -> None:
    model, cache = toy(name)[0], DynamicCache()
    with torch.no_grad():
        model(input_ids=torch.arange(3, 24)[None], past_key_values=cache, use_cache=True)
    held = sum(part.numel() for layer in cache.layers for part in (layer.keys, layer.values))
    assert held == 21 * shape_of(name).kept_numbers


@pytest.mark.parametrize(("dtype", "width"), [(torch.bfloat16, 2), (torch.float32, 4)])
@pytest.mark.parametrize("name", NAMES)
def test_autograd_keeps_what_is_counted(name: str, dtype: Any, width: int) -> None:
    base, tokenizer = toy(name)
    model = get_peft_model(base.to(dtype), settings(shape_of(name), 4, ("all-linear",))).train()
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, Any] = {}

    def pack(tensor: Any) -> Any:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor  # held, or another would come to lie there
        return tensor

    row = EncodedExample(tuple(range(5, 305)), tuple(range(5, 25)))
    with segmented_attention(base) as mask, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        response_loss_sum(model, [row], mask)
    found, lora = shape_of(name), LoraConfig(4, 8, 0.0, ("all-linear",))
    attended = len(row) if found.family == "mpt" else 0
    counted = found.layers * len(row) * activation_bytes_per_token(found, width, lora, attended)
    counted += len(row.response) * len(tokenizer) * 4  # log-probabilities
    assert counted == pytest.approx(sum(tensor.untyped_storage().nbytes() for tensor in kept.values()), rel=0.05)


def test_the_config_beside_weights_of_ones_own_counts_and_an_unknown_architecture_is_none(tmp_path: Path) -> None:
    numbers = {**model_config("llama-2-7b").architecture, "num_hidden_layers": 3}
    (tmp_path / "config.json").write_text(json.dumps(numbers))
    assert shape_of("gemma-3-270m", toy=False, path=str(tmp_path)).layers == 3
    (tmp_path / "config.json").write_text(json.dumps({**numbers, "model_type": "mamba"}))
    assert model_shape(model_config("gemma-3-270m", toy=False, path=str(tmp_path))) is None
    assert shape_from_config({"model_type": "llama", "hidden_size": 8}) is None
