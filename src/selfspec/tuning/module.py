"""The LightningModule of tuning: one `training_step` is one optimizer step of the batch plan.

Lightning places model and optimizer, runs the loop, and calls loggers, callbacks and profilers. Three things are our
own, and so optimization is manual. The batches are planned before training, and the loss of a step is the sum over its
forward passes divided by the target tokens of the whole step: Lightning's gradient accumulation averages the means of
batches, which weights a token by the length of the batch it happens to be in, and it gives every process as many
batches, which packed examples do not fill evenly. A checkpoint holds the adapter, the optimizer, the curve and the
random state: Lightning's would hold the frozen base too, and resumes at a batch only with a loader that saves its
position, while ours resumes at the next step of the plan, also in another number of processes. So `on_before_backward`
and `on_after_backward` of callbacks are not called, and `trainer.callback_metrics` stays empty: `curve` has each step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from selfspec.config.schema import TuningConfig
from selfspec.errors import UserError
from selfspec.models.load import NON_FINITE_ADVICE
from selfspec.models.nf4 import paged_adamw
from selfspec.runtime.progress import Step as ProgressStep
from selfspec.runtime.signals import StopFlag
from selfspec.tuning.batches import EncodedExample, OptimizerStep
from selfspec.tuning.checkpoints import (
    load_checkpoint,
    random_states,
    restore_parameters,
    restore_random_states,
    save_checkpoint,
    trainable_parameters,
)
from selfspec.tuning.lightning_internals import set_logged_step
from selfspec.tuning.loss import response_loss_sum
from selfspec.tuning.objectives import TuningObjective
from selfspec.tuning.packing import SegmentMask
from selfspec.tuning.strategies.parallelism import Parallelism

LossSum = Callable[[Any, Sequence[EncodedExample], SegmentMask], Tensor]


@dataclass(frozen=True)
class TuningData:
    """The examples to learn, the plan of their steps, and the held-out seeds, whose loss is measured only."""

    examples: Sequence[EncodedExample]
    steps: Sequence[OptimizerStep]
    held_out: Sequence[EncodedExample]


class SpecializationModule(pl.LightningModule):  # type: ignore[misc]
    """LoRA tuning of a frozen base on planned batches, resumable at every step.

    Args:
        model: The base with its adapter.
        data: Examples, plan and held-out seeds.
        objective: Loss of a forward pass.
        config: Learning rate, epochs and the like.
        mask: The function that `segmented_attention` yielded.
        parallelism: How the processes share the work.
        work: Folder of the checkpoint; it survives a kill.
        display: Progress display.
        stop: Flag that signals set.
        hyperparameters: Flat plain values for `save_hyperparameters`, which every Lightning logger logs.

    Raises:
        UserError: There is a checkpoint that these processes can't restore.
    """

    def __init__(
        self,
        model: Any,
        data: TuningData,
        objective: TuningObjective,
        config: TuningConfig,
        mask: SegmentMask,
        parallelism: Parallelism,
        work: Path,
        display: ProgressStep,
        stop: StopFlag,
        hyperparameters: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self.save_hyperparameters(dict(hyperparameters))
        self.automatic_optimization = False
        self.model, self.data, self.objective, self.config, self.mask = model, data, objective, config, mask
        self.parallelism, self.process_group = parallelism, parallelism.process_group
        self.work, self.display, self.stop = work, display, stop
        if config.activation_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.curve: list[dict[str, Any]] = []  # one entry per step
        self.best: dict[str, Tensor] = {}  # parameters after the epoch with the lowest loss on held-out seeds
        self.checkpoint = load_checkpoint(work)
        if self.checkpoint:
            parallelism.check_checkpoint(self.checkpoint, work)
            self.curve, self.best = list(self.checkpoint["curve"]), self.checkpoint["best"]
            restore_parameters(self.checkpoint["parameters"], model)
        self._check_same_checkpoint()
        self._saved_at = time.monotonic()

    def _check_same_checkpoint(self) -> None:
        """A network file system can show a new checkpoint to one process later than to another."""
        num_done, group = len(self.curve), self.process_group
        if group.all_reduce_max(num_done) != -group.all_reduce_max(-num_done):
            raise UserError(f"The processes of this stage see different checkpoints in {self.work}; start it again.")

    def remaining_steps(self) -> range:
        """Numbers of the steps that are still to be taken."""
        return range(len(self.curve), len(self.curve) if self.is_patience_exhausted() else len(self.data.steps))

    def is_patience_exhausted(self) -> bool:
        """Whether the loss on held-out seeds has not fallen for `tuning.patience` epochs."""
        losses, patience = self.held_out_losses(), self.config.patience
        return patience is not None and len(losses) > patience and min(losses[-patience:]) >= min(losses[:-patience])

    def configure_optimizers(self) -> Any:
        """AdamW on the adapter, with warm-up and schedule."""
        parameters = list(trainable_parameters(self.model).values())
        optimizer_class = paged_adamw() if self._uses_8bit_optimizer(parameters[0]) else AdamW
        optimizer = optimizer_class(parameters, lr=self.config.learning_rate, weight_decay=self.config.weight_decay)
        return {"optimizer": optimizer, "lr_scheduler": LambdaLR(optimizer, self.learning_rate_factor)}

    def _uses_8bit_optimizer(self, parameter: Tensor) -> bool:
        """Whether optimizer states are in 8 bits, as in QLoRA: with a base in 4 bits, on a GPU."""
        in_4_bits = getattr(self.model, "is_loaded_in_4bit", False)
        return in_4_bits and parameter.is_cuda and not self.parallelism.uses_deepspeed

    def learning_rate_factor(self, step: int) -> float:
        """Factor of `tuning.learning_rate` at `step`."""
        total = max(len(self.data.steps), 1)
        warmup = math.ceil(self.config.warmup_ratio * total)
        if step < warmup:
            return (step + 1) / (warmup + 1)
        done = (step - warmup) / max(total - warmup, 1)
        return {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}[
            self.config.schedule
        ]

    def on_train_start(self) -> None:
        """Replace Lightning's signal handlers by the stop flag's, and restore optimizer and schedule."""
        self.stop.install_handlers()
        self.backend = self.parallelism.build_backend(self)
        if self.checkpoint:
            self.backend.load_state_dict(self.checkpoint)
            self._scheduler().load_state_dict(self.checkpoint["schedule"])
        set_logged_step(self.trainer, len(self.curve))
        for point in self.curve:  # a signal to the whole job also ended W&B's process, with what it had not yet written
            self._log(point)

    def training_step(self, number: int, index: int) -> None:
        """One optimizer step: the loss is the mean over all target tokens of the step."""
        step = self.data.steps[number]
        if index == 0 and self.checkpoint:  # not earlier: Lightning has drawn random numbers since it was read
            restore_random_states(self.checkpoint["random"])
        before = self._held_out_loss_before() if number == 0 else {}
        passes = [(rows, weight / step.tokens) for rows, weight in self._local_passes(step)]
        loss = float(self.backend.backward([partial(self._weighted_loss, *each) for each in passes]))
        self._check_finite("loss", loss, number)
        rate, norm = self._scheduler().get_last_lr()[0], self.backend.step()
        self._check_finite("norm of the gradients", norm, number)
        self._scheduler().step()
        point = {"step": step.number, "epoch": step.epoch, "loss": loss, "lr": rate, "grad_norm": norm, **before}
        if self._is_last_of_epoch(step) and self.data.held_out:
            point["held_out_loss"] = self.held_out_loss()
            self._check_finite("loss on held-out seeds", point["held_out_loss"], number, is_updated=True)
            self._keep_if_best(point["held_out_loss"])
        self.curve.append(point)
        if "held_out_loss" in point and self.process_group.all_reduce_max(int(self.is_patience_exhausted())):
            self.trainer.should_stop = True
        self._log(point)
        self.display.advance(1, f"loss {loss:.3f}")
        self._save_if_due()

    def _held_out_loss_before(self) -> dict[str, float]:
        """The loss on held-out seeds before the first step, for the curve."""
        if not self.data.held_out:
            return {}
        loss = self.held_out_loss()
        self._check_finite("loss on held-out seeds", loss, 0)
        return {"held_out_loss_before": loss}

    def _check_finite(self, name: str, value: float, step: int, is_updated: bool = False) -> None:
        """Check a value of a step.

        Args:
            name: Of the value.
            value: The value.
            step: Number of the step.
            is_updated: Whether the step's update is done.

        Raises:
            UserError: The value is NaN or infinite.
        """
        if math.isfinite(value):
            return
        if step == 0 and not is_updated:
            raise UserError(f"The {name} is {value} and not finite before the first update: {NON_FINITE_ADVICE}.")
        raise UserError(
            f"The {name} is {value} in step {step}; lower tuning.learning_rate={self.config.learning_rate}."
        )

    def _scheduler(self) -> Any:
        return self.lr_schedulers()

    def _local_passes(self, step: OptimizerStep) -> list[tuple[tuple[int, ...], float]]:
        """This process's forward passes of a step, and the weight of each.

        Where all processes need the same number of passes, one that has too few repeats the first with weight 0.
        """
        world_size, micro_batches = self.process_group.world_size, step.micro_batches
        passes = [(rows, 1.0) for rows in micro_batches[self.process_group.rank :: world_size]]
        if self.parallelism.needs_equal_passes and len(passes) < math.ceil(len(micro_batches) / world_size):
            passes.append((micro_batches[0], 0.0))
        return passes

    def forward(self, loss_sum: LossSum, examples: Sequence[EncodedExample]) -> Tensor:
        """A loss, summed over the target tokens of `examples`."""
        return loss_sum(self.model, examples, self.mask)

    def _weighted_loss(self, rows: tuple[int, ...], weight: float) -> Tensor:
        examples = [self.data.examples[row] for row in rows]
        # `trainer.model` is this module, or DeepSpeed's engine around it.
        loss: Tensor = self.trainer.model(self.objective.loss_sum, examples)
        return loss * weight

    def _keep_if_best(self, held_out_loss: float) -> None:
        parameters = self.backend.parameters()  # collective, so by all processes, though rounded losses may differ
        if self.config.keep == "best" and held_out_loss < min(self.held_out_losses(), default=math.inf):
            self.best = parameters

    def on_train_end(self) -> None:
        """Make the adapter whole in each process."""
        self.backend.finish()

    def _log(self, point: dict[str, Any]) -> None:
        # Directly: Lightning's `self.log` writes after the step, which a signal may interrupt.
        if self.logger:
            self.logger.log_metrics({f"tune/{name}": float(value) for name, value in point.items()}, point["step"])

    def held_out_losses(self) -> list[float]:
        """The loss on held-out seeds after each epoch so far."""
        return [point["held_out_loss"] for point in self.curve if "held_out_loss" in point]

    def restore_best(self) -> float | None:
        """Put the parameters that are kept into the model; returns their loss on held-out seeds."""
        losses = self.held_out_losses()
        if not self.best:
            return losses[-1] if losses else None
        restore_parameters(self.best, self.model)
        return min(losses)

    @torch.no_grad()
    def held_out_loss(self) -> float:
        """Cross-entropy on held-out seeds, in nats per response token; the same measure for every objective."""
        self.model.eval()
        total = sum(float(self.trainer.model(response_loss_sum, [example])) for example in self.data.held_out)
        self.model.train()
        return total / sum(len(example.response) for example in self.data.held_out)

    def _is_last_of_epoch(self, step: OptimizerStep) -> bool:
        following = step.number + 1
        return following == len(self.data.steps) or self.data.steps[following].epoch != step.epoch

    def _save_if_due(self) -> None:
        """Save every `tuning.checkpoint_minutes`, and when a signal asks to stop.

        Raises:
            Interrupted: A signal came; the checkpoint is saved.
        """
        self.stop.raise_if_set(self._save)
        is_due = time.monotonic() - self._saved_at >= self.config.checkpoint_minutes * 60
        if self.process_group.all_reduce_max(int(is_due)):  # clocks differ, and saving may be collective
            self._save()

    def _save(self) -> None:
        state = {
            **self.backend.state_dict(len(self.curve)),
            "required_processes": self.parallelism.required_processes,
            "schedule": self._scheduler().state_dict(),
            "curve": self.curve,
            "best": self.best,
            "random": random_states(),
        }
        if self.process_group.is_first:
            save_checkpoint(self.work, state)
        self._saved_at = time.monotonic()
