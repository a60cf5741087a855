"""What this machine has, told without torch."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path

import psutil


def capacity(processes: int = 1) -> tuple[float, bool]:
    """(bytes that one of `processes` on this machine may use, whether they are a GPU's)."""
    gpu = max(_gpus(), default=0)
    return (float(gpu), True) if gpu else (psutil.virtual_memory().total / max(processes, 1), False)


def gpu_count() -> int:
    """NVIDIA GPUs of this machine."""
    return len(_gpus())


@cache
def halves() -> bool:
    """Whether this machine multiplies bfloat16: else `model.dtype=auto` is float32, which takes twice the memory."""
    if _gpus():
        return True  # of every GPU since Ampere
    facts = Path("/proc/cpuinfo")
    return facts.exists() and "avx512_bf16" in facts.read_text()


@cache
def _gpus() -> tuple[int, ...]:
    """Bytes of each NVIDIA GPU."""
    if not shutil.which("nvidia-smi"):
        return ()
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    return tuple(int(line) << 20 for line in lines if line.isdigit())
