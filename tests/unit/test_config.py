"""Config: every option composes, values are checked against the schema, and keys hold what changes a result."""

from __future__ import annotations

import dataclasses
import resource
import subprocess
import sys
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

import cloudpickle
import pytest
from hydra import compose, initialize_config_dir
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from conftest import PROJECT
from hydra_plugins.selfspec_launcher import LocalConf, ResourcesConf, SlurmConf
from selfspec.config.composition import mutable_twin, register_schema
from selfspec.config.keys import key_values
from selfspec.config.overrides import COMBINED_GROUPS, SINGLE_GROUPS
from selfspec.config.resolvers import register_resolvers
from selfspec.config.schema import Config, LoraConfig, ModelConfig
from selfspec.config.validation import check_unknown_keys, check_values
from selfspec.errors import UserError
from selfspec.generation.pools import RESPONSES, pool_keys
from selfspec.launch.resources import Resources
from selfspec.pipeline.build import build_pipeline
from toys import CONF, compose_config

GROUPS: dict[str, list[str]] = {}
for path in sorted(CONF.glob("*/**/*.yaml")):
    GROUPS.setdefault(str(path.parent.relative_to(CONF)), []).append(path.stem)


def test_the_groups_in_conf_have_one_option_or_several() -> None:
    assert {*SINGLE_GROUPS, *COMBINED_GROUPS, "hydra/launcher"} == set(GROUPS)


@pytest.mark.parametrize("choice", [f"{group}={option}" for group, options in GROUPS.items() for option in options])
def test_every_option_composes_and_opens_with_what_it_is(choice: str) -> None:
    assert compose_config(choice).seed == 0
    group, option = choice.split("=")
    lines = (CONF / group / f"{option}.yaml").read_text().splitlines()
    comment = list(takewhile(lambda line: line.startswith("#"), lines))
    about = next(line for line in comment if not line.startswith("# @package"))
    assert about.startswith("# ") and "python run.py" not in about
    assert any(line.startswith("# python run.py ") for line in comment)


@settings(max_examples=15, deadline=None)
@given(st.fixed_dictionaries({group: st.sampled_from(options) for group, options in GROUPS.items()}))
def test_any_combination_composes_or_is_refused_with_what_to_choose(choices: dict[str, str]) -> None:
    overrides = [f"{group}={option}" for group, option in choices.items()]
    is_nf4, lora = choices["quantization"] == "nf4", choices["lora"]
    is_fsdp, is_zero3 = choices["strategy"] == "fsdp", choices["strategy"].startswith("deepspeed_zero3")
    if (is_zero3 and is_nf4) or (is_fsdp and lora == "dora") or (lora == "pissa" and (is_fsdp or is_zero3 or is_nf4)):
        with pytest.raises(UserError, match="choose "):
            compose_config(*overrides)
    else:
        config = compose_config(*overrides)
        assert config.domain.name == choices["domain"] and config.model.name == choices["model"]


def test_benchmarks_add_up_to_the_sets_of_the_evaluation() -> None:
    assert [*compose_config("benchmark=fpb").evaluation.sets] == ["fpb"]
    assert [*compose_config("benchmark=[fpb,headline]").evaluation.sets] == ["fpb", "headline"]
    alone, all_sets = (compose_config(override).evaluation.sets for override in ("benchmark=fpb", "evaluation=paper"))
    assert alone["fpb"] == all_sets["fpb"] and len(all_sets) == len(GROUPS["benchmark"])


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
        ("rounds.decoding=contrastive", set()),  # there is no later round
        ("lora=r16", {"adapter", "scores", "elsewhere"}),
        ("tuning.epochs=2", {"adapter", "scores", "elsewhere"}),
        ("evaluation.shots=[0]", {"base", "scores", "base elsewhere", "elsewhere"}),
        ("evaluation.draws=2", {"base", "scores", "base elsewhere", "elsewhere"}),
        ("+domain@evaluation.domain=finance", {"base", "scores"}),
        ("data_size=1k", {"examples", "adapter", "scores", "elsewhere"}),
        ("domain.seed_count=20", {"examples", "adapter", "scores", "elsewhere"}),
        ("generation.filters.novelty_threshold=0.6", {"examples", "adapter", "scores", "elsewhere"}),
        ("retrieval=bm25", {"examples", "adapter", "scores", "elsewhere"}),
        ("rounds.count=2", {"adapter", "scores", "elsewhere"}),  # the examples of the first round are the same
        ("domain=finance", {"examples", "adapter", "scores", "base", "elsewhere"}),  # same base elsewhere
        ("seed=1", {"examples", "adapter", "scores", "base", "elsewhere", "base elsewhere"}),
        ("model.toy=false", {"examples", "adapter", "scores", "base", "elsewhere", "base elsewhere"}),
    ],
)
def test_a_key_changes_with_what_changes_the_result_and_with_nothing_else(override: str, changed: set[str]) -> None:
    def keys(*overrides: str) -> dict[str, str]:
        stages = build_pipeline(compose_config("model.toy=true", *overrides))
        stage_of = {
            "examples": stages.rounds[0][0],
            "adapter": stages.adapters["specialized"],
            "scores": stages.scores["specialized"],
            "base": stages.scores["base"],
            "elsewhere": stages.off_domain["specialized"],
            "base elsewhere": stages.off_domain["base"],
        }
        return {name: stage.key for name, stage in stage_of.items()}

    one, other = keys(), keys(override)
    assert {name for name in one if one[name] != other[name]} == changed


def test_filters_and_sizes_share_the_pools_before_them() -> None:
    def pools(*overrides: str) -> dict[str, str]:
        stage = build_pipeline(compose_config("model.toy=true", *overrides)).rounds[0][0]
        return pool_keys(stage.values, stage.inputs)

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
        stages = build_pipeline(compose_config("model.toy=true", *chosen_file))
        keys.append((stages.rounds[0][0].key, stages.scores["base"].key))
    assert keys[0] == keys[1] and all(one != another for one, another in zip(keys[0], keys[2], strict=True))


def test_runtime_fields_are_in_no_key() -> None:
    values = key_values(compose_config())
    assert "max_attempts" not in values["generation"] and "instructions" in values["generation"]
    assert values["paths"] == {} and values["logger"] == {} and values["strategy"] == {}


def with_model_class(config: Config, cls: type) -> Config:
    """`config` with its model section as an instance of another version of the schema."""
    values = {item.name: getattr(config.model, item.name) for item in dataclasses.fields(config.model)}
    return replace(config, model=cls(**values))


def all_keys(config: Config) -> list[tuple[str, str]]:
    """(label, key) of every stage, and of every pool."""
    pipeline = build_pipeline(config)
    stage = pipeline.rounds[0][0]
    pools = pool_keys(stage.values, stage.inputs)
    return [*((stage.label, stage.key) for stage in pipeline.stages), *pools.items()]


def test_a_new_field_with_a_default_leaves_every_key_unchanged() -> None:
    new_field = ("attention", str, field(default="eager"))
    extended = dataclasses.make_dataclass("ModelConfig", [new_field], bases=(ModelConfig,), frozen=True)
    config = compose_config("model.toy=true")
    changed = with_model_class(config, extended)
    assert key_values(changed.model) == key_values(config.model)
    assert all_keys(changed) == all_keys(config)
    other = replace(changed, model=replace(changed.model, attention="flash"))
    assert not set(all_keys(other)) & set(all_keys(config))  # every stage runs the model


@dataclass(frozen=True)
class ModelConfigWithOtherDefault(ModelConfig):
    """A later version, in which prompts are in chat form by default."""

    prompt: Literal["base", "chat"] = field(default="chat", metadata={"key_default": "base"})


def test_a_changed_default_with_its_first_value_as_key_default_leaves_every_key_unchanged() -> None:
    config = compose_config("model.toy=true")
    changed = with_model_class(config, ModelConfigWithOtherDefault)
    assert changed.model.prompt == "base" and all_keys(changed) == all_keys(config)
    chat = replace(config, model=replace(config.model, prompt="chat"))
    assert all_keys(with_model_class(chat, ModelConfigWithOtherDefault)) == all_keys(chat)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("seed", -1, "seed=-1 must be at least 0."),
        ("rounds.plausible", 0, "rounds.plausible=0 must be more than 0."),
        ("lora.dropout", 1.5, "lora.dropout=1.5 must be at most 1."),
        ("tuning.patience", 0, "tuning.patience=0 must be at least 1."),
        ("throughput.read", 0.0, "throughput.read=0.0 must be more than 0."),
        ("evaluation.shots", [], "evaluation.shots=[] must have at least 1 value."),
        ("evaluation.shots", [0, -2], "evaluation.shots[1]=-2 must be at least 0."),
        ("logger.mode", "on", "logger.mode=on is none of offline, online; did you mean 'online'? choose one."),
        (
            "domain.tasks",
            {"x": {"kind": "labl"}},
            "domain.tasks.x.kind=labl is none of label, labels, short, list, ",
        ),
        (
            "evaluation.sets",
            {"x": {"form": "tag"}},
            "evaluation.sets.x.form=tag is none of fields, tags, turns; did ",
        ),
        ("evaluation.domain", {"seed_count": 0}, "evaluation.domain.seed_count=0 must be at least 1."),
    ],
)
def test_a_value_outside_what_its_field_allows_is_refused(key: str, value: Any, reason: str) -> None:
    nested = value
    for name in reversed(key.split(".")):
        nested = {name: nested}
    with pytest.raises(UserError) as caught:
        check_values(nested, Config)
    assert str(caught.value).startswith(reason)


def test_null_is_allowed_where_a_field_is_optional() -> None:
    check_values({"tuning": {"patience": None}, "evaluation": {"limit": None, "domain": None}}, Config)


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["+domain.tasks.inference.foo=1"], "There is no key domain.tasks.inference.foo; "),
        (["evaluation=paper", "+evaluation.sets.hoc.foo=1"], "There is no key evaluation.sets.hoc.foo; "),
        (["evaluation=paper", "+evaluation.sets.hoc.splt=a"], "evaluation.sets.hoc.splt; did you mean 'split'? "),
        (["retrieval.corpus=[1,2]"], "retrieval.corpus=[1, 2] must be of the type str | dict[str, Any] | None; "),
    ],
)
def test_a_wrong_key_or_type_inside_a_dictionary_or_an_optional_value_is_named(
    overrides: list[str], reason: str
) -> None:
    with pytest.raises(UserError) as caught:
        compose_config(*overrides)
    assert reason in str(caught.value)


def test_an_unknown_key_of_an_optional_section_is_named() -> None:
    with pytest.raises(UserError, match=r"There is no key evaluation.domain.foo; evaluation.domain has: "):
        check_unknown_keys({"evaluation": {"domain": {"foo": 1}}}, Config)


@pytest.mark.parametrize(
    ("option", "section", "chosen_values"),
    [
        ("rounds=default", "rounds", set()),
        ("retrieval=bm25", "retrieval", {"corpus"}),
        ("generation=default", "generation.contamination", set()),
        ("logger=wandb", "logger", {"name"}),
    ],
)
def test_an_option_gives_the_values_that_its_schema_has_as_defaults(
    option: str, section: str, chosen_values: set[str]
) -> None:
    composed: Any = compose_config(option)
    written: Any = OmegaConf.load(CONF / f"{option.replace('=', '/')}.yaml")
    for name in section.split("."):
        composed = getattr(composed, name)
        written = written.get(name, written)
    defaults = {item.name: item.default for item in dataclasses.fields(composed)}
    twice = [name for name in written if defaults[name] is not dataclasses.MISSING and name not in chosen_values]
    assert twice
    assert {name: getattr(composed, name) for name in twice} == {name: defaults[name] for name in twice}


@pytest.mark.parametrize(("name", "schema"), [("local", LocalConf), ("slurm", SlurmConf)])
def test_a_launchers_yaml_has_the_defaults_of_its_schema(name: str, schema: Any) -> None:
    written: Any = OmegaConf.to_container(OmegaConf.load(CONF / "hydra" / "launcher" / f"{name}.yaml"))
    defaults = dataclasses.asdict(schema())
    del written["defaults"], defaults["_target_"]
    assert written.pop("resources", {}).keys() == defaults.pop("resources", {}).keys()  # each kind has its request
    assert written == defaults


def test_a_slurm_request_has_the_fields_of_its_schema() -> None:
    names = [[item.name for item in dataclasses.fields(cls)] for cls in (Resources, ResourcesConf)]
    assert names[0] == names[1]


def test_a_pickled_schema_keeps_its_defaults() -> None:
    """Launchers that run jobs in other processes pickle the schema by value."""
    pickled = cloudpickle.dumps(mutable_twin(LoraConfig))
    read = "import pickle, sys; from omegaconf import OmegaConf; "
    read += "print(OmegaConf.structured(pickle.load(sys.stdin.buffer)).extra)"
    printed = subprocess.run([sys.executable, "-c", read], input=pickled, capture_output=True, check=False)
    assert printed.stdout.decode().strip() == "{}", printed.stderr.decode()


def test_jobs_of_one_process_do_not_share_a_mapping_of_the_schema() -> None:
    """Of a sweep over `lora.extra`, every job would have the value of the last."""
    register_schema()
    register_resolvers(PROJECT)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        names = ("gaussian", "orthogonal")
        composed = [compose("config", [f"lora.extra.init_lora_weights={name}"]) for name in names]
        plain = compose("config", [])
    assert [dict(config.lora.extra) for config in composed] == [{"init_lora_weights": name} for name in names]
    assert dict(plain.lora.extra) == {}


def test_a_new_filter_that_is_off_keeps_every_pools_key() -> None:
    values, inputs = {"generation": {"filters": {"form": False}}}, {"against": "0"}
    with_new = replace(RESPONSES, values=(*RESPONSES.values, "generation.filters.new"), inputs=("against", "new"))
    assert with_new.key(values, inputs, "") == RESPONSES.key(values, inputs, "")
    switched_on = {"generation": {"filters": {"form": False, "new": True}}}
    assert with_new.key(switched_on, inputs, "") != RESPONSES.key(values, inputs, "")
