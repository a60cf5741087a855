"""Bytes that a device needs to tune a model and to complete text with it, estimated from its shape without torch.

What autograd keeps follows from how each layer computes; tests count it. What the allocator and the libraries add on a
CPU is fitted to measured peaks (`python benchmarks/memory.py`). For a GPU it is an assumption: none was measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from selfspec.config.schema import LoraConfig
from selfspec.engines.protocol import MAX_OPTION_ROWS
from selfspec.planning.parameters import Linear, Shape

# Bytes a weight for the scales of NF4: 8 bits for each 64 weights, and a float for each 256 of these scales.
NF4_SCALE_BYTES = 1 / 64 + 4 / (64 * 256)
NF4_BYTES = 0.5 + NF4_SCALE_BYTES  # bytes a weight
FLOAT32_BYTES = 4  # the adapter is stored and computed in float32
CPU_HEAP_FACTOR = 1.45  # glibc's heap divided by the tensors in it, as the passes differ in length

# The same with activation checkpointing: one layer is recomputed at a time, and large blocks are mapped and returned.
CPU_CHECKPOINTING_FACTOR = 2.7
CPU_LIBRARY_BYTES = 5e7  # kernels and buffers of the libraries
GPU_LIBRARY_BYTES = 1.0e9  # CUDA context and workspaces

# A part of the estimate: pages of the weight file that were read. The system reclaims them when memory is short.
MAPPED_FILE = "mapped file, reclaimable"

# A part of the estimate: weights that are dequantized or gathered for as long as a layer computes with them.
TEMPORARY_WEIGHTS = "temporary weights"
SHARED_INPUT_MODULES = ("k_proj", "v_proj", "up_proj")  # each has the same input as the module before it


@dataclass(frozen=True)
class BaseOnDevice:
    """The frozen base model, or one shard of it, on a device."""

    shape: Shape
    bytes_per_number: int  # 2 or 4
    is_nf4: bool
    is_gpu: bool
    num_shards: int = 1  # devices that each hold a part
    cpu_offload: bool = False  # shards stay in CPU memory and are copied to the GPU for each layer

    @property
    def num_quantized_weights(self) -> int:
        """Weights of one decoder layer that are stored in 4 bits."""
        return sum(linear.num_weights for linear in self.shape.linear_layers) if self.is_nf4 else 0

    @property
    def layer_bytes(self) -> float:
        """Bytes of one decoder layer."""
        num_plain = self.shape.num_layer_parameters - self.num_quantized_weights
        return self.num_quantized_weights * NF4_BYTES + num_plain * self.bytes_per_number

    @property
    def outer_bytes(self) -> float:
        """Bytes of embedding, output head and last norm."""
        return self.shape.num_outer_parameters * self.bytes_per_number

    @property
    def model_bytes(self) -> float:
        """Bytes of the whole model."""
        return self.shape.num_layers * self.layer_bytes + self.outer_bytes

    def weight_memory(self) -> dict[str, float]:
        """Bytes of the weights on this device, by part.

        With shards, two layers are gathered at a time: the one that computes, and the next one, which is prefetched.
        """
        # One NF4 layer is dequantized at a time.
        dequantized = self.shape.num_largest_weights * self.bytes_per_number if self.is_nf4 else 0.0
        if self.num_shards > 1:
            scales = self.shape.num_layers * self.num_quantized_weights * NF4_SCALE_BYTES  # not sharded
            resident = scales + (0.0 if self.cpu_offload else (self.model_bytes - scales) / self.num_shards)
            return {"weights": resident, TEMPORARY_WEIGHTS: dequantized + 2 * self.layer_bytes + self.outer_bytes}
        if self.is_gpu:
            return {"weights": self.model_bytes, TEMPORARY_WEIGHTS: dequantized}
        # On a CPU the weights are a memory-mapped file. Few rows of an embedding are read, unless it is also the output
        # head. The unquantized weights that NF4 was computed from remain in the page cache.
        embedding = 0 if self.shape.tied_embeddings else self.shape.vocab_size * self.shape.hidden_size
        plain_layers = self.shape.num_layers * self.num_quantized_weights * self.bytes_per_number
        mapped = {MAPPED_FILE: plain_layers} if self.is_nf4 else {}
        resident = self.model_bytes - embedding * self.bytes_per_number
        return {"weights": resident, TEMPORARY_WEIGHTS: dequantized, **mapped}


@dataclass(frozen=True)
class TrainingPass:
    """One forward and backward pass of tuning."""

    num_tokens: int
    num_response_tokens: int  # only these have a loss, and only for these logits are computed
    longest_example: int  # tokens
    activation_checkpointing: bool


@dataclass(frozen=True)
class CompletionBatch:
    """One batch of completions that share a prefix."""

    num_rows: int
    prefix_tokens: int
    item_tokens: int  # of the longest item
    max_new_tokens: int
    option_tokens: int = 0  # of the longest option to score
    max_options: int = 0  # of one item
    is_sampled: bool = False

    @property
    def num_copied_rows(self) -> int:
        """Rows whose cache is copied to score the tokens of an option after its first."""
        return min(MAX_OPTION_ROWS, self.num_rows * self.max_options) if self.option_tokens > 1 else 0


@lru_cache(maxsize=256)  # the jobs of a sweep have few distinct shapes
def tuning_memory(base: BaseOnDevice, lora: LoraConfig, batch: TrainingPass) -> Mapping[str, float]:
    """Bytes on one device during tuning, by part."""
    shape, num_trainable = base.shape, base.shape.num_adapter_parameters(lora)
    adapter = num_trainable * FLOAT32_BYTES
    is_8bit_optimizer = base.is_gpu and base.is_nf4
    return {
        **base.weight_memory(),
        "adapter": adapter,
        "gradients": adapter,
        "optimizer": num_trainable * 2 * (1 if is_8bit_optimizer else FLOAT32_BYTES),
        "best adapter": adapter if not base.is_gpu else 0,  # a copy in CPU memory
        "activations": _activation_bytes(base, lora, batch),
        # log-probabilities, their gradient and the gradient of the logits
        "logits": batch.num_response_tokens * shape.vocab_size * 3 * FLOAT32_BYTES,
        "libraries": _library_bytes(base),
    }


def _activation_bytes(base: BaseOnDevice, lora: LoraConfig, batch: TrainingPass) -> float:
    """Bytes that autograd keeps, and the largest temporary tensors beside them."""
    shape = base.shape
    attention_length = batch.longest_example if _uses_eager_attention(shape) else 0
    per_token = activation_bytes_per_token(shape, base.bytes_per_number, lora, attention_length)
    layer = batch.num_tokens * per_token
    if batch.activation_checkpointing:
        kept_bytes = shape.num_layers * batch.num_tokens * shape.hidden_size * base.bytes_per_number + layer
    else:
        kept_bytes = shape.num_layers * layer
    temporary = batch.num_tokens * _max_features(shape.linear_layers) * (base.bytes_per_number + 3 * FLOAT32_BYTES)
    if lora.dora:  # norms of the weights, in float32
        widest_input = max(layer.in_features for layer in shape.adapted_layers(lora))
        temporary += FLOAT32_BYTES * (4 * shape.num_largest_weights + widest_input**2)
    cpu_factor = CPU_CHECKPOINTING_FACTOR if batch.activation_checkpointing else CPU_HEAP_FACTOR
    return (kept_bytes + temporary) * (1 if base.is_gpu else cpu_factor)


@lru_cache(maxsize=1024)
def completion_memory(base: BaseOnDevice, lora: LoraConfig | None, batch: CompletionBatch) -> Mapping[str, float]:
    """Bytes on one device while a batch is completed, by part, in the phase that needs most.

    Args:
        base: The base model.
        lora: Of the specialized model; None for the base alone.
        batch: What is completed.
    """
    adapter = {"adapter": base.shape.num_adapter_parameters(lora) * FLOAT32_BYTES} if lora else {}
    libraries = {"libraries": _library_bytes(base)}
    phases = _completion_phases(base.shape, base.bytes_per_number, lora, batch)
    return max(({**base.weight_memory(), **adapter, **phase, **libraries} for phase in phases), key=total_bytes)


def _completion_phases(
    shape: Shape, bytes_per_number: int, lora: LoraConfig | None, batch: CompletionBatch
) -> Iterator[dict[str, float]]:
    """Cache, activations and logits of each phase of a batch.

    The phases: read the items behind copies of the cached prefix; generate; score options on copies of the rows.
    """
    num_rows, read_tokens = batch.num_rows, batch.prefix_tokens + batch.item_tokens
    token_bytes = shape.num_cached_values * bytes_per_number
    max_tokens = num_rows * (read_tokens + batch.max_new_tokens)
    # The cache of the prefix stays; each row has space for everything that it may generate.
    cached = batch.prefix_tokens * token_bytes + max_tokens * token_bytes
    state_bytes = bytes_per_number + (3 * FLOAT32_BYTES if lora else bytes_per_number)  # a number inside a layer
    # One layer's keys and values of a token, repeated for every query head.
    repeated_kv_bytes = 2 * shape.num_heads * shape.head_dim * bytes_per_number
    widest_bytes = _max_features(shape.linear_layers) * state_bytes
    reading = num_rows * (batch.item_tokens * widest_bytes + read_tokens * repeated_kv_bytes)
    yield {"KV cache": cached, "activations": reading}
    # Logits and what is computed from them. A sampled row whose logits are all sorted takes twice that; few are.
    logit_bytes = bytes_per_number + (4 if batch.is_sampled else 2) * FLOAT32_BYTES
    logits = num_rows * shape.vocab_size * logit_bytes
    yield {
        "KV cache": cached,
        "activations": num_rows * widest_bytes + max_tokens * repeated_kv_bytes,
        "logits": logits,
    }
    if num_copies := batch.num_copied_rows:
        copied_tokens = num_copies * (read_tokens + batch.option_tokens)
        num_logits = num_copies * (batch.option_tokens - 1) * shape.vocab_size
        yield {
            "KV cache": cached + copied_tokens * token_bytes,
            "activations": copied_tokens * repeated_kv_bytes,
            "logits": num_logits * (bytes_per_number + 2 * FLOAT32_BYTES),
        }


def total_bytes(parts: Mapping[str, float]) -> float:
    """The sum of the parts that the system can't reclaim."""
    return sum(size for name, size in parts.items() if name != MAPPED_FILE)


def activation_bytes_per_token(
    shape: Shape, bytes_per_number: int, lora: LoraConfig, attention_length: int = 0
) -> float:
    """Bytes that one decoder layer keeps of each token for the backward pass.

    Args:
        shape: The model's.
        bytes_per_number: Of the base model.
        lora: Which linear layers are adapted; their inputs are kept in float32.
        attention_length: Tokens in a row of the attention scores that eager attention keeps; 0 for fused attention.
    """
    adapted = shape.adapted_layers(lora)
    # Each layer keeps a float32 copy of its input; an input that is float32 already is shared, not copied.
    copying = [layer for layer in adapted if bytes_per_number < FLOAT32_BYTES or layer.name not in SHARED_INPUT_MODULES]
    kept_bytes = sum(FLOAT32_BYTES * layer.in_features for layer in copying) + sum(
        FLOAT32_BYTES * lora.r for _ in adapted
    )
    kept_bytes += sum(FLOAT32_BYTES * layer.in_features for layer in adapted) if lora.dropout else 0
    kept_bytes += sum((bytes_per_number + FLOAT32_BYTES) * layer.out_features for layer in adapted) if lora.dora else 0
    norms, hidden = shape.norms, shape.hidden_size
    if norms.in_float32:
        kept_bytes += norms.num_norms * (hidden + 1) * FLOAT32_BYTES
    else:
        kept_bytes += norms.num_inputs * hidden * bytes_per_number
    kept_bytes += norms.qk_size * FLOAT32_BYTES
    attention = (2 * shape.num_heads + 2 * shape.num_cached_heads) * shape.head_dim * bytes_per_number
    if attention_length:
        score_bytes = FLOAT32_BYTES + (bytes_per_number if bytes_per_number < FLOAT32_BYTES else 0)
        attention = 3 * shape.num_heads * shape.head_dim * bytes_per_number
        attention += attention_length * shape.num_heads * score_bytes
    return kept_bytes + attention + (3 if shape.gated_mlp else 1) * shape.intermediate_size * bytes_per_number


def _library_bytes(base: BaseOnDevice) -> float:
    return GPU_LIBRARY_BYTES if base.is_gpu else CPU_LIBRARY_BYTES


def _uses_eager_attention(shape: Shape) -> bool:
    """Whether attention keeps the scores of all pairs of tokens."""
    return shape.model_type == "mpt"


def _max_features(linear_layers: tuple[Linear, ...]) -> int:
    return max(max(layer.in_features, layer.out_features) for layer in linear_layers)
