"""Presets: each opens with its cost, which its plan confirms; all its jobs compose, and it runs end to end."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from conftest import PROJECT, Warm
from toys import compose_config

FOLDER = PROJECT / "conf" / "experiment"
PRESETS = sorted(path.stem for path in FOLDER.glob("*.yaml"))
COUNTS = re.compile(r"(\d+) jobs?, (\d+) distinct stages")
QUICK = [
    *("model.toy=true", "logger=none", "evaluation.limit=1", "evaluation.shots=[0]"),
    *("generation.instructions.instruction_tokens=16", "generation.instructions.input_tokens=32"),
    "generation.responses.max_new_tokens=24",
]


def header(preset: str) -> list[str]:
    """The lines of the comment that a preset opens with."""
    first, *lines = (FOLDER / f"{preset}.yaml").read_text().splitlines()
    assert first == "# @package _global_"
    return [line.lstrip("# ") for line in lines[: next(n for n, line in enumerate(lines) if not line.startswith("#"))]]


def planned(warm: Warm, folder: Path, *arguments: str) -> tuple[int, int]:
    """The numbers of jobs and of distinct stages in the first plan."""
    ended = warm("-m", *arguments, "plan=true", f"paths.store={folder}/store", f"hydra.sweep.dir={folder}/sweep")
    match = COUNTS.search(ended.text)
    assert match, ended.text
    return int(match[1]), int(match[2])


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_opens_with_its_command_and_its_cost(preset: str) -> None:
    about, command, *cost = header(preset)
    assert about.endswith(".") and len(about) < 110
    assert command.startswith(f"python run.py -m experiment={preset}")
    assert COUNTS.search(" ".join(cost))
    assert {"GPUs", "Hours"} <= {line.partition(":")[0] for line in cost}


def composed_presets() -> list[Any]:
    """All presets; the one with a corpus of the package financetoolkit, which is no dependency, runs where it is."""
    missing = pytest.mark.skipif(not importlib.util.find_spec("financetoolkit"), reason="needs financetoolkit: README")
    embedded = pytest.param("ablation_embedded", marks=[pytest.mark.slow, missing])
    return [embedded if preset == "ablation_embedded" else preset for preset in PRESETS]


@pytest.mark.parametrize("preset", composed_presets())
def test_every_job_composes_and_the_opening_gives_their_number(warm: Warm, tmp_path: Path, preset: str) -> None:
    overrides = ["hydra.sweeper.n_jobs=20"] if preset.startswith("optuna") else []  # one batch for the whole search
    if not preset.startswith("ablation"):  # a toy has two filters off, so that two jobs of that sweep are equal
        overrides.append("model.toy=true")
    match = COUNTS.search(" ".join(header(preset)))
    assert match
    counts = planned(warm, tmp_path, f"experiment={preset}", *overrides)
    assert counts == (int(match[1]), int(match[2]))


@pytest.mark.parametrize(
    ("arguments", "jobs"),
    [
        ("experiment=lora_rank lora=r16", 1),
        ("experiment=lora_rank seed=0,1", 4 * 2),
        ("experiment=data_scaling data_size=smoke", 1),
        ("experiment=data_scaling data_size=100", 1),
        ("experiment=data_scaling data_size=100,1k", 2),
        ("experiment=main_table model=gemma-3-270m seed=3", 2),
    ],
)
def test_the_command_line_replaces_what_a_preset_sweeps(warm: Warm, tmp_path: Path, arguments: str, jobs: int) -> None:
    assert planned(warm, tmp_path, *arguments.split(), "model.toy=true")[0] == jobs


def test_the_command_line_and_debug_override_a_preset() -> None:
    assert compose_config("experiment=main_table").data_size.examples == 5000
    assert compose_config("experiment=main_table", "data_size=smoke").data_size.examples == 12
    assert compose_config("experiment=main_table", "debug=smoke").data_size.examples == 12
    assert not compose_config("experiment=optuna_lora").baselines.seeds_only
    assert compose_config("experiment=optuna_lora", "baselines.seeds_only=true").baselines.seeds_only
    assert compose_config("experiment=optuna_lora", "debug=smoke").evaluation.limit == 20


def test_a_preset_is_a_sweep_without_the_option_m(warm: Warm, tmp_path: Path) -> None:
    overrides = ["experiment=lora_rank", "model.toy=true", "plan=true"]
    ended = warm(*overrides, f"paths.store={tmp_path}/store", f"hydra.sweep.dir={tmp_path}/sweep")
    assert "4 jobs" in ended.text, ended.text


def test_a_missing_sweeper_is_reported_in_one_sentence() -> None:
    code = (
        "import runpy, sys, hydra_plugins\n"
        "hydra_plugins.__path__ = [path for path in hydra_plugins.__path__ if 'site-packages' not in path]\n"
        "sys.argv = ['run.py', '-m', 'experiment=optuna_lora', 'debug=smoke']\n"
        "runpy.run_path('run.py', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "pip install -e '.[optuna]'" in done.stderr, done.stderr


def sweep(warm: Warm, folder: Path, *arguments: str) -> list[dict[str, Any]]:
    """The `results.json` of every job."""
    ended = warm("-m", *arguments, f"paths.store={folder}/store", f"hydra.sweep.dir={folder}/sweep")
    assert ended.code == 0, ended.text
    jobs = json.loads((folder / "sweep" / "sweep.json").read_text())["jobs"]
    return [json.loads((Path(job["folder"]) / "results.json").read_text()) for job in jobs]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "jobs"),
    [
        ("experiment=main_table data_size=smoke seed=0", 2 * 2),
        ("experiment=data_scaling data_size=smoke", 1),
        ("experiment=data_scaling data_size=4,8", 2),
        ("experiment=lora_rank data_size=smoke", 4),
    ],
)
def test_a_preset_runs_end_to_end(warm: Warm, tmp_path: Path, arguments: str, jobs: int) -> None:
    reports = sweep(warm, tmp_path, *arguments.split(), *QUICK)
    assert len(reports) == len({report["title"] for report in reports}) == jobs
    assert f"{jobs} of {jobs} jobs done" in (tmp_path / "sweep" / "report.html").read_text()


@pytest.mark.slow
def test_a_search_minimises_the_loss_on_held_out_seeds(warm: Warm, tmp_path: Path) -> None:
    search = ["experiment=optuna_lora", "data_size=smoke", *QUICK, "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=2"]
    reports = sweep(warm, tmp_path, *search)
    losses = [report["held_out_loss"] for report in reports]
    assert len(losses) == 3
    for report in reports:
        adapter = tmp_path / "store" / "adapter" / report["keys"]["adapter (specialized)"]
        curve = json.loads((adapter / "curve.json").read_text())
        assert report["held_out_loss"] == min(point["held_out_loss"] for point in curve if "held_out_loss" in point)

    best: Any = OmegaConf.load(tmp_path / "sweep" / "optimization_results.yaml")
    assert best.best_value == min(losses)
    job = json.loads((tmp_path / "sweep" / "sweep.json").read_text())["jobs"][losses.index(min(losses))]
    assert {f"{name}={value}" for name, value in best.best_params.items()} <= set(job["overrides"])

    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").glob("*/*/manifest.json")}
    sweep(warm, tmp_path, *search)  # the same trials, whose stages are all stored
    assert written == {path: path.stat().st_mtime_ns for path in (tmp_path / "store").glob("*/*/manifest.json")}


@pytest.mark.slow
def test_a_failed_trial_does_not_end_a_search_and_a_failed_batch_does(warm: Warm, tmp_path: Path) -> None:
    places = [f"paths.store={tmp_path}/store", f"hydra.sweep.dir={tmp_path}/sweep"]
    search = ["experiment=optuna_lora", "data_size=smoke", *QUICK, *places, "lora=r8", "tuning.learning_rate=1e-4"]
    ended = warm("-m", *search, "tuning.max_length=choice(1,1024)", "hydra.sweeper.n_trials=2")
    assert ended.code == 0 and "No example has at most" in ended.text, ended.text
    best: Any = OmegaConf.load(tmp_path / "sweep" / "optimization_results.yaml")
    assert best.best_params == {"tuning.max_length": 1024}
    ended = warm("-m", *search, "tuning.max_length=1", "hydra.sweeper.n_trials=2")
    assert ended.code == 1 and ended.text.strip().endswith("tuning.max_length=1 tokens; raise it."), ended.text
