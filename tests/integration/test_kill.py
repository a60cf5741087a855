"""`kill -9` at any moment: the same command again ends with the same bytes as an undisturbed run."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from conftest import Warm, places

KILLS = 20
COMMAND = [
    *("debug=smoke", "data_size.examples=100", "logger=none", "evaluation.limit=2", "baselines.off_domain=false"),
    "tuning.checkpoint_minutes=0",
]
TEXTS = ("rows.jsonl", "examples.jsonl", "answers.jsonl", "funnel.json")


def outputs(folder: Path) -> dict[str, bytes]:
    """All generated text in the store, by its place."""
    paths = [path for name in TEXTS for path in folder.glob(f"store/*/*/{name}") if path.parts[-3] != "aside"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.mark.slow
def test_twenty_kills_change_nothing(warm: Warm, tmp_path: Path) -> None:
    started = time.monotonic()
    assert warm(*COMMAND, *places(tmp_path / "calm")).code == 0
    whole = time.monotonic() - started
    chance = random.Random(20)
    died = runs = 0
    while died < KILLS:
        # Each attempt goes on where the last one died, so that a share of the whole time reaches every stage.
        wait = chance.uniform(0.05, 0.35) * whole

        def kill(pid: int, wait: float = wait) -> None:
            time.sleep(wait)
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                return

        name = f"hard{runs}"
        ended = warm(*COMMAND, *places(tmp_path / name), kill=kill)
        died += ended.code == -signal.SIGKILL
        if ended.code == 0:  # this one arrived: the rest of the kills go to another run from the start
            same(tmp_path / "calm", tmp_path / name)
            runs += 1
    assert warm(*COMMAND, *places(tmp_path / f"hard{runs}")).code == 0
    same(tmp_path / "calm", tmp_path / f"hard{runs}")


def same(calm: Path, hard: Path) -> None:
    """Equal bytes of text, and equal adapters."""
    assert outputs(calm) == outputs(hard)
    adapters = sorted(path.relative_to(calm) for path in calm.glob("store/adapter/*/adapter_model.safetensors"))
    assert adapters
    for path in adapters:
        one, other = load_file(calm / path), load_file(hard / path)
        assert one.keys() == other.keys()
        assert max(float(abs(one[name] - other[name]).max()) for name in one) <= 1e-6


def test_a_sigterm_saves_and_the_same_command_goes_on(warm: Warm, tmp_path: Path) -> None:
    def stop(pid: int) -> None:
        work = tmp_path / "store" / "work"
        while not list(work.glob("*/batch-*.jsonl")):
            time.sleep(0.01)
        os.kill(pid, signal.SIGTERM)

    ended = warm(*COMMAND, *places(tmp_path), kill=stop)
    assert ended.code == 128 + signal.SIGTERM
    assert "the same command continues from it" in ended.text and "Traceback" not in ended.text
    assert list((tmp_path / "store" / "work").glob("*/batch-*.jsonl"))
    assert warm(*COMMAND, *places(tmp_path)).code == 0
