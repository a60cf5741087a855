"""How many bytes a device needs to tune a model, and to complete text with it: from its shape, without torch.

What autograd keeps follows from how each layer computes, and tests count it. What the allocator and the libraries add
on a CPU is fitted to measured peaks (`python benchmarks/memory.py`); for a GPU it is assumed, since none was measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from selfspec.config.schema import LoraConfig
from selfspec.planning.parameters import Linear, Shape

NF4_SCALE_BYTES = 1 / 64 + 4 / (
    64 * 256
)  # bytes a weight in 4 bits: an 8-bit scale for 64 of them, a float for 256 scales


NF4_BYTES = 0.5 + NF4_SCALE_BYTES


FLOAT32_BYTES = 4  # bytes of a number in float32, in which the adapter is kept and computed


OPTIONS_AT_ONCE = 32  # options that the engine scores at a time


CPU_HEAP_FACTOR = 1.45  # on a CPU: glibc's heap against the tensors of passes that all differ in length


CPU_CHECKPOINTING_FACTOR = (
    2.7  # the same where each layer's are computed again, and go at once (in blocks that are mapped)
)


CPU_LIBRARY_BYTES, GPU_LIBRARY_BYTES = 5e7, 1.0e9  # libraries' kernels and buffers; on a GPU its context and workspaces


MAPPED_FILE = (
    "file, given back"  # a part: the weights' file as it was read; the system takes it back when memory is short
)


SHARED_INPUT_MODULES = ("k_proj", "v_proj", "up_proj")  # read what the layer before them reads


@dataclass(frozen=True)
class BaseOnDevice:
    """The frozen base on a device."""

    shape: Shape
    width: int  # bytes of a number: 2, or 4
    nf4: bool
    gpu: bool
    shards: int = 1  # devices that hold a part each
    offload: bool = False  # the parts wait in the machine's memory

    @property
    def quantised(self) -> int:
        """Weights of a decoder layer that are held in 4 bits."""
        return sum(linear.inputs * linear.outputs for linear in self.shape.linear) if self.nf4 else 0

    @property
    def layer(self) -> float:
        """Bytes of one decoder layer."""
        return self.quantised * NF4_BYTES + (self.shape.layer_parameters - self.quantised) * self.width

    @property
    def outer(self) -> float:
        """Bytes of embedding, head and last norm."""
        return self.shape.outer_parameters * self.width

    @property
    def whole(self) -> float:
        """Bytes of all of it."""
        return self.shape.layers * self.layer + self.outer

    def weights(self) -> dict[str, float]:
        """What lies on the device, and what is gathered on it for a moment: one layer at work, the next on its way."""
        unpacked = self.shape.largest * self.width if self.nf4 else 0.0  # one 4-bit layer at a time
        if self.shards > 1:
            scales = self.shape.layers * self.quantised * NF4_SCALE_BYTES  # whole in each process
            held = scales + (0.0 if self.offload else (self.whole - scales) / self.shards)
            return {"weights": held, "unpacked, gathered": unpacked + 2 * self.layer + self.outer}
        if self.gpu:
            return {"weights": self.whole, "unpacked, gathered": unpacked}
        # The weights are their file, mapped: of an embedding that is no head, few rows are ever read. What was packed
        # stays in the file's pages as well, until the system wants them back.
        embedding = 0 if self.shape.tied else self.shape.vocabulary * self.shape.hidden * self.width
        packed = {MAPPED_FILE: self.shape.layers * self.quantised * self.width} if self.nf4 else {}
        return {"weights": self.whole - embedding, "unpacked, gathered": unpacked, **packed}


@dataclass(frozen=True)
class TrainingPass:
    """One forward and backward pass of tuning."""

    tokens: int
    responses: int  # tokens that are learnt: logits are computed for them alone
    longest: int  # tokens of the longest example
    checkpointing: bool


@dataclass(frozen=True)
class CompletionBatch:
    """One batch of completions behind a shared prefix."""

    rows: int
    prefix: int  # tokens
    item: int  # tokens of the longest one
    new: int  # tokens that are written at most
    options: int = 0  # tokens of the longest option whose log-probability is wanted
    choices: int = 0  # options of one item, at most
    sampled: bool = False

    @property
    def forked(self) -> int:
        """Rows that are copied to score what stands behind an option's first token."""
        return min(OPTIONS_AT_ONCE, self.rows * self.choices) if self.options > 1 else 0


@lru_cache(maxsize=256)  # the jobs of a sweep have few shapes
def tuning_memory(base: BaseOnDevice, lora: LoraConfig, work: TrainingPass) -> Mapping[str, float]:
    """Bytes on one device while an adapter is tuned, by part."""
    shape, trainable = base.shape, base.shape.trainable(lora)
    kept = work.tokens * activation_bytes_per_token(
        shape, base.width, lora, work.longest if _uses_eager_attention(base) else 0
    )
    if work.checkpointing:
        activations = shape.layers * work.tokens * shape.hidden * base.width + kept
    else:
        activations = shape.layers * kept
    moment = work.tokens * _widest_layer(shape.linear) * (base.width + 3 * FLOAT32_BYTES)
    if lora.dora:  # the weights' norms, in float32
        moment += FLOAT32_BYTES * (4 * shape.largest + max(layer.inputs for layer in shape.adapted(lora)) ** 2)
    logits = (
        work.responses * shape.vocabulary * 3 * FLOAT32_BYTES
    )  # log-probabilities, their gradient, that of the logits
    return {
        **base.weights(),
        "adapter": trainable * FLOAT32_BYTES,
        "gradients": trainable * FLOAT32_BYTES,
        "optimizer": trainable * 2 * (1 if base.gpu and base.nf4 else FLOAT32_BYTES),  # in 8 bits beside 4-bit weights
        "best adapter": trainable * FLOAT32_BYTES if not base.gpu else 0,  # it waits in the machine's memory
        "activations": (activations + moment)
        * (1 if base.gpu else CPU_CHECKPOINTING_FACTOR if work.checkpointing else CPU_HEAP_FACTOR),
        "logits": logits,
        "libraries": GPU_LIBRARY_BYTES if base.gpu else CPU_LIBRARY_BYTES,
    }


@lru_cache(maxsize=1024)
def completion_memory(base: BaseOnDevice, lora: LoraConfig | None, work: CompletionBatch) -> Mapping[str, float]:
    """Bytes on one device while a batch is completed, by part; with `lora` by the specialized model."""
    shape, width = base.shape, base.width
    adapter = {"adapter": shape.trainable(lora) * FLOAT32_BYTES} if lora else {}
    libraries = {"libraries": GPU_LIBRARY_BYTES if base.gpu else CPU_LIBRARY_BYTES}
    moments = (
        {**base.weights(), **adapter, **moment, **libraries} for moment in _completion_phases(shape, width, lora, work)
    )
    return max(moments, key=total_bytes)


def _completion_phases(
    shape: Shape, width: int, lora: LoraConfig | None, work: CompletionBatch
) -> Iterator[dict[str, float]]:
    """What comes and goes in a batch: its prefix is copied for each row, read on, written on, forked for options."""
    rows, read, token = work.rows, work.prefix + work.item, shape.kept_numbers * width
    longest = rows * (read + work.new)
    cached = work.prefix * token + longest * token  # the prefix stays; each row has room for all that it will write
    number = width + (3 * FLOAT32_BYTES if lora else width)  # of the states inside a layer
    layer = 2 * shape.heads * shape.head_size * width  # a token of one layer's cache, written out for every head
    wide = _widest_layer(shape.linear) * number
    yield {"KV cache": cached, "activations": rows * (work.item * wide + read * layer)}
    scores = (
        width + (4 if work.sampled else 2) * FLOAT32_BYTES
    )  # a sampled row that is sorted whole takes twice that; few are
    logits = rows * shape.vocabulary * scores  # with what is made of them
    yield {"KV cache": cached, "activations": rows * wide + longest * layer, "logits": logits}
    if work.forked:
        forked = work.forked * (read + work.options)
        logits = work.forked * (work.options - 1) * shape.vocabulary * (width + 2 * FLOAT32_BYTES)
        yield {"KV cache": cached + forked * token, "activations": forked * layer, "logits": logits}


def total_bytes(parts: Mapping[str, float]) -> float:
    """Bytes in all that nobody gives back."""
    return sum(size for name, size in parts.items() if name != MAPPED_FILE)


def activation_bytes_per_token(shape: Shape, width: int, lora: LoraConfig, attended: int = 0) -> float:
    """Bytes that one decoder layer keeps of each token for the backward pass.

    Args:
        shape: Of the model.
        width: Bytes of a number of the base.
        lora: Which linear layers are adapted: what they read is kept in float32.
        attended: Tokens whose scores are written down, where attention is not fused; 0 where it is.
    """
    adapted = shape.adapted(lora)
    own = [
        layer for layer in adapted if width < FLOAT32_BYTES or layer.name not in SHARED_INPUT_MODULES
    ]  # a copy each, unless in float32
    kept = sum(FLOAT32_BYTES * layer.inputs for layer in own) + sum(FLOAT32_BYTES * lora.r for _ in adapted)
    kept += sum(FLOAT32_BYTES * layer.inputs for layer in adapted) if lora.dropout else 0
    kept += sum((width + FLOAT32_BYTES) * layer.outputs for layer in adapted) if lora.dora else 0
    norms = shape.norms
    kept += norms.count * (shape.hidden + 1) * FLOAT32_BYTES if norms.exact else norms.inputs * shape.hidden * width
    kept += norms.heads * FLOAT32_BYTES
    states = (2 * shape.heads + 2 * shape.kept_heads) * shape.head_size * width
    if attended:
        states = 3 * shape.heads * shape.head_size * width
        states += attended * shape.heads * (FLOAT32_BYTES + (width if width < FLOAT32_BYTES else 0))
    return kept + states + (3 if shape.gated else 1) * shape.inner * width


def _uses_eager_attention(base: BaseOnDevice) -> bool:
    """MPT writes the scores of all pairs down."""
    return base.shape.family == "mpt"


def _widest_layer(linear: tuple[Linear, ...]) -> int:
    return max(max(layer.inputs, layer.outputs) for layer in linear)
