"""How many bytes a device needs to tune a model, and to complete text with it: from its shape, without torch.

What autograd keeps follows from how each layer computes, and tests count it. What the allocator and the libraries add
on a CPU is fitted to measured peaks (`python benchmarks/memory.py`); for a GPU it is assumed, since none was measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from selfspec.config import LoraConfig
from selfspec.models.shape import Linear, Shape

SCALES = 1 / 64 + 4 / (64 * 256)  # bytes a weight in 4 bits: an 8-bit scale for 64 of them, a float for 256 scales
NF4 = 0.5 + SCALES
FULL = 4  # bytes of a number in float32, in which the adapter is kept and computed
FORK = 32  # options that the engine scores at a time
HEAP = 1.45  # on a CPU: glibc's heap against the tensors of passes that all differ in length
AGAIN = 2.7  # the same where each layer's are computed again, and go at once (in blocks that are mapped)
CPU_REST, GPU_REST = 5e7, 1.0e9  # libraries' kernels and buffers; on a GPU its context and workspaces
MAPPED = "file, given back"  # a part: the weights' file as it was read; the system takes it back when memory is short
SHARED = ("k_proj", "v_proj", "up_proj")  # read what the layer before them reads


@dataclass(frozen=True)
class Base:
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
        return self.quantised * NF4 + (self.shape.layer_parameters - self.quantised) * self.width

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
            scales = self.shape.layers * self.quantised * SCALES  # whole in each process
            held = scales + (0.0 if self.offload else (self.whole - scales) / self.shards)
            return {"weights": held, "unpacked, gathered": unpacked + 2 * self.layer + self.outer}
        if self.gpu:
            return {"weights": self.whole, "unpacked, gathered": unpacked}
        # The weights are their file, mapped: of an embedding that is no head, few rows are ever read. What was packed
        # stays in the file's pages as well, until the system wants them back.
        embedding = 0 if self.shape.tied else self.shape.vocabulary * self.shape.hidden * self.width
        packed = {MAPPED: self.shape.layers * self.quantised * self.width} if self.nf4 else {}
        return {"weights": self.whole - embedding, "unpacked, gathered": unpacked, **packed}


@dataclass(frozen=True)
class Pass:
    """One forward and backward pass of tuning."""

    tokens: int
    responses: int  # tokens that are learnt: logits are computed for them alone
    longest: int  # tokens of the longest example
    checkpointing: bool


@dataclass(frozen=True)
class Completing:
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
        return min(FORK, self.rows * self.choices) if self.options > 1 else 0


@lru_cache(maxsize=256)  # the jobs of a sweep have few shapes
def tuning(base: Base, lora: LoraConfig, work: Pass) -> Mapping[str, float]:
    """Bytes on one device while an adapter is tuned, by part."""
    shape, trainable = base.shape, base.shape.trainable(lora)
    kept = work.tokens * per_token(shape, base.width, lora, work.longest if _eager(base) else 0)
    if work.checkpointing:
        activations = shape.layers * work.tokens * shape.hidden * base.width + kept
    else:
        activations = shape.layers * kept
    moment = work.tokens * _widest(shape.linear) * (base.width + 3 * FULL)
    if lora.dora:  # the weights' norms, in float32
        moment += FULL * (4 * shape.largest + max(layer.inputs for layer in shape.adapted(lora)) ** 2)
    logits = work.responses * shape.vocabulary * 3 * FULL  # log-probabilities, their gradient, that of the logits
    return {
        **base.weights(),
        "adapter": trainable * FULL,
        "gradients": trainable * FULL,
        "optimizer": trainable * 2 * (1 if base.gpu and base.nf4 else FULL),  # in 8 bits beside 4-bit weights
        "best adapter": trainable * FULL if not base.gpu else 0,  # it waits in the machine's memory
        "activations": (activations + moment) * (1 if base.gpu else AGAIN if work.checkpointing else HEAP),
        "logits": logits,
        "libraries": GPU_REST if base.gpu else CPU_REST,
    }


@lru_cache(maxsize=1024)
def completing(base: Base, lora: LoraConfig | None, work: Completing) -> Mapping[str, float]:
    """Bytes on one device while a batch is completed, by part; with `lora` by the specialized model."""
    shape, width = base.shape, base.width
    adapter = {"adapter": shape.trainable(lora) * FULL} if lora else {}
    libraries = {"libraries": GPU_REST if base.gpu else CPU_REST}
    moments = ({**base.weights(), **adapter, **moment, **libraries} for moment in _moments(shape, width, lora, work))
    return max(moments, key=held)


def _moments(shape: Shape, width: int, lora: LoraConfig | None, work: Completing) -> Iterator[dict[str, float]]:
    """What comes and goes in a batch: its prefix is copied for each row, read on, written on, forked for options."""
    rows, read, token = work.rows, work.prefix + work.item, shape.kept_numbers * width
    longest = rows * (read + work.new)
    cached = work.prefix * token + longest * token  # the prefix stays; each row has room for all that it will write
    number = width + (3 * FULL if lora else width)  # of the states inside a layer
    layer = 2 * shape.heads * shape.head_size * width  # a token of one layer's cache, written out for every head
    wide = _widest(shape.linear) * number
    yield {"KV cache": cached, "activations": rows * (work.item * wide + read * layer)}
    scores = width + (4 if work.sampled else 2) * FULL  # a sampled row that is sorted whole takes twice that; few are
    logits = rows * shape.vocabulary * scores  # with what is made of them
    yield {"KV cache": cached, "activations": rows * wide + longest * layer, "logits": logits}
    if work.forked:
        forked = work.forked * (read + work.options)
        logits = work.forked * (work.options - 1) * shape.vocabulary * (width + 2 * FULL)
        yield {"KV cache": cached + forked * token, "activations": forked * layer, "logits": logits}


def held(parts: Mapping[str, float]) -> float:
    """Bytes in all that nobody gives back."""
    return sum(size for name, size in parts.items() if name != MAPPED)


def per_token(shape: Shape, width: int, lora: LoraConfig, attended: int = 0) -> float:
    """Bytes that one decoder layer keeps of each token for the backward pass.

    Args:
        shape: Of the model.
        width: Bytes of a number of the base.
        lora: Which linear layers are adapted: what they read is kept in float32.
        attended: Tokens whose scores are written down, where attention is not fused; 0 where it is.
    """
    adapted = shape.adapted(lora)
    own = [layer for layer in adapted if width < FULL or layer.name not in SHARED]  # a copy each, unless in float32
    kept = sum(FULL * layer.inputs for layer in own) + sum(FULL * lora.r for _ in adapted)
    kept += sum(FULL * layer.inputs for layer in adapted) if lora.dropout else 0
    kept += sum((width + FULL) * layer.outputs for layer in adapted) if lora.dora else 0
    norms = shape.norms
    kept += norms.count * (shape.hidden + 1) * FULL if norms.exact else norms.inputs * shape.hidden * width
    kept += norms.heads * FULL
    states = (2 * shape.heads + 2 * shape.kept_heads) * shape.head_size * width
    if attended:
        states = 3 * shape.heads * shape.head_size * width
        states += attended * shape.heads * (FULL + (width if width < FULL else 0))
    return kept + states + (3 if shape.gated else 1) * shape.inner * width


def _eager(base: Base) -> bool:
    """MPT writes the scores of all pairs down."""
    return base.shape.family == "mpt"


def _widest(linear: tuple[Linear, ...]) -> int:
    return max(max(layer.inputs, layer.outputs) for layer in linear)
