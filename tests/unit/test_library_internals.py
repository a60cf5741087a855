"""Private interfaces of other libraries that selfspec uses: these tests fail when a version changes one of them."""

from __future__ import annotations

import inspect
import tomllib
from pathlib import Path

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from pytorch_lightning import Trainer
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, core_model_loading, modeling_utils
from transformers.models.falcon import modeling_falcon

from conftest import PROJECT
from selfspec.models.transformers_internals import (
    TRANSFORMERS_VERSIONS,
    accepts_registered_attention,
    after_each_decoder_layer,
    attention_name,
    is_decoder_layer,
    mark_initialized,
    torch_linear_in_falcon,
)
from selfspec.tuning.lightning_internals import LIGHTNING_VERSIONS, set_logged_step
from toys import MODEL_NAMES, toy


@pytest.mark.parametrize(
    ("package", "versions"), [("transformers", TRANSFORMERS_VERSIONS), ("pytorch-lightning", LIGHTNING_VERSIONS)]
)
def test_internals_were_read_in_the_versions_that_the_package_requires(package: str, versions: str) -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    required = {item.name: item.specifier for item in map(Requirement, project["dependencies"])}
    assert required[package] == SpecifierSet(versions)


def test_transformers_sets_each_weight_by_the_function_that_is_wrapped() -> None:
    parameters = list(inspect.signature(core_model_loading.set_param_for_module).parameters)
    assert parameters[:2] == ["model", "target_name"]
    assert len(inspect.signature(modeling_utils.caching_allocator_warmup).parameters) == 3
    assert "caching_allocator_warmup(" in inspect.getsource(PreTrainedModel)  # by its name in the module


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_each_decoder_layer_is_passed_on_once_with_all_of_its_weights(tmp_path: Path, name: str) -> None:
    model, _ = toy(name)
    model.save_pretrained(tmp_path)
    passed: list[torch.nn.Module] = []

    def check_whole(layer: torch.nn.Module) -> None:
        assert not any(parameter.is_meta for parameter in layer.parameters())
        passed.append(layer)

    with after_each_decoder_layer(check_whole):
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    layers = [module for module in loaded.modules() if is_decoder_layer(module, loaded)]
    assert len(layers) == model.config.num_hidden_layers
    assert {id(layer) for layer in passed} == {id(layer) for layer in layers}


def test_a_parameter_that_is_marked_initialized_is_not_initialized_again() -> None:
    model, _ = toy("llama-2-7b")
    layer = model.model.layers[0].mlp.up_proj
    before = layer.weight.clone()
    mark_initialized(layer)
    model.initialize_weights()
    assert torch.equal(layer.weight, before)


def test_models_say_which_attention_they_use_and_whether_it_can_be_replaced() -> None:
    accepted = {name: accepts_registered_attention(toy(name)[0]) for name in MODEL_NAMES}
    assert {name for name, accepts in accepted.items() if not accepts} == {
        name for name in MODEL_NAMES if name.startswith(("falcon", "mpt"))
    }
    model, _ = toy("llama-2-7b")
    model.set_attn_implementation("eager")
    assert attention_name(model) == "eager"


def test_falcon_is_built_with_torchs_linear_layers() -> None:
    config = AutoConfig.for_model("falcon", hidden_size=64, num_hidden_layers=1, num_attention_heads=4, vocab_size=32)
    own = modeling_falcon.FalconLinear
    with torch_linear_in_falcon(), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert modeling_falcon.FalconLinear is own and issubclass(own, torch.nn.Linear)
    assert not any(isinstance(module, own) for module in model.modules())


def test_a_4_bit_layer_has_the_attributes_that_are_set_on_it() -> None:
    layer = Linear4bit(64, 64, quant_type="nf4", compress_statistics=True)
    assert hasattr(layer, "support_avx512bf16_for_cpu")
    assert hasattr(layer.weight, "compress_statistics") and hasattr(layer.weight, "quant_type")


def test_lightnings_callbacks_count_steps_from_the_step_that_is_set() -> None:
    trainer = Trainer(logger=False, enable_checkpointing=False, barebones=False, accelerator="cpu")
    assert trainer.fit_loop.epoch_loop._batches_that_stepped == 0
    set_logged_step(trainer, 5)
    assert trainer.fit_loop.epoch_loop._batches_that_stepped == 5
