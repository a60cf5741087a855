"""Preparation: dtype and revision are resolved before they enter a key, and a plan needs no network."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from omegaconf import OmegaConf, open_dict

from conftest import PROJECT
from selfspec.config.composition import register_schema
from selfspec.config.resolvers import register_resolvers
from selfspec.config.schema import Config
from selfspec.errors import UserError
from selfspec.launch import preparation
from selfspec.launch.preparation import prepare_config, print_notes
from selfspec.models.revision import resolve_revision
from selfspec.pipeline.build import build_pipeline
from toys import compose_config, model_config

COMMIT, OTHER_COMMIT = "0123456789abcdef0123456789abcdef01234567", "f" * 40
HUB_MODEL = "model=llama-2-7b"


@pytest.fixture(autouse=True)
def hydra_state() -> Iterator[None]:
    """Leave Hydra's singletons as they were."""
    state = Singleton.get_state()
    yield
    Singleton.set_state(state)


@pytest.fixture
def hub_cache(monkeypatch: Any, tmp_path: Path) -> Path:
    """An empty cache of the hub."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def cache_reference(hub_cache: Path, revision: str, commit: str) -> None:
    """Write that `revision` of Llama-2-7b is `commit`, as huggingface_hub does."""
    path = hub_cache / "models--meta-llama--Llama-2-7b-hf" / "refs" / revision
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(commit)


def prepare_plan(*overrides: str) -> Config:
    """The prepared config of `plan=true` with these overrides."""
    register_schema()
    register_resolvers(PROJECT)
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        everything = ["plan=true", "paths.output=/tmp/selfspec", *overrides]
        config = compose("config", everything, return_hydra_config=True)
    HydraConfig.instance().cfg = OmegaConf.masked_copy(config, ["hydra"])
    with open_dict(config):
        del config["hydra"]
    return prepare_config(config)


@pytest.mark.parametrize(
    ("overrides", "has_bf16", "dtype"),
    [
        ([], True, "bfloat16"),
        ([], False, "float32"),
        (["model.toy=true"], True, "float32"),
        (["model.dtype=float16"], True, "float16"),
        (["model.toy=true", "model.dtype=bfloat16"], False, "bfloat16"),
        (["hydra/launcher=slurm"], False, "bfloat16"),
        (["hydra/launcher=slurm", "model.toy=true"], True, "float32"),
        (
            [
                "hydra/launcher=slurm",
                *(f"hydra.launcher.resources.{kind}.gpus=0" for kind in ("examples", "adapter", "scores")),
            ],
            False,
            "float32",
        ),
    ],
)
def test_auto_dtype_is_resolved_for_the_machine_that_runs_the_stages(
    monkeypatch: Any, overrides: list[str], has_bf16: bool, dtype: str
) -> None:
    monkeypatch.setattr(preparation, "has_native_bf16", lambda: has_bf16)
    assert prepare_plan(*overrides).model.dtype == dtype


def test_auto_dtype_has_the_keys_of_the_type_that_it_is_resolved_to(monkeypatch: Any) -> None:
    def keys(*overrides: str) -> list[str]:
        return [stage.key for stage in build_pipeline(prepare_plan(*overrides)).stages]

    monkeypatch.setattr(preparation, "has_native_bf16", lambda: True)
    in_bf16 = keys()
    assert in_bf16 == keys("model.dtype=bfloat16")
    monkeypatch.setattr(preparation, "has_native_bf16", lambda: False)
    assert not set(keys()) & set(in_bf16)


def test_a_revision_has_the_keys_of_the_commit_that_it_names(hub_cache: Path) -> None:
    def scores_key(*overrides: str) -> str:
        return build_pipeline(prepare_plan(HUB_MODEL, *overrides)).scores["base"].key

    unresolved = scores_key()
    cache_reference(hub_cache, "main", COMMIT)
    assert scores_key() == scores_key(f"model.revision={COMMIT}") == scores_key("model.revision=null") != unresolved
    cache_reference(hub_cache, "main", OTHER_COMMIT)
    assert scores_key() != scores_key(f"model.revision={COMMIT}")


def refuse_network(*_: Any, **__: Any) -> None:
    raise AssertionError("the hub was queried")


def test_a_plan_resolves_a_revision_from_the_cache_alone(monkeypatch: Any, hub_cache: Path) -> None:
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse_network)
    assert prepare_plan(HUB_MODEL).model.revision == "main"
    cache_reference(hub_cache, "main", COMMIT)
    assert prepare_plan(HUB_MODEL).model.revision == COMMIT


@pytest.mark.parametrize("revision", ["main", None, "refs/pr/2"])
def test_the_hub_is_queried_once_for_a_revision_that_is_not_cached(
    monkeypatch: Any, hub_cache: Path, revision: str | None
) -> None:
    requests = []

    def download(repository: str, file: str, revision: str | None) -> None:
        requests.append((repository, file, revision))
        cache_reference(hub_cache, revision or "main", COMMIT)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    model = model_config("llama-2-7b", toy=False, revision=revision)
    assert [resolve_revision(model, ask_hub=True) for _ in range(2)] == [COMMIT, COMMIT]
    assert requests == [("meta-llama/Llama-2-7b-hf", "config.json", revision)]


def test_a_revision_stays_when_the_hub_cannot_be_reached(monkeypatch: Any, hub_cache: Path) -> None:
    def download(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert resolve_revision(model_config("llama-2-7b", toy=False), ask_hub=True) == "main"


@pytest.mark.parametrize("changes", [{"toy": True}, {"path": "/data/llama"}, {"revision": COMMIT}])
def test_nothing_is_resolved_for_weights_that_no_revision_changes(
    monkeypatch: Any, hub_cache: Path, changes: dict[str, Any]
) -> None:
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse_network)
    cache_reference(hub_cache, "main", OTHER_COMMIT)
    model = model_config("llama-2-7b", **{"toy": False, **changes})
    assert resolve_revision(model, ask_hub=True) == model.revision


@pytest.mark.parametrize(
    ("key", "value", "length"),
    [
        ("max_position_embeddings", 1000, 1000),
        ("n_positions", 900, 900),
        ("max_seq_len", 2000, 2000),
        ("max_position_embeddings", 9000, 4096),
        ("unknown", 1000, 4096),
    ],
)
def test_the_shorter_context_of_config_and_weights_counts_and_is_in_the_keys(
    tmp_path: Path, capsys: Any, key: str, value: int, length: int
) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "unknown", key: value}))
    config = prepare_plan(HUB_MODEL, f"model.path={tmp_path}")
    assert config.model.context_length == length
    print_notes([config, config])
    notes = [f"{tmp_path} has a context of {length} tokens, which replaces model.context_length=4096."]
    assert capsys.readouterr().err.splitlines() == (notes if length < 4096 else [])
    (values,) = (stage.values["model"] for stage in build_pipeline(config).stages if stage.label == "examples")
    assert values["context_length"] == length
    assert prepare_plan(HUB_MODEL, "model.toy=true", f"model.path={tmp_path}").model.context_length == 4096


@pytest.mark.parametrize("override", ["model.context_length=128", "generation.responses.max_new_tokens=4000"])
def test_prompts_that_do_not_fit_the_context_are_refused_before_any_work(override: str) -> None:
    with pytest.raises(UserError, match=r"With generation\.\w+\.shots=\d.* about \d+ tokens, .* lower the shots"):
        prepare_plan(HUB_MODEL, override)


def test_a_note_on_the_public_sets_is_printed_once_for_all_jobs(capsys: Any) -> None:
    notes = [["evaluation.notes=[one,two]"], ["evaluation.notes=[two,three]"]]
    print_notes(compose_config(*overrides) for overrides in notes)
    assert capsys.readouterr().err.splitlines() == ["one", "two", "three"]
