"""The processes that share one stage: started by torchrun or srun, connected by torch.distributed."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from selfspec.errors import UserError

if TYPE_CHECKING:
    import torch

CONNECT_SECONDS_VARIABLE, CONNECT_SECONDS = "SELFSPEC_CONNECT_SECONDS", 120  # that processes wait for each other
PR_SET_PDEATHSIG = 1  # option of Linux's prctl: the signal that this process gets when its parent dies


@dataclass(frozen=True)
class ProcessGroup:
    """Collective operations over the processes of one stage.

    Every process must call the same operations in the same order. A single process returns at once, and torch is
    not imported.

    Args:
        rank: Number of this process, from 0.
        world_size: Number of processes on all nodes.
        local_world_size: Number of processes on this node.
    """

    rank: int = 0
    world_size: int = 1
    local_world_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which publishes, logs and prints."""
        return self.rank == 0

    def all_reduce_max(self, number: int) -> int:
        """Return the maximum of all processes' numbers."""
        if self.world_size == 1:
            return number
        import torch
        import torch.distributed

        maximum = torch.tensor([number], device=_collective_device())
        torch.distributed.all_reduce(maximum, torch.distributed.ReduceOp.MAX)
        return int(maximum)

    def all_reduce_sum(self, tensors: Iterable[torch.Tensor]) -> None:
        """Sum each tensor over all processes, in place, with one all-reduce in float32."""
        if self.world_size == 1:
            return
        import torch
        import torch.distributed

        targets = list(tensors)
        flat = torch.cat([tensor.reshape(-1).float().to(_collective_device()) for tensor in targets])
        torch.distributed.all_reduce(flat)
        for tensor, total in zip(targets, torch.split(flat, [tensor.numel() for tensor in targets]), strict=True):
            tensor.copy_(total.view_as(tensor))

    def all_gather(self, values: dict[int, Any]) -> dict[int, Any]:
        """Return the union of all processes' dictionaries; their keys must be distinct."""
        if self.world_size == 1:
            return values
        import torch.distributed

        parts: list[dict[int, Any]] = [{}] * self.world_size
        torch.distributed.all_gather_object(parts, values)
        return {number: value for part in parts for number, value in part.items()}


SINGLE_PROCESS = ProcessGroup()


def terminate_with_parent() -> None:
    """Send SIGTERM to this process when its parent dies (on Linux): a stage must not outlive its sweep."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


@contextmanager
def join_process_group() -> Iterator[ProcessGroup]:
    """Join the process group that torchrun or srun describes in the environment; leave it at the end of the block.

    A process that was started alone gets `SINGLE_PROCESS`.

    Raises:
        UserError: The processes did not reach each other within `SELFSPEC_CONNECT_SECONDS`.
    """
    if "SLURM_STEP_NUM_TASKS" in os.environ and "TORCHELASTIC_RUN_ID" not in os.environ:
        _set_torchrun_variables()
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        yield SINGLE_PROCESS
        return
    import torch
    import torch.distributed

    if torch.cuda.is_available():  # a GPU for each process, also where every process sees all GPUs of its node
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    group = ProcessGroup(int(os.environ["RANK"]), world_size, int(os.environ["LOCAL_WORLD_SIZE"]))
    _connect(group)
    try:
        yield group
    finally:
        torch.distributed.destroy_process_group()


def _connect(group: ProcessGroup) -> None:
    """Initialize torch's process group.

    The processes first connect with a short timeout, because torch's own of 30 minutes is meant for collectives.
    """
    from torch.distributed import PrefixStore, TCPStore, destroy_process_group, init_process_group  # type: ignore[attr-defined]

    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    seconds = float(os.environ.get(CONNECT_SECONDS_VARIABLE, CONNECT_SECONDS))
    is_server = group.is_first and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"  # else torchrun is
    rank, size = group.rank, group.world_size
    if group.is_first:
        print(f"Waiting for {size} processes at {host}:{port}.", file=sys.stderr, flush=True)
    try:
        timeout = timedelta(seconds=seconds)
        store = TCPStore(host, port, size, is_server, timeout)
        init_process_group("gloo", store=PrefixStore("connect", store), rank=rank, world_size=size, timeout=timeout)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"Process {rank + 1} of {size} could not connect to the others at {host}:{port} within "
            f"{seconds:g} s ({str(error).splitlines()[0].rstrip('.')}); set MASTER_ADDR to an address of the first "
            f"node that every node reaches, and GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME to its network interface."
        ) from error
    destroy_process_group()
    backend = "nccl" if _collective_device() == "cuda" else "gloo"
    init_process_group(backend, store=PrefixStore("work", store), rank=rank, world_size=size)


def _set_torchrun_variables() -> None:
    """Set torchrun's environment variables, which torch and Lightning read, from those of srun."""
    world_size = int(os.environ["SLURM_STEP_NUM_TASKS"])
    if world_size == 1:
        return
    from pytorch_lightning.plugins.environments import SLURMEnvironment

    slurm = SLURMEnvironment(auto_requeue=False)
    num_nodes = int(os.environ["SLURM_STEP_NUM_NODES"])
    os.environ |= {
        "RANK": os.environ["SLURM_PROCID"],
        "LOCAL_RANK": os.environ["SLURM_LOCALID"],
        "GROUP_RANK": os.environ["SLURM_NODEID"],
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size // num_nodes),
        "MASTER_ADDR": slurm.main_address,
        "MASTER_PORT": str(slurm.main_port),
    }


def _collective_device() -> str:
    """The device whose tensors the backend of the process group takes."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
