"""How base and adapter are distributed over processes, and Lightning's settings for it."""

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
from selfspec.tuning.strategies.limits import check_shardable_adapter, check_strategy_device, uses_fsdp, uses_zero3


@dataclass(frozen=True)
class Parallelism:
    """The strategy of a config, applied to the processes of a stage."""

    strategy: StrategyConfig
    process_group: ProcessGroup

    @property
    def uses_fsdp(self) -> bool:
        """Whether each process holds a shard of the base (FSDP2)."""
        return uses_fsdp(self.strategy, self.process_group.world_size)

    @property
    def uses_deepspeed(self) -> bool:
        """Whether DeepSpeed runs the optimizer."""
        return self.process_group.world_size > 1 and self.strategy.name.startswith("deepspeed")

    @property
    def needs_equal_passes(self) -> bool:
        """Whether forward or backward passes are collective, so that all processes need the same number of them."""
        return self.uses_fsdp or self.uses_deepspeed

    @property
    def required_processes(self) -> list[Any] | None:
        """[strategy, world size] required to restore these processes' checkpoints; None: any strategy and number."""
        return [self.strategy.name, self.process_group.world_size] if self.uses_deepspeed else None

    def check_checkpoint(self, state: dict[str, Any], work: Path) -> None:
        """Check that these processes can restore a checkpoint.

        Raises:
            UserError: DeepSpeed's parts of its optimizer belong to another strategy or number of processes.
        """
        required = state["required_processes"]
        if required != self.required_processes:
            origin = (
                f"{required[1]} processes of strategy={required[0]}" if required else "a strategy without DeepSpeed"
            )
            raise UserError(
                f"The checkpoint in {work} was written by {origin}; DeepSpeed can restore an optimizer only with as "
                "many processes of the same strategy; start it again with the same settings, or delete "
                "that folder to start from step 0."
            )

    def build_backend(self, module: Any) -> TrainingBackend:
        """The backend of a `SpecializationModule`; called after Lightning has set up model and optimizer."""
        if self.uses_deepspeed:
            return DeepSpeedBackend(module.model, module.trainer.model, self.process_group, module.work)
        return DDPBackend(module.model, module.optimizers(), self.process_group, module.config)

    def load_base(
        self, model: ModelConfig, lora: LoraConfig, paths: PathsConfig, progress: Progress
    ) -> tuple[Any, Any]:
        """(frozen base, tokenizer); the base is sharded if the strategy shards it.

        Raises:
            UserError: The strategy can't run here, or can't hold this adapter.
        """
        if self.needs_equal_passes:
            check_strategy_device(self.strategy)
        if self.uses_fsdp:
            check_shardable_adapter(lora)
            return load_sharded_base(model, paths, self.strategy, self.process_group.world_size, progress)
        if uses_zero3(self.strategy, self.process_group.world_size):
            return load_zero3_base(model, paths, self.strategy, progress)
        return load_base(model, paths, progress)

    def after_adapter_added(self) -> None:
        """Called once the adapter is on the base; models that are loaded later are not sharded by ZeRO-3."""
        if self.uses_deepspeed:
            unset_zero3_config()

    def trainer_settings(self, tuning: TuningConfig) -> dict[str, Any]:
        """Keywords of Lightning's Trainer for these processes."""
        if self.process_group.world_size == 1:
            return {
                "devices": 1,
                "plugins": [LightningEnvironment()],
            }  # Lightning's SLURM environment requeues by itself
        processes = {
            "devices": self.process_group.local_world_size,
            "num_nodes": self.process_group.world_size // self.process_group.local_world_size,
        }
        strategy = (
            ZeroStrategy(self.strategy, tuning.max_grad_norm)
            if self.uses_deepspeed
            else AdapterDDPStrategy(cluster_environment=TorchElasticEnvironment())
        )
        return {"strategy": strategy, "use_distributed_sampler": False, **processes}
