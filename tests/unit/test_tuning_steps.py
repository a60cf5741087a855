"""The loss of a step is the mean over its response tokens, and tuning leaves the base unchanged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from quick_tuning import QUICK, data, token_mean
from selfspec.errors import Interrupted, UserError
from selfspec.models.load import default_device, forget_base, load_base
from selfspec.runtime.progress import Progress
from selfspec.tuning.objectives import Imitation
from toys import toy, toy_experiment
from tuning_runs import StopAfter, check_same, curve, tune

# Adam amplifies small differences; with a small learning rate they stay as small as rounding.
GENTLE = (*QUICK, "lora.dropout=0", "tuning.learning_rate=1e-4")


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


def test_a_max_grad_norm_of_zero_does_not_clip(tmp_path: Path) -> None:
    both = [toy_experiment(tmp_path / norm, *GENTLE, f"tuning.max_grad_norm={norm}") for norm in ("0", "1e9")]
    check_same(tune(both[0]), tune(both[1]), 0)


class NoLoss(Imitation):
    """An objective without gradients."""

    def loss_sum(self, model: Any, examples: Any, mask: Any) -> torch.Tensor:
        return 0 * super().loss_sum(model, examples, mask)


def test_an_adapter_that_learned_nothing_is_an_error_and_is_not_stored(tmp_path: Path) -> None:
    config = toy_experiment(tmp_path, *GENTLE, "+objective._target_=test_tuning_steps.NoLoss")
    with pytest.raises(UserError, match=r"adapter was left unchanged.*raise tuning\.learning_rate=0\.0001"):
        tune(config)
    assert not list(Path(config.paths.store).glob("adapter/*/manifest.json"))


def test_a_base_with_a_damaged_weight_is_not_tuned(tmp_path: Path) -> None:
    config = toy_experiment(tmp_path, *GENTLE)
    base, _ = load_base(config.model, config.paths, Progress())
    with torch.no_grad():
        base.model.layers[1].mlp.up_proj.weight[7, 3] = float("nan")
    try:
        with pytest.raises(UserError, match=r"not finite.*weights are damaged or too large for"):
            tune(config)
    finally:
        forget_base()


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_tuning_that_diverged_names_the_learning_rate(tmp_path: Path, epochs: int) -> None:
    one_step_an_epoch = ("tuning.batch_size=22", f"tuning.epochs={epochs}", "tuning.learning_rate=1e30")
    with pytest.raises(UserError, match=r"is (nan|inf).*lower tuning\.learning_rate=1e\+30"):
        tune(toy_experiment(tmp_path, *GENTLE, *one_step_an_epoch))


class InfiniteGradients(Imitation):
    """An objective with a finite loss whose gradients are infinite."""

    def loss_sum(self, model: Any, examples: Any, mask: Any) -> torch.Tensor:
        loss = super().loss_sum(model, examples, mask)
        return loss + (loss - loss.detach()).sqrt()


def test_gradients_that_are_not_finite_are_an_error(tmp_path: Path) -> None:
    config = toy_experiment(tmp_path, *GENTLE, "+objective._target_=test_tuning_steps.InfiniteGradients")
    with pytest.raises(UserError, match=r"norm of the gradients.*is (nan|inf)"):
        tune(config)


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
