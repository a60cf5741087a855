"""Two processes write the same bytes as one, also after a stop: rows, votes, judgements and replies.

The experiments run through the real command line.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import PROJECT, Warm, places
from tuning_runs import check_same

pytestmark = pytest.mark.slow
TOY = [
    *("debug=smoke", "logger=none", "model=llama-2-7b", "data_size.examples=70", "evaluation.limit=6"),
    *("evaluation.shots=[0]", "baselines.seeds_only=false", "baselines.off_domain=false", "tuning.learning_rate=1e-4"),
    *("generation.filters.judge=true", "generation.filters.self_consistency=true", "generation.judge.least_auc=1"),
    *("generation.self_consistency.majority=0", "generation.responses.max_new_tokens=8", "tuning.epochs=1"),
]
STOP_SECONDS = 120  # for two processes to save their work and end


def stage_rows(folder: Path, stage: str) -> dict[str, bytes]:
    """Bytes of the JSONL files of all outputs of a stage, by path."""
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.glob(f"store/{stage}/*/*.jsonl"))
    }


def count_finished_batches(folder: Path) -> int:
    return len(list(folder.glob("store/work/**/batch-*.jsonl"))) + len(
        list(folder.glob("store/responses/*/rows.jsonl"))
    )


def start_and_stop(folder: Path, num_batches: int) -> None:
    """Run the experiment in two processes, and stop it when `num_batches` are done."""
    folder.mkdir()
    command = [sys.executable, str(PROJECT / "run.py"), *TOY, *places(folder), "hydra.launcher.devices=2"]
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})
    while count_finished_batches(folder) < num_batches and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(STOP_SECONDS) != 0, (folder / "log.txt").read_text()


def test_two_processes_write_the_bytes_of_one_also_after_a_stop(warm: Warm, tmp_path: Path) -> None:
    single, double = tmp_path / "single", tmp_path / "double"
    assert warm(*TOY, *places(single)).code == 0
    start_and_stop(double, 3)
    ended = warm(*TOY, *places(double), "hydra.launcher.devices=2")
    assert ended.code == 0, ended.text
    for stage in ("instructions", "responses", "votes", "judgements", "examples"):
        rows = stage_rows(double, stage)
        assert rows and rows == stage_rows(single, stage), stage
    replies = [set(stage_rows(folder, "scores").items()) for folder in (single, double)]
    assert len(replies[0] & replies[1]) == 1  # the base model's; the specialized models differ in the last digits
    (single_adapter,), (double_adapter,) = ([*folder.glob("store/adapter/*")] for folder in (single, double))
    check_same(single_adapter, double_adapter, 1e-4)
    assert not list((double / "store" / "work").glob("**/batch-*"))
