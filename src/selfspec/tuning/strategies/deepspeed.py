"""DeepSpeed's ZeRO (Rajbhandari et al. 2019, arXiv 1910.02054): the adapter's gradients and optimizer lie in parts, one
in each process; in stage 3 the frozen base does, too, and is gathered layer by layer.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pytorch_lightning.plugins.environments import TorchElasticEnvironment
from pytorch_lightning.plugins.precision import Precision
from pytorch_lightning.strategies import DeepSpeedStrategy
from torch import Tensor, nn

from selfspec.config.schema import ModelConfig, PathsConfig, StrategyConfig
from selfspec.models.load import load_network, load_tokenizer, model_files, resolve_dtype
from selfspec.models.nf4 import torch_linear_in_falcon
from selfspec.models.weights import locate_weights
from selfspec.runtime.files import sync_folder
from selfspec.runtime.progress import Progress
from selfspec.tuning.backends import PublishCheckpoint
from selfspec.tuning.checkpoints import copy_parameters, trainable_parameters

if TYPE_CHECKING:
    from selfspec.tuning.strategies.placement import Placement

BUCKET_NUMEL = 50_000_000  # numbers that one exchange takes: the gradients are an adapter's


class ZeroStrategy(DeepSpeedStrategy):  # type: ignore[misc]
    """Lightning's strategy, told what `Specialization` wants of it."""

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
            precision_plugin=Precision(),  # DeepSpeed's own casts the base to float32
        )
        self.config["gradient_clipping"] = max_grad_norm
        self.config["zero_force_ds_cpu_optimizer"] = False  # AdamW as everywhere, which nobody has to compile

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """Called as it is: the engine is around each forward pass, and a step has several."""
        return self.lightning_module.training_step(*args, **kwargs)

    def teardown(self) -> None:
        """The engine's hooks leave the base."""
        super().teardown()
        if self.model not in (None, self.lightning_module):
            self.model.destroy()


def load_zero3_base(
    model: ModelConfig, paths: PathsConfig, strategy: StrategyConfig, progress: Progress
) -> tuple[Any, Any]:
    """(frozen base, tokenizer) of stage 3; a tensor is parted as soon as it is made, and no process holds the model."""
    from transformers.integrations.deepspeed import HfDeepSpeedConfig

    folder = None if model.toy else locate_weights(model, Path(paths.cache), progress)
    settings = dict(ZeroStrategy(strategy, 0).config)
    kind = {torch.bfloat16: "bf16", torch.float16: "fp16"}.get(resolve_dtype(model))
    if kind:
        settings[kind] = {"enabled": True}
    with (
        model_files(model, folder) as place,
        torch_linear_in_falcon(),
    ):  # Falcon's own would hold on to gathered weights
        alive = HfDeepSpeedConfig(settings)  # by its mere being it tells transformers, and PEFT for DoRA
        made = load_network(model, place)
        made.deepspeed = alive
        return made, load_tokenizer(model, place)


def unset_zero3_config() -> None:
    """Whatever is loaded after the base and its adapter lies whole."""
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()


class DeepSpeedBackend:
    """`gradients.Gradients`, as DeepSpeed's engine collects and uses them."""

    def __init__(self, model: nn.Module, engine: Any, placement: Placement, work: Path) -> None:
        self.model, self.engine, self.process_group = model, engine, placement.process_group
        self.folder, self.writer = work / "deepspeed", placement.writer

    def backward(self, losses: list[Callable[[], Tensor]]) -> Tensor:
        """Each backward exchanges; so all processes have as many losses, some of them 0."""
        total = torch.zeros(1, dtype=torch.float64)
        for left, loss in zip(reversed(range(len(losses))), losses, strict=True):
            self.engine.set_gradient_accumulation_boundary(left == 0)
            part = loss()
            self.engine.backward(part * self.process_group.world_size)  # it takes the mean over processes
            total += part.detach().cpu()
        self.process_group.all_reduce_sum([total])
        return total

    def step(self) -> float:
        """See `Gradients`."""
        self.engine.step()
        return float(self.engine.get_global_grad_norm())

    def parameters(self) -> dict[str, Tensor]:
        """See `Gradients`."""
        with self._gathered():
            return copy_parameters(self.model)

    def save(self, step: int, publish: PublishCheckpoint) -> None:
        """The engine writes a part a process, under a name of its own, which counts once it is published."""
        name, parameters = f"step-{step}", self.parameters()
        self.engine.save_checkpoint(str(self.folder), name, save_latest=False, exclude_frozen_parameters=True)
        if self.process_group.is_first:
            sync_folder(self.folder / name)
            publish({"parameters": parameters, "engine": name, "writer": self.writer})
            for old in self.folder.glob("step-*"):
                if old.name != name:
                    shutil.rmtree(old)

    def restore(self, state: dict[str, Any]) -> None:
        """See `Gradients`."""
        self.engine.load_checkpoint(
            str(self.folder), state["engine"], load_module_strict=False, load_lr_scheduler_states=False
        )

    def finish(self) -> None:
        """See `Gradients`."""
        whole = self.parameters()
        for name, parameter in trainable_parameters(self.model).items():
            parameter.data = whole[name]

    def _gathered(self) -> Any:
        import deepspeed

        own = list(trainable_parameters(self.model).values())
        return deepspeed.zero.GatheredParameters(own, enabled=self.engine.zero_optimization_stage() == 3)
