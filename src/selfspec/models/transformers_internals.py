"""Internals of transformers that selfspec reads or replaces; no other module touches them.

None of these names is part of transformers' public interface. They were read in the versions below;
tests/unit/test_library_internals.py fails when one of them changes its name, its signature or its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

if TYPE_CHECKING:
    from torch import nn

TRANSFORMERS_VERSIONS = ">=5.20,<6"


@contextmanager
def after_each_decoder_layer(function: Callable[[nn.Module], None]) -> Iterator[None]:
    """Call `function` with each decoder layer of a model that loads, as soon as all weights of the layer are there.

    `from_pretrained` reads weights in the order of their names, quantizes each, and sets it with
    `set_param_for_module`. Its warm-up of the GPU allocator is off, since that reserves memory for the whole model.
    """
    from transformers import core_model_loading, modeling_utils

    set_parameter = core_model_loading.set_param_for_module

    def set_parameter_and_check(model: Any, name: str, *arguments: Any) -> None:
        set_parameter(model, name, *arguments)
        path = name.split(".")
        for module in (model.get_submodule(".".join(path[:depth])) for depth in range(1, len(path))):
            if is_decoder_layer(module, model) and not any(parameter.is_meta for parameter in module.parameters()):
                function(module)

    with (
        patch.object(core_model_loading, "set_param_for_module", set_parameter_and_check),
        patch.object(modeling_utils, "caching_allocator_warmup", lambda *_: None),
    ):
        yield


def is_decoder_layer(module: nn.Module, model: Any) -> bool:
    """Whether `module` is one of the layers that transformers never splits between devices."""
    return type(module).__name__ in model._no_split_modules


def mark_initialized(module: nn.Module) -> None:
    """Keep `from_pretrained` from drawing new values for parameters that were replaced while it read weights."""
    for parameter in module.parameters():
        parameter._is_hf_initialized = True  # type: ignore[attr-defined]


def attention_name(model: Any) -> str:
    """The attention implementation that a model uses; `set_attn_implementation` sets it."""
    return str(model.config._attn_implementation)


def accepts_registered_attention(model: Any) -> bool:
    """Whether a model takes a function of `AttentionInterface`, and torch's own attention can compute what it needs."""
    return bool(getattr(model, "_supports_attention_backend", False) and model._supports_sdpa)


@contextmanager
def torch_linear_in_falcon() -> Iterator[None]:
    """Build Falcon with torch's linear layer in place of Falcon's own, which bitsandbytes would not quantize."""
    from torch.nn import Linear
    from transformers.models.falcon import modeling_falcon

    with patch.object(modeling_falcon, "FalconLinear", Linear):
        yield
