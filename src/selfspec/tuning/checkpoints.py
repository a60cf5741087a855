"""Checkpoints hold what is trained, its optimizer and the place in the batch plan; never the frozen base."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from selfspec.runtime.files import write_atomic

CHECKPOINT_NAME = "checkpoint.pt"


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are tuned, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def copy_parameters(model: nn.Module) -> dict[str, Tensor]:
    """The trained parameters as they are now."""
    return {name: parameter.detach().cpu().clone() for name, parameter in trainable_parameters(model).items()}


def save_checkpoint(
    folder: Path, schedule: LRScheduler, curve: list[dict[str, Any]], best: dict[str, Tensor], tuned: dict[str, Any]
) -> None:
    """Write the state after the last finished step, whole or not at all.

    Args:
        folder: Of the work that outlives a kill.
        schedule: Of the learning rate.
        curve: One entry a step.
        best: Parameters of the best epoch so far.
        tuned: `parameters`, and what puts the optimizer back.
    """
    state = {
        **tuned,
        "schedule": {"last_epoch": schedule.last_epoch},
        "curve": curve,
        "best": best,
        "random": [torch.get_rng_state(), *torch.cuda.get_rng_state_all()],  # dropout on a GPU draws from its own
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomic(folder / CHECKPOINT_NAME, buffer.getvalue())


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The state that was saved, or None. Nothing but tensors and plain data is unpickled."""
    path = folder / CHECKPOINT_NAME
    return torch.load(path, map_location="cpu", weights_only=True) if path.exists() else None


def restore_parameters(state: dict[str, Any], model: nn.Module) -> None:
    """Put the trained parameters back."""
    with torch.no_grad():
        for name, parameter in trainable_parameters(model).items():
            parameter.copy_(state["parameters"][name])


def restore_random(state: dict[str, Any]) -> None:
    """Go on drawing where the checkpoint was written."""
    torch.set_rng_state(state["random"][0])
    if len(state["random"]) - 1 == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["random"][1:])


def restore_schedule(state: dict[str, Any], schedule: LRScheduler) -> None:
    """Put the schedule back to its step (its rate is in the optimizer's state)."""
    schedule.last_epoch = state["schedule"]["last_epoch"]
    schedule._last_lr = [group["lr"] for group in schedule.optimizer.param_groups]
