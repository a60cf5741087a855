"""A run that is killed at any moment ends, after the same command again, with the bytes of an undisturbed run."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from conftest import Warm, places, signal_when

KILLS = 20
COMMAND = [
    *("debug=smoke", "data_size.examples=100", "logger=none", "evaluation.limit=2", "baselines.off_domain=false"),
    "tuning.checkpoint_minutes=0",
]
TEXTS = ("rows.jsonl", "examples.jsonl", "answers.jsonl", "funnel.json")


def outputs(folder: Path) -> dict[str, bytes]:
    """The files with generated text in the store, by path."""
    paths = [path for name in TEXTS for path in folder.glob(f"store/*/*/{name}") if path.parts[-3] != "aside"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.mark.slow
def test_a_run_that_is_killed_twenty_times_ends_with_the_same_bytes(warm: Warm, tmp_path: Path) -> None:
    start = time.monotonic()
    assert warm(*COMMAND, *places(tmp_path / "undisturbed")).code == 0
    seconds = time.monotonic() - start
    rng = random.Random(20)
    num_killed = num_finished = 0
    while num_killed < KILLS:
        # Each attempt resumes where the last one was killed, so that a share of the run's time reaches every stage.
        wait = rng.uniform(0.05, 0.35) * seconds

        def kill(pid: int, wait: float = wait) -> None:
            time.sleep(wait)
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                return

        folder = tmp_path / f"killed{num_finished}"
        ended = warm(*COMMAND, *places(folder), kill=kill)
        num_killed += ended.code == -signal.SIGKILL
        if ended.code == 0:  # it finished before the kill: the next run starts from an empty store
            check_same_outputs(tmp_path / "undisturbed", folder)
            num_finished += 1
    folder = tmp_path / f"killed{num_finished}"
    assert warm(*COMMAND, *places(folder)).code == 0
    check_same_outputs(tmp_path / "undisturbed", folder)


def check_same_outputs(expected: Path, actual: Path) -> None:
    """Check that texts have the same bytes, and adapters the same parameters."""
    assert outputs(expected) == outputs(actual)
    adapters = sorted(path.relative_to(expected) for path in expected.glob("store/adapter/*/adapter_model.safetensors"))
    assert adapters
    for path in adapters:
        first, second = load_file(expected / path), load_file(actual / path)
        assert first.keys() == second.keys()
        assert max(float(abs(first[name] - second[name]).max()) for name in first) <= 1e-6


def test_a_run_stopped_by_sigterm_resumes_with_the_same_command(warm: Warm, tmp_path: Path) -> None:
    def stop(pid: int) -> None:
        work = tmp_path / "store" / "work"
        signal_when(lambda: any(work.glob("**/batch-*.jsonl")), pid, signal.SIGTERM)

    ended = warm(*COMMAND, *places(tmp_path), kill=stop)
    assert ended.code == 128 + signal.SIGTERM
    assert "the same command continues from it" in ended.text and "Traceback" not in ended.text
    assert list((tmp_path / "store" / "work").glob("**/batch-*.jsonl"))
    assert warm(*COMMAND, *places(tmp_path)).code == 0
