"""Interrupted tuning ends with the same adapter; checkpoints hold only what was trained; the wanted epoch is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from quick_tuning import QUICK, held_out_losses
from selfspec.errors import Interrupted
from selfspec.stages.adapter import keep_round
from selfspec.tuning.checkpoints import CHECKPOINT_NAME, load_checkpoint, save_checkpoint
from selfspec.tuning.module import SpecializationModule
from toys import toy_experiment
from tuning_runs import StopAfter, check_same, curve, parameters, tune, work


@pytest.mark.parametrize(
    ("overrides", "stops"),
    [
        ([], [2]),
        (["tuning.schedule=cosine", "tuning.weight_decay=0.1"], [3, 1]),  # 3: the epoch's last
        (["model=gemma-3-270m", "tuning.warmup_ratio=0.5", "lora.dropout=0"], [1]),
        (["model=mpt-30b"], [5]),
    ],
)
def test_an_interrupted_run_resumes_to_the_same_adapter(tmp_path: Path, overrides: list[str], stops: list[int]) -> None:
    whole = tune(toy_experiment(tmp_path / "whole", *QUICK, *overrides))
    config = toy_experiment(tmp_path / "parts", *QUICK, *overrides)
    done = 0
    for steps in stops:
        torch.manual_seed(steps)  # another process has another random state
        with pytest.raises(Interrupted, match="SIGTERM"):
            tune(config, StopAfter(steps))
        done += steps
        assert [point["step"] for point in load_checkpoint(work(config))["curve"]] == list(range(done))  # type: ignore[index]
    torch.manual_seed(99)
    parts = tune(config)
    check_same(parts, whole, 1e-6)
    assert len(curve(parts)) == 6
    for actual, expected in zip(curve(parts), curve(whole), strict=True):
        assert actual == pytest.approx(expected, abs=1e-5)


def test_a_checkpoint_holds_trained_parameters_and_none_of_the_base(tmp_path: Path) -> None:
    config = toy_experiment(tmp_path, *QUICK, "tuning.schedule=cosine", "lora.r=64")
    with pytest.raises(Interrupted):
        tune(config, StopAfter(2))
    state = load_checkpoint(work(config))
    assert state is not None
    assert all("lora_" in name for name in state["parameters"])
    trained = sum(parameter.numel() for parameter in state["parameters"].values()) * 4
    size = (work(config) / CHECKPOINT_NAME).stat().st_size
    assert 3 * trained < size < 1.1 * 3 * trained  # parameters and two moments


def test_checkpoints_are_saved_during_training(tmp_path: Path, monkeypatch: Any) -> None:
    saved: list[int] = []
    save = save_checkpoint

    def counted(folder: Path, state: dict[str, Any]) -> None:
        save(folder, state)
        saved.append(len(load_checkpoint(folder)["curve"]))  # type: ignore[index]

    monkeypatch.setattr("selfspec.tuning.module.save_checkpoint", counted)
    tune(toy_experiment(tmp_path, *QUICK, "tuning.checkpoint_minutes=0"))
    assert saved == [1, 2, 3, 4, 5, 6]


def test_a_new_checkpoint_deletes_the_shards_of_earlier_ones_only(tmp_path: Path) -> None:
    shards = tmp_path / "deepspeed"
    for name in ("step-1", "step-2"):
        (shards / name).mkdir(parents=True)
    (shards / "zero_to_fp32.py").touch()  # DeepSpeed writes it
    save_checkpoint(tmp_path, {"shards": "step-2"})
    assert sorted(path.name for path in shards.iterdir()) == ["step-2", "zero_to_fp32.py"]
    assert load_checkpoint(tmp_path) == {"shards": "step-2"}


@pytest.mark.parametrize(
    ("keep", "losses"), [("best", {2: 1.0, 5: 2.0}), ("best", {2: 2.0, 5: 1.0}), ("last", {2: 1.0, 5: 2.0})]
)
def test_the_best_or_the_last_epoch_is_kept(
    tmp_path: Path, monkeypatch: Any, keep: str, losses: dict[int, float]
) -> None:
    monkeypatch.setattr(SpecializationModule, "held_out_loss", lambda self: losses.get(len(self.curve), 9.0))
    config = toy_experiment(tmp_path, *QUICK, f"tuning.keep={keep}")
    with pytest.raises(Interrupted):
        tune(config, StopAfter(3))
    first = load_checkpoint(work(config))["parameters"]  # type: ignore[index]
    with pytest.raises(Interrupted):
        tune(config, StopAfter(2))  # in the second epoch
    adapter = tune(config)
    actual = parameters(adapter)
    assert len(actual) == len(first)
    same = [torch.equal(actual[name.replace(".default.", ".")], tensor) for name, tensor in first.items()]
    kept = losses[2] if keep == "best" and losses[2] < losses[5] else losses[5]
    assert (all(same), any(same)) == ((True, True) if kept == losses[2] else (False, False))
    assert json.loads((adapter / "rounds.json").read_text()) == {"losses": [kept], "kept": 1}
    assert [point["epoch"] for point in curve(adapter)] == [0, 0, 0, 1, 1, 1]  # the curve is whole


@pytest.mark.parametrize(
    ("before", "loss", "kept"), [(2.0, 1.0, 2), (1.0, 2.0, 1), (1.0, None, 1), (None, 1.0, 2), (None, None, 2)]
)
def test_a_round_is_kept_if_its_loss_fell_or_the_loss_before_is_unknown(
    tmp_path: Path, before: float | None, loss: float | None, kept: int
) -> None:
    previous, output = tmp_path / "previous", tmp_path / "output"
    for folder in (previous, output):
        folder.mkdir()
        (folder / "adapter_model.safetensors").write_text(folder.name)
    (previous / "rounds.json").write_text(json.dumps({"losses": [before], "kept": 1}))
    assert keep_round(output, loss, previous) == {"losses": [before, loss], "kept": kept}
    assert (output / "adapter_model.safetensors").read_text() == ("previous" if kept == 1 else "output")


RISING = ("tuning.learning_rate=3e-2", "tuning.epochs=6", "tuning.patience=2", "tuning.schedule=constant")


@pytest.mark.parametrize("stop", [None, 4])
def test_tuning_stops_when_the_held_out_loss_no_longer_falls(tmp_path: Path, stop: int | None) -> None:
    config = toy_experiment(tmp_path, *QUICK, *RISING)
    if stop:
        with pytest.raises(Interrupted):
            tune(config, StopAfter(stop))
    adapter = tune(config)
    losses = held_out_losses(adapter)
    assert len(losses) == losses.index(min(losses)) + 3 < 6  # two epochs that were no better
    counts = json.loads((adapter / "manifest.json").read_text())["counts"]
    assert counts["steps"] == len(curve(adapter)) == 3 * len(losses)
    longer = tune(toy_experiment(tmp_path / "longer", *QUICK, *RISING, "tuning.patience=null"))
    assert held_out_losses(longer)[: len(losses)] == losses and len(held_out_losses(longer)) == 6


def test_an_8_bit_optimizer_learns_and_resumes(tmp_path: Path, monkeypatch: Any) -> None:
    """As on a GPU, except that states are not paged on a CPU."""
    monkeypatch.setattr(SpecializationModule, "_uses_8bit_optimizer", lambda self, parameter: True)
    settings = [*QUICK, "quantization=nf4", "lora.r=64"]  # smaller tensors' states stay in float32
    whole = tune(toy_experiment(tmp_path / "whole", *settings))
    stopped = toy_experiment(tmp_path / "stopped", *settings)
    with pytest.raises(Interrupted):
        tune(stopped, StopAfter(2))
    state = load_checkpoint(work(stopped))
    assert state and "torch.uint8" in str(state["optimizer"]["state"])
    check_same(tune(stopped), whole, 1e-6)
    monkeypatch.undo()
    full = tune(toy_experiment(tmp_path / "full", *settings))
    assert curve(whole) != curve(full)
    assert held_out_losses(whole)[-1] == pytest.approx(held_out_losses(full)[-1], rel=0.02)
