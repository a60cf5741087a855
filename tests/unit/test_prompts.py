"""Prompts: a rendered task can be parsed back, each template has an exact form, and the hash covers all templates."""

import json
import os
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import Warm, places
from selfspec.config.schema import DomainConfig, PromptsConfig, TaskType
from selfspec.data.records import Question, Seed, TaskRequest
from selfspec.errors import UserError
from selfspec.pipeline.build import build_pipeline
from selfspec.prompts.templates import check_prompts, prompts_hash
from toys import compose_config, prompts

PROMPTS = prompts()
TEMPLATES = PROMPTS.templates

TASKS = {"verdict": TaskType("label", "a yes-or-no question"), "summary": TaskType("text", "summarising a text")}
DOMAIN = DomainConfig("law", "an expert in law", TASKS, seeds="", evaluation="", topics=("contracts", "torts"))
CLOSED = Seed("s1", "verdict", "Is it so?", "It is.\n\nQuestion: Is it?", "yes", topic="torts", options=("yes", "no"))
OPEN = Seed("s2", "summary", "Shorten it.", "", "Short.")


def cut(text: str, stops: tuple[str, ...]) -> str:
    """The text up to the first of `stops`."""
    return min((text.split(stop, maxsplit=1)[0] for stop in stops), key=len)


LINE = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"])).map(str.strip).filter(bool)
INSTRUCTION = LINE.map(lambda text: " ".join(text.split())).filter(bool)
PASSAGE = (
    st.lists(LINE, min_size=1, max_size=3).map("\n".join).filter(lambda text: cut(text, TEMPLATES.input_stop) == text)
)


@given(st.sampled_from(sorted(TASKS)), INSTRUCTION, PASSAGE, st.lists(LINE, max_size=4), LINE | st.just(""))
def test_a_task_of_the_list_is_parsed_back_into_its_parts(
    task: str, instruction: str, text: str, options: list[str], topic: str
) -> None:
    seed = Seed("s", task, instruction, text, "unseen", topic=topic, options=tuple(options))
    request = TaskRequest(task, topic, tuple(options))
    before, complete = PROMPTS.list_prefix(DOMAIN, [CLOSED]), PROMPTS.list_prefix(DOMAIN, [CLOSED, seed])
    prompt = before + PROMPTS.list_task(2, request, DOMAIN)
    assert complete.startswith(prompt)
    assert cut(complete.removeprefix(prompt), TEMPLATES.instruction_stop).strip() == instruction
    prompt = before + PROMPTS.list_input(2, request, instruction, DOMAIN)
    assert complete.startswith(prompt)
    assert cut(complete.removeprefix(prompt), TEMPLATES.input_stop).strip() == text


def test_the_prompt_of_a_seed_and_of_a_question_ends_before_the_response() -> None:
    closed = (
        "### Instruction:\nIs it so?\nOptions: yes; no\n\n### Input:\nIt is.\n\nQuestion: Is it?\n\n### Response:\n"
    )
    assert PROMPTS.task(CLOSED) == closed
    assert PROMPTS.task(OPEN) == "### Instruction:\nShorten it.\n\n### Response:\n"
    question = Question("q1", "verdict", "label", CLOSED.instruction, CLOSED.input, ("no",), options=CLOSED.options)
    assert PROMPTS.task(question) == closed


def test_passages_come_after_the_instruction_and_before_the_input() -> None:
    background = "### Background:\n- One.\n- Two.\n\n"
    assert PROMPTS.task(CLOSED, ["One.", "Two."]) == PROMPTS.task(CLOSED).replace(
        "### Input:", f"{background}### Input:"
    )
    assert PROMPTS.task(OPEN, ["One.", "Two."]) == PROMPTS.task(OPEN).replace(
        "### Response:", f"{background}### Response:"
    )


def test_the_judges_prompt_has_the_task_with_its_answer_and_ends_before_the_verdict() -> None:
    judged = f"{PROMPTS.task(CLOSED)}no\n\n### Right:\n"
    assert PROMPTS.judged_answer(CLOSED, "no") == judged
    text = PROMPTS.judge_prefix(DOMAIN.role, [(CLOSED, "no", False), (OPEN, "Short.", True)])
    assert text.startswith("You are an expert in law, and you check answers.")
    assert text.endswith(f"\n\n{judged}NO\n\n{PROMPTS.task(OPEN)}Short.\n\n### Right:\nYES\n\n")
    assert "{" not in text


def test_a_prefix_is_the_role_and_the_few_shot_examples_with_responses() -> None:
    header = "You are an expert in law. Give each task the best answer you can, in the form that it asks for.\n\n"
    assert PROMPTS.prefix(DOMAIN.role, []) == header
    shots = f"{PROMPTS.task(CLOSED)}yes\n\n{PROMPTS.task(OPEN)}Short.\n\n"
    assert PROMPTS.prefix(DOMAIN.role, [CLOSED, OPEN]) == header + shots


def test_a_response_ends_where_the_next_few_shot_example_would_begin() -> None:
    after = PROMPTS.prefix(DOMAIN.role, [OPEN, CLOSED]).split("### Response:\n", 1)[1]
    assert cut(after, TEMPLATES.response_stop).strip() == OPEN.output


@pytest.mark.parametrize("more", ["\nAnswer: b", "\n\nTask 5\nType: x", "\nOptions: b", "\nInput: b"])
def test_text_after_the_input_is_cut_off(more: str) -> None:
    assert cut(f" a{more}", TEMPLATES.input_stop).strip() == "a"


def test_the_list_numbers_its_seeds_and_contains_no_output() -> None:
    text = PROMPTS.list_prefix(DOMAIN, [CLOSED, OPEN])
    assert "written by an expert in law.\n" in text
    assert "Each task says its type and its topic;" in text
    assert text.endswith(
        "List of tasks:\n\n"
        "Task 1\nType: a yes-or-no question\nTopic: torts\nOptions: yes; no\nInstruction: Is it so?\n"
        "Input: It is.\nQuestion: Is it?\n\n"  # no blank line inside a task, because a blank line ends it
        "Task 2\nType: summarising a text\nInstruction: Shorten it.\nInput: \n\n"
    )
    assert "Short." not in text


def test_prompts_of_a_domain_without_topics_do_not_mention_topics() -> None:
    plain = replace(DOMAIN, topics=())
    text = PROMPTS.list_prefix(plain, [CLOSED]) + PROMPTS.list_task(2, TaskRequest("summary", "torts"), plain)
    assert "topic" not in text.casefold()
    assert "Each task says its type;" in text
    assert text.endswith("\n\nTask 2\nType: summarising a text\nInstruction:")


def test_the_hash_of_the_templates_is_the_same_in_every_process() -> None:
    code = "import toys; from selfspec.prompts.templates import prompts_hash as h; print(h(toys.prompts().templates))"
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)}
    other = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert other.stdout.strip() == prompts_hash(TEMPLATES)


@pytest.mark.parametrize("name", [item.name for item in fields(PromptsConfig)])
def test_a_changed_template_changes_the_hash(name: str) -> None:
    value = getattr(TEMPLATES, name)
    changed = replace(TEMPLATES, **{name: value + " " if isinstance(value, str) else (*value, "END")})
    check_prompts(changed)
    assert prompts_hash(changed) != prompts_hash(TEMPLATES)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("role", "You are {who}.", r"prompts.role uses {who}, and can use {role}; write {{ for a brace"),
        ("task", "{instruction}", r"prompts.task lacks {input}"),
        ("list_input", "{task", r"prompts.list_input can't be read"),
        ("judge_yes", "{yes}", r"prompts.judge_yes uses {yes}, and can use no placeholder"),
        ("input_stop", ("\n\n", ""), r"prompts.input_stop holds an empty stop text"),
    ],
)
def test_a_template_with_a_wrong_placeholder_is_refused(name: str, value: object, message: str) -> None:
    with pytest.raises(UserError) as caught:
        check_prompts(replace(TEMPLATES, **{name: value}))
    assert message in str(caught.value)


def test_braces_in_a_task_are_kept_and_doubled_braces_in_a_template_give_single_ones() -> None:
    seed = replace(CLOSED, input="a {role} in {braces}")
    assert "a {role} in {braces}" in PROMPTS.prefix("an expert", [seed])
    assert prompts(role="{{{role}}}").prefix("x", []) == "{x}"


def test_a_changed_template_changes_all_keys_and_is_saved_with_the_adapter(warm: Warm, tmp_path: Path) -> None:
    quick = ["debug=smoke", "logger=none", "evaluation.limit=1", "evaluation.shots=[0]", "baselines.off_domain=false"]
    quick += ["baselines.seeds_only=false", *places(tmp_path)]
    ended = warm(*quick, "prompts.role='{role}, answer.\n\n'")
    assert ended.code == 0, ended.text
    changed = json.loads((tmp_path / "run" / "stages.json").read_text())
    usual = {stage.label: f"{stage.name}/{stage.key}" for stage in build_pipeline(compose_config(*quick)).stages}
    assert set(changed) == set(usual) and not set(changed.values()) & set(usual.values())
    template = json.loads((tmp_path / "store" / changed["adapter (specialized)"] / "prompt.json").read_text())[
        "template"
    ]
    assert template.startswith("an expert in biomedicine, answer.\n\n### Instruction:")
