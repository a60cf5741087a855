"""Shared by tests: model configs of `conf/model`, their toy models, and configs composed from a command line."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import dacite
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from conftest import PROJECT
from selfspec.config.composition import freeze, register_schema
from selfspec.config.resolvers import register_resolvers
from selfspec.config.schema import Config, ModelConfig, PromptsConfig, TuningConfig
from selfspec.config.validation import validate
from selfspec.launch.preparation import check_parts
from selfspec.models.toy import build_toy
from selfspec.prompts.templates import PromptRenderer
from selfspec.tuning.batches import EncodedExample

CONF = PROJECT / "conf"
MODEL_NAMES = tuple(sorted(path.stem for path in (CONF / "model").glob("*.yaml")))


def model_config(name: str, **changes: Any) -> ModelConfig:
    """`conf/model/<name>.yaml` with `toy=True` and `changes`."""
    values: Any = OmegaConf.to_container(OmegaConf.load(CONF / "model" / f"{name}.yaml"))
    return replace(dacite.from_dict(ModelConfig, values), **{"toy": True, **changes})


def tuning_config(**changes: Any) -> TuningConfig:
    """`conf/tuning/default.yaml` with `changes`."""
    values: Any = OmegaConf.to_container(OmegaConf.load(CONF / "tuning" / "default.yaml"))
    return replace(dacite.from_dict(TuningConfig, values), **changes)


def prompts(**changes: Any) -> PromptRenderer:
    """The renderer of `conf/prompts/default.yaml` with `changes`."""
    plain: Any = OmegaConf.to_container(OmegaConf.load(PROJECT / "conf" / "prompts" / "default.yaml"))
    return PromptRenderer(replace(dacite.from_dict(PromptsConfig, plain, dacite.Config(cast=[tuple])), **changes))


def toy(name: str, **architecture: Any) -> tuple[Any, Any]:
    """A new toy (model, tokenizer) with changes to its architecture; every call gives the same weights."""
    config = model_config(name)
    model, tokenizer = build_toy(replace(config, toy_architecture={**config.toy_architecture, **architecture}))
    return model.requires_grad_(False).eval(), tokenizer


def toy_experiment(folder: Path, *overrides: str) -> Config:
    """The validated config of a command line with a toy model and all paths under `folder`."""
    register_schema()
    register_resolvers(PROJECT)
    paths = [f"paths.{name}={folder / name}" for name in ("store", "cache", "output")]
    with initialize_config_dir(config_dir=str(CONF), version_base=None):
        config = validate(freeze(compose("config", overrides=["model.toy=true", "logger=none", *paths, *overrides])))
    check_parts(config)
    return config


def without_layer_numbers(names: Any) -> set[str]:
    """Module or parameter names, with N for the number of the layer."""
    return {re.sub(r"\.\d+(?=\.|$)", ".N", name) for name in names}


def with_random_adapter(model: Any) -> Any:
    """`model` with LoRA on all linear layers, whose B is random too, so that the adapter changes the outputs."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    lora = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    return get_peft_model(model, lora)


def naive_loss(model: Any, row: EncodedExample) -> Any:
    """Cross-entropy summed over the response tokens of one row that is computed alone, with logits at all positions."""
    import torch

    ids = torch.tensor([[*row.prompt, *row.response]])
    logprobs = model(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1)
    first = len(row.prompt) - 1
    return -sum(logprobs[first + position, token] for position, token in enumerate(row.response))


def scale_linear_weights(model: Any, factor: float = 10.0) -> Any:
    """Scale all linear weights up: at its initial scale a toy's attention is nearly uniform and would hide errors."""
    import torch

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Linear) and module is not model.get_output_embeddings():
                module.weight.mul_(factor)
    return model


def with_bos_and_eos(tokenizer: Any) -> Any:
    """Make a tokenizer add <bos> before each text, as many published ones do, and <eos> after it."""
    from tokenizers.processors import TemplateProcessing

    ids = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<bos>", "<eos>")]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<bos> $A <eos>", special_tokens=ids)
    return tokenizer


def compose_config(*overrides: str) -> Config:
    """The validated config of a command line."""
    register_schema()
    register_resolvers(PROJECT)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = validate(freeze(compose("config", [*overrides, "paths.output=/tmp/selfspec"])))
    check_parts(config)
    return config
