"""The cells of the strategy matrix: strategy, quantization, architecture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from selfspec.pipeline.build import build_pipeline
from toys import toy_experiment
from tuning_runs import check_same, curve

ARCHITECTURES = ("llama-2-7b", "falcon-40b", "mpt-30b", "qwen3-8b", "gemma-3-270m")
ZERO = ("deepspeed_zero2", "deepspeed_zero3", "deepspeed_zero3_offload")

# 6 steps, 3 an epoch; a small learning rate, because Adam amplifies small differences
QUICK = (
    "domain.seed_count=22",
    "tuning.epochs=2",
    "tuning.learning_rate=1e-4",
    "lora.r=4",
    "tuning.micro_batch_tokens=300",
)

Cell = tuple[str, str, str]
MATRIX = [(s, q, m) for s in ("ddp", "fsdp", *ZERO) for q in ("none", "nf4") for m in ARCHITECTURES]


def overrides(cell: Cell, *more: str) -> list[str]:
    strategy, quantization, model = cell
    return [*QUICK, f"strategy={strategy}", f"quantization={quantization}", f"model={model}", *more]


def cell(folder: Path, settings: list[str], stop_after: int | None = None) -> dict[str, Any]:
    return {"folder": str(folder), "overrides": settings, "stop_after": stop_after}


def adapter(folder: Path, settings: list[str]) -> Path:
    config = toy_experiment(folder, *settings)
    return Path(config.paths.store) / "adapter" / build_pipeline(config).adapters["seeds_only"].key


def same_steps(actual: Path, expected: Path) -> None:
    """Check that losses of all steps and the adapters' tensors agree within 1e-4."""
    actual_curve, expected_curve = curve(actual), curve(expected)
    assert len(actual_curve) == len(expected_curve) == 6
    for name in ("loss", "grad_norm", "held_out_loss"):
        values = [[point[name] for point in points if name in point] for points in (actual_curve, expected_curve)]
        assert values[0] == pytest.approx(values[1], abs=1e-4), name
    check_same(actual, expected, 1e-4)
