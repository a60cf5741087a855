"""Reading: rows are unchanged by a file, a bad line is named by file, line and field; the split uses ids alone."""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from selfspec.config.schema import TaskType
from selfspec.data.jsonl import write_jsonl
from selfspec.data.reading import (
    line_numbers,
    read_all_questions,
    read_examples,
    read_question_texts,
    read_questions,
    read_seeds,
)
from selfspec.data.records import Example, Question, Seed
from selfspec.data.splits import num_seeds_for, round_robin, seed_subset, split_seeds
from selfspec.data.text import words
from selfspec.errors import UserError

TASKS = {
    "verdict": TaskType("label", "a verdict"),
    "fields": TaskType("labels", "the fields of a text"),
    "summary": TaskType("text", "a summary"),
    "sum": TaskType("number", "a sum"),
}
VALID_ROW = {
    "id": "good-1",
    "task_type": "verdict",
    "instruction": "Is it so?",
    "input": "It is.",
    "options": ["yes", "no"],
}
READERS: dict[str, tuple[Callable[..., Sequence[Any]], dict[str, Any]]] = {
    "seeds": (read_seeds, {"output": "yes"}),
    "questions": (read_questions, {"answers": ["yes"]}),
}
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(words)


def read_error(folder: Path, which: str, line: str) -> str:
    """The error of a reader for a file whose third line is bad (the second is blank, and is counted)."""
    read, answer = READERS[which]
    path = folder / "rows.jsonl"
    path.write_text(f"{json.dumps({**VALID_ROW, **answer})}\n\n{line}\n", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read(path, TASKS)
    assert str(caught.value).startswith(f"{path}, line 3: ")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@example("two\u2028lines")
@example("next\x85line")
@given(TEXT)
def test_seeds_and_questions_are_read_as_they_were_written(tmp_path: Path, text: str) -> None:
    seeds = [
        Seed("s1", "verdict", text, text, "yes", topic=text, options=("yes", "no")),
        Seed("s2", "summary", text, "", text),
        Seed("s3", "sum", text, text, "-0.67", formula="(1 - 3) / 3"),
    ]
    questions = [
        Question("q1", "fields", "labels", text, text, ("a; b", "none"), options=("a", "b")),
        Question("q2", "summary", "text", text, "", (text, "another"), topic=text),
        Question("q3", "sum", "number", text, text, ("12.5", "12.50"), formula="50 / 4"),
        Question("q4", "of no domain", "short", text, text, (text,)),
    ]
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, seeds)
    assert read_seeds(path, TASKS) == seeds
    write_jsonl(path, questions)
    assert read_questions(path, TASKS) == questions


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@example("two\u2028lines")
@given(TEXT)
def test_examples_are_read_as_they_were_written_and_give_the_same_bytes(tmp_path: Path, text: str) -> None:
    provenance: dict[str, Any] = {"seeds": ("s1", "s2"), "response_seeds": ("s3",), "sampler_seed": 7, "prompt": "0f"}
    rows = [
        Example(
            "0-1", "verdict", text, text, "yes", ("yes", "no"), text, **provenance, verdicts={"form": "", "echo": text}
        ),
        Example("0-2", "summary", text, "", text),
    ]
    one, other = tmp_path / "one.jsonl", tmp_path / "other.jsonl"
    write_jsonl(one, rows)
    assert read_examples(one) == rows
    write_jsonl(other, [asdict(row) for row in read_examples(one)])
    assert other.read_bytes() == one.read_bytes()


@pytest.mark.parametrize("which", READERS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": None}, "field 'id' must be a string that is not empty"),
        ({"id": 7}, "field 'id' must be a string that is not empty"),
        ({"id": ""}, "field 'id' must be a string that is not empty"),
        ({"id": "good-1"}, "field 'id' repeats 'good-1' of line 1"),
        ({"instruction": ["Is it?"]}, "field 'instruction' must be a string that is not empty"),
        ({"instruction": " \t"}, "field 'instruction' must be a string that is not empty"),
        ({"input": 5}, "field 'input' must be a string"),
        ({"topic": None}, "field 'topic' must be a string"),
        ({"task_type": ""}, "field 'task_type' must be a string that is not empty"),
        ({"task_type": ["verdict"]}, "field 'task_type' must be a string that is not empty"),
        ({"task_type": "verdicts"}, "field 'task_type' is 'verdicts'; did you mean 'verdict'? the domain has verdict,"),
        ({"options": "yes or no"}, "field 'options' must be a list of strings"),
        ({"options": ["yes", 2]}, "field 'options' must be a list of strings"),
        ({"options": ["yes", ""]}, "field 'options' must be a list of strings"),
        ({"options": None}, "field 'options' must be a list of strings"),
        ({"options": 2}, "field 'options' must be a list of strings"),
        ({"options": ["yes"]}, "field 'options' needs at least two labels"),
        ({"options": ["yes", "yes"]}, "field 'options' needs at least two labels"),
        ({"task_type": "fields", "options": ["yes"]}, "field 'options' needs at least two labels"),
        ({"instructions": "Is it?"}, "unknown field 'instructions'; did you mean 'instruction'? allowed are "),
        ({"zzz": "?"}, "unknown field 'zzz'; allowed are "),
    ],
    ids=str,
)
def test_a_bad_field_is_named(tmp_path: Path, which: str, change: dict[str, Any], message: str) -> None:
    assert message in read_error(tmp_path, which, json.dumps({**VALID_ROW, **READERS[which][1], "id": "bad", **change}))


@pytest.mark.parametrize(
    ("which", "change", "message"),
    [
        ("seeds", {"output": ""}, "field 'output' must be a string that is not empty"),
        ("seeds", {"output": ["yes"]}, "field 'output' must be a string that is not empty"),
        ("seeds", {"output": "maybe"}, "field 'output' is 'maybe', which is not among the options ['yes', 'no']"),
        ("seeds", {"task_type": "fields", "output": "yes; so"}, "field 'output' has 'so', which is not among the opt"),
        ("seeds", {"answers": ["yes"]}, "unknown field 'answers'; did you mean 'output'? "),
        ("seeds", {"task_type": "fields", "output": "yes, no"}, "['yes', 'no']; separate labels with '; '"),
        ("questions", {"answers": "yes"}, "field 'answers' must be a list with at least one string"),
        ("questions", {"answers": []}, "field 'answers' must be a list with at least one string"),
        ("questions", {"answers": ["yes", 3]}, "field 'answers' must be a string that is not empty"),
        ("questions", {"answers": [" "]}, "field 'answers' must be a string that is not empty"),
        ("questions", {"answers": ["yes", "maybe"]}, "field 'answers' is 'maybe', which is not among the options"),
        ("questions", {"task_type": "fields", "answers": ["so"]}, "field 'answers' has 'so', which is not among the"),
        ("questions", {"output": "yes"}, "unknown field 'output'; did you mean 'answers'? "),
        ("questions", {"kind": "labels", "answers": ["so"]}, "field 'answers' has 'so', which is not among the"),
        ("questions", {"kind": "labe"}, "field 'kind' is 'labe', which is none of label, labels, short, list, "),
        ("seeds", {"kind": "label"}, "unknown field 'kind'; "),
        ("seeds", {"task_type": "sum", "output": "two"}, "field 'output' is 'two', which is no bare number such as"),
        ("seeds", {"task_type": "sum", "output": "inf"}, "field 'output' is 'inf', which is no bare number such as"),
        ("seeds", {"task_type": "sum", "output": "3.1", "formula": "1 + 2"}, "is '3.1', which is not what the formula"),
        ("seeds", {"formula": "1 + 2"}, "field 'output' is 'yes', which is not what the formula 1 + 2 gives"),
        ("seeds", {"task_type": "sum", "output": "3", "formula": 3}, "field 'formula' must be a string"),
        ("seeds", {"task_type": "sum", "output": "3", "formula": "abs(3)"}, "'abs(3)' is not a formula that can be"),
        ("questions", {"task_type": "sum", "answers": ["3", "4"], "formula": "3"}, "is '4', which is not what the"),
    ],
    ids=str,
)
def test_a_bad_answer_is_named(tmp_path: Path, which: str, change: dict[str, Any], message: str) -> None:
    assert message in read_error(tmp_path, which, json.dumps({**VALID_ROW, **READERS[which][1], "id": "bad", **change}))


@pytest.mark.parametrize("which", READERS)
@pytest.mark.parametrize("name", ["id", "task_type", "instruction", "answer"])
def test_a_missing_field_is_named(tmp_path: Path, which: str, name: str) -> None:
    row = {**VALID_ROW, **READERS[which][1], "id": "bad"}
    missing = next(iter(READERS[which][1])) if name == "answer" else name
    del row[missing]
    assert f"field '{missing}'" in read_error(tmp_path, which, json.dumps(row))


@pytest.mark.parametrize("which", READERS)
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{'id': 'x'}", "not valid JSON"),
        ('{"id": ', "not valid JSON"),
        ('["id"]', "not a JSON object"),
        ('{"id": "x", "input": "one", "id": "x", "input": "other"}', "field 'id' is written twice"),
        ('{"id": "x", "input": "half \\ud83d"}', "field 'input' has half of a surrogate pair"),
        ('{"id": "x", "options": ["yes", "\\udc4d"]}', "field 'options' has half of a surrogate pair"),
    ],
)
def test_a_line_that_is_not_an_object_of_valid_fields_is_named(
    tmp_path: Path, which: str, line: str, message: str
) -> None:
    assert message in read_error(tmp_path, which, line)


@pytest.mark.parametrize("which", READERS)
def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path, which: str) -> None:
    read, answer = READERS[which]
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({**VALID_ROW, **answer}), encoding="utf-8-sig")
    assert [row.id for row in read(path, TASKS)] == ["good-1"]
    path.write_text("\n" + json.dumps({**VALID_ROW, **answer}), encoding="utf-8-sig")
    assert line_numbers(path) == [2]


@pytest.mark.parametrize(("num_bad", "last"), [(2, ""), (20, ""), (21, "and 1 more line"), (25, "and 5 more lines")])
def test_all_bad_lines_of_a_file_are_in_one_message(tmp_path: Path, num_bad: int, last: str) -> None:
    path = tmp_path / "seeds.jsonl"
    bad = [{**VALID_ROW, "id": f"s{n}", "output": f"maybe {n}"} for n in range(num_bad)]
    write_jsonl(path, [{**VALID_ROW, "output": "yes"}, *bad])
    with pytest.raises(UserError) as caught:
        read_seeds(path, TASKS)
    lines = str(caught.value).split("\n")
    assert [line.partition(": ")[0] for line in lines[:20]] == [
        f"{path}, line {n + 2}" for n in range(min(num_bad, 20))
    ]
    assert "'maybe 1', which is not among the options" in lines[1]
    assert lines[20:] == ([f"{path}: {last} with errors."] if last else [])


@pytest.mark.parametrize("which", READERS)
@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "does not exist"), (b"", "is empty"), (b"\n \n", "is empty"), (b'{"id": "\xff"}', "UTF-8")],
)
def test_a_file_without_rows_is_named(tmp_path: Path, which: str, content: bytes | None, message: str) -> None:
    path = tmp_path / "rows.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        READERS[which][0](path, TASKS)
    assert str(path) in str(caught.value)


@given(st.integers(0, 250), st.text(max_size=6), st.randoms(use_true_random=False))
def test_a_tenth_but_at_least_eight_of_the_seeds_are_held_out_by_ids_alone(
    count: int, name: str, rng: random.Random
) -> None:
    ids = [f"{name}{number}" for number in range(count)]
    seeds = [Seed(each, "summary", "Shorten it.", "A text.", "Text.") for each in ids]
    shown_seeds, held_out = split_seeds(seeds)
    assert len(held_out) == min(len(seeds), max(8, len(seeds) // 10))
    assert sorted(seed.id for seed in shown_seeds + held_out) == sorted(ids)
    others = [replace(seed, instruction=f"Shorten {place}.") for place, seed in enumerate(seeds)]
    rng.shuffle(others)
    assert {seed.id for seed in split_seeds(others)[1]} == {seed.id for seed in held_out}


def test_the_number_of_seeds_for_some_shots_is_the_smallest_that_leaves_so_many_to_show() -> None:
    for shots in (0, 1, 5, 60, 72, 73, 400):
        count = num_seeds_for(shots)
        shown, one_fewer = (split_seeds(rows(*["a"] * number))[0] for number in (count, count - 1))
        assert len(shown) >= shots > len(one_fewer) or count == 0


def rows(*types: str) -> list[Seed]:
    """Seeds of these task types, in this order."""
    return [Seed(f"s{place}", name, "Shorten it.", "A text.", "Text.") for place, name in enumerate(types)]


def test_round_robin_takes_task_types_in_turn_up_to_the_count() -> None:
    seeds = rows("a", "a", "a", "b", "c", "b")
    assert [seed.id for seed in round_robin(seeds, None)] == ["s0", "s3", "s4", "s1", "s5", "s2"]
    assert [seed.id for seed in round_robin(seeds, 4)] == ["s0", "s3", "s4", "s1"]
    assert round_robin(seeds, 100) == round_robin(seeds, None)


@given(st.lists(st.sampled_from("abc"), max_size=40), st.randoms(use_true_random=False))
def test_a_smaller_seed_subset_is_part_of_a_larger_one_and_every_type_has_its_share(
    types: list[str], rng: random.Random
) -> None:
    seeds = rows(*types)
    shuffled = rng.sample(seeds, len(seeds))
    assert seed_subset(seeds, None) == seeds
    smaller: set[str] = set()
    for count in range(1, len(seeds) + 1):
        subset = seed_subset(seeds, count)
        assert [seed for seed in seeds if seed in subset] == subset and len(subset) == count  # in the file's order
        assert smaller < {seed.id for seed in subset} == {seed.id for seed in seed_subset(shuffled, count)}
        smaller = {seed.id for seed in subset}
        shares = {name: sum(seed.task_type == name for seed in subset) for name in set(types)}
        assert all(shares[name] >= min(types.count(name), max(shares.values()) - 1) for name in shares)


def test_an_id_in_two_files_is_refused_with_both_names(tmp_path: Path) -> None:
    one, other = tmp_path / "one.jsonl", tmp_path / "other.jsonl"
    for path, names in ((one, ("q1", "q2")), (other, ("q3", "q2"))):
        write_jsonl(path, [{**VALID_ROW, "answers": ["yes"], "id": name} for name in names])
    assert [question.id for question in read_all_questions([one], TASKS)] == ["q1", "q2"]
    with pytest.raises(UserError) as caught:
        read_all_questions([one, other], TASKS)
    assert str(caught.value) == f"{other}: the id 'q2' is also in {one}; rename one."


@pytest.mark.parametrize("line", ['{"id": "q1"}', "[1]", "3", "{", '{"instruction": "Do it."}'])
def test_only_id_and_text_of_contamination_questions_are_read(tmp_path: Path, line: str) -> None:
    path = tmp_path / "any.jsonl"
    path.write_text('{"id": 1, "input": "A text.", "own": 2}\n\n{"id": "b", "instruction": "Do it.", "input": ""}\n')
    assert read_question_texts(path) == [("1", "A text."), ("b", "Do it.")]
    path.write_text(f'{{"id": 1, "input": "A text."}}\n\n{line}\n')
    with pytest.raises(UserError, match="line 3: not a question"):
        read_question_texts(path)


@pytest.mark.parametrize("num_files", [1, 2])
def test_a_task_type_whose_questions_have_two_kinds_is_refused(tmp_path: Path, num_files: int) -> None:
    base = {"task_type": "own", "instruction": "Tell.", "input": "A text.", "answers": ["3"]}
    rows = [{**base, "id": "q1", "kind": "number"}, {**base, "id": "q2", "kind": "short"}]
    paths = [tmp_path / "one.jsonl", tmp_path / "other.jsonl"][-num_files:]
    for place, path in enumerate(paths):
        write_jsonl(path, rows[place : place + 3 - num_files])
    with pytest.raises(UserError) as caught:
        read_all_questions(paths, TASKS)
    reason = "the questions of task type 'own' have the kinds number and short; give them different task types."
    assert str(caught.value) == f"{paths[-1]}: {reason}"
