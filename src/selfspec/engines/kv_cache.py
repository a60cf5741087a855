"""The keys and values of rows in flight, with room for what they will write.

transformers' own cache copies everything that it holds at every token, which was a fifth of the time of decoding.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


class PreallocatedLayer(DynamicLayer):  # type: ignore[misc]
    """One decoder layer's keys and values [rows, heads, `size` tokens, numbers], of which the first `filled` count."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.filled = size, 0
        self.held: list[Tensor] = []

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Room for as many rows as these have, still empty."""
        self.dtype, self.device = key_states.dtype, key_states.device
        shapes = ((*states.shape[:2], self.size, states.shape[3]) for states in (key_states, value_states))
        self.held = [key_states.new_empty(shape) for shape in shapes]
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write these behind what is there; all of it."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self.filled + key_states.shape[2]
        for held, states in zip(self.held, (key_states, value_states), strict=True):
            held[:, :, self.filled : end] = states
        return self.show(end)

    def show(self, end: int) -> tuple[Tensor, Tensor]:
        """What counts from now on: the first `end` tokens."""
        self.filled = end
        self.keys, self.values = (held[:, :, :end] for held in self.held)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Only these rows go on."""
        self.held = [held[indices] for held in self.held]
        self.show(self.filled)


def empty_cache(size: int) -> Cache:
    """A cache that will hold `size` tokens a row."""
    return Cache(layer_class_to_replicate=partial(PreallocatedLayer, size))


def copy_rows(cache: Cache, rows: Sequence[int], gaps: Sequence[int], more: int) -> Cache:
    """These rows of a cache, any as often as it is named, with room for `more` tokens.

    Each begins with as many empty places as its gap says, and ends as many tokens earlier.
    """
    made = []
    for layer in cache.layers:
        room = PreallocatedLayer(layer.filled + more)
        room.lazy_initialization(*(states[:1].expand(len(rows), -1, -1, -1) for states in (layer.keys, layer.values)))
        for held, states in zip(room.held, (layer.keys, layer.values), strict=True):
            for place, (row, gap) in enumerate(zip(rows, gaps, strict=True)):
                held[place, :, :gap] = 0
                held[place, :, gap : layer.filled] = states[row, :, : layer.filled - gap]
        room.show(layer.filled)
        made.append(room)
    return Cache(layers=made)
