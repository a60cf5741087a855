"""Layers and parameter counts of a model, computed from its transformers config without weights or torch.

Known families, those of `conf/model`: decoders with a gated MLP (Llama, Mistral, Qwen 3, OLMo 2, Gemma 3), Falcon and
MPT. Tests compare the counts with the real architectures.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from selfspec.config.schema import LoraConfig, ModelConfig
from selfspec.config.tuning_schema import ALL_LINEAR
from selfspec.models.toy import TOY_VOCABULARY_SIZE
from selfspec.runtime.file_version import FileVersion, file_version


@dataclass(frozen=True)
class Linear:
    """One linear layer of a decoder layer."""

    name: str
    in_features: int
    out_features: int
    bias: bool = False

    @property
    def num_weights(self) -> int:
        """Weights without biases."""
        return self.in_features * self.out_features

    @property
    def num_parameters(self) -> int:
        """Weights and biases."""
        return self.num_weights + self.bias * self.out_features


@dataclass(frozen=True)
class Norms:
    """The normalisation layers of a decoder layer."""

    num_norms: int  # over the hidden states, in one decoder layer
    num_parameters: int  # of each of them
    in_float32: bool  # computed in float32: a copy of the input is kept for the backward pass
    num_inputs: int  # distinct inputs: two norms may read the same states
    qk_size: int = 0  # query and key values a token that are normalised, 0 without QK norms
    num_qk_parameters: int = 0


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder; all decoder layers have the same."""

    model_type: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    head_dim: int
    num_cached_heads: int  # heads of keys, and of values, in the KV cache
    intermediate_size: int
    gated_mlp: bool
    linear_layers: tuple[Linear, ...]  # of one decoder layer
    norms: Norms
    tied_embeddings: bool  # the output head shares the weights of the embedding

    @property
    def num_layer_parameters(self) -> int:
        """Parameters of one decoder layer."""
        norms = self.norms.num_norms * self.norms.num_parameters + self.norms.num_qk_parameters
        return sum(layer.num_parameters for layer in self.linear_layers) + norms

    @property
    def num_outer_parameters(self) -> int:
        """Parameters outside the decoder layers, which are never quantized: embedding, output head, last norm."""
        matrices = 1 if self.tied_embeddings else 2
        return matrices * self.vocab_size * self.hidden_size + self.norms.num_parameters

    @property
    def num_parameters(self) -> int:
        """All parameters; shared ones count once."""
        return self.num_layers * self.num_layer_parameters + self.num_outer_parameters

    @property
    def num_largest_weights(self) -> int:
        """Weights of the largest linear layer."""
        return max(layer.num_weights for layer in self.linear_layers)

    @property
    def num_cached_values(self) -> int:
        """Numbers that the KV cache holds for one token, in all layers."""
        return 2 * self.num_layers * self.num_cached_heads * self.head_dim

    def adapted_layers(self, lora: LoraConfig) -> tuple[Linear, ...]:
        """The linear layers of one decoder layer that PEFT adapts for `lora.target_modules`."""
        if lora.target_modules == (ALL_LINEAR,):
            return self.linear_layers
        names = {name.rpartition(".")[2] for name in lora.target_modules}
        return tuple(layer for layer in self.linear_layers if layer.name in names)

    def num_adapter_parameters(self, lora: LoraConfig) -> int:
        """Parameters of the adapter: A and B of each adapted layer, and with DoRA one magnitude an output."""
        per_layer = (
            lora.r * (layer.in_features + layer.out_features) + lora.dora * layer.out_features
            for layer in self.adapted_layers(lora)
        )
        return self.num_layers * sum(per_layer)


def has_known_targets(model: ModelConfig, lora: LoraConfig) -> bool:
    """Whether `lora.target_modules` names linear layers of a known architecture, so that no check needs torch."""
    if lora.target_modules == (ALL_LINEAR,):
        return True
    shape = model_shape(model)
    return shape is not None and {layer.name for layer in shape.linear_layers}.issuperset(lora.target_modules)


def model_shape(model: ModelConfig) -> Shape | None:
    """The shape of a model; None for an unknown architecture."""
    if model.toy:
        return shape_from_config({**model.architecture, **model.toy_architecture, "vocab_size": TOY_VOCABULARY_SIZE})
    return shape_from_config(local_architecture(model.path) or model.architecture)


def shape_from_config(architecture: Mapping[str, Any]) -> Shape | None:
    """The shape that a transformers config describes; None for an unknown architecture."""
    build_shape = _FAMILIES.get(str(architecture.get("model_type")))
    try:
        return build_shape(architecture) if build_shape else None
    except (KeyError, TypeError, ZeroDivisionError):
        return None


def local_architecture(folder: str | None) -> dict[str, Any] | None:
    """The `config.json` in `model.path`, which replaces the architecture of `conf/model`."""
    path = Path(folder or ".") / "config.json"
    return _read_text_config(file_version(path)) if folder and path.exists() else None


@lru_cache(maxsize=8)
def _read_text_config(file: FileVersion) -> dict[str, Any] | None:
    try:
        config = json.loads(file.path.read_text())
    except ValueError:
        return None
    return config.get("text_config", config) if isinstance(config, dict) else None


def _gated_mlp_shape(config: Mapping[str, Any]) -> Shape:
    """Llama and the architectures derived from it."""
    model_type = str(config["model_type"])
    hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
    kv_heads = int(config.get("num_key_value_heads") or heads)
    head_dim, intermediate = int(config.get("head_dim") or hidden // heads), int(config["intermediate_size"])
    attention_bias, mlp_bias = bool(config.get("attention_bias")), bool(config.get("mlp_bias"))
    linear_layers = (
        Linear("q_proj", hidden, heads * head_dim, attention_bias),
        Linear("k_proj", hidden, kv_heads * head_dim, attention_bias),
        Linear("v_proj", hidden, kv_heads * head_dim, attention_bias),
        Linear("o_proj", heads * head_dim, hidden, attention_bias),
        Linear("gate_proj", hidden, intermediate, mlp_bias),
        Linear("up_proj", hidden, intermediate, mlp_bias),
        Linear("down_proj", intermediate, hidden, mlp_bias),
    )
    qk_size = (heads + kv_heads) * head_dim if model_type in ("qwen3", "gemma3_text", "olmo2") else 0
    # OLMo 2 normalises all heads together, the others each head with the same weights.
    num_qk_parameters = qk_size if model_type == "olmo2" else 2 * head_dim if qk_size else 0
    num_norms = 4 if model_type == "gemma3_text" else 2
    return Shape(
        model_type,
        int(config["vocab_size"]),
        hidden,
        int(config["num_hidden_layers"]),
        heads,
        head_dim,
        kv_heads,
        intermediate,
        gated_mlp=True,
        linear_layers=linear_layers,
        norms=Norms(num_norms, hidden, True, num_norms, qk_size, num_qk_parameters),
        tied_embeddings=bool(config.get("tie_word_embeddings", model_type == "gemma3_text")),
    )


def _falcon_shape(config: Mapping[str, Any]) -> Shape:
    """Falcon with the old or the new decoder architecture.

    The new one has one key and one value for each group of heads, and caches a copy of them for every head.
    """
    hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
    head_dim, bias = hidden // heads, bool(config.get("bias"))
    is_new, is_parallel = bool(config.get("new_decoder_architecture")), bool(config.get("parallel_attn", True))
    old_kv_heads = 1 if config.get("multi_query", True) else heads
    kv_heads = int(config.get("num_kv_heads") or heads) if is_new else old_kv_heads
    intermediate = int(config.get("ffn_hidden_size") or 4 * hidden)
    linear_layers = (
        Linear("query_key_value", hidden, (heads + 2 * kv_heads) * head_dim, bias),
        Linear("dense", hidden, hidden, bias),
        Linear("dense_h_to_4h", hidden, intermediate, bias),
        Linear("dense_4h_to_h", intermediate, hidden, bias),
    )
    old_norms = 1 if is_parallel else 2
    num_norms = int(config.get("num_ln_in_parallel_attn") or 2) if is_new and is_parallel else old_norms
    return Shape(
        "falcon",
        int(config["vocab_size"]),
        hidden,
        int(config["num_hidden_layers"]),
        heads,
        head_dim,
        heads if is_new else kv_heads,
        intermediate,
        gated_mlp=False,
        linear_layers=linear_layers,
        norms=Norms(num_norms, 2 * hidden, False, old_norms),  # weight and bias
        tied_embeddings=bool(config.get("tie_word_embeddings", True)),
    )


def _mpt_shape(config: Mapping[str, Any]) -> Shape:
    """MPT, without biases."""
    hidden, heads = int(config["d_model"]), int(config["n_heads"])
    intermediate = int(config.get("expansion_ratio", 4)) * hidden
    linear_layers = (
        Linear("Wqkv", hidden, 3 * hidden),
        Linear("out_proj", hidden, hidden),
        Linear("up_proj", hidden, intermediate),
        Linear("down_proj", intermediate, hidden),
    )
    return Shape(
        "mpt",
        int(config["vocab_size"]),
        hidden,
        int(config["n_layers"]),
        heads,
        hidden // heads,
        heads,
        intermediate,
        gated_mlp=False,
        linear_layers=linear_layers,
        norms=Norms(2, hidden, False, 2),
        tied_embeddings=bool(config.get("tie_word_embeddings", True)),
    )


_FAMILIES: dict[str, Callable[[Mapping[str, Any]], Shape]] = {
    **dict.fromkeys(("llama", "mistral", "qwen3", "olmo2", "gemma3_text"), _gated_mlp_shape),
    "falcon": _falcon_shape,
    "mpt": _mpt_shape,
}
