"""Load a base model, with or without an adapter, for inference or for tuning."""

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
from selfspec.models.nf4 import QUANTIZATION_MMAP_BYTES, keep_differentiable, nf4_config
from selfspec.models.toy import write_toy
from selfspec.models.transformers_internals import torch_linear_in_falcon
from selfspec.models.weights import locate_weights, weights_identity
from selfspec.prompts.chat import with_prompt_style
from selfspec.runtime.machine import has_native_bf16, mmap_large_blocks
from selfspec.runtime.progress import Progress

# `key_mapping` of `from_pretrained`: weight names of the language model inside a vision-language checkpoint.
LANGUAGE_MODEL_NAMES = {r"^(model\.)?language_model\.(model\.)?": "model."}

# Why a model's output is not finite, and what to do: the end of a sentence.
NON_FINITE_ADVICE = "the weights are damaged or too large for model.dtype; download them again, or set another dtype"


def default_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def resolve_dtype(model: ModelConfig) -> torch.dtype:
    """The dtype of the weights; `auto` is bfloat16 where it is natively supported, else float32."""
    if model.dtype != "auto":
        return getattr(torch, model.dtype)  # type: ignore[no-any-return]
    return torch.bfloat16 if has_native_bf16() and not model.toy else torch.float32


def load_base(model: ModelConfig, paths: PathsConfig, progress: Progress) -> tuple[Any, Any]:
    """Load the frozen base model in evaluation mode, and its tokenizer.

    The last one loaded stays in memory for the next stage of this process.

    Returns:
        (model, tokenizer)
    """
    folder = None if model.toy else locate_weights(model, Path(paths.cache), progress)
    return _load_cached(model, folder, weights_identity(model))


@lru_cache(maxsize=1)
def _load_cached(model: ModelConfig, folder: Path | None, _identity: str) -> tuple[Any, Any]:
    """The base; `_identity` is part of the cache's key, because files in `model.path` may change during a sweep."""
    with model_files(model, folder) as files:
        network = load_network(model, files)
        if model.quantization == "none":  # moved, not cast: rotary frequencies stay in float32
            network.to(default_device())
        return network, load_tokenizer(model, files)


def forget_base() -> None:
    """Drop the base that is kept for the next stage, because its weights were changed."""
    _load_cached.cache_clear()


@contextmanager
def forget_base_on_error() -> Iterator[None]:
    """Drop the base that is kept for the next stage if the block fails: PEFT may have changed some of its layers."""
    try:
        yield
    except BaseException:
        forget_base()
        raise


def load_network(model: ModelConfig, folder: Path, **placement: Any) -> Any:
    """Load the frozen model from a folder of safetensors, in evaluation mode.

    Args:
        model: Its config.
        folder: Of `config.json` and the safetensors.
        placement: Arguments of `from_pretrained` that say where the weights go, such as `device_map`.

    Raises:
        UserError: some weights are missing, which transformers would initialise at random.
    """
    from transformers import AutoModelForCausalLM

    dtype = resolve_dtype(model)
    options = {"config": read_text_config(model, folder), "key_mapping": LANGUAGE_MODEL_NAMES, "use_safetensors": True}
    options |= {"trust_remote_code": model.trust_remote_code, "output_loading_info": True, **placement}
    if model.quantization == "nf4":
        with torch_linear_in_falcon(), mmap_large_blocks(QUANTIZATION_MMAP_BYTES):
            options |= {"quantization_config": nf4_config(dtype), "device_map": {"": default_device()}}
            network, info = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **options)
        keep_differentiable(network)
    else:
        network, info = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **options)
    if missing := sorted(info["missing_keys"]):
        raise UserError(
            f"{folder} lacks {len(missing)} of the model's weights, such as {missing[0]}; download the model again."
        )
    return network.requires_grad_(False).eval()


def read_text_config(model: ModelConfig, folder: Path) -> Any:
    """The transformers config in a folder; of a vision-language model, that of its language model."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder, trust_remote_code=model.trust_remote_code).get_text_config()


def load_tokenizer(model: ModelConfig, folder: Path) -> Any:
    """Load the tokenizer from the folder of the weights."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=model.trust_remote_code)
    return with_prompt_style(tokenizer, model)


@contextmanager
def model_files(model: ModelConfig, folder: Path | None) -> Iterator[Path]:
    """The folder of a model's safetensors and tokenizer; those of a toy (`folder=None`) are temporary."""
    if folder:
        yield folder
        return
    with TemporaryDirectory(prefix="selfspec-toy-") as toy_folder:
        write_toy(model, Path(toy_folder))
        yield Path(toy_folder)


@contextmanager
def with_adapter(base_model: Any, adapter: Path | None) -> Iterator[Any]:
    """The base model with an adapter attached, or alone if `adapter` is None; the adapter is removed on exit."""
    if adapter is None:
        yield base_model
        return
    from peft import PeftModel

    with forget_base_on_error():
        model = PeftModel.from_pretrained(base_model, adapter)
    try:
        yield model.eval()
    finally:
        with forget_base_on_error():
            model.unload()
