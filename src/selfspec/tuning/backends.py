"""Backward pass, gradient all-reduce, clipping, optimizer step and the state to checkpoint, for each way to run it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from selfspec.config.schema import TuningConfig
from selfspec.runtime.distributed import ProcessGroup
from selfspec.tuning.checkpoints import copy_parameters, trainable_parameters


class TrainingBackend(Protocol):
    """Backward pass, gradient all-reduce, clipping, optimizer step and the state to checkpoint.

    Every method is collective: all processes of the stage call it together.
    """

    def backward(self, losses: list[Callable[[], Tensor]]) -> Tensor:
        """Compute the losses of one optimizer step and their gradients.

        Args:
            losses: This process's forward passes; each is called once, and its gradients are added.

        Returns:
            The sum of the losses over all processes: [1], float64.
        """

    def step(self) -> float:
        """Clip the gradients and apply the optimizer; returns the norm of the gradients before clipping."""

    def parameters(self) -> dict[str, Tensor]:
        """A copy of the trained parameters, whole in each process."""

    def state_dict(self, step: int) -> dict[str, Any]:
        """The trained parameters and what `load_state_dict` needs to restore the optimizer.

        Args:
            step: Number of finished optimizer steps; names what a backend writes into files of its own.
        """

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the optimizer; the module restores the parameters."""

    def finish(self) -> None:
        """Called after the last step: make the trained parameters whole in each process."""


class DDPBackend:
    """Each process holds the whole adapter; gradients are all-reduced once a step, after its last backward pass."""

    def __init__(self, model: nn.Module, optimizer: Any, process_group: ProcessGroup, config: TuningConfig) -> None:
        self.model = model
        self.optimizer = optimizer  # Lightning's, so that its hooks run
        self.process_group = process_group
        self.config = config

    def backward(self, losses: list[Callable[[], Tensor]]) -> Tensor:
        """See `TrainingBackend`."""
        parameters = trainable_parameters(self.model).values()
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)  # also if this process has no forward pass in the step
        total = torch.zeros(1, dtype=torch.float64)
        for compute_loss in losses:
            loss = compute_loss()
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach().cpu()
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        self.process_group.all_reduce_sum([total, *gradients])
        return total

    def step(self) -> float:
        """See `TrainingBackend`."""
        norm = clip_gradients(trainable_parameters(self.model).values(), self.config)
        self.optimizer.step()
        return float(norm)

    def parameters(self) -> dict[str, Tensor]:
        """See `TrainingBackend`."""
        return copy_parameters(self.model)

    def state_dict(self, step: int) -> dict[str, Any]:
        """See `TrainingBackend`."""
        return {"parameters": self.parameters(), "optimizer": self.optimizer.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `TrainingBackend`."""
        self.optimizer.optimizer.load_state_dict(state["optimizer"])

    def finish(self) -> None:
        """See `TrainingBackend`."""


def clip_gradients(parameters: Collection[nn.Parameter], config: TuningConfig) -> Tensor:
    """Clip gradients in place as `config` says; returns their norm before. (DeepSpeed's engine clips by itself.)"""
    return torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm or math.inf)
