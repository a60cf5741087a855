"""DeepSpeed on processors: Lightning's strategy for it wants GPUs, and these tests have none."""

from __future__ import annotations

from typing import Any

import deepspeed
import torch
from pytorch_lightning.strategies import DDPStrategy

from selfspec.tuning.strategies import parallelism
from selfspec.tuning.strategies.deepspeed import ZeroStrategy


class OnProcessors(ZeroStrategy):
    """As the product's, without what asks for a GPU; toys' parameters are so small that stage 3 would part none."""

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


def allow() -> None:
    """From now on."""
    parallelism.ZeroStrategy = OnProcessors  # type: ignore[misc]
    parallelism.check_strategy_device = lambda _: None
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # gloo does, and nothing is compiled
