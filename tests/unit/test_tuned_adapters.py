"""A tuned adapter loads in plain PEFT and learns in each kind of LoRA; the learning rate follows its schedule."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import PeftModel

from quick_tuning import QUICK, data, held_out_losses, token_mean
from selfspec.config.schema import Config, StrategyConfig
from selfspec.errors import Interrupted, UserError
from selfspec.models.load import load_base, with_adapter
from selfspec.prompts.templates import prompts_hash
from selfspec.runtime.distributed import SINGLE_PROCESS
from selfspec.runtime.progress import Progress
from selfspec.runtime.signals import StopFlag
from selfspec.tuning.batches import OptimizerStep
from selfspec.tuning.module import SpecializationModule, TuningData
from selfspec.tuning.objectives import Imitation
from selfspec.tuning.strategies.parallelism import Parallelism
from toys import prompts, toy, toy_experiment, tuning_config
from tuning_runs import StopAfter, check_same, curve, parameters, tune


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: Any) -> tuple[Config, Path]:
    """One adapter, tuned without interruption."""
    config = toy_experiment(tmp_path_factory.mktemp("uninterrupted"), *QUICK)
    return config, tune(config)


def test_a_run_interrupted_in_its_last_step_resumes_without_further_steps(tmp_path: Path, uninterrupted: Any) -> None:
    config = toy_experiment(tmp_path, *QUICK)
    with pytest.raises(Interrupted):
        tune(config, StopAfter(6))
    check_same(tune(config), uninterrupted[1], 0.0)


def test_dropout_draws_and_seeds_change_the_adapter(tmp_path: Path, uninterrupted: Any) -> None:
    expected = parameters(uninterrupted[1])
    for changed in ("lora.dropout=0", "seed=1"):  # in one store: they are other adapters
        actual = parameters(tune(toy_experiment(tmp_path, *QUICK, changed)))
        assert max(float((actual[name] - expected[name]).abs().max()) for name in expected) > 1e-3


def test_the_adapter_loads_in_plain_peft_and_equals_the_tuned_model(uninterrupted: Any) -> None:
    config, adapter = uninterrupted
    base, tokenizer = toy("llama-2-7b")
    training_rows, held_out, _ = data(config, tokenizer)
    ids = torch.tensor([[*training_rows[0].prompt, *training_rows[0].response]])
    before = base(ids).logits
    model = PeftModel.from_pretrained(base, str(adapter)).eval()
    logits = model(ids).logits
    # The loss that the tuned model had in the end, and the weights that LoRA stands for: base + B A alpha / r.
    assert token_mean(model, held_out) == pytest.approx(min(held_out_losses(adapter)), rel=1e-5)
    assert token_mean(toy("llama-2-7b")[0], held_out) == pytest.approx(
        curve(adapter)[0]["held_out_loss_before"], rel=1e-5
    )
    merged, _ = toy("llama-2-7b")
    actual = parameters(adapter)
    for name in {name.rpartition(".lora_")[0] for name in actual}:
        change = actual[f"{name}.lora_B.weight"] @ actual[f"{name}.lora_A.weight"] * config.lora.alpha / config.lora.r
        merged.get_submodule(name.removeprefix("base_model.model.")).weight += change
    torch.testing.assert_close(logits, merged(ids).logits, rtol=1e-4, atol=1e-4)
    assert float((logits - before).abs().max()) > 0.1
    assert token_mean(model, training_rows) < token_mean(toy("llama-2-7b")[0], training_rows) - 0.05  # it has learned
    with with_adapter(toy("llama-2-7b")[0], adapter) as adapted:
        assert torch.equal(adapted(ids).logits, logits)
    assert not any(str(config.paths.store) in path.read_text() for path in adapter.glob("*.json"))


def test_the_adapter_folder_has_the_prompt_template_of_its_tuning(uninterrupted: Any) -> None:
    kept = json.loads((uninterrupted[1] / "prompt.json").read_text())
    assert kept["hash"] == prompts_hash(prompts().templates)
    prefix = prompts().prefix(uninterrupted[0].domain.role, ())
    assert kept["template"].startswith(prefix)
    assert all(place in kept["template"].removeprefix(prefix) for place in ("{instruction}", "{input}", "{options}"))


@pytest.mark.parametrize(
    ("overrides", "scale", "trained"),
    [
        (["lora.r=4", "lora.alpha=8"], 2.0, {"lora_A", "lora_B"}),
        (["lora=rslora", "lora.r=4", "lora.alpha=8"], 4.0, {"lora_A", "lora_B"}),
        (["lora=dora", "lora.r=4"], 4.0, {"lora_A", "lora_B", "lora_magnitude_vector"}),
        (["lora.target_modules=[q_proj,v_proj]"], 2.0, {"lora_A", "lora_B"}),
        (["quantization=nf4"], 2.0, {"lora_A", "lora_B"}),
    ],
)
def test_each_kind_of_adapter_learns_and_can_be_loaded(
    tmp_path: Path, overrides: list[str], scale: float, trained: set[str]
) -> None:
    config = toy_experiment(
        tmp_path, "domain.seed_count=22", "tuning.learning_rate=1e-3", "model=llama-2-7b", *overrides
    )
    folder = tune(config)
    names = parameters(folder)
    assert {part for name in names for part in name.split(".") if part.startswith("lora_")} == trained
    wanted = {"q_proj", "v_proj"} if "q_proj" in str(overrides) else None
    assert wanted is None or {name.split(".")[-3] for name in names} == wanted
    losses = [point["loss"] for point in curve(folder)]
    assert losses[-1] < losses[0]
    base, tokenizer = load_base(config.model, config.paths, Progress())
    held_out_rows = data(config, tokenizer)[1]
    with with_adapter(base, folder) as model:
        layer = model.base_model.model.model.layers[0].self_attn.q_proj
        assert layer.scaling["default"] == pytest.approx(scale)
        assert token_mean(model, held_out_rows) == pytest.approx(min(held_out_losses(folder)), rel=1e-4)


def test_target_modules_of_an_architecture_known_only_when_loaded_are_refused_then(tmp_path: Path) -> None:
    config = toy_experiment(tmp_path, *QUICK)
    lora = replace(config.lora, target_modules=("query",))
    with pytest.raises(UserError, match=r"lora\.target_modules=\[query\] names no module.*q_proj"):
        tune(replace(config, lora=lora))


def test_activation_checkpointing_does_not_change_the_adapter(
    uninterrupted: tuple[Config, Path], tmp_path: Path
) -> None:
    _, folder = uninterrupted
    again = tune(toy_experiment(tmp_path, *QUICK, "tuning.activation_checkpointing=true"))
    assert again.name == folder.name  # it is in no key
    check_same(again, folder, 0)


def factors(tmp_path: Path, steps: int, **changes: Any) -> list[float]:
    """The learning-rate factor of each step."""
    planned = [OptimizerStep(number, 0, ((0,),), 1) for number in range(steps)]
    display: Any = SimpleNamespace(advance=lambda *_: None)
    module = SpecializationModule(
        model=torch.nn.Linear(1, 1),
        data=TuningData([], planned, []),
        objective=Imitation(),
        config=tuning_config(**changes),
        mask=lambda _: None,
        parallelism=Parallelism(StrategyConfig("auto"), SINGLE_PROCESS),
        work=tmp_path,
        display=display,
        stop=StopFlag(),
        hyperparameters={},
    )
    return [module.learning_rate_factor(step) for step in range(steps)]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [1.0] * 8),
        ("linear", [1 - step / 8 for step in range(8)]),
        ("cosine", [0.5 + 0.5 * math.cos(math.pi * step / 8) for step in range(8)]),
    ],
)
def test_the_learning_rate_warms_up_and_then_follows_the_schedule(
    tmp_path: Path, schedule: str, expected: list[float]
) -> None:
    assert factors(tmp_path, 10, schedule=schedule, warmup_ratio=0.2) == pytest.approx([1 / 3, 2 / 3, *expected])
    assert factors(tmp_path, 8, schedule=schedule, warmup_ratio=0.0) == pytest.approx(expected)
    assert all(factor > 0 for factor in factors(tmp_path, 1, schedule=schedule, warmup_ratio=1.0))


def test_a_run_uses_the_learning_rates_of_its_schedule(tmp_path: Path, uninterrupted: Any) -> None:
    config, adapter = uninterrupted
    expected = factors(tmp_path, 6, schedule=config.tuning.schedule, warmup_ratio=config.tuning.warmup_ratio)
    rates = [point["lr"] for point in curve(adapter)]
    assert rates == pytest.approx([config.tuning.learning_rate * factor for factor in expected])
    assert [point["epoch"] for point in curve(adapter)] == [0, 0, 0, 1, 1, 1]
    assert ["held_out_loss" in point for point in curve(adapter)] == [False, False, True, False, False, True]
