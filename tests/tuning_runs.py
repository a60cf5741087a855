"""Run, interrupt and compare adapter stages of toy models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file

from selfspec.config.schema import Config
from selfspec.launch import worker
from selfspec.launch.worker import run_stage
from selfspec.pipeline.build import build_pipeline
from selfspec.runtime.progress import Progress
from selfspec.runtime.signals import StopFlag
from selfspec.runtime.store import Store


def parameters(adapter: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(adapter / "adapter_model.safetensors"))


class StopAfter(StopFlag):
    """A stop flag that is set during step number `steps` (from 1)."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.num_left = steps

    def raise_if_set(self, save: Callable[[], None] = lambda: None) -> None:
        self.num_left -= 1
        if self.num_left == 0:
            self.signal = worker.signal.SIGTERM
        super().raise_if_set(save)


def tune(config: Config, stop: StopFlag | None = None) -> Path:
    """Run the seeds-only adapter stage; returns its output folder."""
    stage = build_pipeline(config).adapters["seeds_only"]
    store = Store(Path(config.paths.store))
    with (stop or StopFlag()).installed() as flag:
        run_stage(stage, config, store, Progress(), flag)
    return store.root / "adapter" / stage.key


def work(config: Config) -> Path:
    return Path(config.paths.store) / "work" / build_pipeline(config).adapters["seeds_only"].key


def curve(adapter: Path) -> list[dict[str, float]]:
    return list(json.loads((adapter / "curve.json").read_text()))


def check_same(one: Path, other: Path, tolerance: float) -> None:
    actual, expected = parameters(one), parameters(other)
    assert actual.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(actual[name], expected[name], rtol=0, atol=tolerance)
