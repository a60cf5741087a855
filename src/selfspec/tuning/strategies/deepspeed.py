"""DeepSpeed's ZeRO (Rajbhandari et al. 2019, arXiv 1910.02054): the adapter's gradients and optimizer states are
partitioned among the processes; in stage 3 the frozen base is too, and is gathered layer by layer.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.environments import TorchElasticEnvironment
from pytorch_lightning.plugins.precision import Precision
from pytorch_lightning.strategies import DeepSpeedStrategy
from torch import Tensor, nn

from selfspec.config.schema import ModelConfig, PathsConfig, StrategyConfig
from selfspec.models.load import load_network, load_tokenizer, model_files, resolve_dtype
from selfspec.models.transformers_internals import torch_linear_in_falcon
from selfspec.models.weights import locate_weights
from selfspec.runtime.distributed import ProcessGroup
from selfspec.runtime.files import sync_folder
from selfspec.runtime.progress import Progress
from selfspec.tuning.checkpoints import SHARD_FOLDER, copy_parameters, trainable_parameters

BUCKET_NUMEL = 50_000_000  # elements that one all-reduce or all-gather takes; an adapter's gradients are fewer


class ZeroStrategy(DeepSpeedStrategy):  # type: ignore[misc]
    """Lightning's DeepSpeed strategy, set up for `SpecializationModule`."""

    def __init__(self, strategy: StrategyConfig, max_grad_norm: float) -> None:
        offload = strategy.name == "deepspeed_zero3_offload"
        super().__init__(
            stage=2 if strategy.name == "deepspeed_zero2" else 3,
            offload_optimizer=offload,
            offload_parameters=offload,
            exclude_frozen_parameters=True,
            reduce_bucket_size=BUCKET_NUMEL,
            allgather_bucket_size=BUCKET_NUMEL,
            logging_batch_size_per_gpu=1,
            cluster_environment=TorchElasticEnvironment(),
            precision_plugin=Precision(),  # Lightning's own for DeepSpeed casts the base to float32
        )
        self.config["gradient_clipping"] = max_grad_norm
        self.config["zero_force_ds_cpu_optimizer"] = False  # torch's AdamW, which needs no compiler

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module's step directly: the engine wraps each forward pass, and a step has several."""
        return self.lightning_module.training_step(*args, **kwargs)

    def teardown(self) -> None:
        """Remove the engine's hooks from the base."""
        super().teardown()
        if self.model not in (None, self.lightning_module):
            self.model.destroy()


def load_zero3_base(
    model: ModelConfig, paths: PathsConfig, strategy: StrategyConfig, progress: Progress
) -> tuple[Any, Any]:
    """(frozen base, tokenizer) for stage 3; each tensor is partitioned at once, so no process holds the whole model."""
    from transformers.integrations.deepspeed import HfDeepSpeedConfig

    folder = None if model.toy else locate_weights(model, Path(paths.cache), progress)
    settings = dict(ZeroStrategy(strategy, 0).config)
    precision = {torch.bfloat16: "bf16", torch.float16: "fp16"}.get(resolve_dtype(model))
    if precision:
        settings[precision] = {"enabled": True}
    with (
        model_files(model, folder) as files,
        torch_linear_in_falcon(),  # Falcon's own would keep gathered weights
    ):
        zero3_config = HfDeepSpeedConfig(settings)  # while it exists, transformers and PEFT partition what they build
        base = load_network(model, files)
        base.deepspeed = zero3_config
        return base, load_tokenizer(model, files)


def unset_zero3_config() -> None:
    """Models that are loaded from now on are not partitioned."""
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()


class DeepSpeedBackend:
    """Gradient all-reduce, clipping by norm, optimizer step and checkpointing by DeepSpeed's engine."""

    def __init__(self, model: nn.Module, engine: Any, process_group: ProcessGroup, work: Path) -> None:
        self.model, self.engine, self.process_group = model, engine, process_group
        self.folder = work / SHARD_FOLDER

    def backward(self, losses: list[Callable[[], Tensor]]) -> Tensor:
        """See `TrainingBackend`. Each backward pass is collective: all processes need the same number of losses."""
        total = torch.zeros(1, dtype=torch.float64)
        for num_left, compute_loss in zip(reversed(range(len(losses))), losses, strict=True):
            self.engine.set_gradient_accumulation_boundary(num_left == 0)
            loss = compute_loss()
            self.engine.backward(loss * self.process_group.world_size)  # the engine averages over processes
            total += loss.detach().cpu()
        self.process_group.all_reduce_sum([total])
        return total

    def step(self) -> float:
        """See `TrainingBackend`."""
        self.engine.step()
        return float(self.engine.get_global_grad_norm())

    def parameters(self) -> dict[str, Tensor]:
        """See `TrainingBackend`."""
        with self._gathered():
            return copy_parameters(self.model)

    def state_dict(self, step: int) -> dict[str, Any]:
        """See `TrainingBackend`. Each process writes its part of the optimizer; the state names their folder."""
        name, parameters = f"step-{step}", self.parameters()
        self.engine.save_checkpoint(str(self.folder), name, save_latest=False, exclude_frozen_parameters=True)
        if self.process_group.is_first:
            sync_folder(self.folder / name)
        return {"parameters": parameters, "shards": name}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `TrainingBackend`."""
        self.engine.load_checkpoint(
            str(self.folder), state["shards"], load_module_strict=False, load_lr_scheduler_states=False
        )

    def finish(self) -> None:
        """See `TrainingBackend`."""
        parameters = self.parameters()
        for name, parameter in trainable_parameters(self.model).items():
            parameter.data = parameters[name]

    def _gathered(self) -> Any:
        """A context in which the trained parameters are whole in each process."""
        import deepspeed

        parameters = list(trainable_parameters(self.model).values())
        return deepspeed.zero.GatheredParameters(parameters, enabled=self.engine.zero_optimization_stage() == 3)
