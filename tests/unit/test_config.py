"""Config: every option composes, `--help` shows them all at once, runtime fields stay out of keys."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import PROJECT
from selfspec.errors import UserError
from selfspec.pipeline.build import build_pipeline
from selfspec.pipeline.keys import key_values
from selfspec.pipeline.pools import pool_keys
from toys import CONF, composed

GROUPS: dict[str, list[str]] = {}
for path in sorted(CONF.glob("*/**/*.yaml")):
    if path.parent.name == "benchmark":  # not chosen but mounted, by evaluation=paper: tests/test_benchmarks.py
        continue
    GROUPS.setdefault(str(path.parent.relative_to(CONF)), []).append(path.stem)


def chosen(group: str, option: str) -> str:
    """How an option is typed: no variant is chosen without one, so that Hydra wants it added."""
    return f"{'+' if group == 'variant' else ''}{group}={option}"


@pytest.mark.parametrize("choice", [f"{group}={option}" for group, options in GROUPS.items() for option in options])
def test_every_option_composes_and_opens_with_what_it_is(choice: str) -> None:
    assert composed(chosen(*choice.split("="))).seed == 0
    group, option = choice.split("=")
    lines = (CONF / group / f"{option}.yaml").read_text().splitlines()
    assert next(line for line in lines if not line.startswith("# @package")).startswith("# ")


@settings(max_examples=15, deadline=None)
@given(st.fixed_dictionaries({group: st.sampled_from(options) for group, options in GROUPS.items()}))
def test_any_combination_composes_or_is_refused_with_what_to_choose(choices: dict[str, str]) -> None:
    overrides = [chosen(group, option) for group, option in choices.items()]
    parted, four_bits = choices["strategy"], choices["quantization"] == "nf4"
    zero3 = parted.startswith("deepspeed_zero3")
    refused = {"dora": parted == "fsdp", "pissa": parted == "fsdp" or zero3 or four_bits}.get(choices["lora"], False)
    if refused or (zero3 and four_bits):
        with pytest.raises(UserError, match="choose "):
            composed(*overrides)
        return
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
        ("rounds.decoding=contrastive", set()),  # in no later round
        ("lora=r16", {"adapter", "scores", "elsewhere"}),
        ("tuning.epochs=2", {"adapter", "scores", "elsewhere"}),
        ("evaluation.shots=[0]", {"base", "scores", "base elsewhere", "elsewhere"}),
        ("evaluation.draws=2", {"base", "scores", "base elsewhere", "elsewhere"}),
        ("+domain@evaluation.domain=finance", {"base", "scores"}),
        ("data_size=1k", {"examples", "adapter", "scores", "elsewhere"}),
        ("domain.seed_count=20", {"examples", "adapter", "scores", "elsewhere"}),
        ("generation.filters.novelty_threshold=0.6", {"examples", "adapter", "scores", "elsewhere"}),
        ("retrieval=bm25", {"examples", "adapter", "scores", "elsewhere"}),
        ("rounds.count=2", {"adapter", "scores", "elsewhere"}),  # the first round's examples stay
        ("domain=finance", {"examples", "adapter", "scores", "base", "elsewhere"}),  # other domains share its base
        ("seed=1", {"examples", "adapter", "scores", "base", "elsewhere", "base elsewhere"}),
        ("model.toy=false", {"examples", "adapter", "scores", "base", "elsewhere", "base elsewhere"}),
    ],
)
def test_a_key_changes_with_what_changes_the_result_and_with_nothing_else(override: str, changed: set[str]) -> None:
    def keys(*overrides: str) -> dict[str, str]:
        stages = build_pipeline(composed("model.toy=true", *overrides))
        found = {
            "examples": stages.rounds[0][0],
            "adapter": stages.adapters["specialized"],
            "scores": stages.scores["specialized"],
            "base": stages.scores["base"],
            "elsewhere": stages.off_domain["specialized"],
            "base elsewhere": stages.off_domain["base"],
        }
        return {name: stage.key for name, stage in found.items()}

    one, other = keys(), keys(override)
    assert {name for name in one if one[name] != other[name]} == changed


def test_filters_and_sizes_share_the_pools_before_them() -> None:
    def pools(*overrides: str) -> dict[str, str]:
        return pool_keys(build_pipeline(composed("model.toy=true", *overrides)).rounds[0][0])

    usual = pools()

    def changed(*overrides: str) -> set[str]:
        return {name for name, key in pools(*overrides).items() if key != usual[name]}

    assert list(usual) == ["instructions", "responses", "votes", "judgements"] and len(set(usual.values())) == 4
    assert not changed("data_size=1k") and not changed("generation.filters.balance=false")
    assert not changed("rounds.count=2") and not changed("rounds.decoding=contrastive")
    assert changed("generation.filters.judge=true") == set()  # what is judged is the same, judged or not
    assert changed("generation.judge.shots=2") == changed("generation.filters.self_consistency=true") == {"judgements"}
    assert changed("generation.self_consistency.samples=3") == {"votes", "judgements"}
    assert changed("generation.filters.answer=true") == {"votes", "judgements"}
    assert changed("generation.filters.novelty_threshold=0.6") == {"responses", "votes", "judgements"}
    assert changed("generation.responses.shots=3") == {"responses", "votes", "judgements"}
    assert changed("generation.contamination.words=9") == {"responses", "votes", "judgements"}
    assert changed("retrieval=bm25") == {"responses", "votes", "judgements"}
    assert changed("generation.instructions.shots=2") == set(usual)
    assert changed("domain.seed_count=20") == set(usual)


@pytest.mark.parametrize(("name", "word"), [("seeds", b"ferritin"), ("evaluation", b"aspirin")])
def test_a_data_files_contents_are_in_the_key_and_its_path_is_not(tmp_path: Path, name: str, word: bytes) -> None:
    data = (PROJECT / f"src/selfspec/domains/biomedicine/{name}.jsonl").read_bytes()
    same, other = tmp_path / "same.jsonl", tmp_path / "other.jsonl"
    same.write_bytes(data)
    other.write_bytes(data.replace(word, word.title(), 1))
    keys = []
    for chosen_file in ([], [f"domain.{name}={same}"], [f"domain.{name}={other}"]):
        stages = build_pipeline(composed("model.toy=true", *chosen_file))
        keys.append((stages.rounds[0][0].key, stages.scores["base"].key))
    assert keys[0] == keys[1] and all(one != another for one, another in zip(keys[0], keys[2], strict=True))


def test_keyed_leaves_runtime_fields_out() -> None:
    slice_ = key_values(composed())
    assert "max_attempts" not in slice_["generation"] and "instructions" in slice_["generation"]
    assert slice_["paths"] == {} and slice_["logger"] == {} and slice_["strategy"] == {}
