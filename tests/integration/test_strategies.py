"""Strategies: processes under torchrun take the same steps as one process, for each architecture and precision."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from conftest import PROJECT
from selfspec.errors import Interrupted, UserError
from selfspec.tuning.checkpoints import load_checkpoint
from strategy_cells import MATRIX, ZERO, Cell, adapter, cell, overrides, same_steps
from toys import toy, toy_experiment
from tuning_runs import StopAfter, tune, work

FEW = [("ddp", "none", "llama-2-7b"), ("fsdp", "none", "llama-2-7b"), ("fsdp", "nf4", "falcon-40b")]
STOPPED = {name: (name, "none", "llama-2-7b") for name in ("ddp", "fsdp")}


def torchrun(cells: list[dict[str, Any]], folder: Path, processes: int = 2) -> list[str]:
    """The command that runs all cells with `tests/torchrun_tuning.py`."""
    for each in cells:
        Path(each["folder"]).mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cells.json").write_text(json.dumps(cells))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [*command, str(PROJECT / "tests" / "torchrun_tuning.py"), str(folder / "cells.json")]


def run(cells: list[dict[str, Any]], folder: Path, processes: int = 2) -> None:
    """Run all cells one after the other in the same processes, and check that none failed."""
    done = subprocess.run(torchrun(cells, folder, processes), capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for each in cells:
        errors = [path.read_text() for path in sorted(Path(each["folder"]).glob("error-*.txt"))]
        assert not errors, f"{each['overrides']}: {errors}"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Tunes the adapter with one process, once for each quantization and model."""

    @cache
    def tune_alone(quantization: str, model: str) -> Path:
        folder = tmp_path_factory.mktemp("alone")
        return tune(toy_experiment(folder, *overrides(("auto", quantization, model))))

    return tune_alone


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of adapters tuned by two processes; `... alone first` was started and stopped by one process."""
    folder = tmp_path_factory.mktemp("together")
    names = ["-".join(each) for each in FEW]
    names += [f"{strategy} {stop}" for strategy in STOPPED for stop in ("stopped", "alone later", "alone first")]
    places = {name: folder / name for name in names}
    cells = [cell(places["-".join(each)], overrides(each)) for each in FEW]
    for strategy, each in STOPPED.items():
        settings, stopped = overrides(each), places[f"{strategy} stopped"]
        with pytest.raises(Interrupted):
            tune(toy_experiment(places[f"{strategy} alone first"], *settings), StopAfter(2))
        cells += [cell(stopped, settings, steps) for steps in (2, 3, None)]  # 5: an epoch's last is 3
        cells += [cell(places[f"{strategy} alone later"], settings, 4)]
        cells += [cell(places[f"{strategy} alone first"], settings)]
    run(cells, folder)
    return places


@pytest.fixture(scope="module")
def by_deepspeed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of adapters tuned by DeepSpeed in two processes, stopped once; `unfinished` was stopped at step 2."""
    folder = tmp_path_factory.mktemp("deepspeed")
    places, cells = {name: folder / name for name in (*ZERO, "unfinished")}, []
    for name in ZERO:  # 3: the epoch's last, and the best so far
        settings = overrides((name, "none", "llama-2-7b"), "tuning.checkpoint_minutes=0")
        cells += [cell(places[name], settings, 3), {**cell(places[name], settings), "torn": True}]
    cells += [cell(places["unfinished"], overrides((ZERO[0], "none", "llama-2-7b")), 2)]
    run(cells, folder)
    return places


@pytest.mark.parametrize("each", FEW, ids="-".join)
def test_two_processes_take_the_steps_of_one(each: Cell, together: dict[str, Path], alone: Any) -> None:
    same_steps(adapter(together["-".join(each)], overrides(each)), alone(*each[1:]))


@pytest.mark.parametrize("strategy", STOPPED)
@pytest.mark.parametrize("stop", ["stopped", "alone later", "alone first"])
def test_a_stopped_adapter_resumes_with_the_same_or_another_number_of_processes(
    strategy: str, stop: str, together: dict[str, Path], alone: Any
) -> None:
    folder, settings = together[f"{strategy} {stop}"], overrides(STOPPED[strategy])
    if stop == "alone later":
        state = load_checkpoint(work(toy_experiment(folder, *settings)))
        assert state and len(state["curve"]) == 4
        tune(toy_experiment(folder, *settings))
    same_steps(adapter(folder, settings), alone(*STOPPED[strategy][1:]))


@pytest.mark.slow
@pytest.mark.parametrize("name", ZERO)
def test_deepspeed_resumes_from_the_last_complete_checkpoint(
    name: str, by_deepspeed: dict[str, Path], alone: Any
) -> None:
    same_steps(adapter(by_deepspeed[name], overrides((name, "none", "llama-2-7b"))), alone("none", "llama-2-7b"))


@pytest.mark.slow
def test_a_deepspeed_checkpoint_has_the_size_of_the_adapter_and_requires_its_processes(
    by_deepspeed: dict[str, Path],
) -> None:
    config = toy_experiment(by_deepspeed["unfinished"], *overrides(("auto", "none", "llama-2-7b")))
    folders = [path.name for path in (work(config) / "deepspeed").iterdir() if path.is_dir()]
    assert folders == ["step-2"]
    state = load_checkpoint(work(config))
    assert state and len(state["curve"]) == 2 and all("lora_" in name for name in state["parameters"])
    parts = [path.stat().st_size for path in (work(config) / "deepspeed" / "step-2").iterdir()]
    trained = 4 * sum(parameter.numel() for parameter in state["parameters"].values())
    assert 3 * trained < sum(parts) < 5 * trained + 200_000  # parameters, two moments, the parameters once more
    with pytest.raises(
        UserError, match=r"by 2 processes of strategy=deepspeed_zero2.*again with the same settings, or delete"
    ):
        tune(config)


@pytest.mark.slow
def test_each_strategy_tunes_each_architecture_in_4_bits_and_unquantized(alone: Any, tmp_path: Path) -> None:
    refused = [each for each in MATRIX if each[0] in ZERO[1:] and each[1] == "nf4"]
    for each in refused:
        with pytest.raises(UserError, match="choose strategy=fsdp or strategy=deepspeed_zero2"):
            toy_experiment(tmp_path, *overrides(each))
    places = {each: tmp_path / "-".join(each) for each in MATRIX if each not in refused}
    run([cell(place, overrides(each)) for each, place in places.items()], tmp_path)
    for each, place in places.items():
        same_steps(adapter(place, overrides(each)), alone(*each[1:]))


@pytest.mark.slow
def test_four_processes_take_the_steps_of_one(alone: Any, tmp_path: Path) -> None:
    few = [FEW[-1], *(each for each in MATRIX if each[1:] == ("none", "llama-2-7b"))]
    places = {each: tmp_path / "-".join(each) for each in few}
    run([cell(place, overrides(each)) for each, place in places.items()], tmp_path, processes=4)
    for each, place in places.items():
        same_steps(adapter(place, overrides(each)), alone(*each[1:]))


def kill_at_a_save(command: list[str], folder: Path, name: str) -> None:
    """Kill all processes as soon as DeepSpeed begins to write the checkpoint of this name."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as started:
        family, deadline = list[psutil.Process](), time.monotonic() + 300
        while not any(folder.glob(f"store/work/*/deepspeed/{name}")):
            assert started.poll() is None and time.monotonic() < deadline
            if len(family) < 3:  # known before the save, which is soon over
                family = [*psutil.Process(started.pid).children(recursive=True), psutil.Process(started.pid)]
            time.sleep(0.0005)
        for process in family:
            process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("name", ZERO[:2])
def test_deepspeed_killed_while_saving_resumes_from_the_checkpoint_before(
    name: str, alone: Any, tmp_path: Path
) -> None:
    settings = overrides((name, "none", "llama-2-7b"), "tuning.checkpoint_minutes=0")
    command = torchrun([cell(tmp_path / "run", settings)], tmp_path)
    for step in (1, 2, 4):
        kill_at_a_save(command, tmp_path / "run", f"step-{step}")
        state = load_checkpoint(work(toy_experiment(tmp_path / "run", *settings)))
        assert (len(state["curve"]) if state else 0) == step - 1
    run([cell(tmp_path / "run", settings)], tmp_path)
    same_steps(adapter(tmp_path / "run", settings), alone("none", "llama-2-7b"))


def random_llama(folder: Path) -> int:
    """Write a Llama of 300M random parameters with the toy's tokenizer; returns its bytes in bfloat16."""
    shape = {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 22, "vocab_size": 8192}
    config = AutoConfig.for_model("llama", num_attention_heads=16, num_key_value_heads=16, **shape)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
    toy("llama-2-7b")[1].save_pretrained(folder)
    return 2 * sum(parameter.numel() for parameter in model.parameters())


def peaks(folder: Path, quantization: str, strategy: str) -> list[int]:
    """Peak bytes of loading in each of two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    script = [str(PROJECT / "tests" / "torchrun_peak_memory.py"), str(folder), quantization, strategy]
    exact = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}  # what is freed goes back at once
    done = subprocess.run([*command, *script], capture_output=True, text=True, timeout=600, check=True, env=exact)
    return [int(match) for match in re.findall(r"PEAK \d (\d+)", done.stdout)]


@pytest.mark.slow
def test_no_process_holds_the_whole_of_a_sharded_base(tmp_path: Path) -> None:
    whole = random_llama(tmp_path)
    assert 5.5e8 < whole < 7e8
    assert min(peaks(tmp_path, "none", "ddp")) > 0.95 * whole
    assert max(peaks(tmp_path, "none", "fsdp")) < 0.65 * whole  # its half, and what is in flight
    assert max(peaks(tmp_path, "none", "deepspeed_zero3")) < 0.65 * whole
    assert max(peaks(tmp_path, "nf4", "fsdp")) < 0.3 * whole  # half of what is in 4 bits, and of what is not
