"""The LightningModule around transformers + PEFT: one `training_step` is one optimizer step of the batch plan."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
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
from selfspec.models.nf4 import paged_adamw
from selfspec.runtime.progress import Step as Display
from selfspec.runtime.signals import StopFlag
from selfspec.tuning.batches import EncodedExample, OptimizerStep
from selfspec.tuning.checkpoints import (
    load_checkpoint,
    restore_parameters,
    restore_random,
    restore_schedule,
    save_checkpoint,
    trainable_parameters,
)
from selfspec.tuning.loss import response_loss_sum
from selfspec.tuning.packing import SegmentMask
from selfspec.tuning.strategies.placement import Placement


@dataclass(frozen=True)
class TuningData:
    """What is learnt, in which order, and the held-out seeds whose loss is watched (never learnt)."""

    rows: Sequence[EncodedExample]
    steps: Sequence[OptimizerStep]
    held_out: Sequence[EncodedExample]


class SpecializationModule(pl.LightningModule):  # type: ignore[misc]
    """LoRA tuning of a frozen base on planned batches, with checkpoints of its own."""

    def __init__(
        self,
        model: Any,
        data: TuningData,
        config: TuningConfig,
        mask: SegmentMask,
        placement: Placement,
        work: Path,
        display: Display,
        stop: StopFlag,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False  # a step's micro-batches share one denominator
        self.model, self.data, self.config, self.mask = model, data, config, mask
        self.placement, self.process_group = placement, placement.process_group
        self.work, self.display, self.stop = work, display, stop
        if config.activation_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.curve: list[dict[str, Any]] = []  # one entry a step
        self.best: dict[str, Tensor] = {}  # parameters after the epoch with the least loss on held-out seeds
        self.state = load_checkpoint(work)
        if self.state:
            placement.check(self.state, work)
            self.curve, self.best = list(self.state["curve"]), self.state["best"]
            restore_parameters(self.state, model)
        done = len(self.curve)
        if self.process_group.all_reduce_max(done) != -self.process_group.all_reduce_max(
            -done
        ):  # a file system that shows the checkpoint late
            raise UserError(f"The processes of this stage see different checkpoints in {work}; start it again.")
        self._saved = time.monotonic()

    def remaining(self) -> range:
        """Numbers of the steps that no checkpoint holds."""
        return range(len(self.curve), len(self.curve) if self.stopped() else len(self.data.steps))

    def stopped(self) -> bool:
        """Whether the loss on held-out seeds has not fallen for `tuning.patience` epochs."""
        losses, patience = self.held_out_losses(), self.config.patience
        return patience is not None and len(losses) > patience and min(losses[-patience:]) >= min(losses[:-patience])

    def configure_optimizers(self) -> Any:
        """AdamW on the adapter, warm-up and then the schedule."""
        parameters = list(trainable_parameters(self.model).values())
        kind = paged_adamw() if self._packed(parameters[0]) else AdamW
        optimizer = kind(parameters, lr=self.config.learning_rate, weight_decay=self.config.weight_decay)
        return {"optimizer": optimizer, "lr_scheduler": LambdaLR(optimizer, self.factor)}

    def _packed(self, parameter: Tensor) -> bool:
        """Whether the optimizer's states are in 8 bits, as QLoRA has them: with a base in 4 bits, on a GPU."""
        in_4_bits = getattr(self.model, "is_loaded_in_4bit", False)
        return in_4_bits and parameter.is_cuda and not self.placement.deepspeed

    def factor(self, step: int) -> float:
        """What the learning rate is multiplied by at `step`."""
        total = max(len(self.data.steps), 1)
        warmup = math.ceil(self.config.warmup_ratio * total)
        if step < warmup:
            return (step + 1) / (warmup + 1)
        done = (step - warmup) / max(total - warmup, 1)
        return {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}[
            self.config.schedule
        ]

    def on_train_start(self) -> None:
        """Lightning's signal handlers make way for the flag that this loop asks; the optimizer is as it was."""
        self.stop.install_handlers()
        self.gradients = self.placement.gradients(self)
        if self.state:
            self.gradients.restore(self.state)
            restore_schedule(self.state, self.lr_schedulers())
        for point in self.curve:  # a signal to the whole job ends W&B's own process too, with what it had not written
            self._log(point)

    def training_step(self, number: int, index: int) -> None:
        """One optimizer step: the loss is the mean over all response tokens of the step."""
        step = self.data.steps[number]
        if index == 0 and self.state:  # Lightning itself has drawn numbers since the checkpoint was read
            restore_random(self.state)
        before = {"held_out_loss_before": self.held_out_loss()} if number == 0 and self.data.held_out else {}
        micro = [(rows, weight / step.tokens) for rows, weight in self._mine(step)]
        loss = float(self.gradients.backward([partial(self._weighted, *each) for each in micro]))
        if not math.isfinite(loss):
            raise UserError(
                f"The loss of step {number} is {loss}; lower tuning.learning_rate={self.config.learning_rate}."
            )
        schedule: Any = self.lr_schedulers()
        rate, norm = schedule.get_last_lr()[0], self.gradients.step()
        schedule.step()
        point = {
            "step": step.number,
            "epoch": step.epoch,
            "loss": loss,
            "lr": rate,
            "grad_norm": norm,
            **before,
        }
        if self._ends_epoch(step) and self.data.held_out:
            point["held_out_loss"] = self.held_out_loss()
            now = self.gradients.parameters()  # by all together, though rounding may let their losses differ
            if self.config.keep == "best" and point["held_out_loss"] < min(self.held_out_losses(), default=math.inf):
                self.best = now
        self.curve.append(point)
        if "held_out_loss" in point and self.process_group.all_reduce_max(int(self.stopped())):
            self.trainer.should_stop = True
        self._log(point)
        self.display.advance(1, f"loss {loss:.3f}")
        self._keep()

    def _mine(self, step: OptimizerStep) -> list[tuple[tuple[int, ...], float]]:
        """This process's forward passes of a step, and the weight of each.

        Where the processes meet in each pass all make as many: who has nothing left to learn goes through the step's
        first rows again, with weight 0.
        """
        world, micro = self.process_group.world_size, step.micro_batches
        mine = [(rows, 1.0) for rows in micro[self.process_group.rank :: world]]
        if self.placement.in_step and len(mine) < math.ceil(len(micro) / world):
            mine.append((micro[0], 0.0))
        return mine

    def forward(self, rows: Sequence[EncodedExample]) -> Tensor:
        """Cross-entropy summed over the response tokens of `rows`."""
        return response_loss_sum(self.model, rows, self.mask)

    def _weighted(self, rows: tuple[int, ...], weight: float) -> Tensor:
        loss: Tensor = self.trainer.model([self.data.rows[row] for row in rows])  # it may lie in DeepSpeed's engine
        return loss * weight

    def on_train_end(self) -> None:
        """The adapter is saved as that of one process."""
        self.gradients.finish()

    def _log(self, point: dict[str, Any]) -> None:
        """At once: Lightning's own way waits for the end of a step that a signal may cut short."""
        if self.logger:
            self.logger.log_metrics({f"tune/{name}": float(value) for name, value in point.items()}, point["step"])

    def held_out_losses(self) -> list[float]:
        """The loss on held-out seeds after each epoch so far."""
        return [point["held_out_loss"] for point in self.curve if "held_out_loss" in point]

    def finish(self) -> float | None:
        """Put the parameters that are kept into the model; their loss on held-out seeds."""
        losses = self.held_out_losses()
        if not self.best:
            return losses[-1] if losses else None
        restore_parameters({"parameters": self.best}, self.model)
        return min(losses)

    @torch.no_grad()
    def held_out_loss(self) -> float:
        """Mean cross-entropy (nats a response token) on the held-out seeds."""
        self.model.eval()
        total = sum(float(self.trainer.model([row])) for row in self.data.held_out)
        self.model.train()
        return total / sum(len(row.response) for row in self.data.held_out)

    def _ends_epoch(self, step: OptimizerStep) -> bool:
        following = step.number + 1
        return following == len(self.data.steps) or self.data.steps[following].epoch != step.epoch

    def _keep(self) -> None:
        """Save when it is time, or when a signal asks to stop."""

        def save() -> None:
            publish = partial(save_checkpoint, self.work, self.lr_schedulers(), self.curve, self.best)
            self.gradients.save(len(self.curve), publish)
            self._saved = time.monotonic()

        self.stop.raise_if_set(save)
        due = time.monotonic() - self._saved >= self.config.checkpoint_minutes * 60
        if self.process_group.all_reduce_max(int(due)):  # clocks differ, and all may have to save together
            save()
