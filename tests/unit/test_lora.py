"""`lora.extra`: keywords of PEFT's LoraConfig are checked before any work; every adapter is saved as a plain LoRA."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors import SafetensorError

from conftest import PROJECT
from selfspec.config.schema import LoraConfig
from selfspec.errors import Interrupted, UserError
from selfspec.models.load import load_base, with_adapter
from selfspec.pipeline.build import build_pipeline
from selfspec.runtime.progress import Progress
from selfspec.tuning.lora import add_adapter, initial_weights, save_adapter
from selfspec.tuning.lora_modules import check_lora_modules
from selfspec.tuning.lora_settings import check_lora_extra
from toys import compose_config, model_config, toy, toy_experiment
from tuning_runs import StopAfter, check_same, curve, parameters, tune

QUICK = ("model=llama-2-7b", "domain.seed_count=22", "tuning.epochs=1", "tuning.learning_rate=1e-3", "lora.r=4")
RANK4 = LoraConfig(4, 8, 0.0, ("all-linear",))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["lora.extra={init_lora_weight: pissa}"], "init_lora_weight, which PEFT.* did you mean 'init_lora_weights'"),
        (["lora.extra={r: 4}"], r"can't set r; set lora\.r in its place"),
        (["lora.extra={use_dora: true}"], r"can't set use_dora; set lora\.dora"),
        (["lora.extra={task_type: CAUSAL_LM}"], "can't set task_type, which selfspec sets itself"),
        (["lora.extra={bias: all}"], "can't set bias, because it changes the base"),
        (["lora.extra={init_lora_weights: eva}"], "init_lora_weights=eva is not supported.* choose one of true"),
        (["lora.extra={init_lora_weights: pisa}"], "did you mean 'pissa'"),
        (["lora=pissa", "quantization=nf4"], "pissa_niter_4 changes the base's weights.*choose quantization=none"),
        (["lora=dora", "lora.extra={init_lora_weights: olora}"], "can't be combined with lora.dora"),
        (
            ["lora.target_modules=[q_prj]"],
            r"target_modules=\[q_prj\].*has no q_prj; did you mean 'q_proj'\?.*down_proj",
        ),
        (["lora.target_modules=[v_proj,self_attn]"], r"target_modules=\[v_proj,self_attn\].*has no self_attn"),
        (["lora.extra={modules_to_save: [lm_haed]}"], "modules_to_save.*has no lm_haed; did you mean 'lm_head'"),
        (["lora.extra={rank_pattern: {q_prj: 4}}"], "rank_pattern.*has no q_prj; did you mean 'q_proj'"),
        (
            ["lora.extra={layers_to_transform: [0, 32]}", "lora.target_modules=[q_proj]"],
            "has no layer 32.*from 0 to 31",
        ),
        (
            ["lora.extra={layers_to_transform: [0]}"],
            "PEFT refuses lora.extra=.*layers_to_transform.*change it or leave",
        ),
        (["lora=pissa", "strategy=fsdp"], "whole weights of the base, which strategy=fsdp shards; choose strategy=ddp"),
        (["lora=pissa", "strategy=deepspeed_zero3"], "which strategy=deepspeed_zero3 shards; choose strategy=ddp"),
    ],
)
def test_a_keyword_that_cannot_work_is_refused_before_any_work(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        compose_config("model=llama-2-7b", *overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        ["lora.target_modules=[layers.0.self_attn.q_proj,embed_tokens]", "lora.extra={modules_to_save: [lm_head]}"],
        ["lora.extra={rank_pattern: {q_proj: 4}, alpha_pattern: {down_proj: 4}}"],
        ["lora.target_modules=[q_proj]", "lora.extra={layers_to_transform: 31}"],
        ["lora.target_modules=[query]", "model.architecture.model_type=unknown"],  # found when the model is loaded
    ],
)
def test_names_of_modules_that_exist_are_accepted(overrides: list[str]) -> None:
    lora = compose_config("model=llama-2-7b", *overrides).lora
    assert (lora.target_modules, lora.extra) != (("all-linear",), {})  # the names were checked, and kept


def test_patterns_of_modules_match_as_in_peft() -> None:
    model = model_config("llama-2-7b")
    for pattern in ("layers.0.self_attn.q_proj", r"layers\.\d+\.mlp\..*", "[qk]_proj"):
        check_lora_modules(replace(RANK4, extra={"rank_pattern": {pattern: 2}}), model)
    for pattern, message in (("layers.2.self_attn.q_proj", "has no layers.2"), ("[q_proj", "no regular expression")):
        with pytest.raises(UserError, match=message):
            check_lora_modules(replace(RANK4, extra={"alpha_pattern": {pattern: 2}}), model)


def test_names_of_modules_are_checked_against_the_files_of_model_path(tmp_path: Path) -> None:
    toy("gemma-3-270m")[0].config.save_pretrained(tmp_path)
    own = ("model=falcon-7b", f"model.path={tmp_path}")
    compose_config(*own, "lora.target_modules=[q_proj]")
    with pytest.raises(UserError, match="has no query_key_value"):
        compose_config(*own, "lora.target_modules=[query_key_value]")


def test_peft_is_not_imported_to_check_a_config_without_further_keywords() -> None:
    code = "import sys, toys; toys.compose_config('lora.target_modules=[q_proj]')"
    code += "; print('peft' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = ['tests', 'src']; {code}"],
        cwd=PROJECT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["False", "False"]


def test_further_keywords_change_the_adapters_key_and_none_leaves_it() -> None:
    def key(*overrides: str) -> str:
        return build_pipeline(compose_config("model.toy=true", *overrides)).adapters["specialized"].key

    assert key() == key("lora.extra={}") != key("lora.extra={init_lora_weights: gaussian}")
    assert key("lora.extra={init_lora_weights: gaussian}") != key("lora.extra={init_lora_weights: pissa}")


@pytest.mark.parametrize("name", ["pissa", "olora", "pissa_niter_4"])
@torch.no_grad()
def test_an_initialization_that_changes_the_base_is_saved_as_a_plain_lora_for_the_unchanged_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    hub_requests: list[str] = []
    monkeypatch.setattr(
        "peft.utils.save_and_load.check_file_exists_on_hf_hub", lambda *names: hub_requests.append(names)
    )
    lora, ids = replace(RANK4, extra={"init_lora_weights": name}), torch.arange(3, 30)[None]
    check_lora_extra(lora, "none")
    base, _ = toy("llama-2-7b")
    expected = base(ids).logits
    model = add_adapter(base, lora, seed=0)
    torch.testing.assert_close(model(ids).logits, expected, rtol=1e-4, atol=1e-4)  # W = W_res + scale B0 A0
    initial = initial_weights(model, lora)
    assert initial
    for parameter in (parameter for parameter in model.parameters() if parameter.requires_grad):
        parameter.add_(torch.randn_like(parameter), alpha=0.05)  # in place of training
    tuned = model(ids).logits
    assert (tuned - expected).abs().max() > 0.1
    save_adapter(model, model_config("llama-2-7b"), tmp_path / "adapter", initial)
    torch.testing.assert_close(model(ids).logits, tuned)  # saving leaves the model as it was
    plain = PeftModel.from_pretrained(toy("llama-2-7b")[0], str(tmp_path / "adapter")).eval()
    torch.testing.assert_close(plain(ids).logits, tuned, rtol=1e-4, atol=1e-4)
    saved = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (saved["r"], saved["lora_alpha"], saved["init_lora_weights"]) == (8, 16, True)
    assert saved["base_model_name_or_path"] == "llama-2-7b (toy)" and not hub_requests


@pytest.mark.parametrize("name", ["pissa", "olora", "gaussian", "orthogonal"])
def test_each_initialization_learns_resumes_and_leaves_the_base_unchanged(tmp_path: Path, name: str) -> None:
    overrides = (*QUICK, f"lora.extra={{init_lora_weights: {name}}}")
    config = toy_experiment(tmp_path / "whole", *overrides)
    base, _ = load_base(config.model, config.paths, Progress())
    before = {key: value.clone() for key, value in base.state_dict().items()}
    adapter = tune(config)
    loaded, _ = load_base(config.model, config.paths, Progress())
    assert all(torch.equal(value, before[key]) for key, value in loaded.state_dict().items())
    with with_adapter(loaded, adapter) as model, torch.no_grad():
        changed = model(torch.arange(3, 30)[None]).logits
    with torch.no_grad():
        assert (changed - loaded(torch.arange(3, 30)[None]).logits).abs().max() > 1e-3
    assert curve(adapter)[-1]["held_out_loss"] < curve(adapter)[0]["held_out_loss_before"]
    assert next(iter(parameters(adapter).values())).shape[0] == (8 if name in ("pissa", "olora") else 4)
    stopped = toy_experiment(tmp_path / "stopped", *overrides)
    with pytest.raises(Interrupted):
        tune(stopped, StopAfter(1))
    check_same(tune(stopped), adapter, 1e-6)


def test_a_base_that_peft_left_half_adapted_is_loaded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = toy_experiment(tmp_path, *QUICK, "lora.extra={init_lora_weights: pissa}")
    base, _ = load_base(config.model, config.paths, Progress())
    before = {key: value.clone() for key, value in base.state_dict().items()}
    decompose, num_calls = torch.linalg.svd, 0

    def fail_at_the_third(*arguments: Any, **named: Any) -> Any:
        nonlocal num_calls
        num_calls += 1
        if num_calls == 3:
            raise torch.OutOfMemoryError("no memory")
        return decompose(*arguments, **named)

    monkeypatch.setattr(torch.linalg, "svd", fail_at_the_third)
    with pytest.raises(torch.OutOfMemoryError):
        tune(config)
    assert base.state_dict().keys() != before.keys()
    after = load_base(config.model, config.paths, Progress())[0].state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[key], before[key]) for key in before)


def test_a_base_with_half_of_a_stored_adapter_is_loaded_again(tmp_path: Path) -> None:
    config = toy_experiment(tmp_path, *QUICK)
    base, _ = load_base(config.model, config.paths, Progress())
    before = base.state_dict().keys()
    model = add_adapter(toy("llama-2-7b")[0], RANK4, seed=0)
    save_adapter(model, config.model, tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_model.safetensors").write_bytes(b"torn")
    with pytest.raises(SafetensorError), with_adapter(base, tmp_path / "adapter"):
        pass
    assert load_base(config.model, config.paths, Progress())[0].state_dict().keys() == before
