"""Config: every option composes, `--help` shows them all at once, runtime fields stay out of keys."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import PROJECT
from selfspec import config, pipeline, resolvers
from selfspec.config import Config, freeze, keyed

CONF = PROJECT / "conf"
GROUPS: dict[str, list[str]] = {}
for path in sorted(CONF.glob("*/**/*.yaml")):
    GROUPS.setdefault(str(path.parent.relative_to(CONF)), []).append(path.stem)


def composed(*overrides: str) -> Config:
    """The frozen config of some overrides."""
    config.register()
    resolvers.register(PROJECT)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return freeze(compose("config", [*overrides, "paths.output=/tmp/selfspec"]))


@pytest.mark.parametrize("choice", [f"{group}={option}" for group, options in GROUPS.items() for option in options])
def test_every_option_composes_and_opens_with_what_it_is(choice: str) -> None:
    assert composed(choice).seed == 0
    group, option = choice.split("=")
    lines = (CONF / group / f"{option}.yaml").read_text().splitlines()
    assert next(line for line in lines if not line.startswith("# @package")).startswith("# ")


@settings(max_examples=15, deadline=None)
@given(st.fixed_dictionaries({group: st.sampled_from(options) for group, options in GROUPS.items()}))
def test_any_combination_composes(choices: dict[str, str]) -> None:
    overrides = [f"{group}={option}" for group, option in choices.items()]
    found = composed(*overrides)
    assert found.domain.name == choices["domain"] and found.model.name == choices["model"]


def test_help_shows_every_option_within_six_tenths_of_a_cpu_second() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "run.py", "--help"], cwd=PROJECT, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert all(option in done.stdout for options in GROUPS.values() for option in options)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime <= 0.6


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("paths.store=/tmp/other", set()),
        ("logger=none", set()),
        ("tuning.checkpoint_minutes=1", set()),
        ("tuning.micro_batch_tokens=64", set()),
        ("generation.max_attempts=7", set()),
        ("evaluation.resamples=7", set()),
        ("lora=r16", {"adapter", "scores"}),
        ("tuning.epochs=2", {"adapter", "scores"}),
        ("evaluation.shots=[0]", {"base", "scores"}),
        ("data_size=1k", {"examples", "adapter", "scores"}),
        ("generation.filters.novelty_threshold=0.6", {"examples", "adapter", "scores"}),
        ("seed=1", {"examples", "adapter", "scores", "base"}),
        ("domain=finance", {"examples", "adapter", "scores", "base"}),
        ("model.toy=false", {"examples", "adapter", "scores", "base"}),
    ],
)
def test_a_key_changes_with_what_changes_the_result_and_with_nothing_else(override: str, changed: set[str]) -> None:
    def keys(*overrides: str) -> dict[str, str]:
        stages = pipeline.build(composed("model.toy=true", *overrides))
        specialized = {"adapter": stages.adapters["specialized"].key, "scores": stages.scores["specialized"].key}
        return {"examples": stages.examples.key, "base": stages.scores["base"].key, **specialized}

    one, other = keys(), keys(override)
    assert {name for name in one if one[name] != other[name]} == changed


def test_filters_and_sizes_share_the_pool_of_instructions() -> None:
    def pools(*overrides: str) -> tuple[str, str]:
        examples = pipeline.build(composed("model.toy=true", *overrides)).examples
        return pipeline.pool_keys(examples.slice, examples.inputs["seeds"])

    assert pools() == pools("data_size=1k") == pools("generation.filters.answer=true")
    first, second = pools("generation.filters.novelty_threshold=0.6")
    assert first == pools()[0] and second != pools()[1]
    assert pools("generation.responses.shots=3")[0] == pools()[0]
    assert pools("generation.instructions.shots=2")[0] != pools()[0]


def test_a_seeds_files_contents_are_in_the_key_and_its_path_is_not(tmp_path: Path) -> None:
    seeds = (PROJECT / "src/selfspec/domains/biomedicine/seeds.jsonl").read_bytes()
    same, other = tmp_path / "same.jsonl", tmp_path / "other.jsonl"
    same.write_bytes(seeds)
    other.write_bytes(seeds.replace(b"ferritin", b"Ferritin", 1))
    keys = [
        pipeline.build(composed("model.toy=true", *chosen)).examples.key
        for chosen in ([], [f"domain.seeds={same}"], [f"domain.seeds={other}"])
    ]
    assert keys[0] == keys[1] != keys[2]


def test_keyed_leaves_runtime_fields_out() -> None:
    slice_ = keyed(composed())
    assert "max_attempts" not in slice_["generation"] and "instructions" in slice_["generation"]
    assert slice_["paths"] == {} and slice_["logger"] == {} and slice_["strategy"] == {}
