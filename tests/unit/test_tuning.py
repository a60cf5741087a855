"""Tuning, through the real stage: an interrupted run ends with the same adapter, the loss is the mean over tokens, the
base is unchanged, checkpoints and adapters hold only what was trained.
"""

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

from selfspec.config.schema import Config, StrategyConfig
from selfspec.data.reading import read_seeds
from selfspec.data.splits import seed_subset, split_seeds
from selfspec.errors import Interrupted, UserError
from selfspec.models.load import default_device, load_base, with_adapter
from selfspec.prompts.templates import prompts_hash
from selfspec.runtime.distributed import SINGLE_PROCESS
from selfspec.runtime.progress import Progress
from selfspec.runtime.signals import StopFlag
from selfspec.tuning.batches import EncodedExample, OptimizerStep, encode_rows, plan_steps
from selfspec.tuning.checkpoints import CHECKPOINT_NAME, load_checkpoint, save_checkpoint
from selfspec.tuning.module import SpecializationModule, TuningData
from selfspec.tuning.objectives import Imitation
from selfspec.tuning.strategies.parallelism import Parallelism
from toys import naive_loss, prompts, toy, toy_experiment, tuning_config
from tuning_runs import StopAfter, check_same, curve, parameters, tune, work

# 6 steps, 3 an epoch
QUICK = (
    *("model=llama-2-7b", "domain.seed_count=22", "tuning.epochs=2", "tuning.learning_rate=1e-2"),
    *("lora.r=4", "lora.dropout=0.1"),
)

# Adam amplifies small differences; with a small learning rate they stay as small as rounding.
GENTLE = (*QUICK, "lora.dropout=0", "tuning.learning_rate=1e-4")


def held_out_losses(adapter: Path) -> list[float]:
    """After each epoch."""
    return [point["held_out_loss"] for point in curve(adapter) if "held_out_loss" in point]


def data(config: Config, tokenizer: Any) -> tuple[list[EncodedExample], list[EncodedExample], list[OptimizerStep]]:
    """The training rows, the held-out rows, and the plan of the steps."""
    shown_seeds, held_out = split_seeds(read_seeds(Path(config.domain.seeds), config.domain.tasks))
    shown_seeds = seed_subset(shown_seeds, config.domain.seed_count)
    training_rows, held_out_rows = (
        encode_rows(rows, config.domain.role, tokenizer, prompts()) for rows in (shown_seeds, held_out)
    )
    return (
        training_rows,
        held_out_rows,
        plan_steps([(len(row), len(row.response)) for row in training_rows], config.tuning, config.seed),
    )


@torch.no_grad()
def token_mean(model: Any, rows: list[EncodedExample]) -> float:
    total = sum(float(naive_loss(model, row)) for row in rows)
    return total / sum(len(row.response) for row in rows)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: Any) -> tuple[Config, Path]:
    """One adapter, tuned without interruption."""
    config = toy_experiment(tmp_path_factory.mktemp("uninterrupted"), *QUICK)
    return config, tune(config)


@pytest.mark.parametrize(
    ("overrides", "stops"),
    [
        ([], [2]),
        (["tuning.schedule=cosine", "tuning.weight_decay=0.1"], [3, 1]),  # 3: the epoch's last
        (["model=gemma-3-270m", "tuning.warmup_ratio=0.5", "lora.dropout=0"], [1]),
        (["model=mpt-30b"], [5]),
    ],
)
def test_an_interrupted_run_resumes_to_the_same_adapter(tmp_path: Path, overrides: list[str], stops: list[int]) -> None:
    whole = tune(toy_experiment(tmp_path / "whole", *QUICK, *overrides))
    config = toy_experiment(tmp_path / "parts", *QUICK, *overrides)
    done = 0
    for steps in stops:
        torch.manual_seed(steps)  # another process has another random state
        with pytest.raises(Interrupted, match="SIGTERM"):
            tune(config, StopAfter(steps))
        done += steps
        assert [point["step"] for point in load_checkpoint(work(config))["curve"]] == list(range(done))  # type: ignore[index]
    torch.manual_seed(99)
    parts = tune(config)
    check_same(parts, whole, 1e-6)
    assert len(curve(parts)) == 6
    for actual, expected in zip(curve(parts), curve(whole), strict=True):
        assert actual == pytest.approx(expected, abs=1e-5)


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


def test_a_checkpoint_holds_trained_parameters_and_none_of_the_base(tmp_path: Path) -> None:
    config = toy_experiment(tmp_path, *QUICK, "tuning.schedule=cosine", "lora.r=64")
    with pytest.raises(Interrupted):
        tune(config, StopAfter(2))
    state = load_checkpoint(work(config))
    assert state is not None
    assert all("lora_" in name for name in state["parameters"])
    trained = sum(parameter.numel() for parameter in state["parameters"].values()) * 4
    size = (work(config) / CHECKPOINT_NAME).stat().st_size
    assert 3 * trained < size < 1.1 * 3 * trained  # parameters and two moments


def test_checkpoints_are_saved_during_training(tmp_path: Path, monkeypatch: Any) -> None:
    saved: list[int] = []
    save = save_checkpoint

    def counted(folder: Path, state: dict[str, Any]) -> None:
        save(folder, state)
        saved.append(len(load_checkpoint(folder)["curve"]))  # type: ignore[index]

    monkeypatch.setattr("selfspec.tuning.module.save_checkpoint", counted)
    tune(toy_experiment(tmp_path, *QUICK, "tuning.checkpoint_minutes=0"))
    assert saved == [1, 2, 3, 4, 5, 6]


def test_a_new_checkpoint_deletes_the_shards_of_earlier_ones_only(tmp_path: Path) -> None:
    shards = tmp_path / "deepspeed"
    for name in ("step-1", "step-2"):
        (shards / name).mkdir(parents=True)
    (shards / "zero_to_fp32.py").touch()  # DeepSpeed writes it
    save_checkpoint(tmp_path, {"shards": "step-2"})
    assert sorted(path.name for path in shards.iterdir()) == ["step-2", "zero_to_fp32.py"]
    assert load_checkpoint(tmp_path) == {"shards": "step-2"}


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


@pytest.mark.parametrize(
    ("keep", "losses"), [("best", {2: 1.0, 5: 2.0}), ("best", {2: 2.0, 5: 1.0}), ("last", {2: 1.0, 5: 2.0})]
)
def test_the_best_or_the_last_epoch_is_kept(
    tmp_path: Path, monkeypatch: Any, keep: str, losses: dict[int, float]
) -> None:
    monkeypatch.setattr(SpecializationModule, "held_out_loss", lambda self: losses.get(len(self.curve), 9.0))
    config = toy_experiment(tmp_path, *QUICK, f"tuning.keep={keep}")
    with pytest.raises(Interrupted):
        tune(config, StopAfter(3))
    first = load_checkpoint(work(config))["parameters"]  # type: ignore[index]
    with pytest.raises(Interrupted):
        tune(config, StopAfter(2))  # in the second epoch
    adapter = tune(config)
    actual = parameters(adapter)
    assert len(actual) == len(first)
    same = [torch.equal(actual[name.replace(".default.", ".")], tensor) for name, tensor in first.items()]
    kept = losses[2] if keep == "best" and losses[2] < losses[5] else losses[5]
    assert (all(same), any(same)) == ((True, True) if kept == losses[2] else (False, False))
    assert json.loads((adapter / "rounds.json").read_text()) == {"losses": [kept], "kept": 1}
    assert [point["epoch"] for point in curve(adapter)] == [0, 0, 0, 1, 1, 1]  # the curve is whole


RISING = ("tuning.learning_rate=3e-2", "tuning.epochs=6", "tuning.patience=2", "tuning.schedule=constant")


@pytest.mark.parametrize("stop", [None, 4])
def test_tuning_stops_when_the_held_out_loss_no_longer_falls(tmp_path: Path, stop: int | None) -> None:
    config = toy_experiment(tmp_path, *QUICK, *RISING)
    if stop:
        with pytest.raises(Interrupted):
            tune(config, StopAfter(stop))
    adapter = tune(config)
    losses = held_out_losses(adapter)
    assert len(losses) == losses.index(min(losses)) + 3 < 6  # two epochs that were no better
    counts = json.loads((adapter / "manifest.json").read_text())["counts"]
    assert counts["steps"] == len(curve(adapter)) == 3 * len(losses)
    longer = tune(toy_experiment(tmp_path / "longer", *QUICK, *RISING, "tuning.patience=null"))
    assert held_out_losses(longer)[: len(losses)] == losses and len(held_out_losses(longer)) == 6


def test_an_8_bit_optimizer_learns_and_resumes(tmp_path: Path, monkeypatch: Any) -> None:
    """As on a GPU, except that states are not paged on a CPU."""
    monkeypatch.setattr(SpecializationModule, "_uses_8bit_optimizer", lambda self, parameter: True)
    settings = [*QUICK, "quantization=nf4", "lora.r=64"]  # smaller tensors' states stay in float32
    whole = tune(toy_experiment(tmp_path / "whole", *settings))
    stopped = toy_experiment(tmp_path / "stopped", *settings)
    with pytest.raises(Interrupted):
        tune(stopped, StopAfter(2))
    state = load_checkpoint(work(stopped))
    assert state and "torch.uint8" in str(state["optimizer"]["state"])
    check_same(tune(stopped), whole, 1e-6)
    monkeypatch.undo()
    full = tune(toy_experiment(tmp_path / "full", *settings))
    assert curve(whole) != curve(full)
    assert held_out_losses(whole)[-1] == pytest.approx(held_out_losses(full)[-1], rel=0.02)


def test_tuning_sends_no_network_request(tmp_path: Path, monkeypatch: Any) -> None:
    requested_hosts: list[Any] = []

    def refuse(host: Any, *_: Any, **__: Any) -> Any:
        requested_hosts.append(host)
        raise OSError("no network")

    monkeypatch.setattr("socket.getaddrinfo", refuse)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    tune(toy_experiment(tmp_path, *QUICK, "tuning.epochs=1"))
    assert not requested_hosts


def test_the_adapter_folder_has_the_prompt_template_of_its_tuning(uninterrupted: Any) -> None:
    kept = json.loads((uninterrupted[1] / "prompt.json").read_text())
    assert kept["hash"] == prompts_hash(prompts().templates)
    prefix = prompts().prefix(uninterrupted[0].domain.role, ())
    assert kept["template"].startswith(prefix)
    assert all(place in kept["template"].removeprefix(prefix) for place in ("{instruction}", "{input}", "{options}"))


@pytest.mark.parametrize("interrupted", [False, True])
@pytest.mark.parametrize("name", ["gemma-3-270m", "falcon-40b"])
def test_tuning_leaves_the_base_bitwise_unchanged(tmp_path: Path, name: str, interrupted: bool) -> None:
    config = toy_experiment(tmp_path, *QUICK, f"model={name}", "tuning.epochs=1")
    base, tokenizer = load_base(config.model, config.paths, Progress())
    before = {key: value.clone() for key, value in base.state_dict().items()}
    ids = torch.tensor([tokenizer("Does aspirin help?").input_ids], device=base.device)
    logits, attention = base(ids).logits, base.config._attn_implementation
    if interrupted:
        with pytest.raises(Interrupted):
            tune(config, StopAfter(1))
    else:
        tune(config)
    assert load_base(config.model, config.paths, Progress())[0] is base
    assert {parameter.device.type for parameter in base.parameters()} == {default_device().type}
    after = base.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert not base.training and not any(parameter.requires_grad for parameter in base.parameters())
    assert not hasattr(base, "peft_config")
    assert base.config._attn_implementation == attention
    assert torch.equal(base(ids).logits, logits)


@pytest.mark.parametrize("name", ["llama-2-7b", "falcon-40b"])
def test_the_loss_of_a_step_is_the_mean_over_its_response_tokens(tmp_path: Path, name: str) -> None:
    config = toy_experiment(tmp_path, *QUICK, f"model={name}", "tuning.epochs=1", "tuning.micro_batch_tokens=700")
    actual = curve(tune(config))
    base, tokenizer = toy(name)
    training_rows, _, steps = data(config, tokenizer)
    assert len(steps[0].micro_batches) > 1
    first = [training_rows[row] for micro in steps[0].micro_batches for row in micro]
    assert actual[0]["loss"] == pytest.approx(token_mean(base, first), rel=1e-5)  # LoRA begins as nothing
    assert abs(actual[0]["loss"] - sum(token_mean(base, [row]) for row in first) / len(first)) > 1e-4  # not of rows


@pytest.mark.parametrize("name", ["llama-2-7b", "gemma-3-270m"])
def test_micro_batches_give_the_adapter_of_one_forward_pass(tmp_path: Path, name: str) -> None:
    both = [
        toy_experiment(tmp_path / f"{n}", *GENTLE, f"model={name}", f"tuning.micro_batch_tokens={n}")
        for n in (1, 100_000)
    ]
    _, _, steps = data(both[0], toy(name)[1])
    assert all(len(step.micro_batches) == step.rows > 1 for step in steps)
    check_same(tune(both[0]), tune(both[1]), 1e-5)


def test_examples_over_max_length_are_left_out_and_counted(tmp_path: Path) -> None:
    config = toy_experiment(tmp_path, *QUICK, "tuning.epochs=1")
    training_rows, _, _ = data(config, toy("llama-2-7b")[1])
    limit = sorted(map(len, training_rows))[12]
    config = replace(config, tuning=replace(config.tuning, max_length=limit))
    counts = json.loads((tune(config) / "manifest.json").read_text())["counts"]
    kept = [len(row) for row in training_rows if len(row) <= limit]
    assert (counts["rows"], counts["too_long"]) == (len(kept), len(training_rows) - len(kept))
    assert counts["tokens"] == sum(kept) and len(kept) < len(training_rows)
    with pytest.raises(UserError, match=r"tuning\.max_length=3"):
        tune(replace(config, tuning=replace(config.tuning, max_length=3)))


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


def test_unknown_target_modules_are_refused_with_the_modules_that_exist(tmp_path: Path) -> None:
    config = toy_experiment(tmp_path, *QUICK, "lora.target_modules=[query]")
    with pytest.raises(UserError, match=r"lora\.target_modules=\[query\] names no module.*q_proj"):
        tune(config)


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
