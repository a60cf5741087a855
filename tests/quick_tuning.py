"""A quick tuning on seeds alone: the overrides, the encoded rows, and the losses that are expected and recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from selfspec.config.schema import Config
from selfspec.data.reading import read_seeds
from selfspec.data.splits import seed_subset, split_seeds
from selfspec.tuning.batches import EncodedExample, OptimizerStep, encode_rows, plan_steps
from toys import naive_loss, prompts
from tuning_runs import curve

# 6 steps, 3 an epoch
QUICK = (
    *("model=llama-2-7b", "domain.seed_count=22", "tuning.epochs=2", "tuning.learning_rate=1e-2"),
    *("lora.r=4", "lora.dropout=0.1"),
)


def held_out_losses(adapter: Path) -> list[float]:
    """After each epoch."""
    return [point["held_out_loss"] for point in curve(adapter) if "held_out_loss" in point]


def data(config: Config, tokenizer: Any) -> tuple[list[EncodedExample], list[EncodedExample], list[OptimizerStep]]:
    """The training rows, the held-out rows, and the plan of the steps."""
    shown_seeds, held_out = split_seeds(read_seeds(Path(config.domain.seeds), config.domain.tasks))
    shown_seeds = seed_subset(shown_seeds, config.domain.seed_count)
    training_rows, held_out_rows = (
        encode_rows(rows, config.domain.role, tokenizer, prompts()) for rows in (shown_seeds, held_out)
    )
    return (
        training_rows,
        held_out_rows,
        plan_steps([(len(row), len(row.response)) for row in training_rows], config.tuning, config.seed),
    )


@torch.no_grad()
def token_mean(model: Any, rows: list[EncodedExample]) -> float:
    total = sum(float(naive_loss(model, row)) for row in rows)
    return total / sum(len(row.response) for row in rows)
