"""Base models: the numbers in `conf/model` describe the published models, toys have their modules, and what can't be
had or held is refused in one sentence.
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
from toys import NAMES, collapsed, model_config, toy


@lru_cache
def full(name: str) -> Any:
    """The real architecture, without memory for its weights."""
    numbers = dict(model_config(name).architecture)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(numbers.pop("model_type"), **numbers))


def one_sentence(error: BaseException) -> bool:
    text = str(error)
    return text.endswith(".") and "\n" not in text and ". " not in text


def test_the_papers_models_their_kin_and_those_of_today_are_there() -> None:
    paper = {"llama-2-7b", "llama-2-13b", "mpt-7b", "mpt-30b", "falcon-7b", "falcon-40b"}
    today = {"llama-3.1-8b", "llama-3.1-70b", "qwen3-8b", "qwen3-32b", "mistral-7b-v0.3", "gemma-3-27b", "olmo-2-13b"}
    assert set(NAMES) == paper | today | {"gemma-3-270m", "smollm2-135m"}


@pytest.mark.parametrize("name", NAMES)
def test_the_architecture_has_the_published_number_of_parameters(name: str) -> None:
    counted = sum(parameter.numel() for parameter in full(name).parameters())  # a shared one is given once
    assert counted == pytest.approx(model_config(name).parameters, rel=0.01)


@pytest.mark.parametrize("name", NAMES)
def test_a_toy_has_the_modules_and_parameters_of_the_full_model(name: str) -> None:
    small, large = toy(name)[0], full(name)
    assert type(small) is type(large)
    for names in ("named_modules", "named_parameters"):
        found, wanted = (collapsed(each for each, _ in getattr(model, names)()) for model in (small, large))
        assert found == wanted
    assert sum(parameter.numel() for parameter in small.parameters()) < 1e6


@pytest.mark.parametrize("name", NAMES)
def test_a_toy_is_the_same_at_every_call(name: str) -> None:
    torch.manual_seed(7)
    first = toy(name)[0].state_dict()
    torch.manual_seed(8)
    second = toy(name)[0].state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", NAMES)
def test_all_linear_wraps_every_linear_layer_but_the_output_head(name: str) -> None:
    model, _ = toy(name)
    head = model.get_output_embeddings()
    linear = {path for path, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    expected = linear - {path for path, module in model.named_modules() if module is head}
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    modules = adapted.get_base_model().named_modules()
    assert {path for path, module in modules if isinstance(module, LoraLayer)} == expected
    assert len(expected) >= 8 and len(linear) == len(expected) + 1


@pytest.mark.parametrize("toyed", [True, False])
def test_positions_are_counted_in_full_precision_whatever_the_weights_are_in(tmp_path: Path, toyed: bool) -> None:
    for name in ("llama-2-7b", "gemma-3-270m"):
        model, tokenizer = toy(name)
        for part in (model, tokenizer):
            part.save_pretrained(tmp_path / name)
        paths: Any = SimpleNamespace(cache=tmp_path)
        config = model_config(name, dtype="bfloat16", toy=toyed, path=str(tmp_path / name))
        loaded, _ = load_base(config, paths, Progress())
        assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
        frequencies = {path: buffer for path, buffer in loaded.named_buffers() if path.endswith("inv_freq")}
        assert frequencies
        for path, buffer in frequencies.items():  # rounded to bfloat16, distant tokens would stand elsewhere
            assert buffer.dtype == torch.float32 and torch.equal(buffer, model.get_buffer(path))


@pytest.mark.parametrize("name", NAMES)
def test_nf4_quantises_every_linear_layer_but_the_output_head(tmp_path: Path, name: str) -> None:
    paths: Any = SimpleNamespace(cache=tmp_path)
    model, _ = load_base(model_config(name, quantization="nf4"), paths, Progress())
    head = model.get_output_embeddings()
    linear = {path for path, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    quantised = {path for path, module in model.named_modules() if isinstance(module, Linear4bit)}
    assert quantised and quantised == linear - {path for path, module in model.named_modules() if module is head}
    for module in (model.get_submodule(path) for path in quantised):
        assert module.weight.quant_state.quant_type == "nf4" and module.weight.quant_state.nested  # twice quantised
        assert module.weight.numel() * module.weight.itemsize * 2 == module.in_features * module.out_features


def test_a_chat_template_is_used_where_it_is_asked_for_and_must_then_be_there(tmp_path: Path) -> None:
    for style in ("base", "chat"):
        with model_files(model_config("llama-2-7b", prompt="chat"), None) as place:
            tokenizer = load_tokenizer(model_config("llama-2-7b", prompt=style), place)
        assert bool(tokenizer.chat_template) == (style == "chat")
    tokenizer.chat_template = "{{ bos_token }}"
    with pytest.raises(UserError, match="leaves out what the user says"):
        chat_template_of(tokenizer)
    with (
        model_files(model_config("llama-2-7b"), None) as place,
        pytest.raises(UserError, match="the tokenizer of llama-2-7b has no chat template; choose base"),
    ):
        load_tokenizer(model_config("llama-2-7b", prompt="chat"), place)


def seeing(folder: Path) -> Any:
    """A thin Gemma 3 that also sees, as the hub's larger ones do; the model of what is written."""
    text = {**model_config("gemma-3-270m").toy_architecture, "model_type": "gemma3_text", "vocab_size": 300}
    sight = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**sight, "image_size": 28, "patch_size": 14}
    config = AutoConfig.for_model("gemma3", text_config=text, vision_config=vision, mm_tokens_per_image=1)
    model = AutoModelForImageTextToText.from_config(config).eval()
    model.save_pretrained(folder)
    return model


@pytest.fixture
def alone_in_a_group() -> Iterator[None]:
    """As if several processes shared a base, but there is one."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def sharded(model: ModelConfig) -> Any:
    """The base as FSDP reads it."""
    return load_sharded_base(model, PathsConfig("", "", ""), StrategyConfig("fsdp"), 1, Progress())[0]


def check_same_network(found: Any, expected: Any) -> None:
    """Each tensor to the bit (packed weights are no numbers, and some are not equal to themselves), and its packing."""
    for kind in ("named_parameters", "named_buffers"):
        mine, theirs = (dict(getattr(each, kind)()) for each in (found, expected))
        assert mine.keys() == theirs.keys()
        for path, tensor in theirs.items():
            part = mine[path]
            whole = part.full_tensor() if isinstance(part, DTensor) else part
            assert isinstance(part, DTensor) == (kind == "named_parameters") and whole.dtype == tensor.dtype
            assert torch.equal(*(each.detach().clone().view(-1).view(torch.uint8) for each in (whole, tensor))), path
    for path, module in expected.named_modules():
        if isinstance(module, Linear4bit):
            states = (each.get_submodule(path).quant_state.as_dict(packed=True) for each in (found, expected))
            assert all(map(torch.equal, *(state.values() for state in states)))
    assert not found.training and not any(parameter.requires_grad for parameter in found.parameters())


@pytest.mark.usefixtures("alone_in_a_group")
@pytest.mark.parametrize("name", NAMES)
def test_a_base_that_is_parted_while_it_is_packed_is_the_one_that_is_packed_whole(name: str) -> None:
    settings = model_config(name, quantization="nf4", dtype="bfloat16")
    with model_files(settings, None) as place:
        check_same_network(sharded(settings), load_network(settings, place))


@pytest.mark.usefixtures("alone_in_a_group")
@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_of_a_model_that_also_sees_the_language_model_is_read(tmp_path: Path, quantization: str) -> None:
    whole = seeing(tmp_path)
    settings = model_config("gemma-3-27b", dtype="float32", quantization=quantization)
    model = load_network(settings, tmp_path)
    assert type(model).__name__ == "Gemma3ForCausalLM"
    assert not any("vision" in name for name, _ in model.named_parameters())
    ids = torch.arange(3, 12)[None]
    if quantization == "none":
        assert torch.equal(model(input_ids=ids).logits, whole(input_ids=ids).logits)
    else:
        whole.save_pretrained(tmp_path / "parts", max_shard_size="100KB")
        toy("gemma-3-270m")[1].save_pretrained(tmp_path / "parts")
        assert len([*(tmp_path / "parts").glob("*.safetensors")]) > 1
        check_same_network(sharded(replace(settings, toy=False, path=str(tmp_path / "parts"))), model)


@pytest.mark.usefixtures("alone_in_a_group")
def test_weights_that_are_not_all_there_are_refused(tmp_path: Path) -> None:
    seeing(tmp_path)
    held = load_file(tmp_path / "model.safetensors")
    save_file({name: held[name] for name in held if "up_proj" not in name}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"lacks 2 of the model's weights, model.layers.0.mlp.up_proj.weight among"):
        load_network(model_config("gemma-3-27b", dtype="float32"), tmp_path)
    toy("gemma-3-270m")[1].save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"lacks 2 of the model's weights, model.layers.0.mlp.up_proj.weight among"):
        sharded(model_config("gemma-3-27b", dtype="float32", quantization="nf4", toy=False, path=str(tmp_path)))


def test_a_base_in_4_bits_passes_gradients_on_after_it_was_read_for_inference(tmp_path: Path) -> None:
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


def test_a_toy_loaded_as_a_base_is_frozen_and_in_evaluation_mode(tmp_path: Path) -> None:
    paths = SimpleNamespace(cache=str(tmp_path))
    model, _ = load_base(model_config("llama-2-7b"), paths, Progress())
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_identity_follows_the_header_of_the_weights_and_not_their_path(tmp_path: Path) -> None:
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


def test_a_folder_without_weights_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(UserError) as caught:
        check_weights(model_config("llama-2-7b", toy=False, path=str(tmp_path)))
    assert str(tmp_path) in str(caught.value) and str(caught.value).count("\n") == 0


def test_without_the_hub_missing_weights_are_told_in_one_sentence(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))  # read at import
    with pytest.raises(UserError) as caught:
        check_weights(model_config("llama-2-7b", toy=False))
    assert "meta-llama/Llama-2-7b-hf" in str(caught.value) and "HF_HUB_OFFLINE" in str(caught.value)
    assert one_sentence(caught.value)


def test_weights_in_the_hub_cache_are_found_without_the_hub(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--meta-llama--Llama-2-7b-hf"
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    save_file({"a": torch.zeros(1)}, snapshot / "model.safetensors")
    found = model_config("llama-2-7b", toy=False)
    check_weights(found)
    assert locate_weights(found, tmp_path / "cache", Progress()) == snapshot


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
