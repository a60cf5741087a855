"""Rows of public sets in their published schemas (own wording, no real row) become questions and few-shot examples."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import dacite
import datasets
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from conftest import PROJECT
from selfspec.config.composition import mutable_twin
from selfspec.config.schema import BenchmarkConfig, EvaluationConfig
from selfspec.data.reading import read_questions, read_seeds
from selfspec.data.records import Question
from selfspec.evaluation.benchmarks.answers import MAX_LIST_SPELLINGS
from selfspec.evaluation.benchmarks.prepare import MAX_SHOT_ROWS, check_metrics, prepare_benchmark, task_types

FOLDER = PROJECT / "conf" / "benchmark"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))


def evaluation() -> EvaluationConfig:
    """`evaluation=paper`, alone."""
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        composed = compose("evaluation/paper").evaluation
    typed = OmegaConf.merge(OmegaConf.structured(mutable_twin(EvaluationConfig)), composed)
    plain: Any = OmegaConf.to_container(typed, resolve=True, throw_on_missing=True)
    return dacite.from_dict(EvaluationConfig, plain, dacite.Config(cast=[tuple], strict=True))


PAPER = evaluation()
Rows = list[dict[str, Any]]
Save = Callable[[Path, dict[str, Rows]], None]


def saved(folder: Path, splits: dict[str, Rows]) -> None:
    """As `save_to_disk` leaves them."""
    datasets.DatasetDict({name: datasets.Dataset.from_list(rows) for name, rows in splits.items()}).save_to_disk(folder)


def parquet(folder: Path, splits: dict[str, Rows]) -> None:
    """As the hub's repositories have them."""
    (folder / "data").mkdir(parents=True)
    for name, rows in splits.items():
        datasets.Dataset.from_list(rows).to_parquet(folder / "data" / f"{name}-00000-of-00001.parquet")


def jsonl(folder: Path, splits: dict[str, Rows]) -> None:
    folder.mkdir()
    for name, rows in splits.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def bioasq(folder: Path, splits: dict[str, Rows]) -> None:
    folder.mkdir()
    for name, rows in {"training8b": splits["train"], "8B1_golden": splits["test"]}.items():
        (folder / f"{name}.json").write_text(json.dumps({"questions": rows}))


def tagged(folder: Path, splits: dict[str, Rows]) -> None:
    """As MTL-Bioinformatics-2016 has them."""
    folder.mkdir()
    for name, rows in splits.items():
        lines = ["".join(f"{w}\t{t}\n" for w, t in zip(r["tokens"], r["ner_tags"], strict=True)) for r in rows]
        (folder / f"{name}.tsv").write_text("\n".join(lines))


def table(file: Path, splits: dict[str, Rows]) -> None:
    """One labelled file: the first 200 rows are for few-shot examples."""
    rows = [{**splits["train"][0], "unique_hash": f"t{number}"} for number in range(200)] + splits["test"]
    file.mkdir()
    with (file / "train_F3WbcTw.csv").open("w", newline="") as opened:
        writer = csv.DictWriter(opened, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def xml(folder: Path, splits: dict[str, Rows]) -> None:
    for place, name in (("Test/Test for DDI Extraction task/DrugBank", "test"), ("Train/MedLine", "train")):
        sentences = "".join(
            f'<sentence id="{name}.s{n}" text="{row["text"]}"><entity id="e0" text="{row["one"]}"/>'
            f'<entity id="e1" text="{row["other"]}"/><pair id="{name}.s{n}.p0" e1="e0" e2="e1" ddi="{row["ddi"]}"/>'
            "</sentence>"
            for n, row in enumerate(splits[name])
        )
        (folder / place).mkdir(parents=True)
        (folder / place / "a.xml").write_text(f"<document>{sentences}</document>")
    (folder / "Test" / "Test for DrugNER task").mkdir()
    (folder / "Test" / "Test for DrugNER task" / "b.xml").write_text("<document><pair/></document>")


def snippets(*texts: str) -> Rows:
    return [{"text": text, "document": "d"} for text in texts]


def bioasq_row(kind: str, answer: Any, identity: str = "q1") -> dict[str, Any]:
    return {
        "id": identity,
        "type": kind,
        "body": "Which one?",
        "snippets": snippets("A.", "B."),
        "exact_answer": answer,
    }


ABSTRACT = {"QUESTION": "Does rest help?", "CONTEXTS": ["Forty slept.", "Ten ran."], "LABELS": ["AIM", "RESULT"]}
LABELS = {"final_decision": "maybe", "LONG_ANSWER": "Rest may\nhelp."}
SENTENCE = {"tokens": ["The", "red", "heart", "beats", "."]}
HALLMARKS = [*PAPER.sets["hoc"].options, "none"]
FLARE = {"id": "f1", "query": "Asked of: Sales rose.\nAnswer:", "text": "Sales rose.", "choices": ["a"], "gold": 0}
TURN = {"dialogue_id": 4, "query": "Sales 5, costs 2.\nSales? {answer0}\nCosts?"}
OTHER = {"body": "Which other?", "QUESTION": "Does tea help?", "text": "Tea helps.", "query": "Asked of: Tea."}
OTHER |= {"tokens": ["Tea", "is", "hot", "today", "."], "dialogue_id": 9}
CASES: dict[str, tuple[Save, Rows, list[tuple[str, tuple[str, ...]]]]] = {
    "bioasq_factoid": (
        bioasq,
        [bioasq_row("factoid", [["Insulin", "INS"]]), bioasq_row("yesno", "no", "q2")],
        [("A.\nB.\n\nQuestion: Which one?", ("Insulin", "INS"))],
    ),
    "bioasq_list": (
        bioasq,
        [bioasq_row("list", [["iron"], ["zinc", "Zn"]])],
        [("A.\nB.\n\nQuestion: Which one?", ("iron; zinc", "iron; Zn"))],
    ),
    "bioasq_yesno": (bioasq, [bioasq_row("yesno", "Yes")], [("A.\nB.\n\nQuestion: Which one?", ("yes",))]),
    "pubmedqa": (
        parquet,
        [{**ABSTRACT, **LABELS}],
        [("Forty slept.\nTen ran.\n\nQuestion: Does rest help?", ("maybe",))],
    ),
    "pubmedqa_long": (
        parquet,
        [{**ABSTRACT, **LABELS}],
        [("Forty slept.\nTen ran.\n\nQuestion: Does rest help?", ("Rest may help.",))],
    ),
    "anatem": (
        tagged,
        [{**SENTENCE, "ner_tags": ["O", "B-Anatomy", "I-Anatomy", "O", "O"]}, {**SENTENCE, "ner_tags": ["O"] * 5}],
        [("The red heart beats .", ("red heart (anatomy)",)), ("The red heart beats .", ("none",))],
    ),
    "bionlp13cg": (
        tagged,
        [{**SENTENCE, "ner_tags": ["O", "B-Cell", "B-Multi-tissue_structure", "O", "O"]}],
        [("The red heart beats .", ("red (Cell); heart (Multi-tissue_structure)",))],
    ),
    "ncbi_disease": (
        saved,
        [{**SENTENCE, "id": "1", "type": "disease", "ner_tags": ["O", "B", "I", "O", "O"]}],
        [("The red heart beats .", ("red heart (disease)",))],
    ),
    "ddi": (
        xml,
        [{"text": "A and B clash.", "one": "A", "other": "B", "ddi": "true"}],
        [("A and B clash.\n\nDrug 1: A\nDrug 2: B", ("true",))],
    ),
    "medical_drugs": (
        table,
        [{"unique_hash": "h", "text": "It helped me", "drug": "aa", "sentiment": 0}],
        [("It helped me\n\nDrug: aa", ("positive",))],
    ),
    "hoc": (
        saved,
        [
            {"document_id": "1_0", "text": "Cells live.", "label": [HALLMARKS[2], HALLMARKS[0]]},
            {"document_id": "1_1", "text": "Cells grow.", "label": ["none"]},
        ],
        [("Cells live.", (f"{HALLMARKS[0]}; {HALLMARKS[2]}",)), ("Cells grow.", ("none",))],
    ),
    "fpb": (parquet, [{**FLARE, "answer": "positive"}], [("Sales rose.", ("positive",))]),
    "fiqa_sa": (jsonl, [{**FLARE, "answer": "Neutral"}], [("Sales rose.", ("neutral",))]),
    "headline": (
        jsonl,
        [{**FLARE, "answer": "Yes", "label_type": "price_up"}],
        [("Asked of: Sales rose.\nAnswer:", ("yes",))],
    ),
    "fin_ner": (
        jsonl,
        [{**FLARE, "text": "Ann of Roe Inc pays", "label": ["B-PER", "O", "B-ORG", "I-ORG", "O"]}],
        [("Ann of Roe Inc pays", ("Ann (person); Roe Inc (organization)",))],
    ),
    "convfinqa": (
        jsonl,
        [
            {**TURN, "id": "c0", "turn": 0, "query": "Sales 5, costs 2.\nSales?", "answer": "5.0"},
            {**TURN, "id": "c1", "turn": 1, "answer": "$2,000"},
            {**TURN, "id": "c2", "turn": 2, "answer": "yes"},
        ],
        [("Sales 5, costs 2.\nSales?", ("5.0",)), ("Sales 5, costs 2.\nSales? 5.0\nCosts?", ("2000",))],
    ),
}


def copied(tmp_path: Path, name: str) -> BenchmarkConfig:
    """A set with a local copy: its own rows as test, and others for few-shot examples."""
    save, rows, _ = CASES[name]
    others = [{**row, **{field: OTHER[field] for field in row if field in OTHER}} for row in rows]
    if name == "fin_ner":
        others = [{**row, "text": "Bob of Zed Ltd sells"} for row in rows]
    save(tmp_path / name, {"train": others, "test": rows})
    return replace(PAPER.sets[name], path=str(tmp_path / name), rows=None)


@pytest.mark.parametrize("name", NAMES)
def test_the_yaml_of_a_set_says_licence_command_and_source(name: str) -> None:
    package, *lines = (FOLDER / f"{name}.yaml").read_text().splitlines()
    assert package == f"# @package evaluation.sets.{name}"
    assert all(line.startswith("# ") for line in lines[:3]) and lines[0].endswith(".")
    config = PAPER.sets[name]
    domain = "" if config.domain == "biomedicine" else f"domain={config.domain} "
    assert lines[2].startswith(f"# python run.py {domain}benchmark={name} ")
    assert f"evaluation.sets.{name}.path=" in lines[2]
    assert config.licence in lines[1]
    check_metrics(config)
    assert (
        config.get and config.domain in ("biomedicine", "finance") and (config.kind == "label") <= bool(config.options)
    )


def test_every_set_is_in_evaluation_paper_and_none_runs_remote_code() -> None:
    assert sorted(PAPER.sets) == NAMES == sorted(CASES)
    assert PAPER.shots == (0, 5) and PAPER.name == "paper"
    code = [
        *(PROJECT / "conf" / "benchmark").glob("*.yaml"),
        *(PROJECT / "src/selfspec/evaluation/benchmarks").glob("*.py"),
    ]
    assert len(code) > len(NAMES)
    assert not any("trust_remote_code" in path.read_text() for path in code)


@pytest.mark.parametrize("name", NAMES)
def test_rows_become_questions_and_few_shot_examples(tmp_path: Path, name: str) -> None:
    config, expected = copied(tmp_path, name), CASES[name][2]
    prepared = prepare_benchmark(name, config, tmp_path / "cache")
    questions = read_questions(prepared.questions, {})
    assert [(question.input, question.answers) for question in questions] == expected
    for question in questions:
        assert (question.task_type, question.kind, question.options) == (name, config.kind, config.options)
        assert question.instruction == config.instruction and bool(question.topic) == (name == "headline")
    assert prepared.shots and not prepared.notes()
    examples = read_seeds(prepared.shots, task_types(PAPER.sets))
    assert {example.task_type for example in examples} == {name} and len(examples) <= MAX_SHOT_ROWS
    assert not {example.input for example in examples} & {question.input for question in questions}
    assert not {example.id for example in examples} & {question.id for question in questions}


def test_class_labels_are_read_by_name(tmp_path: Path) -> None:
    hoc = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.List(datasets.ClassLabel(names=HALLMARKS))}
    )
    rows = datasets.Dataset.from_dict({"text": ["Cells live."], "label": [[2, 10]]}, features=hoc)
    rows.save_to_disk(tmp_path / "saved")
    (tmp_path / "files").mkdir()
    rows.to_parquet(tmp_path / "files" / "test.parquet")
    for folder in ("saved", "files"):
        config = replace(PAPER.sets["hoc"], path=str(tmp_path / folder), rows=None)
        prepared = prepare_benchmark("hoc", config, tmp_path / "cache")
        assert read_questions(prepared.questions, {})[0].answers == (HALLMARKS[2],)
        assert prepared.shots is None and "they come from the seeds" in prepared.notes()[0]


@pytest.mark.parametrize(
    ("tags", "labels", "answer"),
    [
        (["B-x", "I-x", "B-x", "I-y", "O"], {}, "The red (x); heart (x); beats (y)"),  # IOB2, and a stray I
        (["I-x", "I-x", "B-x", "O", "O"], {}, "The red (x); heart (x)"),  # IOB
        (["B-x", "E-x", "S-x", "I-x", "O"], {}, "The red (x); heart (x); beats (x)"),  # IOBES
        ([0, 1, 2, 1, 0], {"0": "O", "1": "B-x", "2": "I-x", "x": "kind"}, "red heart (kind); beats (kind)"),
        (["O"] * 5, {}, "none"),
    ],
)
def test_tags_become_mentions_with_types(tmp_path: Path, tags: list[Any], labels: dict[str, str], answer: str) -> None:
    jsonl(tmp_path / "set", {"test": [{**SENTENCE, "ner_tags": tags}]})
    config = replace(PAPER.sets["anatem"], path=str(tmp_path / "set"), labels=labels)
    assert read_questions(prepare_benchmark("a", config, tmp_path).questions, {})[0].answers == (answer,)


def test_a_list_with_too_many_spellings_keeps_one_for_each_synonym(tmp_path: Path) -> None:
    bioasq(
        tmp_path / "set",
        {"train": [], "test": [bioasq_row("list", [[f"a{i}{j}" for j in range(4)] for i in range(9)])]},
    )
    prepared = prepare_benchmark("l", replace(PAPER.sets["bioasq_list"], path=str(tmp_path / "set")), tmp_path)
    answers = read_questions(prepared.questions, {})[0].answers
    assert len(answers) == 4 <= MAX_LIST_SPELLINGS and answers[0].startswith("a00; a10; ")


def test_a_set_is_read_again_only_if_its_rows_or_schema_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = copied(tmp_path, "fpb")
    first = prepare_benchmark("fpb", config, tmp_path / "cache")
    with monkeypatch.context() as patch:
        patch.setattr("selfspec.evaluation.benchmarks.prepare.read_split", None)
        assert prepare_benchmark("fpb", replace(config, licence="other words"), tmp_path / "cache") == replace(
            first, config=replace(config, licence="other words")
        )
    assert prepare_benchmark("fpb", replace(config, instruction="Other."), tmp_path / "cache").folder != first.folder
    parquet(tmp_path / "fpb" / "more", {"test": [{**FLARE, "id": "f2", "answer": "negative"}]})
    second = prepare_benchmark("fpb", config, tmp_path / "cache")
    assert second.folder != first.folder and len(read_questions(second.questions, {})) == 2
    assert not list((tmp_path / "cache" / "benchmarks").glob(".*"))


def test_the_id_of_a_question_is_that_of_the_set_or_its_row_number(tmp_path: Path) -> None:
    """So the same row has the same id on every machine."""
    prepared = prepare_benchmark("anatem", copied(tmp_path, "anatem"), tmp_path / "cache")
    questions: list[Question] = read_questions(prepared.questions, {})
    assert [question.id for question in questions] == ["anatem-1", "anatem-2"]
    prepared = prepare_benchmark("ddi", copied(tmp_path, "ddi"), tmp_path / "cache")
    assert [question.id for question in read_questions(prepared.questions, {})] == ["ddi-test.s0.p0"]
