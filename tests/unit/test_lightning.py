"""Objectives, hyperparameters, callbacks and options of Lightning's Trainer, through the real stage."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from pytorch_lightning import Callback
from torch import Tensor

from selfspec.errors import Interrupted, UserError
from selfspec.loggers.logged_run import flat_config
from selfspec.pipeline.build import build_pipeline
from selfspec.tuning.loss import response_loss_sum
from selfspec.tuning.objectives import Imitation, build_objective
from toys import compose_config, toy_experiment
from tuning_runs import StopAfter, check_same, curve, parameters, tune

QUICK = ("model=llama-2-7b", "domain.seed_count=22", "tuning.epochs=1", "tuning.learning_rate=1e-3", "lora.r=4")


class Scaled:
    """An objective of a user's own: cross-entropy times a factor, normalized by all tokens."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def num_target_tokens(self, example: Any) -> int:
        return len(example)

    def loss_sum(self, model: Any, examples: Any, mask: Any) -> Tensor:
        return self.factor * response_loss_sum(model, examples, mask)


class RecordSteps(Callback):  # type: ignore[misc]
    """A callback of a user's own."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        with self.path.open("a") as file:
            file.write(f"{module.curve[-1]['step']}\n")


@pytest.fixture(scope="module")
def usual(tmp_path_factory: Any) -> Path:
    """The adapter without any further setting."""
    return tune(toy_experiment(tmp_path_factory.mktemp("usual"), *QUICK))


def test_a_custom_objective_gives_the_loss_and_its_denominator(tmp_path: Path, usual: Path) -> None:
    own = ("+objective._target_=test_lightning.Scaled", "+objective.factor=3.0")
    actual = curve(tune(toy_experiment(tmp_path, *QUICK, *own)))
    assert actual[0]["held_out_loss_before"] == curve(usual)[0]["held_out_loss_before"]  # the same measure for all
    ratio = actual[0]["loss"] / curve(usual)[0]["loss"]
    assert 0 < ratio < 0.9  # three times the sum, over the tokens of prompts and responses
    keys = [build_pipeline(compose_config(*overrides)).adapters["specialized"].key for overrides in ((), own)]
    assert keys[0] != keys[1]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "imitate"}, "objective.name=imitate is none of imitation; did you mean 'imitation'"),
        ({"name": "imitation", "factor": 2}, "objective=imitation has no setting factor"),
        ({"_target_": "nowhere.Objective"}, "nowhere.Objective can't be imported"),
        ({"_target_": "test_lightning.Scaled"}, "test_lightning.Scaled can't be created .*factor"),
    ],
)
def test_an_objective_that_does_not_exist_is_refused(spec: Mapping[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_objective(spec)
    assert isinstance(build_objective({"name": "imitation"}), Imitation)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.max_epochs=3", r"trainer\.max_epochs is set by selfspec; use tuning\.epochs in its place"),
        ("trainer.accumulate_grad_batches=2", r"use tuning\.batch_size and tuning\.micro_batch_tokens in its place"),
        ("trainer.strategy=ddp", "use the group strategy in its place"),
        ("trainer.devices=2", r"use hydra\.launcher\.devices in its place"),
        ("trainer.logger=true", "use the group logger in its place"),
        ("trainer.enable_progress_bar=true", "is set by selfspec; leave it out"),
        ("trainer.profler=simple", "no option of Lightning's Trainer; did you mean 'profiler'"),
        ("trainer.precision=16-mixed", r"is none of 32-true, bf16-mixed; choose one, or set .* by model\.dtype"),
        ("trainer.precision=bf16-true", r"is none of 32-true, bf16-mixed; choose one, or set .* by model\.dtype"),
        ("callbacks.mine={_target_: nowhere.Callback}", r"callbacks\.mine: nowhere\.Callback can't be imported"),
        ("callbacks.mine={path: x}", r"callbacks\.mine has no _target_"),
        ("objective.name=dpo", "objective.name=dpo is none of imitation"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_any_work(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        compose_config(override)


def test_an_option_that_lightning_refuses_is_reported_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Lightning refuses the settings of trainer or callbacks.*profiler"):
        tune(toy_experiment(tmp_path, *QUICK, "trainer.profiler=fastest"))


def test_options_of_the_trainer_are_passed_on_and_are_in_the_adapters_key(tmp_path: Path, usual: Path) -> None:
    precise = tune(toy_experiment(tmp_path, *QUICK, "trainer.detect_anomaly=true", "trainer.deterministic=true"))
    check_same(precise, usual, 1e-6)
    assert precise.name != usual.name
    rounded = tune(toy_experiment(tmp_path, *QUICK, "trainer.precision=bf16-mixed"))
    differences = [(parameters(rounded)[name] - tensor).abs().max() for name, tensor in parameters(usual).items()]
    assert 0 < max(differences) < 0.01


def test_lightning_and_custom_callbacks_run_and_resume_at_the_next_step(tmp_path: Path, usual: Path) -> None:
    record = tmp_path / "steps.txt"
    own = f"callbacks.mine={{_target_: test_lightning.RecordSteps, path: {record}}}"
    config = toy_experiment(tmp_path, *QUICK, "logger=csv", "callbacks=[lr_monitor,device_stats]", own)
    with pytest.raises(Interrupted):
        tune(config, StopAfter(1))
    adapter = tune(config)
    assert adapter.name == usual.name  # callbacks are in no key
    check_same(adapter, usual, 1e-6)
    assert [int(line) for line in record.read_text().split()] == [1, 2]  # the first was interrupted before its end
    (metrics,) = Path(config.paths.output).glob("csv/*/metrics.csv")
    with metrics.open() as file:
        rows = list(csv.DictReader(file))
    rates = {int(row["step"]): float(row["lr-AdamW"]) for row in rows if row.get("lr-AdamW")}
    assert rates == pytest.approx({point["step"]: point["lr"] for point in curve(adapter)[1:]})
    assert any(name.startswith("DeviceStatsMonitor") for name in rows[0])


def test_a_callback_that_needs_a_logger_is_refused_without_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Lightning refuses the settings of trainer or callbacks.*no logger"):
        tune(toy_experiment(tmp_path, *QUICK, "callbacks=lr_monitor"))


def test_every_logger_gets_the_flat_config_as_hyperparameters(tmp_path: Path) -> None:
    config = toy_experiment(tmp_path, *QUICK, "logger=csv", "lora.target_modules=[q_proj,v_proj]")
    tune(config)
    (logged,) = Path(config.paths.output).glob("csv/*/hparams.yaml")
    values = yaml.safe_load(logged.read_text())
    expected = flat_config(config)
    assert expected["tuning.learning_rate"] == 1e-3 and expected["objective.name"] == "imitation"
    assert {name: values[name] for name in expected} == expected
