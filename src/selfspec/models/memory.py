"""Whether a model fits this machine, told before any work, without torch."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache

import psutil

from selfspec.config import ModelConfig
from selfspec.errors import UserError

OVERHEAD = 1.25  # activations, caches, adapter and optimizer beside the weights, at the least
GB = 1e9


def check(model: ModelConfig) -> None:
    """Refuse a model whose weights alone are more than this machine has.

    Raises:
        UserError: what the run needs, what this machine has, what to do.
    """
    if model.toy:
        return
    width = 4 if model.dtype == "float32" else 2
    needed = model.parameters * width * OVERHEAD
    gpu = max(_gpus(), default=0)
    available = gpu or psutil.virtual_memory().total
    if needed <= available:
        return
    has = f"its largest GPU has {gpu / GB:.0f} GB" if gpu else f"it has {available / GB:.0f} GB of memory and no GPU"
    raise UserError(
        f"model={model.name} needs about {needed / GB:.0f} GB ({model.parameters / 1e9:.1f}B parameters in "
        f"{width * 8} bits) and this machine can't hold it: {has}; run it on a larger one, choose a smaller model "
        "(model=gemma-3-270m), or try the whole way with model.toy=true."
    )


def gpu_count() -> int:
    """NVIDIA GPUs of this machine."""
    return len(_gpus())


@cache
def _gpus() -> tuple[int, ...]:
    """Bytes of each NVIDIA GPU."""
    if not shutil.which("nvidia-smi"):
        return ()
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    return tuple(int(line) << 20 for line in lines if line.isdigit())
