"""Where base and adapter are placed, and how Lightning is configured for that."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytorch_lightning.plugins.environments import LightningEnvironment, TorchElasticEnvironment

from selfspec.config.schema import LoraConfig, ModelConfig, PathsConfig, StrategyConfig, TuningConfig
from selfspec.errors import UserError
from selfspec.models.load import load_base
from selfspec.runtime.distributed import ProcessGroup
from selfspec.runtime.progress import Progress
from selfspec.tuning.backends import DDPBackend, TrainingBackend
from selfspec.tuning.strategies.ddp import AdapterDDPStrategy
from selfspec.tuning.strategies.deepspeed import DeepSpeedBackend, ZeroStrategy, load_zero3_base, unset_zero3_config
from selfspec.tuning.strategies.fsdp import load_sharded_base
from selfspec.tuning.strategies.limits import check_shardable_adapter, check_strategy_device


@dataclass(frozen=True)
class Placement:
    """Where the base and the adapter lie."""

    strategy: StrategyConfig
    process_group: ProcessGroup

    @property
    def sharded(self) -> bool:
        """Whether each process holds a part of the base, by FSDP2."""
        return self.process_group.world_size > 1 and self.strategy.name in ("auto", "fsdp")

    @property
    def deepspeed(self) -> bool:
        """Whether DeepSpeed lies over the processes."""
        return self.process_group.world_size > 1 and self.strategy.name.startswith("deepspeed")

    @property
    def in_step(self) -> bool:
        """Whether the processes meet in every forward or backward pass; then all make as many of them."""
        return self.sharded or self.deepspeed

    @property
    def writer(self) -> list[Any] | None:
        """Who alone can read the checkpoint that these processes write; None: whoever comes."""
        return [self.strategy.name, self.process_group.world_size] if self.deepspeed else None

    def check(self, state: dict[str, Any], work: Path) -> None:
        """Refuse a checkpoint whose optimizer lies in parts that are not these processes'.

        Raises:
            UserError: what to do.
        """
        writer = state.get("writer")
        if writer != self.writer:
            was = f"{writer[1]} processes of strategy={writer[0]}" if writer else "a strategy without DeepSpeed"
            raise UserError(
                f"The checkpoint in {work} was written by {was}, and DeepSpeed's parts of an optimizer fit only as "
                "many processes of the same strategy; start it again as it began, or delete that folder to begin anew."
            )

    def gradients(self, module: Any) -> TrainingBackend:
        """What takes the losses of a step, once `Trainer` has put everything in its place."""
        if self.deepspeed:
            return DeepSpeedBackend(module.model, module.trainer.model, self, module.work)
        return DDPBackend(module.model, module.optimizers(), self.process_group, module.config.max_grad_norm)

    def base(self, model: ModelConfig, lora: LoraConfig, paths: PathsConfig, progress: Progress) -> tuple[Any, Any]:
        """(frozen base, tokenizer)."""
        if self.in_step:
            check_strategy_device(self.strategy)
        if self.sharded:
            check_shardable_adapter(lora)
            return load_sharded_base(model, paths, self.strategy, self.process_group.world_size, progress)
        if self.deepspeed and self.strategy.name != "deepspeed_zero2":
            return load_zero3_base(model, paths, self.strategy, progress)
        return load_base(model, paths, progress)

    def adapted(self) -> None:
        """The base wears its adapter: what this process loads from now on lies as anywhere else."""
        if self.deepspeed:
            unset_zero3_config()

    def trainer(self, tuning: TuningConfig) -> dict[str, Any]:
        """What `Trainer` is told of the processes."""
        if self.process_group.world_size == 1:
            return {"devices": 1, "plugins": [LightningEnvironment()]}  # not the SLURM one, which requeues by itself
        shape = {
            "devices": self.process_group.local_world_size,
            "num_nodes": self.process_group.world_size // self.process_group.local_world_size,
        }
        strategy = (
            ZeroStrategy(self.strategy, tuning.max_grad_norm)
            if self.deepspeed
            else AdapterDDPStrategy(cluster_environment=TorchElasticEnvironment())
        )
        return {"strategy": strategy, "use_distributed_sampler": False, **shape}
