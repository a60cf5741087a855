"""Memory, GPUs and bf16 support of this machine, read without torch."""

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

M_MMAP_THRESHOLD = -3  # option of glibc's mallopt: blocks of this size and larger are mapped
DEFAULT_MMAP_THRESHOLD_BYTES = 32 << 20  # the largest value that glibc chooses itself


def memory_capacity(processes: int = 1) -> tuple[float, bool]:
    """Return (bytes for each of `processes` processes on this machine, whether they are GPU memory)."""
    gpu_bytes = max(_gpu_memory(), default=0)
    if gpu_bytes:
        return float(gpu_bytes), True
    return psutil.virtual_memory().total / max(processes, 1), False


def gpu_count() -> int:
    """Number of NVIDIA GPUs."""
    return len(_gpu_memory())


@cache
def has_native_bf16() -> bool:
    """Whether bf16 matmul is natively supported. Otherwise `model.dtype=auto` means float32, with twice the memory."""
    if _gpu_memory():
        return True  # every NVIDIA GPU since Ampere
    cpu_info = Path("/proc/cpuinfo")
    return cpu_info.exists() and "avx512_bf16" in cpu_info.read_text()


@contextmanager
def mmap_large_blocks(min_bytes: int) -> Iterator[None]:
    """Allocate blocks of at least `min_bytes` by mmap, so that each is returned to the system when it is freed.

    On glibc's heap, freed blocks between blocks in use leave holes that can be as large as a model.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(M_MMAP_THRESHOLD, min_bytes)
    try:
        yield
    finally:
        if mallopt:
            mallopt(M_MMAP_THRESHOLD, DEFAULT_MMAP_THRESHOLD_BYTES)


@cache
def _gpu_memory() -> tuple[int, ...]:
    """Bytes of each NVIDIA GPU."""
    if not shutil.which("nvidia-smi"):
        return ()
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    return tuple(int(line) << 20 for line in lines if line.isdigit())
