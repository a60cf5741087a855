"""What a model is made of, counted from its architecture's numbers: no weights, no torch.

The families that `conf/model` has are known: decoders with a gated MLP (Llama, Mistral, Qwen 3, OLMo 2, Gemma 3),
Falcon, MPT. Tests hold the counts against the real architectures.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from selfspec.config.schema import LoraConfig, ModelConfig
from selfspec.models.toy import TOY_VOCABULARY_SIZE

ALL_LINEAR = ("all-linear",)  # of `lora.target_modules`


@dataclass(frozen=True)
class Linear:
    """One linear layer of every decoder layer."""

    name: str
    inputs: int
    outputs: int
    bias: bool = False

    @property
    def parameters(self) -> int:
        """Weights and biases."""
        return self.inputs * self.outputs + self.bias * self.outputs


@dataclass(frozen=True)
class Norms:
    """Normalisation before or behind parts of a decoder layer."""

    count: int  # over the hidden states, a decoder layer
    parameters: int  # of one of those
    exact: bool  # computed in float32: a copy of what goes in is kept for the backward pass
    inputs: int  # distinct ones: two norms may read the same
    heads: int = 0  # numbers a token of queries and keys that are normalised as well
    head_parameters: int = 0


@dataclass(frozen=True)
class Shape:
    """A decoder, in numbers. All decoder layers are alike."""

    family: str
    vocabulary: int
    hidden: int
    layers: int
    heads: int
    head_size: int
    kept_heads: int  # of keys and values, as the cache holds them
    inner: int  # numbers a token inside the MLP
    gated: bool
    linear: tuple[Linear, ...]  # of one decoder layer
    norms: Norms
    tied: bool  # the output head is the embedding
    rotary: bool = True

    @property
    def layer_parameters(self) -> int:
        """Of one decoder layer."""
        norms = self.norms.count * self.norms.parameters + self.norms.head_parameters
        return sum(layer.parameters for layer in self.linear) + norms

    @property
    def outer_parameters(self) -> int:
        """Embedding, output head, last norm: what is in no decoder layer, and is never quantised."""
        return (1 if self.tied else 2) * self.vocabulary * self.hidden + self.norms.parameters

    @property
    def parameters(self) -> int:
        """In all; a shared one is counted once."""
        return self.layers * self.layer_parameters + self.outer_parameters

    @property
    def largest(self) -> int:
        """Weights of the largest linear layer."""
        return max(layer.inputs * layer.outputs for layer in self.linear)

    @property
    def kept_numbers(self) -> int:
        """Keys and values of one token, in all layers."""
        return 2 * self.layers * self.kept_heads * self.head_size

    def adapted(self, lora: LoraConfig) -> tuple[Linear, ...]:
        """The linear layers of one decoder layer that LoRA takes, as PEFT reads `lora.target_modules`."""
        if lora.target_modules == ALL_LINEAR:
            return self.linear
        names = {name.rpartition(".")[2] for name in lora.target_modules}
        return tuple(layer for layer in self.linear if layer.name in names)

    def trainable(self, lora: LoraConfig) -> int:
        """Parameters of the adapter: A and B of each layer, and with DoRA a magnitude an output."""
        one = (lora.r * (layer.inputs + layer.outputs) + lora.dora * layer.outputs for layer in self.adapted(lora))
        return self.layers * sum(one)


def model_shape(model: ModelConfig) -> Shape | None:
    """The shape of a model; None for an architecture that is not known here."""
    if model.toy:
        return shape_from_config({**model.architecture, **model.toy_architecture, "vocab_size": TOY_VOCABULARY_SIZE})
    return shape_from_config(_config_beside_weights(model.path) or model.architecture)


def shape_from_config(architecture: Mapping[str, Any]) -> Shape | None:
    """The shape that a transformers config describes; None for one that is not known here."""
    read = _FAMILIES.get(str(architecture.get("model_type")))
    try:
        return read(architecture) if read else None
    except (KeyError, TypeError, ZeroDivisionError):
        return None


def _config_beside_weights(path: str | None) -> dict[str, Any] | None:
    """The `config.json` beside weights of the user's own, which `conf/model` knows nothing of."""
    file = Path(path or ".") / "config.json"
    return _read(file, file.stat().st_mtime_ns) if path and file.exists() else None


@lru_cache(maxsize=8)
def _read(file: Path, _: int) -> dict[str, Any] | None:
    try:
        found = json.loads(file.read_text())
    except ValueError:
        return None
    return found.get("text_config", found) if isinstance(found, dict) else None


def _gated(numbers: Mapping[str, Any]) -> Shape:
    """Llama and its kin."""
    family, hidden, heads = str(numbers["model_type"]), int(numbers["hidden_size"]), int(numbers["num_attention_heads"])
    kept = int(numbers.get("num_key_value_heads") or heads)
    size, inner = int(numbers.get("head_dim") or hidden // heads), int(numbers["intermediate_size"])
    biased, in_mlp = bool(numbers.get("attention_bias")), bool(numbers.get("mlp_bias"))
    linear = (
        Linear("q_proj", hidden, heads * size, biased),
        Linear("k_proj", hidden, kept * size, biased),
        Linear("v_proj", hidden, kept * size, biased),
        Linear("o_proj", heads * size, hidden, biased),
        Linear("gate_proj", hidden, inner, in_mlp),
        Linear("up_proj", hidden, inner, in_mlp),
        Linear("down_proj", inner, hidden, in_mlp),
    )
    normed = (heads + kept) * size if family in ("qwen3", "gemma3_text", "olmo2") else 0
    weights = normed if family == "olmo2" else 2 * size if normed else 0  # OLMo: all heads in one
    count = 4 if family == "gemma3_text" else 2
    norms = Norms(count, hidden, True, count, normed, weights)
    tied = bool(numbers.get("tie_word_embeddings", family == "gemma3_text"))
    vocabulary, layers = int(numbers["vocab_size"]), int(numbers["num_hidden_layers"])
    return Shape(family, vocabulary, hidden, layers, heads, size, kept, inner, True, linear, norms, tied)


def _falcon(numbers: Mapping[str, Any]) -> Shape:
    """Falcon, old and new: the new one gives each group of heads its keys, written out for every head."""
    hidden, heads, layers = (int(numbers[n]) for n in ("hidden_size", "num_attention_heads", "num_hidden_layers"))
    size, new, bias = hidden // heads, bool(numbers.get("new_decoder_architecture")), bool(numbers.get("bias"))
    parallel, multi = bool(numbers.get("parallel_attn", True)), bool(numbers.get("multi_query", True))
    groups = int(numbers.get("num_kv_heads") or heads) if new else 1 if multi else heads
    inner = int(numbers.get("ffn_hidden_size") or 4 * hidden)
    linear = (
        Linear("query_key_value", hidden, (heads + 2 * groups) * size, bias),
        Linear("dense", hidden, hidden, bias),
        Linear("dense_h_to_4h", hidden, inner, bias),
        Linear("dense_4h_to_h", inner, hidden, bias),
    )
    count = int(numbers.get("num_ln_in_parallel_attn") or 2) if new and parallel else 1 if parallel else 2
    norms = Norms(count, 2 * hidden, False, 1 if parallel else 2)  # weight and bias
    tied = bool(numbers.get("tie_word_embeddings", True))
    kept, rotary = heads if new else groups, not numbers.get("alibi")
    vocabulary = int(numbers["vocab_size"])
    return Shape("falcon", vocabulary, hidden, layers, heads, size, kept, inner, False, linear, norms, tied, rotary)


def _mpt(numbers: Mapping[str, Any]) -> Shape:
    """MPT: ALiBi, no biases."""
    hidden, heads, layers = (int(numbers[name]) for name in ("d_model", "n_heads", "n_layers"))
    size, inner = hidden // heads, int(numbers.get("expansion_ratio", 4)) * hidden
    linear = (
        Linear("Wqkv", hidden, 3 * hidden),
        Linear("out_proj", hidden, hidden),
        Linear("up_proj", hidden, inner),
        Linear("down_proj", inner, hidden),
    )
    norms, vocabulary = Norms(2, hidden, False, 2), int(numbers["vocab_size"])
    tied = bool(numbers.get("tie_word_embeddings", True))
    return Shape("mpt", vocabulary, hidden, layers, heads, size, heads, inner, False, linear, norms, tied, False)


_FAMILIES: dict[str, Callable[[Mapping[str, Any]], Shape]] = {
    **dict.fromkeys(("llama", "mistral", "qwen3", "olmo2", "gemma3_text"), _gated),
    "falcon": _falcon,
    "mpt": _mpt,
}
