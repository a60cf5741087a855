"""A public set that can't be used, in part or at all, is one sentence with what to do."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_benchmarks import PAPER, TURN, bioasq_row, copied, jsonl

from conftest import PROJECT
from selfspec.data.reading import read_questions
from selfspec.errors import UserError
from selfspec.evaluation.benchmarks.prepare import check_metrics, prepare_benchmark, prepare_benchmarks
from selfspec.evaluation.benchmarks.sources import SourceMissing


def test_a_number_of_rows_that_differs_from_the_published_is_noted(tmp_path: Path) -> None:
    prepared = prepare_benchmark("fpb", replace(copied(tmp_path, "fpb"), rows=970), tmp_path / "cache")
    assert prepared.notes() == [
        "The set fpb has 1 row, and 970 were published: its scores can't be compared with others'."
    ]


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("fpb", {"id": "1", "answer": "good", "text": "T"}, "field 'answer' is 'good', which is none of positive, neg"),
        ("fpb", {"id": "1", "answer": "positive"}, "field 'text' is missing; there are id, answer"),
        ("fpb", {"id": "1", "answer": "positive", "text": "  "}, "field '{text}' is empty"),
        ("fpb", {"id": "1", "answer": {"a": 1}, "text": "T"}, "field 'answer' is dict, not text"),
        ("hoc", {"label": ["dying"], "text": "T"}, "field 'label' has 'dying', which is none of sustaining"),
        ("anatem", {"tokens": ["a"], "ner_tags": ["O", "O"]}, "field 'ner_tags' has 2 tags for 1 tokens"),
        ("anatem", {"tokens": ["a"], "ner_tags": [1]}, "field 'ner_tags' has the tag '1', which is none of O, B-"),
        ("anatem", {"tokens": ["a"], "ner_tags": ["B"]}, "field 'ner_tags' has tags without a type"),
        (
            "convfinqa",
            {**TURN, "id": "c", "turn": 1, "answer": "5"},
            "field 'turn': the dialogue's earlier turn 0 is mi",
        ),
        ("convfinqa", {**TURN, "id": "c", "turn": 0, "answer": "five"}, "field 'answer' is 'five', which is no number"),
        ("bioasq_list", bioasq_row("list", []), "field 'exact_answer' is no list with an item"),
    ],
)
def test_the_error_of_a_bad_row_names_set_row_and_field(
    tmp_path: Path, name: str, row: dict[str, Any], message: str
) -> None:
    jsonl(tmp_path / "set", {"test": [row]})
    config = replace(PAPER.sets[name], path=str(tmp_path / "set"), split="test", shots_split=None)
    with pytest.raises(UserError, match="1 of 1 rows do not fit conf/benchmark") as error:
        prepare_benchmark(name, config, tmp_path / "cache")
    assert f"row 1 of the set {name}, {message}" in str(error.value) and str(error.value).endswith(".")


def test_a_rare_bad_row_is_left_out_and_noted(tmp_path: Path) -> None:
    rows = [{"id": f"r{number}", "text": f"Text {number}.", "answer": "neutral"} for number in range(100)]
    jsonl(
        tmp_path / "set", {"test": [*rows, {"id": "r0", "text": "One more.", "answer": ""}, {**rows[0], "text": "U."}]}
    )
    config = replace(PAPER.sets["fpb"], path=str(tmp_path / "set"), shots_split=None, rows=None)
    prepared = prepare_benchmark("fpb", config, tmp_path / "cache")
    questions = read_questions(prepared.questions, {})
    assert len(questions) == 101 and questions[-1].id == "fpb-r0-102"  # a repeated id gets the row number
    assert prepared.notes() == ["1 row of the set fpb is left out: row 101 of the set fpb, field 'answer' is empty."]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has no file or folder named 'test' (no file that can be read)"),
        ({"dev.jsonl": "{}"}, "has no file or folder named 'test' (dev.jsonl)"),
        ({"test.jsonl": "{"}, "test.jsonl of the set fpb can't be read as .jsonl"),
        ({"test.parquet": "x"}, "test.parquet of the set fpb can't be read as .parquet"),
        ({"test.xml": "<a>"}, "test.xml of the set fpb can't be read as .xml"),
        ({"test.jsonl": ""}, "The split 'test' of the set fpb has no rows"),
    ],
)
def test_an_unreadable_local_copy_is_reported_in_one_sentence(
    tmp_path: Path, files: dict[str, str], message: str
) -> None:
    (tmp_path / "set").mkdir()
    for name, text in files.items():
        (tmp_path / "set" / name).write_text(text)
    with pytest.raises(UserError) as error:
        prepare_benchmark("fpb", replace(PAPER.sets["fpb"], path=str(tmp_path / "set")), tmp_path / "cache")
    assert message in str(error.value) and not isinstance(error.value, SourceMissing)
    assert not (tmp_path / "cache" / "benchmarks").exists()


def test_a_path_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    sets = {"fpb": replace(PAPER.sets["fpb"], path=str(tmp_path / "nowhere"))}
    with pytest.raises(UserError, match=r"evaluation.sets.fpb.path=.*nowhere does not exist"):
        prepare_benchmarks(replace(PAPER, sets=sets), "finance", tmp_path)


def test_missing_sets_are_noted_and_the_others_are_used(tmp_path: Path) -> None:
    sets = {"ddi": copied(tmp_path, "ddi"), "anatem": PAPER.sets["anatem"], "fpb": PAPER.sets["fpb"]}
    prepared, notes = prepare_benchmarks(replace(PAPER, sets=sets), "biomedicine", tmp_path / "cache")
    assert [benchmark.name for benchmark in prepared] == ["ddi"]
    assert len(notes) == 1 and notes[0].startswith("The set anatem (CC BY-SA 3.0) must be fetched by hand: git clone")
    with pytest.raises(UserError, match=r"No set of evaluation=paper is of the domain law; .* biomedicine, finance"):
        prepare_benchmarks(PAPER, "law", tmp_path)
    assert prepare_benchmarks(replace(PAPER, sets={}), "law", tmp_path) == ([], [])


@pytest.mark.parametrize("shots_split", ["train", "train[:5]"])
def test_a_hub_set_without_its_split_of_shots_takes_them_from_the_seeds(tmp_path: Path, shots_split: str) -> None:
    jsonl(tmp_path / "set", {"test": [{"id": "r1", "text": "Sales rose.", "answer": "positive"}]})
    config = replace(PAPER.sets["fpb"], hub=str(tmp_path / "set"), rows=None, shots_split=shots_split)
    prepared = prepare_benchmark("fpb", config, tmp_path / "cache")
    assert prepared.facts["questions"] == 1 and prepared.shots is None
    assert prepared.notes() == ["The set fpb has no rows for few-shot examples; they come from the seeds."]
    with pytest.raises(UserError, match=f"{tmp_path}/set of the set fpb has no split 'dev'") as error:
        prepare_benchmark("fpb", replace(config, split="dev"), tmp_path / "cache")
    assert not isinstance(error.value, SourceMissing)


@pytest.mark.parametrize("spelling", ["CANNOTANSWER", "CannotAnswer", "cannotanswer"])
def test_rows_are_left_out_by_their_answer_in_any_case(tmp_path: Path, spelling: str) -> None:
    rows = [{"id": f"r{n}", "text": "Sales rose.", "answer": answer} for n, answer in enumerate(["CANNOTANSWER", "up"])]
    jsonl(tmp_path / "set", {"test": rows})
    kind: Any = {"kind": "short", "metric": "exact match", "also": (), "shots_split": None}
    config = replace(PAPER.sets["fpb"], path=str(tmp_path / "set"), leave_out=(spelling,), **kind)
    prepared = prepare_benchmark("fpb", config, tmp_path / "cache")
    assert [question.answers for question in read_questions(prepared.questions, {})] == [("up",)]


def test_without_a_hub_every_set_says_how_to_get_it(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path[:0] = ['tests', 'tests/unit']\n"
        "from pathlib import Path\nfrom test_benchmarks import PAPER\n"
        "from selfspec.evaluation.benchmarks.prepare import prepare_benchmarks\nfrom selfspec.errors import UserError\n"
        "for domain in ('biomedicine', 'finance'):\n"
        "    try: prepare_benchmarks(PAPER, domain, Path(sys.argv[1]))\n"
        "    except UserError as error: print(error)\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}
    arguments = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(arguments, cwd=PROJECT, env=environment, capture_output=True, text=True, check=True)
    biomedicine, finance = done.stdout.splitlines()
    for name, config in PAPER.sets.items():
        message = biomedicine if config.domain == "biomedicine" else finance
        assert f"The set {name} ({config.licence})" in message and config.get in message
    assert finance.startswith("None of the sets of evaluation=paper is available.") and "ConnectionError" in finance


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metric": "micro F"}, "'micro F' is no metric of label; did you mean 'micro F1'?"),
        ({"also": ("F1 of great",)}, "The metric 'F1 of great' needs one of the labels positive"),
        ({"metric": "accuracy by topic"}, "'accuracy by topic' is no metric of label"),
    ],
)
def test_a_metric_that_does_not_apply_to_a_set_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        check_metrics(replace(PAPER.sets["fpb"], **change))
    assert str(error.value).startswith(message)
