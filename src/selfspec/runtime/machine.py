"""Memory, GPUs and bf16 support of this machine, read without torch."""

from __future__ import annotations

import ctypes
import os
import re
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
AMPERE_CAPABILITY = 8.0  # compute capability of the first NVIDIA GPUs with bf16


def memory_capacity(processes: int = 1) -> tuple[float, bool]:
    """Return (bytes for each of `processes` processes on this machine, whether they are GPU memory)."""
    gpu_bytes = max((memory_bytes for memory_bytes, _ in _gpus()), default=0)
    if gpu_bytes:
        return float(gpu_bytes), True
    return psutil.virtual_memory().total / max(processes, 1), False


def gpu_count() -> int:
    """Number of NVIDIA GPUs."""
    return len(_gpus())


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = map(str, range(gpu_count())) if visible is None else map(str.strip, visible.split(","))
    return [name for name in names if name not in ("", "-1")]


@cache
def has_native_bf16() -> bool:
    """Whether bf16 matmul is natively supported. Otherwise `model.dtype=auto` means float32, with twice the memory."""
    if gpus := _gpus():  # torch.cuda.is_bf16_supported() is true where bf16 is emulated
        return all(capability >= AMPERE_CAPABILITY for _, capability in gpus)
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
def _gpus() -> tuple[tuple[int, float], ...]:
    """(bytes, compute capability) of each NVIDIA GPU."""
    if not shutil.which("nvidia-smi"):
        return ()
    command = ["nvidia-smi", "--query-gpu=memory.total,compute_cap", "--format=csv,noheader,nounits"]
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    matches = [re.fullmatch(r"(\d+), *(\d+\.\d+)", line.strip()) for line in lines]
    return tuple((int(match[1]) << 20, float(match[2])) for match in matches if match)
