"""What tests share: model configs of `conf/model`, toy models of them, and composed experiments."""

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
from selfspec.models.toy import build_toy
from selfspec.prompts.templates import PromptRenderer
from selfspec.tuning.batches import EncodedExample

CONF = PROJECT / "conf"


PROJECT = Path(__file__).parents[1]


NAMES = tuple(sorted(path.stem for path in (PROJECT / "conf" / "model").glob("*.yaml")))


def model_config(name: str, **changes: Any) -> ModelConfig:
    """`conf/model/<name>.yaml` with `toy=True` and `changes`."""
    plain: Any = OmegaConf.to_container(OmegaConf.load(PROJECT / "conf" / "model" / f"{name}.yaml"))
    return replace(dacite.from_dict(ModelConfig, plain), **{"toy": True, **changes})


def tuning_config(**changes: Any) -> TuningConfig:
    """`conf/tuning/default.yaml` with `changes`."""
    plain: Any = OmegaConf.to_container(OmegaConf.load(PROJECT / "conf" / "tuning" / "default.yaml"))
    return replace(dacite.from_dict(TuningConfig, plain), **changes)


def prompts(**changes: Any) -> PromptRenderer:
    """The renderer of `conf/prompts/default.yaml` with `changes`."""
    plain: Any = OmegaConf.to_container(OmegaConf.load(PROJECT / "conf" / "prompts" / "default.yaml"))
    return PromptRenderer(replace(dacite.from_dict(PromptsConfig, plain, dacite.Config(cast=[tuple])), **changes))


def toy(name: str, **architecture: Any) -> tuple[Any, Any]:
    """A fresh toy (model, tokenizer), `architecture` changing its numbers: the same weights at every call."""
    found = model_config(name)
    model, tokenizer = build_toy(replace(found, toy_architecture={**found.toy_architecture, **architecture}))
    return model.requires_grad_(False).eval(), tokenizer


def experiment(folder: Path, *overrides: str) -> Config:
    """The frozen config that a command line would give, on a toy, with all its paths under `folder`."""
    register_schema()
    register_resolvers(PROJECT)
    own = [f"paths.{name}={folder / name}" for name in ("store", "cache", "output")]
    with initialize_config_dir(config_dir=str(PROJECT / "conf"), version_base=None):
        composed = compose("config", overrides=["model.toy=true", "logger=none", *own, *overrides])
        return validate(freeze(composed))


def collapsed(names: Any) -> set[str]:
    """Module or parameter names without the numbers of their layers."""
    return {re.sub(r"\.\d+(?=\.|$)", ".N", name) for name in names}


def shuffle_adapter(model: Any) -> Any:
    """`model` with LoRA on all linear layers that is far from doing nothing."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    settings = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    return get_peft_model(model, settings)


def naive_loss(model: Any, row: EncodedExample) -> Any:
    """Cross-entropy summed over the response's tokens, from the logits of every position of the one row."""
    import torch

    ids = torch.tensor([[*row.prompt, *row.response]])
    logprobs = model(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1)
    first = len(row.prompt) - 1
    return -sum(logprobs[first + place, token] for place, token in enumerate(row.response))


def sharpen(model: Any, factor: float = 10.0) -> Any:
    """`model` with larger matrices: as first drawn, a toy hardly attends, and mistakes in attention would hide."""
    import torch

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Linear) and module is not model.get_output_embeddings():
                module.weight.mul_(factor)
    return model


def bracketed(tokenizer: Any) -> Any:
    """`tokenizer` as many published ones are: with a begin token before each text, here an end token behind it too."""
    from tokenizers.processors import TemplateProcessing

    ids = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<bos>", "<eos>")]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<bos> $A <eos>", special_tokens=ids)
    return tokenizer


def composed(*overrides: str) -> Config:
    """The config of some overrides, frozen and checked as a run's."""
    register_schema()
    register_resolvers(PROJECT)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return validate(freeze(compose("config", [*overrides, "paths.output=/tmp/selfspec"])))
