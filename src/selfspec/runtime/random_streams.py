"""Random streams: named by (experiment seed, role, place), never by a cache key.

Two variants of an experiment that draw for the same role at the same place draw the same numbers (common random
numbers), also if their filters, batch sizes or devices differ.
"""

from __future__ import annotations

import hashlib
from random import Random


def stream_seed(seed: int, role: str, *place: int | str) -> int:
    """A 56-bit seed of the stream of `role` at `place` (block, row, task type, ...) in the experiment `seed`."""
    name = "/".join(map(str, (seed, role, *place)))
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")


def random_stream(seed: int, role: str, *place: int | str) -> Random:
    """A fresh generator of that stream: the same numbers at every call, on every machine."""
    return Random(stream_seed(seed, role, *place))
