"""Loading a base model, with or without an adapter, for inference or for tuning."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from selfspec.config import ModelConfig, PathsConfig
from selfspec.models import toy, weights
from selfspec.reporting.progress import Progress


def device() -> torch.device:
    """A GPU where there is one, else the processor."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def dtype(model: ModelConfig) -> torch.dtype:
    """The numbers' type: bfloat16 where the hardware multiplies it, else float32."""
    if model.dtype != "auto":
        return getattr(torch, model.dtype)  # type: ignore[no-any-return]
    if model.toy:
        return torch.float32
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32


def base(model: ModelConfig, paths: PathsConfig, progress: Progress) -> tuple[Any, Any]:
    """(model, tokenizer) of the frozen base, in evaluation mode; the last one loaded is kept for the next stage."""
    folder = None if model.toy else weights.locate(model, Path(paths.cache), progress)
    return _loaded(_Key(model), folder)


@contextmanager
def adapted(base_model: Any, adapter: Path | None) -> Iterator[Any]:
    """The base with an adapter on it (or plain), as it was afterwards."""
    if adapter is None:
        yield base_model
        return
    from peft import PeftModel

    model = PeftModel.from_pretrained(base_model, adapter)
    try:
        yield model.eval()
    finally:
        model.unload()


class _Key:
    """A model config as an argument that `lru_cache` can hash (it holds dictionaries)."""

    def __init__(self, model: ModelConfig) -> None:
        self.model = model

    def __hash__(self) -> int:
        return hash(repr(self.model))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and other.model == self.model


@lru_cache(maxsize=1)
def _loaded(key: _Key, folder: Path | None) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = key.model
    if folder is None:
        network, tokenizer = toy.build(model, dtype(model))
    else:
        trust = {"trust_remote_code": model.trust_remote_code}
        network = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype(model), use_safetensors=True, attn_implementation=None, **trust
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, **trust)
    network.requires_grad_(False)
    return network.to(device()).eval(), tokenizer  # the number type is loaded: rotary frequencies stay in float32
