"""Names, tags and configuration of a logged run; what is refused before any work; a logger that fails."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pytorch_lightning.loggers import CSVLogger
from wandb.analytics.opentelemetry.opentelemetry_proxy import get_open_telemetry_proxy
from wandb.sdk import wandb_setup

from selfspec.config.schema import LoggerConfig
from selfspec.errors import UserError
from selfspec.launch.logged_names import differing_overrides
from selfspec.loggers.build import open_logger
from selfspec.loggers.logged_run import LoggedRun, flat_config, join_name, run_tags, tune_run
from selfspec.loggers.settings import check_logger
from selfspec.pipeline.build import build_pipeline
from selfspec.reporting.logged_result import tune_links
from toys import toy_experiment

RUN = LoggedRun("0f", "a name", "tune", "adapter", {"lora.r": 8})


def test_overrides_that_all_jobs_have_are_not_in_a_name() -> None:
    job = ["evaluation.limit=1", "lora=r8", "seed=1", "evaluation.shots=[0, 5]", "rounds.count=2", "paths.store=/x"]
    job += ["logger.tags=[a]", "evaluation.limit=2"]
    typed = "evaluation.limit=1 evaluation.limit=1,2 'lora=r8,r16' 'seed=range(3)' 'evaluation.shots=[0,5]'"
    typed += " experiment=mine 'logger.tags=[a],[b]'"
    assert differing_overrides(job, typed) == (
        "evaluation.limit=2",
        "lora=r8",
        "seed=1",
        "rounds.count=2",  # by an experiment
    )


def test_a_curve_is_named_by_the_overrides_that_its_adapter_depends_on(tmp_path: Path) -> None:
    config = toy_experiment(tmp_path)
    overrides = ("lora.r=8", "data_size=4", "evaluation.limit=2", "+variant=judge")
    config = replace(config, logger=LoggerConfig("wandb", run_name="night", job_overrides=overrides))
    names = {stage.label: tune_run(config, stage).name for stage in build_pipeline(config).adapters.values()}
    assert names == {
        "adapter (specialized)": "night, lora.r=8 data_size=4 +variant=judge, adapter (specialized)",
        "adapter (seeds only)": "night, lora.r=8 +variant=judge, adapter (seeds only)",
    }


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_a_result_links_to_its_curves(tmp_path: Path, mode: str) -> None:
    config = toy_experiment(tmp_path, "baselines.seeds_only=false")
    config = replace(config, logger=LoggerConfig("wandb", mode=mode, entity="team"))
    pipeline = build_pipeline(config)
    run = SimpleNamespace(entity="team" if mode == "online" else "", project_url="https://wandb.ai/team/selfspec")
    key = pipeline.adapters["specialized"].key
    urls = {"tune_urls.adapter_specialized": f"https://wandb.ai/team/selfspec/runs/{key}"}
    assert tune_links(run, config, pipeline) == {
        "tune_runs.adapter_specialized": f"team/selfspec/{key}",
        **(urls if mode == "online" else {}),
    }


def test_paths_and_secrets_are_not_in_the_configuration(tmp_path: Path) -> None:
    config = toy_experiment(tmp_path, "model.toy=true")
    architecture = {"hf_token": "x", "api_key": "x", "vocab_size": 3, "at": "see ~/notes/a.txt", "url": "https://a/b"}
    config = replace(config, model=replace(config.model, path=str(tmp_path), architecture=architecture))
    flat = flat_config(config)
    assert {key for key in flat if key.startswith("model.architecture.")} == {
        "model.architecture.vocab_size",
        "model.architecture.url",
    }
    assert "model.path" not in flat and "generation.instructions.instruction_tokens" in flat
    assert str(tmp_path) not in str(flat) and not any(key.startswith(("paths", "logger")) for key in flat)


def test_long_names_and_tags_of_choices_are_shortened(tmp_path: Path) -> None:
    config = toy_experiment(tmp_path)
    config = replace(config, domain=replace(config.domain, name="d" * 80))
    tags = run_tags(replace(config, logger=LoggerConfig("wandb", tags=("own", "own"))))
    assert len(tags[0]) == 64 and tags[0].endswith("…") and tags.count("own") == 1
    assert len(join_name(None, "x" * 200)) == 128 and join_name(None, "a", "", "b") == "a, b"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (LoggerConfig("wandb", tags=("x" * 65,)), "logger.tags: .* must have 1 to 64 characters; shorten it"),
        (LoggerConfig("wandb", tags=("",)), "logger.tags: '' must have 1 to 64 characters"),
        (LoggerConfig("csv", log_adapter=True), "logger.log_adapter=true needs W&B artifacts; add logger=wandb"),
        (LoggerConfig("wandb", mode="online"), "logger.mode=online needs a W&B key; set WANDB_API_KEY"),
        (LoggerConfig(_target_="nowhere.Logger"), "logger: nowhere.Logger can't be imported"),
        (LoggerConfig(_target_="builtins.dict", arguments=3), "logger.arguments=3 must be a mapping"),
        (LoggerConfig(_target_="builtins.dict", arguments={"api_key": "x"}), "logger.arguments.api_key would be writ"),
    ],
)
def test_wrong_settings_are_refused(
    settings: LoggerConfig, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    with pytest.raises(UserError, match=message):
        check_logger(settings)


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_a_missing_package_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=rf"logger={name} needs the package {name}.* pip install -e \"\.\[{name}\]\""):
        check_logger(LoggerConfig(name))
    check_logger(LoggerConfig("csv"))


class FailingLogger(CSVLogger):  # type: ignore[misc]
    """Fails at each metric."""

    def log_metrics(self, *arguments: Any, **keywords: Any) -> None:
        raise OSError("no network")


@pytest.mark.parametrize("target", ["test_logged_run.FailingLogger", "nowhere.Logger"])
def test_a_logger_that_fails_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture, target: str) -> None:
    config = replace(toy_experiment(tmp_path), logger=LoggerConfig(_target_=target))
    with open_logger(config, RUN) as logger:
        if logger:
            logger.log_metrics({"loss": 1.0}, 0)
            logger.log_metrics({"loss": 1.0}, 1)
    assert bool(logger) == (target != "nowhere.Logger")
    assert caplog.text.count("The logger failed, and the run continues.") == 1


def test_a_resumed_curve_replaces_the_earlier_one_in_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = replace(toy_experiment(tmp_path), logger=LoggerConfig("tensorboard"))
    for loss, steps in ((9.0, 3), (1.0, 5)):  # a process that was killed, and the next one
        with open_logger(config, RUN) as logger:
            for step in range(steps):
                logger.log_metrics({"tune/loss": loss}, step)
            logger.finalize("success")
    events: Any = EventAccumulator(str(tmp_path / "output" / "tensorboard" / "adapter"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("tune/loss")] == [(step, 1.0) for step in range(5)]


def test_the_environment_is_restored(tmp_path: Path) -> None:
    before = dict(os.environ)
    with open_logger(replace(toy_experiment(tmp_path), logger=LoggerConfig("csv")), RUN):
        os.environ["MLFLOW_TRACKING_URI"] = "sqlite:///elsewhere.db"
    assert dict(os.environ) == before


def test_an_offline_run_sends_no_telemetry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B looks at its environment variable for that, not at the mode of the run."""
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(wandb_setup, "_singleton", None)
    config = toy_experiment(tmp_path, "baselines.seeds_only=false")
    config = replace(config, logger=LoggerConfig("wandb", mode="offline"))
    with open_logger(config, tune_run(config, build_pipeline(config).adapters["specialized"])) as logger:
        assert logger
        assert get_open_telemetry_proxy() is None
    assert "WANDB_MODE" not in os.environ
