"""What becomes of the losses of a step: gradients that meet, a clipped step of the optimizer, a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from selfspec.runtime.distributed import ProcessGroup
from selfspec.tuning.checkpoints import copy_parameters, trainable_parameters

PublishCheckpoint = Callable[[dict[str, Any]], None]  # writes the checkpoint with what is told here


class TrainingBackend(Protocol):
    """All processes call each of these together."""

    def backward(self, losses: list[Callable[[], Tensor]]) -> Tensor:
        """Compute each loss of a step and its gradients; their sum over all processes."""

    def step(self) -> float:
        """Clip, and let the optimizer use them; their norm before."""

    def parameters(self) -> dict[str, Tensor]:
        """A copy of what is trained."""

    def save(self, step: int, publish: PublishCheckpoint) -> None:
        """Keep what `restore` needs; nothing counts before it is published."""

    def restore(self, state: dict[str, Any]) -> None:
        """Put the optimizer back as a checkpoint says; the parameters are there."""

    def finish(self) -> None:
        """No step follows: the trained parameters are whole in each process."""


class DDPBackend:
    """The adapter is whole in each process; gradients meet in one exchange a step, after the last backward."""

    def __init__(self, model: nn.Module, optimizer: Any, process_group: ProcessGroup, max_grad_norm: float) -> None:
        self.model, self.optimizer, self.process_group, self.max_grad_norm = (
            model,
            optimizer,
            process_group,
            max_grad_norm,
        )

    def backward(self, losses: list[Callable[[], Tensor]]) -> Tensor:
        """See `Gradients`."""
        own = trainable_parameters(self.model).values()
        for parameter in own:
            parameter.grad = torch.zeros_like(parameter)  # also where this process has no row in the step
        total = torch.zeros(1, dtype=torch.float64)
        for loss in losses:
            part = loss()
            part.backward()  # type: ignore[no-untyped-call]
            total += part.detach().cpu()
        self.process_group.all_reduce_sum([total, *(parameter.grad for parameter in own if parameter.grad is not None)])
        return total

    def step(self) -> float:
        """See `Gradients`."""
        norm = torch.nn.utils.clip_grad_norm_(trainable_parameters(self.model).values(), self.max_grad_norm)
        self.optimizer.step()
        return float(norm)

    def parameters(self) -> dict[str, Tensor]:
        """See `Gradients`."""
        return copy_parameters(self.model)

    def save(self, step: int, publish: PublishCheckpoint) -> None:
        """See `Gradients`."""
        if self.process_group.is_first:
            publish({"parameters": self.parameters(), "optimizer": self.optimizer.optimizer.state_dict()})

    def restore(self, state: dict[str, Any]) -> None:
        """See `Gradients`."""
        self.optimizer.optimizer.load_state_dict(state["optimizer"])

    def finish(self) -> None:
        """See `Gradients`."""
