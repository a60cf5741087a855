"""Held: what the renderer writes the parser reads, every template has its exact form, and the hash knows them all."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfspec.config.schema import DomainConfig, TaskType
from selfspec.data.records import Question, Seed, TaskRequest
from selfspec.prompts import templates
from selfspec.prompts.templates import (
    INPUT_STOP,
    INSTRUCTION_STOP,
    RESPONSE_STOP,
    render_input_item,
    render_judge_prefix,
    render_judged_answer,
    render_list_item,
    render_list_prefix,
    render_prefix,
    render_task,
    template_hash,
)

TASKS = {"verdict": TaskType("label", "a yes-or-no question"), "summary": TaskType("text", "summarising a text")}
DOMAIN = DomainConfig("law", "an expert in law", TASKS, seeds="", evaluation="", topics=("contracts", "torts"))
CLOSED = Seed("s1", "verdict", "Is it so?", "It is.\n\nQuestion: Is it?", "yes", topic="torts", options=("yes", "no"))
OPEN = Seed("s2", "summary", "Shorten it.", "", "Short.")


def cut(text: str, stops: tuple[str, ...]) -> str:
    """What is left of a text when a model is stopped at the first of `stops`."""
    return min((text.split(stop, maxsplit=1)[0] for stop in stops), key=len)


LINE = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"])).map(str.strip).filter(bool)
INSTRUCTION = LINE.map(lambda text: " ".join(text.split())).filter(bool)
PASSAGE = st.lists(LINE, min_size=1, max_size=3).map("\n".join).filter(lambda text: cut(text, INPUT_STOP) == text)


@given(st.sampled_from(sorted(TASKS)), INSTRUCTION, PASSAGE, st.lists(LINE, max_size=4), LINE | st.just(""))
def test_what_the_list_shows_is_what_is_read_back_step_by_step(
    task: str, instruction: str, text: str, options: list[str], topic: str
) -> None:
    seed = Seed("s", task, instruction, text, "unseen", topic=topic, options=tuple(options))
    request = TaskRequest(task, topic, tuple(options))
    before, listed = render_list_prefix(DOMAIN, [CLOSED]), render_list_prefix(DOMAIN, [CLOSED, seed])
    asked = before + render_list_item(2, request, DOMAIN)
    assert listed.startswith(asked)
    assert cut(listed.removeprefix(asked), INSTRUCTION_STOP).strip() == instruction
    asked = before + render_input_item(2, request, instruction, DOMAIN)
    assert listed.startswith(asked)
    assert cut(listed.removeprefix(asked), INPUT_STOP).strip() == text


def test_an_item_ends_where_its_answer_begins() -> None:
    closed = (
        "### Instruction:\nIs it so?\nOptions: yes; no\n\n### Input:\nIt is.\n\nQuestion: Is it?\n\n### Response:\n"
    )
    assert render_task(CLOSED) == closed
    assert render_task(OPEN) == "### Instruction:\nShorten it.\n\n### Response:\n"
    asked = Question("q1", "verdict", "label", CLOSED.instruction, CLOSED.input, ("no",), options=CLOSED.options)
    assert render_task(asked) == closed


def test_passages_stand_between_the_instruction_and_the_input() -> None:
    found = "### Background:\n- One.\n- Two.\n\n"
    assert render_task(CLOSED, ["One.", "Two."]) == render_task(CLOSED).replace("### Input:", f"{found}### Input:")
    assert render_task(OPEN, ["One.", "Two."]) == render_task(OPEN).replace("### Response:", f"{found}### Response:")


def test_what_is_judged_is_the_item_with_its_answer_and_a_verdict_behind_it() -> None:
    judged = f"{render_task(CLOSED)}no\n\n### Right:\n"
    assert render_judged_answer(CLOSED, "no") == judged
    text = render_judge_prefix(DOMAIN.role, [(CLOSED, "no", False), (OPEN, "Short.", True)])
    assert text.startswith("You are an expert in law, and you check answers.")
    assert text.endswith(f"\n\n{judged}NO\n\n{render_task(OPEN)}Short.\n\n### Right:\nYES\n\n")
    assert "{" not in text


def test_a_prefix_is_the_role_and_the_shots_solved() -> None:
    header = "You are an expert in law. Give each task the best answer you can, in the form that it asks for.\n\n"
    assert render_prefix(DOMAIN.role, []) == header
    shots = f"{render_task(CLOSED)}yes\n\n{render_task(OPEN)}Short.\n\n"
    assert render_prefix(DOMAIN.role, [CLOSED, OPEN]) == header + shots


def test_a_model_is_stopped_where_the_next_shot_would_begin() -> None:
    after = render_prefix(DOMAIN.role, [OPEN, CLOSED]).split("### Response:\n", 1)[1]
    assert cut(after, RESPONSE_STOP).strip() == OPEN.output


@pytest.mark.parametrize("more", ["\nAnswer: b", "\n\nTask 5\nType: x", "\nOptions: b", "\nInput: b"])
def test_what_a_model_adds_behind_its_input_is_left_out(more: str) -> None:
    assert cut(f" a{more}", INPUT_STOP).strip() == "a"


def test_the_list_numbers_its_seeds_and_shows_no_output() -> None:
    text = render_list_prefix(DOMAIN, [CLOSED, OPEN])
    assert "written by an expert in law.\n" in text
    assert "Each task says its type and its topic;" in text
    assert text.endswith(
        "List of tasks:\n\n"
        "Task 1\nType: a yes-or-no question\nTopic: torts\nOptions: yes; no\nInstruction: Is it so?\n"
        "Input: It is.\nQuestion: Is it?\n\n"  # no blank line, since one ends a task
        "Task 2\nType: summarising a text\nInstruction: Shorten it.\nInput: \n\n"
    )
    assert "Short." not in text


def test_a_domain_without_topics_names_none() -> None:
    plain = replace(DOMAIN, topics=())
    text = render_list_prefix(plain, [CLOSED]) + render_list_item(2, TaskRequest("summary", "torts"), plain)
    assert "topic" not in text.casefold()
    assert "Each task says its type;" in text
    assert text.endswith("\n\nTask 2\nType: summarising a text\nInstruction:")


def test_the_hash_of_the_templates_is_the_same_in_every_process() -> None:
    asked = [sys.executable, "-c", "from selfspec.prompts.templates import template_hash; print(template_hash())"]
    other = subprocess.run(
        asked, env={**os.environ, "PYTHONHASHSEED": "7"}, capture_output=True, text=True, check=True
    ).stdout
    assert other.strip() == template_hash()


TEMPLATES = ["HEADER", "RESPONSE_STOP", "LIST_HEADER", "INSTRUCTION_STOP", "INPUT_STOP", "SEPARATOR"]


@pytest.mark.parametrize("name", [*TEMPLATES, "JUDGE_HEADER", "YES", "NO"])
def test_a_changed_template_changes_the_hash(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    before, template = template_hash(), getattr(templates, name)
    monkeypatch.setattr(templates, name, template + (" " if isinstance(template, str) else (" ",)))
    assert template_hash() != before


@pytest.mark.parametrize(
    "name",
    [
        "render_task",
        "render_list_item",
        "render_input_item",
        "render_prefix",
        "render_judge_prefix",
        "render_judged_answer",
    ],
)
def test_a_changed_renderer_changes_the_hash(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    before, render = template_hash(), getattr(templates, name)
    monkeypatch.setattr(templates, name, lambda *values: f"{render(*values)} ")
    assert template_hash() != before
