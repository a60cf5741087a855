"""The processes that share one stage, started by torchrun or srun and joined by torch.distributed."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ProcessGroup:
    """This process among those of its stage. Alone, every question is answered without torch.distributed."""

    rank: int = 0
    world_size: int = 1
    local_world_size: int = 1  # processes on this machine

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes, logs and speaks."""
        return self.rank == 0

    def all_reduce_max(self, number: int) -> int:
        """The largest of all processes' numbers."""
        if self.world_size == 1:
            return number
        import torch
        import torch.distributed

        told = torch.tensor([number], device=_collective_device())
        torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MAX)
        return int(told)

    def all_reduce_sum(self, tensors: Iterable[torch.Tensor]) -> None:
        """Sum each tensor over all processes, in place, in one exchange."""
        if self.world_size == 1:
            return
        import torch
        import torch.distributed

        kept = list(tensors)
        flat = torch.cat([tensor.reshape(-1).float().to(_collective_device()) for tensor in kept])
        torch.distributed.all_reduce(flat)
        for tensor, summed in zip(kept, torch.split(flat, [tensor.numel() for tensor in kept]), strict=True):
            tensor.copy_(summed.view_as(tensor))

    def all_gather(self, mine: dict[int, Any]) -> dict[int, Any]:
        """What all processes have, by its number."""
        if self.world_size == 1:
            return mine
        import torch.distributed

        parts: list[dict[int, Any]] = [{}] * self.world_size
        torch.distributed.all_gather_object(parts, mine)
        return {number: value for part in parts for number, value in part.items()}


SINGLE_PROCESS = ProcessGroup()


PR_SET_PDEATHSIG = 1  # of Linux's prctl


def terminate_with_parent() -> None:
    """A stage does not outlive the sweep that started it: it saves, and ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


@contextmanager
def join_process_group() -> Iterator[ProcessGroup]:
    """Join the others, if torchrun or srun started several."""
    if "SLURM_STEP_NUM_TASKS" in os.environ and "TORCHELASTIC_RUN_ID" not in os.environ:
        _set_torchrun_variables()
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield SINGLE_PROCESS
        return
    import torch
    import torch.distributed

    if torch.cuda.is_available():  # each process of a machine has a GPU of its own, if all see them all
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    torch.distributed.init_process_group("nccl" if _collective_device() == "cuda" else "gloo")
    try:
        yield ProcessGroup(int(os.environ["RANK"]), world, int(os.environ["LOCAL_WORLD_SIZE"]))
    finally:
        torch.distributed.destroy_process_group()


def _set_torchrun_variables() -> None:
    """What srun says of this process, in torchrun's variables, which torch and Lightning read."""
    world = int(os.environ["SLURM_STEP_NUM_TASKS"])
    if world == 1:
        return
    from pytorch_lightning.plugins.environments import SLURMEnvironment

    slurm = SLURMEnvironment(auto_requeue=False)
    nodes = int(os.environ["SLURM_STEP_NUM_NODES"])
    os.environ |= {
        "RANK": os.environ["SLURM_PROCID"],
        "LOCAL_RANK": os.environ["SLURM_LOCALID"],
        "GROUP_RANK": os.environ["SLURM_NODEID"],
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world // nodes),
        "MASTER_ADDR": slurm.main_address,
        "MASTER_PORT": str(slurm.main_port),
    }


def _collective_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
