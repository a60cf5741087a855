"""The modules of a base model without its weights: its architecture on the meta device."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from selfspec.config.schema import ModelConfig
from selfspec.runtime.file_version import FileVersion, file_version


def build_on_meta(config: Any) -> Any:
    """The network that a transformers config describes, without memory for its weights."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def meta_network(model: ModelConfig) -> Any:
    """The network of `config.json` in `model.path`, else of `model.architecture`; None if it can't be built."""
    path = Path(model.path or ".") / "config.json"
    return _meta_network(model, file_version(path) if model.path and not model.toy and path.exists() else None)


@lru_cache(maxsize=8)  # the jobs of a sweep share few models
def _meta_network(model: ModelConfig, file: FileVersion | None) -> Any:
    from transformers import AutoConfig

    from selfspec.models.load import read_text_config

    architecture = {**model.architecture, **(model.toy_architecture if model.toy else {})}
    try:
        if file:
            return build_on_meta(read_text_config(model, file.path.parent))
        return build_on_meta(AutoConfig.for_model(architecture.pop("model_type"), **architecture))
    except Exception:  # of any type: loading the model will report it
        return None
