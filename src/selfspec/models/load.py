"""Loading a base model, with or without an adapter, for inference or for tuning."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from selfspec.config.schema import ModelConfig, PathsConfig
from selfspec.errors import UserError
from selfspec.models.nf4 import MMAP_BLOCK_BYTES, keep_differentiable, nf4_config
from selfspec.models.toy import write_toy
from selfspec.models.transformers_internals import torch_linear_in_falcon
from selfspec.models.weights import locate_weights
from selfspec.prompts.chat import with_prompt_style
from selfspec.runtime.machine import mmap_large_blocks
from selfspec.runtime.progress import Progress

LANGUAGE_MODEL_NAMES = {
    r"^(model\.)?language_model\.(model\.)?": "model."
}  # its weights' names in a model that also sees


def default_device() -> torch.device:
    """A GPU where there is one, else the processor."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def resolve_dtype(model: ModelConfig) -> torch.dtype:
    """The numbers' type: bfloat16 where the hardware multiplies it, else float32."""
    if model.dtype != "auto":
        return getattr(torch, model.dtype)  # type: ignore[no-any-return]
    if model.toy:
        return torch.float32
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32


def load_base(model: ModelConfig, paths: PathsConfig, progress: Progress) -> tuple[Any, Any]:
    """(model, tokenizer) of the frozen base, in evaluation mode; the last one loaded is kept for the next stage."""
    folder = None if model.toy else locate_weights(model, Path(paths.cache), progress)
    return _load_cached(_HashableConfig(model), folder)


def forget_base() -> None:
    """Drop the base that is kept for the next stage, because its weights were changed."""
    _load_cached.cache_clear()


def load_network(model: ModelConfig, folder: Path, **placed: Any) -> Any:
    """The frozen model of a folder of safetensors, in evaluation mode; `placed` says to `from_pretrained` where.

    Raises:
        UserError: the folder lacks some of the weights, which transformers would draw at random.
    """
    from transformers import AutoModelForCausalLM

    told = {"config": read_text_config(model, folder), "key_mapping": LANGUAGE_MODEL_NAMES, "use_safetensors": True}
    told |= {"trust_remote_code": model.trust_remote_code, "output_loading_info": True, **placed}
    if model.quantization == "nf4":
        with torch_linear_in_falcon(), mmap_large_blocks(MMAP_BLOCK_BYTES):
            told |= {"quantization_config": nf4_config(resolve_dtype(model)), "device_map": {"": default_device()}}
            made, found = AutoModelForCausalLM.from_pretrained(folder, dtype=resolve_dtype(model), **told)
        keep_differentiable(made)
    else:
        made, found = AutoModelForCausalLM.from_pretrained(folder, dtype=resolve_dtype(model), **told)
    if missing := sorted(found["missing_keys"]):
        raise UserError(f"{folder} lacks {len(missing)} of the model's weights, {missing[0]} among them; get it anew.")
    return made.requires_grad_(False).eval()


def read_text_config(model: ModelConfig, folder: Path) -> Any:
    """The config of the language model in a folder, whose model may also see."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder, trust_remote_code=model.trust_remote_code).get_text_config()


@contextmanager
def model_files(model: ModelConfig, folder: Path | None) -> Iterator[Path]:
    """The folder of a model's safetensors and tokenizer; a toy's are written for as long as the block lasts."""
    if folder:
        yield folder
        return
    with TemporaryDirectory(prefix="selfspec-toy-") as written:
        write_toy(model, Path(written))
        yield Path(written)


@contextmanager
def with_adapter(base_model: Any, adapter: Path | None) -> Iterator[Any]:
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


class _HashableConfig:
    """A model config as an argument that `lru_cache` can hash (it holds dictionaries)."""

    def __init__(self, model: ModelConfig) -> None:
        self.model = model

    def __hash__(self) -> int:
        return hash(repr(self.model))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _HashableConfig) and other.model == self.model


@lru_cache(maxsize=1)
def _load_cached(key: _HashableConfig, folder: Path | None) -> tuple[Any, Any]:
    with model_files(key.model, folder) as place:
        made = load_network(key.model, place)
        if key.model.quantization == "none":  # moved, not cast: rotary frequencies stay in float32
            made.to(default_device())
        return made, load_tokenizer(key.model, place)


def load_tokenizer(model: ModelConfig, folder: Path) -> Any:
    """The tokenizer beside a model's weights."""
    from transformers import AutoTokenizer

    made = AutoTokenizer.from_pretrained(folder, trust_remote_code=model.trust_remote_code)
    return with_prompt_style(made, model)
