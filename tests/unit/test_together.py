"""Several processes make what one makes: data, votes, judgements and replies to the byte, also when they are stopped on
the way; through the real command line.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import PROJECT, Warm
from tuning_runs import check_same

pytestmark = pytest.mark.slow
TOY = [
    *("debug=smoke", "logger=none", "model=llama-2-7b", "data_size.examples=70", "evaluation.limit=6"),
    *("evaluation.shots=[0]", "baselines.seeds_only=false", "baselines.off_domain=false", "tuning.learning_rate=1e-4"),
    *("generation.filters.judge=true", "generation.filters.self_consistency=true", "generation.judge.least_auc=1"),
    *("generation.self_consistency.majority=0", "generation.responses.max_new_tokens=8", "tuning.epochs=1"),
]


def places(folder: Path) -> list[str]:
    return [f"paths.store={folder}/store", f"hydra.run.dir={folder}/run"]


def made(folder: Path, stage: str) -> dict[str, bytes]:
    """Bytes of the rows of all outputs of a stage, by key and file."""
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.glob(f"store/{stage}/*/*.jsonl"))
    }


def finished_batches(folder: Path) -> int:
    return len(list(folder.glob("store/work/*/batch-*.jsonl"))) + len(list(folder.glob("store/responses/*/rows.jsonl")))


def stopped(folder: Path, batches: int) -> None:
    """The same run in two processes, told to stop when some batches are done."""
    folder.mkdir()
    command = [sys.executable, str(PROJECT / "run.py"), *TOY, *places(folder), "hydra.launcher.devices=2"]
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})
    while finished_batches(folder) < batches and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) != 0, (folder / "log.txt").read_text()


def test_two_processes_make_what_one_makes_also_when_they_are_stopped(warm: Warm, tmp_path: Path) -> None:
    alone, both = tmp_path / "alone", tmp_path / "both"
    assert warm(*TOY, *places(alone)).code == 0
    stopped(both, 3)
    ended = warm(*TOY, *places(both), "hydra.launcher.devices=2")
    assert ended.code == 0, ended.text
    for stage in ("instructions", "responses", "votes", "judgements", "examples"):
        found = made(both, stage)
        assert found and found == made(alone, stage), stage
    replies = [set(made(folder, "scores").items()) for folder in (alone, both)]
    assert len(replies[0] & replies[1]) == 1  # the base's; the specialized models differ in the last digits
    (mine,), (theirs,) = ([*folder.glob("store/adapter/*")] for folder in (both, alone))
    check_same(mine, theirs, 1e-4)
    assert not list((both / "store" / "work").glob("*/batch-*"))
