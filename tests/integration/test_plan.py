"""`plan=true` prints the stages, which are stored, each request and the sbatch text; it does no work."""

from __future__ import annotations

import io
import json
import re
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from rich.console import Console

from conftest import Warm
from selfspec.launch.plan import show_plan
from selfspec.pipeline.build import build_pipeline
from selfspec.pipeline.graph import unite_jobs
from toys import compose_config

RECORDED = Path(__file__).parent / "plan.txt"
QUICK = ["debug=smoke", "logger=none", "baselines.seeds_only=false", "baselines.off_domain=false"]
LIMIT = "evaluation.limit=1"
REQUEST = "hydra.launcher.resources"
SLURM_OVERRIDES = [
    "hydra/launcher=slurm",
    "hydra.launcher.partition=gpu",
    "+hydra.launcher.sbatch.reservation=night",
    "hydra.launcher.setup=['module load cuda', 'export HF_HUB_OFFLINE=1']",
    f"{REQUEST}.adapter.nodes=2",
    f"{REQUEST}.adapter.tasks_per_node=4",
    f"{REQUEST}.adapter.gpus=4",
    f"{REQUEST}.adapter.account=large",
    f"{REQUEST}.scores.time=0:30:00",
]


def plan(warm: Warm, folder: Path, *arguments: str) -> str:
    """The printed plan, without what differs between machines."""
    places = [f"paths.store={folder}/store", f"hydra.sweep.dir={folder}/sweep", f"hydra.run.dir={folder}/run"]
    ended = warm(*arguments[:1], *QUICK, *places, *arguments[1:], "plan=true", env={"PYTHONPATH": ""})
    assert ended.code == 0, ended.text
    text = ended.text.replace(str(folder), "FOLDER").replace(sys.executable, "python")
    text = re.sub(r"[ \t]+\n", "\n", re.sub(r" [0-9a-f]{8}>", " <key>>", text))
    return re.sub(r"\b[0-9a-f]{24}$", "<key>", text, flags=re.MULTILINE)


def test_the_plan_equals_the_recorded_one(warm: Warm, tmp_path: Path) -> None:
    text = plan(warm, tmp_path, "-m", "lora=r8,r16", "data_size=4,8", *SLURM_OVERRIDES)
    assert text == RECORDED.read_text(), f"differs from {RECORDED}; if the change is intended, record it:\n{text}"
    assert not list((tmp_path / "store").glob("work/*")) and not (tmp_path / "sweep" / "sweep.json").exists()


def test_the_plan_says_which_stages_are_stored(warm: Warm, tmp_path: Path) -> None:
    assert "6 waiting" in plan(warm, tmp_path, "-m", LIMIT, "lora=r8,r16")
    ended = warm(*QUICK, LIMIT, f"paths.store={tmp_path}/store", f"hydra.run.dir={tmp_path}/run", "lora=r8")
    assert ended.code == 0, ended.text
    text = plan(warm, tmp_path, "-m", LIMIT, "lora=r8,r16")
    assert "4 stored, 2 waiting" in text and text.count(" stored ") == 4 and text.count(" to do ") == 2


def test_work_and_time_are_estimated_from_finished_stages(warm: Warm, tmp_path: Path) -> None:
    places = [f"paths.store={tmp_path}/store", f"hydra.run.dir={tmp_path}/run"]
    assert warm(*QUICK, LIMIT, *places, "lora=r8", "data_size=4").code == 0
    manifests = [json.loads(path.read_text()) for path in (tmp_path / "store").glob("*/*/manifest.json")]
    counts = {facts["stage"]: facts["counts"] for facts in manifests}
    seconds = {facts["stage"]: facts["seconds"] for facts in manifests if facts["stage"] in ("adapter", "scores")}
    text = plan(warm, tmp_path, LIMIT, "lora=r16", "data_size=8")
    assert f"{counts['scores']['answers']} answers" in text
    assert f"{counts['examples']['examples']} of {counts['examples']['attempts']} attempts passed in the same" in text
    assert "time: all stages, " in text and "from 1 finished examples, 1 finished adapter, 2 finished scores" in text
    stored = plan(warm, tmp_path, LIMIT, "lora=r8", "data_size=4")
    assert f"{counts['adapter']['rows']} rows, {counts['adapter']['steps']} steps" in stored and "time:" not in stored
    (line,) = [line for line in text.splitlines() if "adapter (specialized)" in line and "to do" in line]
    hours = re.search(r"(\d+) s  <key>", line)
    assert hours and int(hours[1]) <= 10 * seconds["adapter"]  # twice as many rows


def tokens_and_minutes(line: str) -> tuple[float, int]:
    """Tokens and minutes in a stage's line of the plan."""
    match = re.search(r"([\d.]+)k\s+(\d+) min", line)
    assert match, line
    return 1000 * float(match[1]), int(match[2])


def test_a_throughput_in_the_config_overrides_measured_times(warm: Warm, tmp_path: Path) -> None:
    rates = ["throughput.generated=1000", "throughput.read=1e9", "throughput.tuned=2"]
    text = plan(warm, tmp_path, "lora=r8", *rates)
    (line,) = [line for line in text.splitlines() if "adapter (specialized)" in line]
    tokens, minutes = tokens_and_minutes(line)
    assert tokens / 2 / 60 == pytest.approx(minutes, rel=0.05)
    assert "in total, from the config's throughput" in text
    several = plan(warm, tmp_path, "lora=r8", *rates, "hydra.launcher.devices=2")
    (line,) = [line for line in several.splitlines() if "adapter (specialized)" in line]
    assert tokens_and_minutes(line)[1] == pytest.approx(minutes / 2, abs=1)


def test_a_single_run_has_a_plan(warm: Warm, tmp_path: Path) -> None:
    text = plan(warm, tmp_path, "lora=r8", "hydra/launcher=slurm")
    assert "1 job, 4 distinct stages" in text and text.count("#SBATCH --job-name") == 4


def test_a_plan_is_printed_under_hydras_own_launchers(warm: Warm, tmp_path: Path) -> None:
    for name in ("submitit_slurm", "submitit_local", "joblib"):
        assert "1 job, 4 distinct stages" in plan(warm, tmp_path, "lora=r8", f"hydra/launcher={name}"), name


def test_every_kind_of_stage_has_a_slurm_request(warm: Warm, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "one.txt").write_text("A text.")
    corpus = ["retrieval=bm25", f"retrieval.corpus={tmp_path}/texts", "rounds=2", "lora=r8", "hydra/launcher=slurm"]
    text = plan(warm, tmp_path, *corpus, "hydra.launcher.resources.examples.time=1:23:00")
    stages = ["index", "examples", "adapter", "round_examples", "adapter", "scores", "scores"]
    assert f"1 job, {len(stages)} distinct stages" in text
    printed = re.findall(r"^(\d+) x (\w+): (.*)$", text, re.MULTILINE)
    assert Counter(name for count, name, _ in printed for _ in range(int(count))) == Counter(stages)
    requests = {name: request for _, name, request in printed}
    assert "GPU" not in requests["index"] and all("1 GPU per node" in requests[name] for name in stages[1:])
    assert requests["round_examples"] == requests["examples"] and requests["round_examples"].endswith("1:23:00")


def test_several_tasks_for_a_stage_of_one_device_are_refused(warm: Warm, tmp_path: Path) -> None:
    places = [f"paths.store={tmp_path}/store", f"hydra.sweep.dir={tmp_path}/sweep"]
    (tmp_path / "corpus.jsonl").write_text('{"text": "A text."}')
    corpus = ["retrieval=bm25", f"retrieval.corpus={tmp_path}/corpus.jsonl"]
    ended = warm("-m", *QUICK, *places, *corpus, "hydra/launcher=slurm", f"{REQUEST}.index.nodes=2", "plan=true")
    assert ended.code == 1 and "the stage index takes one device" in ended.text and "Traceback" not in ended.text


def test_a_narrow_terminal_shows_the_whole_plan(tmp_path: Path) -> None:
    config = compose_config("model=falcon-40b", f"paths.store={tmp_path}")
    nodes = unite_jobs([(config, build_pipeline(config))])
    console = Console(file=io.StringIO(), force_terminal=True, record=True, width=80)
    show_plan(nodes, 1, {"_target_": "", "devices": 1}, tmp_path, console)
    text = console.export_text()
    assert "…" not in text and max(map(len, text.splitlines())) <= 80
    ends = [line.split()[-1] for line in text.splitlines() if line.strip()]
    assert all(any(first + second == key for first, second in pairwise(ends)) for key in nodes)
