"""Checkpoints of tuning: the adapter, its optimizer, the curve and the random state; never the frozen base."""

from __future__ import annotations

import hashlib
import io
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from selfspec.runtime.files import write_atomic

CHECKPOINT_NAME = "checkpoint.pt"
SHARD_FOLDER = "deepspeed"  # beside it: folders step-N, in which each process writes its part of the optimizer


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The trained parameters, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def copy_parameters(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the trained parameters on the CPU, by name."""
    return {name: parameter.detach().cpu().clone() for name, parameter in trainable_parameters(model).items()}


def parameters_hash(model: nn.Module) -> str:
    """A hash of the trained parameters, for comparison within one process."""
    digest = hashlib.sha256()
    for parameter in trainable_parameters(model).values():
        digest.update(parameter.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Replace the checkpoint in `folder` atomically, then delete the shards of earlier ones.

    Args:
        folder: The stage's work folder, which survives a kill.
        state: Tensors and plain data; `shards` names the folder in `SHARD_FOLDER` that belongs to it, if there is one.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomic(folder / CHECKPOINT_NAME, buffer.getvalue())
    for shards in (folder / SHARD_FOLDER).glob("step-*"):  # DeepSpeed puts scripts beside them
        if shards.name != state.get("shards"):
            shutil.rmtree(shards)


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The state that was saved, or None. Only tensors and plain data are unpickled."""
    path = folder / CHECKPOINT_NAME
    return torch.load(path, map_location="cpu", weights_only=True) if path.exists() else None


def restore_parameters(parameters: dict[str, Tensor], model: nn.Module) -> None:
    """Copy `parameters` into the trained parameters of the same names."""
    with torch.no_grad():
        for name, parameter in trainable_parameters(model).items():
            parameter.copy_(parameters[name])


def random_states() -> list[Tensor]:
    """The random states of the CPU and of each GPU (dropout on a GPU draws from the GPU's own)."""
    return [torch.get_rng_state(), *torch.cuda.get_rng_state_all()]


def restore_random_states(states: list[Tensor]) -> None:
    """Continue the random streams of a checkpoint; those of GPUs only if there are as many GPUs as then."""
    torch.set_rng_state(states[0])
    if len(states) - 1 == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states[1:])
