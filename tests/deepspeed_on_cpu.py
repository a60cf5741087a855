"""DeepSpeed on CPUs, for tests: Lightning's strategy requires GPUs."""

from __future__ import annotations

from typing import Any

import deepspeed
import torch
from pytorch_lightning.strategies import DDPStrategy

from selfspec.tuning.strategies import parallelism
from selfspec.tuning.strategies.deepspeed import ZeroStrategy


class CPUZeroStrategy(ZeroStrategy):
    """`ZeroStrategy` without its need for GPUs; stage 3 partitions the small parameters of toy models too."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.config["zero_optimization"]["stage3_param_persistence_threshold"] = 0

    @property
    def root_device(self) -> torch.device:
        return torch.device("cpu", 0)

    def setup_environment(self) -> None:
        DDPStrategy.setup_environment(self)

    def setup_distributed(self) -> None:
        self.set_world_ranks()
        self._init_deepspeed_distributed()


def allow_deepspeed_on_cpu() -> None:
    """Let the DeepSpeed strategies of this process run on CPUs."""
    parallelism.ZeroStrategy = CPUZeroStrategy  # type: ignore[misc]
    parallelism.check_strategy_device = lambda _: None
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # use gloo, so that nothing is compiled
