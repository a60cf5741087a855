"""Over which processes an adapter is tuned: where the base lies, and what Lightning is told.

The processes are started from outside, never by Lightning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pytorch_lightning.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from pytorch_lightning.strategies import DDPStrategy

from selfspec import door
from selfspec.config import LoraConfig, ModelConfig, PathsConfig, StrategyConfig
from selfspec.models import load
from selfspec.ranks import Ranks
from selfspec.reporting.progress import Progress
from selfspec.tuning import sharding


class DataParallel(DDPStrategy):  # type: ignore[misc]
    """Each process has the whole model; the adapter's gradients meet in one exchange a step, after the last backward.

    torch's own wrapper exchanges in every backward, so it wants as many of them in each process; a step's forward
    passes are not always as many.
    """

    def configure_ddp(self) -> None:
        """The module stays unwrapped; `Specialization.training_step` sums the gradients."""


@dataclass(frozen=True)
class Placement:
    """Where the base and the adapter lie."""

    strategy: StrategyConfig
    ranks: Ranks

    @property
    def sharded(self) -> bool:
        """Whether each process holds a part of the base; then all make the same number of forward passes."""
        return self.ranks.world > 1 and self.strategy.name in ("auto", "fsdp")

    def base(self, model: ModelConfig, lora: LoraConfig, paths: PathsConfig, progress: Progress) -> tuple[Any, Any]:
        """(frozen base, tokenizer)."""
        if self.sharded:
            door.check_sharded(model, lora)
            return sharding.base(model, paths, self.strategy, self.ranks.world, progress)
        return load.base(model, paths, progress)

    def place(self, model: Any, config: ModelConfig) -> None:
        """Put the base, with its adapter on, where it shall be tuned."""
        if self.sharded and config.quantization == "nf4":
            sharding.shard(model, self.strategy, self.ranks.world)

    def trainer(self) -> dict[str, Any]:
        """What `Trainer` is told of the processes."""
        if self.ranks.world == 1:
            return {"devices": 1, "plugins": [LightningEnvironment()]}  # not the SLURM one, which requeues by itself
        shape = {"devices": self.ranks.local_world, "num_nodes": self.ranks.world // self.ranks.local_world}
        strategy = DataParallel(cluster_environment=TorchElasticEnvironment())
        return {"strategy": strategy, "use_distributed_sampler": False, **shape}
