"""What loggers write during a run, read back from their files."""

from __future__ import annotations

import csv
import json
import shlex
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import wandb_file
from conftest import Warm, places
from selfspec.config.hashing import digest
from wandb_file import OfflineRun

QUICK = ["debug=smoke", "evaluation.limit=1", "evaluation.shots=[0]"]
NO_BASELINES = ["baselines.seeds_only=false", "baselines.off_domain=false"]
WANDB_KEY = "0123456789recognisable0123456789abcdef01"


@pytest.fixture(scope="module")
def smoke_runs(smoke: Path) -> list[OfflineRun]:
    return wandb_file.read_all(smoke / "run" / "wandb")


@pytest.fixture
def specialized(smoke: Path) -> str:
    """The key of the specialized adapter."""
    stages = json.loads((smoke / "run" / "stages.json").read_text())
    return str(stages["adapter (specialized)"].split("/")[1])


def test_a_curve_is_logged_over_its_steps(smoke: Path, smoke_runs: list[OfflineRun], specialized: str) -> None:
    (run,) = (run for run in smoke_runs if run.info.run_id == specialized)  # the id of a curve is its stage's key
    assert run.info.job_type == "tune" and run.info.display_name == "adapter (specialized)"
    assert run.info.run_group.endswith("-run")
    assert list(run.info.tags) == ["biomedicine", "gemma-3-270m", "examples=12", "r=8"]
    curve = json.loads((smoke / "store" / "adapter" / specialized / "curve.json").read_text())
    assert [point["tune/loss"] for point in run.history] == pytest.approx([point["loss"] for point in curve], rel=1e-5)
    assert run.metrics["tune/*"].step_metric == "tune/step"
    assert run.metrics["tune/held_out_loss"].summary.min
    losses = [point["held_out_loss"] for point in curve if "held_out_loss" in point]
    assert run.summary["tune/held_out_loss"]["min"] == pytest.approx(min(losses))


def test_runs_carry_the_configuration_without_paths(
    smoke: Path, smoke_runs: list[OfflineRun], specialized: str
) -> None:
    stages = json.loads((smoke / "run" / "stages.json").read_text())
    for run in smoke_runs:
        assert run.config["tuning.learning_rate"] == 3e-4 and run.config["evaluation.shots"] == [0, 5]
        assert run.config["data_size.examples"] == 12 and run.config["model.toy"] is True
        assert not [key for key in run.config if key.startswith(("paths.", "logger."))]
        assert not {"domain.seeds", "domain.evaluation", "generation.contamination.against"} & set(run.config)
        assert str(smoke) not in json.dumps(run.config) and "/selfspec/domains" not in json.dumps(run.config)
    tune = next(run for run in smoke_runs if run.info.run_id == specialized)
    assert tune.config["stage.key"] == specialized
    assert f"examples/{tune.config['stage.inputs.examples']}" == stages["examples"]
    result = next(run for run in smoke_runs if run.info.job_type == "result")
    assert result.config["stages.adapter_specialized"] == f"adapter/{specialized}"
    assert {key: value for key, value in result.config.items() if key.startswith("tune_")} == {
        f"tune_runs.{name}": f"selfspec/{result.config[f'stages.{name}'].split('/')[1]}"
        for name in ("adapter_specialized", "adapter_seeds_only")
    }


def test_a_result_is_a_summary_with_tables(smoke: Path, smoke_runs: list[OfflineRun]) -> None:
    (run,) = (run for run in smoke_runs if run.info.job_type == "result")
    report = json.loads((smoke / "run" / "results.json").read_text())
    assert run.info.display_name == report["title"]
    values = {
        f"{row['model']}/{row['shots']}-shot/{row['measure']}": row["value"]
        for row in report["scores"]
        if row["task"] == "all"
    }
    assert "specialized/5-shot/token_f1" in values and values.items() <= run.summary.items()
    assert "specialized-base/0-shot/primary_metric" in run.summary
    assert run.summary["held_out_loss"] == report["held_out_loss"]
    logged = {name for point in run.history for name in point}
    assert {"scores", "funnel", "rows"} <= {name.split("/")[0] for name in logged}
    assert not logged & set(values)  # no series of one step


def test_wandb_names_the_jobs_of_a_sweep_and_holds_no_key(warm: Warm, tmp_path: Path) -> None:
    own = ["logger.project=mine", "logger.run_name=night", "logger.tags=[mine]", "logger.log_adapter=true"]
    wanted = [*QUICK, *NO_BASELINES, "lora=r8,r16", *own]
    (tmp_path / "cwd").mkdir()
    at = [f"paths.store={tmp_path}/store", f"hydra.sweep.dir={tmp_path}/sweep"]
    ended = warm("-m", *wanted, *at, cwd=tmp_path / "cwd", env={"WANDB_API_KEY": WANDB_KEY})
    assert ended.code == 0, ended.text
    runs = wandb_file.read_all(tmp_path / "sweep")
    record = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    adapters = {key for key, stage in record["stages"].items() if stage["name"] == "adapter"}
    assert {run.info.run_id for run in runs if run.info.job_type == "tune"} == adapters
    assert Counter(run.info.display_name for run in runs) == {
        "night, lora=r8, adapter (specialized)": 1,
        "night, lora=r16, adapter (specialized)": 1,
        "night, lora=r8": 1,
        "night, lora=r16": 1,
    }
    (group,) = {run.info.run_group for run in runs}
    assert group == f"sweep-{digest(shlex.join(sorted(wanted)))[:8]}"  # wherever the same command is run
    assert {run.info.project for run in runs} == {"mine"}
    assert {tag for run in runs for tag in run.info.tags} == {
        "biomedicine", "gemma-3-270m", "examples=12", "r=8", "r=16", "mine",
    }  # fmt: skip
    for run in runs:
        if run.info.job_type == "result":
            (model,) = (artifact for artifact in run.artifacts if artifact.type == "model")
            names = {entry.path for entry in model.manifest.contents}
            assert names == {"adapter_config.json", "adapter_model.safetensors", "prompt.json"}
            assert model.name.removeprefix("adapter-") == run.config["tune_runs.adapter_specialized"].split("/")[1]
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and WANDB_KEY.encode() in path.read_bytes()]
    assert not list((tmp_path / "cwd").iterdir())


@pytest.mark.parametrize(
    "logger",
    [
        ["logger=csv"],
        ["logger=tensorboard"],
        ["logger._target_=pytorch_lightning.loggers.CSVLogger", "logger.arguments={name: own, prefix: mine}"],
    ],
    ids=["csv", "tensorboard", "own"],
)
def test_lightning_loggers_write_curve_result_and_configuration_below_the_run(
    warm: Warm, smoke: Path, tmp_path: Path, logger: list[str]
) -> None:
    shutil.copytree(smoke / "store", tmp_path / "store")
    (tmp_path / "cwd").mkdir()
    ended = warm(*QUICK, *NO_BASELINES, "lora=r16", *logger, *places(tmp_path), cwd=tmp_path / "cwd")
    assert ended.code == 0, ended.text
    run = tmp_path / "run"
    key = json.loads((run / "stages.json").read_text())["adapter (specialized)"].split("/")[1]
    curve = json.loads((tmp_path / "store" / "adapter" / key / "curve.json").read_text())
    report = json.loads((run / "results.json").read_text())
    series: dict[str, list[float]] = {}
    for path in run.rglob("hparams.yaml"):
        assert "lora.r: 16" in path.read_text() and str(tmp_path) not in path.read_text()
        series |= read_events(path.parent) if logger == ["logger=tensorboard"] else read_csv(path.parent)
    prefix = "mine-" if len(logger) > 1 else ""
    assert series[f"{prefix}tune/loss"] == pytest.approx([point["loss"] for point in curve], rel=1e-5)
    assert series[f"{prefix}held_out_loss"] == pytest.approx([report["held_out_loss"]])
    assert f"{prefix}specialized/0-shot/token_f1" in series
    assert not list((tmp_path / "cwd").iterdir())


def test_a_tag_that_is_too_long_is_refused_before_any_work(warm: Warm, tmp_path: Path) -> None:
    ended = warm(*QUICK, f"logger.tags=[{'x' * 65}]", *places(tmp_path))
    assert ended.code == 1 and "must have 1 to 64 characters; shorten it" in ended.text, ended.text
    assert not (tmp_path / "store").exists()


def read_csv(folder: Path) -> dict[str, list[float]]:
    """Columns of a `metrics.csv`."""
    series: dict[str, list[float]] = {}
    for row in csv.DictReader((folder / "metrics.csv").open()):
        for name, value in row.items():
            if value:
                series.setdefault(name, []).append(float(value))
    return series


def read_events(folder: Path) -> dict[str, list[float]]:
    """Scalars of TensorBoard's event files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events: Any = EventAccumulator(str(folder))
    events.Reload()
    return {name: [event.value for event in events.Scalars(name)] for name in events.Tags()["scalars"]}
