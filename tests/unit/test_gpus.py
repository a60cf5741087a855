"""The GPUs of this machine as nvidia-smi lists them: which ones stages get, and whether they have bf16."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from selfspec.config.schema import ModelConfig
from selfspec.errors import UserError
from selfspec.launch.executors import choose_executor
from selfspec.launch.local_processes import LocalProcesses
from selfspec.models.load import resolve_dtype
from selfspec.planning.devices import this_machine
from selfspec.runtime import machine
from selfspec.runtime.progress import Progress
from selfspec.runtime.signals import StopFlag
from selfspec.runtime.store import Store

LOCAL = {"_target_": "hydra_plugins.selfspec_launcher.LocalLauncher", "processes": 1, "devices": 1, "srun": False}

SetGpus = Callable[..., None]


@pytest.fixture
def set_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SetGpus]:
    """A function that puts an nvidia-smi on PATH which lists GPUs of these compute capabilities, with 16 GiB each."""
    monkeypatch.setenv("PATH", f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def write(*capabilities: str) -> None:
        script = '#!/bin/sh\ncase "$*" in *compute_cap*) capability=1;; esac\n'
        for capability in capabilities:
            script += f'echo "16384${{capability:+, {capability}}}"\n'
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / "nvidia-smi").write_text(script)
        (tmp_path / "bin" / "nvidia-smi").chmod(0o755)
        clear_caches()

    yield write
    clear_caches()


def clear_caches() -> None:
    for value in vars(machine).values():
        if hasattr(value, "cache_clear"):
            value.cache_clear()


@pytest.mark.parametrize(
    ("capabilities", "has_bf16"), [(["8.0"], True), (["12.0", "9.0"], True), (["7.5"], False), (["8.0", "7.0"], False)]
)
def test_gpus_have_native_bf16_since_ampere(set_gpus: SetGpus, capabilities: list[str], has_bf16: bool) -> None:
    set_gpus(*capabilities)
    assert machine.gpu_count() == len(capabilities)
    assert machine.memory_capacity() == (16 << 30, True)
    assert machine.has_native_bf16() == this_machine().has_native_bf16 == has_bf16


@pytest.mark.parametrize(("capability", "dtype"), [("7.5", torch.float32), ("8.0", torch.bfloat16)])
def test_weights_have_the_dtype_that_is_planned(set_gpus: SetGpus, capability: str, dtype: torch.dtype) -> None:
    set_gpus(capability)
    model = ModelConfig(architecture={}, toy_architecture={}, name="model", licence="", parameters=1, context_length=8)
    assert resolve_dtype(model) == dtype


def executor(folder: Path, **settings: int | bool) -> LocalProcesses:
    store, stop = Store(folder / "store"), StopFlag()
    chosen = choose_executor({**LOCAL, **settings}, folder, store, Progress(), stop)
    assert isinstance(chosen, LocalProcesses)
    return chosen


@pytest.mark.parametrize(("visible", "gpus"), [(None, "0,1,2,3"), ("4,5,6,7", "4,5,6,7"), ("GPU-a,GPU-b,c,d,e", "")])
def test_each_process_gets_a_gpu_of_its_own(
    set_gpus: SetGpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, gpus: str
) -> None:
    set_gpus("8.0", "8.0", "8.0", "8.0")
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    local = executor(tmp_path, processes=2, devices=2)
    given = [local._device_variables(slot, 2)["CUDA_VISIBLE_DEVICES"] for slot in (0, 1)]
    assert ",".join(given) == (gpus or "GPU-a,GPU-b,c,d")


@pytest.mark.parametrize(("visible", "count"), [(None, "3 are"), ("0,1", "2 are"), ("GPU-a", "1 is")])
def test_more_processes_than_visible_gpus_are_refused(
    set_gpus: SetGpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, count: str
) -> None:
    set_gpus("8.0", "8.0", "8.0")
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(UserError) as caught:
        executor(tmp_path, processes=2, devices=2)
    sentence = f"hydra.launcher.processes=2 and devices=2 need 4 GPUs, and {count} visible; lower one."
    assert str(caught.value) == sentence


@pytest.mark.parametrize("visible", ["", "-1"])
def test_processes_share_the_cores_where_no_gpu_is_visible(
    set_gpus: SetGpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str
) -> None:
    set_gpus("8.0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert set(executor(tmp_path, processes=2, devices=2)._device_variables(1, 2)) == {"OMP_NUM_THREADS"}


def test_srun_gives_processes_the_gpus_of_their_nodes(set_gpus: SetGpus, tmp_path: Path) -> None:
    set_gpus("8.0")
    assert executor(tmp_path, processes=2, devices=2, srun=True).srun
