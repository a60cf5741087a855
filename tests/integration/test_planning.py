"""Planning a sweep imports nothing heavy; files that a process caches are read again when they change."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import PROJECT
from selfspec.config.schema import TaskType
from selfspec.data.reading import read_seeds
from selfspec.errors import UserError
from selfspec.pipeline.build import build_pipeline
from toys import compose_config

TASKS = {"t": TaskType("short", "anything")}
SWEEP = ["-m", "domain=biomedicine,finance", "lora=r8,r16", "plan=true"]


def test_planning_a_sweep_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys; from selfspec.cli.run import run_command_line\n"
        "run_command_line(pathlib.Path('conf').absolute())\n"
        "print({'torch', 'transformers', 'peft', 'wandb', 'pytorch_lightning'} & set(sys.modules))"
    )
    folders = [f"paths.store={tmp_path}/store", f"hydra.sweep.dir={tmp_path}/sweep"]
    command = [sys.executable, "-c", code, *SWEEP, *folders]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    first, *_, last = done.stdout.splitlines()
    assert first.startswith("4 jobs, 25 distinct stages") and last == "set()"


def rewrite(path: Path, text: str) -> None:
    """Replace the text of a file without changing its modification time."""
    status = path.stat()
    path.write_text(text)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_seeds_that_change_are_read_again(tmp_path: Path) -> None:
    path, row = tmp_path / "seeds.jsonl", '{"id": "a", "task_type": "t", "instruction": "Do it.", "output": "%s"}'
    path.write_text(row % "one")
    first = read_seeds(path, TASKS)
    first.clear()  # does not change the cached rows
    assert [seed.output for seed in read_seeds(path, TASKS)] == ["one"]
    rewrite(path, row % "two")
    assert [seed.output for seed in read_seeds(path, TASKS)] == ["two"]
    rewrite(path, row % "   ")
    for _ in range(2):
        with pytest.raises(UserError, match="line 1: field 'output'"):
            read_seeds(path, TASKS)
    path.unlink()
    with pytest.raises(UserError, match="does not exist"):
        read_seeds(path, TASKS)


def test_a_file_is_checked_again_for_other_task_types(tmp_path: Path) -> None:
    path = tmp_path / "seeds.jsonl"
    path.write_text('{"id": "a", "task_type": "t", "instruction": "Do it.", "output": "one"}')
    assert read_seeds(path, TASKS)
    with pytest.raises(UserError, match="no bare number"):
        read_seeds(path, {"t": TaskType("number", "anything")})


def test_changed_weights_or_tokenizer_give_other_keys(tmp_path: Path) -> None:
    weights, tokenizer = tmp_path / "model.safetensors", tmp_path / "tokenizer.json"
    weights.write_bytes(b"0" * 100)
    tokenizer.write_text("{}")
    keys = [build_pipeline(compose_config(f"model.path={tmp_path}")).rounds[0][0].key for _ in range(2)]
    for path in (weights, tokenizer):
        path.write_bytes(path.read_bytes() + b"1")
        keys.append(build_pipeline(compose_config(f"model.path={tmp_path}")).rounds[0][0].key)
    assert keys[0] == keys[1] and len(set(keys)) == 3
