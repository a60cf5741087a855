"""What this machine has, told without torch."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import psutil

M_MMAP_THRESHOLD = -3  # mallopt's number of the size from which a block is mapped


def memory_capacity(processes: int = 1) -> tuple[float, bool]:
    """(bytes that one of `processes` on this machine may use, whether they are a GPU's)."""
    gpu = max(_gpus(), default=0)
    return (float(gpu), True) if gpu else (psutil.virtual_memory().total / max(processes, 1), False)


def gpu_count() -> int:
    """NVIDIA GPUs of this machine."""
    return len(_gpus())


@cache
def has_native_bf16() -> bool:
    """Whether this machine multiplies bfloat16: else `model.dtype=auto` is float32, which takes twice the memory."""
    if _gpus():
        return True  # of every GPU since Ampere
    facts = Path("/proc/cpuinfo")
    return facts.exists() and "avx512_bf16" in facts.read_text()


@contextmanager
def mmap_large_blocks(size: int) -> Iterator[None]:
    """Blocks of `size` bytes and more are mapped, each for itself, and given back as soon as nobody holds them.

    On glibc's heap, blocks that come and go between others that stay leave holes, at times as large as a model.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if set_option:
        set_option(M_MMAP_THRESHOLD, size)
    try:
        yield
    finally:
        if set_option:
            set_option(M_MMAP_THRESHOLD, 32 << 20)  # where glibc itself ends up


@cache
def _gpus() -> tuple[int, ...]:
    """Bytes of each NVIDIA GPU."""
    if not shutil.which("nvidia-smi"):
        return ()
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    return tuple(int(line) << 20 for line in lines if line.isdigit())
