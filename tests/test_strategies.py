"""Strategies: two processes under torchrun take the steps of one, whatever the base's architecture and number type."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from conftest import PROJECT
from selfspec import pipeline
from test_tuning import check_same, curve, tune
from toys import experiment

# 6 steps, 3 an epoch; a small rate, so that Adam does not make large steps of small differences
QUICK = (
    "domain.seed_count=22",
    "tuning.epochs=2",
    "tuning.learning_rate=1e-4",
    "lora.r=4",
    "tuning.micro_batch_tokens=300",
)
ARCHITECTURES = ("llama-2-7b", "falcon-40b", "mpt-30b", "qwen3-8b", "gemma-3-270m")
MATRIX = [(s, q, m) for s in ("ddp", "fsdp") for q in ("none", "nf4") for m in ARCHITECTURES]
FEW = [("ddp", "none", "llama-2-7b"), ("fsdp", "none", "llama-2-7b"), ("fsdp", "nf4", "falcon-40b")]
Cell = tuple[str, str, str]


def overrides(cell: Cell, *more: str) -> list[str]:
    strategy, quantization, model = cell
    return [*QUICK, f"strategy={strategy}", f"quantization={quantization}", f"model={model}", *more]


def run(cells: list[dict[str, Any]], folder: Path, processes: int = 2) -> None:
    """All cells, one after the other, by the same processes."""
    for cell in cells:
        Path(cell["folder"]).mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cells.json").write_text(json.dumps(cells))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    done = subprocess.run(
        [*command, str(PROJECT / "tests" / "pair.py"), str(folder / "cells.json")],
        capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    for cell in cells:
        errors = [path.read_text() for path in sorted(Path(cell["folder"]).glob("error-*.txt"))]
        assert not errors, f"{cell['overrides']}: {errors}"


def cell(folder: Path, settings: list[str], stop_after: int | None = None) -> dict[str, Any]:
    return {"folder": str(folder), "overrides": settings, "stop_after": stop_after}


def adapter(folder: Path, settings: list[str]) -> Path:
    config = experiment(folder, *settings)
    return Path(config.paths.store) / "adapter" / pipeline.build(config).adapters["seeds_only"].key


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The adapter of one process."""

    @cache
    def made(quantization: str, model: str) -> Path:
        folder = tmp_path_factory.mktemp("alone")
        return tune(experiment(folder, *overrides(("auto", quantization, model))))

    return made


def same_steps(found: Path, expected: Path) -> None:
    """Each step's loss and the adapter's tensors within 1e-4."""
    mine, theirs = curve(found), curve(expected)
    assert len(mine) == len(theirs) == 6
    for name in ("loss", "grad_norm", "held_out_loss"):
        values = [[point[name] for point in points if name in point] for points in (mine, theirs)]
        assert values[0] == pytest.approx(values[1], abs=1e-4), name
    check_same(found, expected, 1e-4)


@pytest.mark.parametrize("cells", [FEW, pytest.param(MATRIX, marks=pytest.mark.slow)], ids=["few", "matrix"])
def test_two_processes_take_the_steps_of_one(cells: list[Cell], alone: Any, tmp_path: Path) -> None:
    places = {each: tmp_path / "-".join(each) for each in cells}
    run([cell(place, overrides(each)) for each, place in places.items()], tmp_path)
    for each, place in places.items():
        same_steps(adapter(place, overrides(each)), alone(*each[1:]))
