"""Base models: `conf/model` describes the published architectures, toys have their modules, and missing weights are
refused in one sentence.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from bitsandbytes.nn import Linear4bit
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch.distributed.tensor import DTensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from command import selfspec_process
from selfspec.config.schema import ModelConfig, PathsConfig, StrategyConfig
from selfspec.errors import UserError
from selfspec.models.load import load_base, load_network, load_tokenizer, model_files
from selfspec.models.weights import check_weights, locate_weights, weights_identity
from selfspec.prompts.chat import chat_template_of
from selfspec.runtime.progress import Progress
from selfspec.tuning.strategies.fsdp import load_sharded_base
from toys import MODEL_NAMES, model_config, toy, without_layer_numbers


@lru_cache
def full_model(name: str) -> Any:
    """The real architecture on the meta device."""
    architecture = dict(model_config(name).architecture)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture.pop("model_type"), **architecture))


def is_one_sentence(error: BaseException) -> bool:
    text = str(error)
    return text.endswith(".") and "\n" not in text and ". " not in text


def test_conf_has_the_models_of_the_paper_and_recent_ones() -> None:
    paper = {"llama-2-7b", "llama-2-13b", "mpt-7b", "mpt-30b", "falcon-7b", "falcon-40b"}
    recent = {"llama-3.1-8b", "llama-3.1-70b", "qwen3-8b", "qwen3-32b", "mistral-7b-v0.3", "gemma-3-27b", "olmo-2-13b"}
    assert set(MODEL_NAMES) == paper | recent | {"gemma-3-270m", "smollm2-135m"}


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_architecture_has_the_published_number_of_parameters(name: str) -> None:
    num_parameters = sum(parameter.numel() for parameter in full_model(name).parameters())  # without duplicates
    assert num_parameters == pytest.approx(model_config(name).parameters, rel=0.01)


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_toy_has_the_modules_and_parameters_of_the_full_model(name: str) -> None:
    small, large = toy(name)[0], full_model(name)
    assert type(small) is type(large)
    for names in ("named_modules", "named_parameters"):
        actual, expected = (
            without_layer_numbers(path for path, _ in getattr(model, names)()) for model in (small, large)
        )
        assert actual == expected
    assert sum(parameter.numel() for parameter in small.parameters()) < 1e6


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_toy_weights_are_the_same_at_every_call(name: str) -> None:
    torch.manual_seed(7)
    first = toy(name)[0].state_dict()
    torch.manual_seed(8)
    second = toy(name)[0].state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_all_linear_adapts_every_linear_layer_but_the_output_head(name: str) -> None:
    model, _ = toy(name)
    head = model.get_output_embeddings()
    linear = {path for path, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    expected = linear - {path for path, module in model.named_modules() if module is head}
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    modules = adapted.get_base_model().named_modules()
    assert {path for path, module in modules if isinstance(module, LoraLayer)} == expected
    assert len(expected) >= 8 and len(linear) == len(expected) + 1


@pytest.mark.parametrize("is_toy", [True, False])
def test_rotary_frequencies_stay_in_float32_when_the_weights_are_bfloat16(tmp_path: Path, is_toy: bool) -> None:
    for name in ("llama-2-7b", "gemma-3-270m"):
        model, tokenizer = toy(name)
        for part in (model, tokenizer):
            part.save_pretrained(tmp_path / name)
        paths: Any = SimpleNamespace(cache=tmp_path)
        config = model_config(name, dtype="bfloat16", toy=is_toy, path=str(tmp_path / name))
        loaded, _ = load_base(config, paths, Progress())
        assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
        frequencies = {path: buffer for path, buffer in loaded.named_buffers() if path.endswith("inv_freq")}
        assert frequencies
        for path, buffer in frequencies.items():  # rounding them would move distant positions
            assert buffer.dtype == torch.float32 and torch.equal(buffer, model.get_buffer(path))


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_nf4_quantizes_every_linear_layer_but_the_output_head(tmp_path: Path, name: str) -> None:
    paths: Any = SimpleNamespace(cache=tmp_path)
    model, _ = load_base(model_config(name, quantization="nf4"), paths, Progress())
    head = model.get_output_embeddings()
    linear = {path for path, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    quantized = {path for path, module in model.named_modules() if isinstance(module, Linear4bit)}
    assert quantized and quantized == linear - {path for path, module in model.named_modules() if module is head}
    for module in (model.get_submodule(path) for path in quantized):
        assert module.weight.quant_state.quant_type == "nf4" and module.weight.quant_state.nested  # double quantization
        assert module.weight.numel() * module.weight.itemsize * 2 == module.in_features * module.out_features


def test_chat_template_is_kept_for_prompt_chat_only_and_must_exist_then(tmp_path: Path) -> None:
    for style in ("base", "chat"):
        with model_files(model_config("llama-2-7b", prompt="chat"), None) as folder:
            tokenizer = load_tokenizer(model_config("llama-2-7b", prompt=style), folder)
        assert bool(tokenizer.chat_template) == (style == "chat")
    tokenizer.chat_template = "{{ bos_token }}"
    with pytest.raises(UserError, match="leaves out the user's message"):
        chat_template_of(tokenizer)
    with (
        model_files(model_config("llama-2-7b"), None) as folder,
        pytest.raises(UserError, match="the tokenizer of llama-2-7b has no chat template; choose base"),
    ):
        load_tokenizer(model_config("llama-2-7b", prompt="chat"), folder)


def write_vision_language_model(folder: Path) -> Any:
    """Write a small vision-language Gemma 3, the format of its larger sizes on the hub, and return the model."""
    text = {**model_config("gemma-3-270m").toy_architecture, "model_type": "gemma3_text", "vocab_size": 300}
    encoder = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**encoder, "image_size": 28, "patch_size": 14}
    config = AutoConfig.for_model("gemma3", text_config=text, vision_config=vision, mm_tokens_per_image=1)
    model = AutoModelForImageTextToText.from_config(config).eval()
    model.save_pretrained(folder)
    return model


@pytest.fixture
def process_group() -> Iterator[None]:
    """A process group of one process."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def load_sharded(model: ModelConfig) -> Any:
    """The base as FSDP loads it."""
    return load_sharded_base(model, PathsConfig("", "", ""), StrategyConfig("fsdp"), 1, Progress())[0]


def assert_same_network(actual: Any, expected: Any) -> None:
    """Compare all tensors bitwise, since packed weights may be NaN as numbers, and their quantization states."""
    for kind in ("named_parameters", "named_buffers"):
        actual_tensors, expected_tensors = (dict(getattr(network, kind)()) for network in (actual, expected))
        assert actual_tensors.keys() == expected_tensors.keys()
        for path, tensor in expected_tensors.items():
            shard = actual_tensors[path]
            whole = shard.full_tensor() if isinstance(shard, DTensor) else shard
            assert isinstance(shard, DTensor) == (kind == "named_parameters") and whole.dtype == tensor.dtype
            assert torch.equal(*(each.detach().clone().view(-1).view(torch.uint8) for each in (whole, tensor))), path
    for path, module in expected.named_modules():
        if isinstance(module, Linear4bit):
            states = (network.get_submodule(path).quant_state.as_dict(packed=True) for network in (actual, expected))
            assert all(map(torch.equal, *(state.values() for state in states)))
    assert not actual.training and not any(parameter.requires_grad for parameter in actual.parameters())


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("name", MODEL_NAMES)
def test_nf4_base_quantized_in_shards_equals_the_one_quantized_whole(name: str) -> None:
    config = model_config(name, quantization="nf4", dtype="bfloat16")
    with model_files(config, None) as folder:
        assert_same_network(load_sharded(config), load_network(config, folder))


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_language_model_of_a_vision_language_checkpoint_is_loaded(tmp_path: Path, quantization: str) -> None:
    whole = write_vision_language_model(tmp_path)
    config = model_config("gemma-3-27b", dtype="float32", quantization=quantization)
    model = load_network(config, tmp_path)
    assert type(model).__name__ == "Gemma3ForCausalLM"
    assert not any("vision" in name for name, _ in model.named_parameters())
    ids = torch.arange(3, 12)[None]
    if quantization == "none":
        assert torch.equal(model(input_ids=ids).logits, whole(input_ids=ids).logits)
    else:
        whole.save_pretrained(tmp_path / "shards", max_shard_size="100KB")
        toy("gemma-3-270m")[1].save_pretrained(tmp_path / "shards")
        assert len([*(tmp_path / "shards").glob("*.safetensors")]) > 1
        assert_same_network(load_sharded(replace(config, toy=False, path=str(tmp_path / "shards"))), model)


@pytest.mark.usefixtures("process_group")
def test_missing_weights_are_refused(tmp_path: Path) -> None:
    write_vision_language_model(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file({name: weights[name] for name in weights if "up_proj" not in name}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"lacks 2 of the model's weights, such as model.layers.0.mlp.up_proj.weight"):
        load_network(model_config("gemma-3-27b", dtype="float32"), tmp_path)
    toy("gemma-3-270m")[1].save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"lacks 2 of the model's weights, such as model.layers.0.mlp.up_proj.weight"):
        load_sharded(model_config("gemma-3-27b", dtype="float32", quantization="nf4", toy=False, path=str(tmp_path)))


def test_nf4_base_passes_gradients_after_inference(tmp_path: Path) -> None:
    paths: Any = SimpleNamespace(cache=tmp_path)
    model, _ = load_base(model_config("llama-2-7b", quantization="nf4", dtype="bfloat16"), paths, Progress())
    states = torch.randn(1, 9, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    layer = model.model.layers[0].mlp.up_proj

    def gradient() -> torch.Tensor:
        inputs = states.clone().requires_grad_()
        layer(inputs).float().sum().backward()
        assert inputs.grad is not None
        return inputs.grad

    before = gradient()
    with torch.no_grad():
        model(input_ids=torch.arange(3, 12)[None])
    assert torch.equal(gradient(), before) and before.abs().max() > 0


def test_base_is_frozen_and_in_evaluation_mode(tmp_path: Path) -> None:
    paths = SimpleNamespace(cache=str(tmp_path))
    model, _ = load_base(model_config("llama-2-7b"), paths, Progress())
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_changed_weight_files_are_loaded_again(tmp_path: Path) -> None:
    folder, paths = tmp_path / "model", PathsConfig("", str(tmp_path), "")
    network, tokenizer = toy("llama-2-7b")
    config = model_config("llama-2-7b", toy=False, path=str(folder), dtype="float32")
    for part in (network, tokenizer):
        part.save_pretrained(folder)
    first, _ = load_base(config, paths, Progress())
    assert load_base(config, paths, Progress())[0] is first
    with torch.no_grad():
        network.lm_head.weight.mul_(2)
    network.save_pretrained(tmp_path / "changed")
    (tmp_path / "changed" / "model.safetensors").replace(folder / "model.safetensors")
    second, _ = load_base(config, paths, Progress())
    assert torch.equal(second.lm_head.weight, network.lm_head.weight)


def test_weights_identity_depends_on_the_file_header_and_not_on_the_path(tmp_path: Path) -> None:
    def identity(folder: str) -> str:
        return weights_identity(model_config("llama-2-7b", toy=False, path=str(tmp_path / folder)))

    for folder in ("one", "two", "three", "four"):
        (tmp_path / folder).mkdir()
    save_file({"a": torch.zeros(4, 6)}, tmp_path / "one" / "model.safetensors")
    shutil.copy(tmp_path / "one" / "model.safetensors", tmp_path / "two" / "model.safetensors")
    save_file({"a": torch.zeros(6, 4)}, tmp_path / "three" / "model.safetensors")  # as many bytes, another shape
    save_file({"b": torch.zeros(4, 6)}, tmp_path / "four" / "model.safetensors")  # as many bytes, another name
    assert identity("one") == identity("two")
    assert len({identity(folder) for folder in ("one", "three", "four")}) == 3


def test_folder_without_weights_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(UserError) as caught:
        check_weights(model_config("llama-2-7b", toy=False, path=str(tmp_path)))
    assert str(tmp_path) in str(caught.value) and str(caught.value).count("\n") == 0


def test_missing_weights_without_the_hub_are_refused_in_one_sentence(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))  # set at import
    with pytest.raises(UserError) as caught:
        check_weights(model_config("llama-2-7b", toy=False))
    assert "meta-llama/Llama-2-7b-hf" in str(caught.value) and "HF_HUB_OFFLINE" in str(caught.value)
    assert is_one_sentence(caught.value)


def test_weights_in_the_hub_cache_are_found_without_the_hub(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--meta-llama--Llama-2-7b-hf"
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    save_file({"a": torch.zeros(1)}, snapshot / "model.safetensors")
    model = model_config("llama-2-7b", toy=False)
    check_weights(model)
    assert locate_weights(model, tmp_path / "cache", Progress()) == snapshot


def test_fetch_prints_the_folder_of_the_weights(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    save_file({"weight": torch.zeros(1)}, tmp_path / "model" / "model.safetensors")
    unreachable = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "hub")}

    def fetch(*overrides: str) -> subprocess.CompletedProcess[str]:
        return selfspec_process("fetch", "model=falcon-40b", *overrides, env={**os.environ, **unreachable})

    fetched = fetch(f"model.path={tmp_path}/model")
    assert fetched.returncode == 0 and fetched.stdout.strip() == f"{tmp_path}/model", fetched.stderr
    missing = fetch()
    assert missing.returncode == 1 and "the hub can't be reached (ConnectError)" in missing.stderr
    assert len(missing.stderr.splitlines()) == 1
