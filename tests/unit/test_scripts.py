"""Texts in eight scripts are split, scored, filtered and checked as English texts are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from questions import make_question
from selfspec.config.schema import TaskType
from selfspec.data.reading import read_questions, read_seeds
from selfspec.data.records import Draft
from selfspec.data.text import fold, words
from selfspec.errors import UserError
from selfspec.evaluation.judgement import judge_reply
from selfspec.evaluation.text_overlap import normalize_answer, rouge_l, token_f1
from selfspec.filters.contamination import Contamination
from selfspec.filters.form import Form
from selfspec.filters.labels import canonical_label
from selfspec.filters.protocol import Candidate

# script: (a sentence, its number of words, another sentence, two labels)
SCRIPTS = {
    "Latin": ("Der Prüfer las die größte Akte.", 6, "Es gab keinen Befund.", ("Ärztin", "Jurist")),
    "Cyrillic": ("Пациент принимал лекарство каждый день.", 5, "Суд отклонил эту жалобу.", ("да", "нет")),
    "Greek": ("Ο ασθενής έλαβε το φάρμακο χθες.", 6, "Το δικαστήριο απέρριψε την αίτηση.", ("ναι", "όχι")),
    "Arabic": ("تناول المريض الدواء كل يوم.", 5, "رفضت المحكمة هذا الطلب.", ("نعم", "لا")),
    "Hebrew": ("המטופל נטל את התרופה אתמול.", 5, "בית המשפט דחה את הבקשה.", ("כן", "לא")),
    "Devanagari": ("रोगी ने कल दवा ली थी।", 6, "अदालत ने याचिका खारिज की।", ("हाँ", "नहीं")),
    "Han": ("患者昨天服用了这种药物。", 11, "法院驳回了这项申请。", ("是", "否")),
    "Thai": ("ผู้ป่วยกินยาทุกวัน", 12, "ศาลยกคำร้องนี้แล้ว", ("ใช่", "ไม่")),
}
EACH = pytest.mark.parametrize(("text", "count", "other", "labels"), SCRIPTS.values(), ids=SCRIPTS)


@EACH
def test_a_sentence_has_its_words(text: str, count: int, other: str, labels: tuple[str, str]) -> None:
    assert len(words(text)) == count
    assert set(words(text)) != set(words(other))


@EACH
def test_a_gold_answer_returned_verbatim_is_right(text: str, count: int, other: str, labels: tuple[str, str]) -> None:
    assert token_f1(text, text) == rouge_l(text, text) == 1.0
    assert rouge_l(other, text) < 0.7
    for kind in ("short", "text"):
        assert judge_reply(make_question(text, kind=kind), text, True).primary_value == 1.0
    assert judge_reply(make_question(text, kind="short"), other, True).primary_value == 0.0
    for label in labels:
        question = make_question(label, kind="label", options=labels)
        assert judge_reply(question, f"{label}.", True).label_correct == 1.0
        assert judge_reply(question, "", True).label_correct == 0.0
    assert (
        judge_reply(make_question("; ".join(labels), kind="list"), "; ".join(labels[::-1]), True).primary_value == 1.0
    )


@EACH
def test_labels_differ_and_are_spelled_as_their_options(
    text: str, count: int, other: str, labels: tuple[str, str]
) -> None:
    assert [canonical_label(label.upper(), labels, "label") for label in labels] == list(labels)


@EACH
def test_a_copied_question_is_found(text: str, count: int, other: str, labels: tuple[str, str]) -> None:
    contamination = Contamination([("q", text)], least=5)
    assert contamination.check_passage(f"{other} {text} {other}")
    assert not contamination.check_passage(other)


@EACH
def test_form_counts_the_words_of_an_instruction(text: str, count: int, other: str, labels: tuple[str, str]) -> None:
    assert Form().check(Candidate("c", Draft("summary", text, text, ()), "text")) == ""
    assert Form().check(Candidate("c", Draft("summary", labels[0], text, ()), "text")) == "instruction too short"


@EACH
def test_a_domain_in_the_script_is_read(
    tmp_path: Path, text: str, count: int, other: str, labels: tuple[str, str]
) -> None:
    row = {"task_type": "verdict", "instruction": text, "input": other, "options": labels}
    (tmp_path / "seeds.jsonl").write_text(json.dumps({**row, "id": "s", "output": labels[0]}))
    (tmp_path / "questions.jsonl").write_text(json.dumps({**row, "id": "q", "answers": [labels[1]]}))
    tasks = {"verdict": TaskType("label", "a verdict")}
    assert read_seeds(tmp_path / "seeds.jsonl", tasks)[0].options == labels
    assert read_questions(tmp_path / "questions.jsonl", tasks)[0].answers == (labels[1],)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("“don’t”", '"don\'t"'),
        ("co\u00adoperate", "cooperate"),  # a soft hyphen
        ("café", "cafe\u0301"),  # one character, or a letter and its accent
        ("ﬁnding", "finding"),
        ("ＡＢＣ１２", "abc12"),
        ("STRASSE", "straße"),
        ("ΣΊΣΥΦΟΣ", "σίσυφος"),
    ],
)
def test_forms_of_the_same_text_are_equal(one: str, other: str) -> None:
    assert words(one) == words(other) and normalize_answer(one) == normalize_answer(other)


@given(st.text(min_size=1, max_size=12))
def test_normalisation_never_empties_an_answer_and_silence_is_never_right(answer: str) -> None:
    if normalize_answer(answer):
        assert token_f1(answer, answer) == 1.0
    assert token_f1("", answer) == 0.0
    assert bool(normalize_answer(answer)) == bool(fold(answer).strip())


@pytest.mark.parametrize("answer", ["A", "the", "%", "+", "an a"])
def test_an_answer_of_articles_or_signs_is_compared(answer: str) -> None:
    question = make_question(answer, kind="short")
    assert judge_reply(question, answer, True).primary_value == 1.0
    assert judge_reply(question, "", True).primary_value == judge_reply(question, "no", True).primary_value == 0.0


def test_an_option_named_none_is_an_option_like_others() -> None:
    question = make_question("none", kind="labels", options=("fever", "none"))
    assert judge_reply(question, "none", True).label_correct == 1.0
    assert judge_reply(question, "none", True).counts == {"": (1, 0, 0)}
    assert judge_reply(question, "fever", True).label_correct == 0.0
    assert canonical_label("None.", ("fever", "None"), "labels") == "None"


@pytest.mark.parametrize(("reply", "value"), [("none", 1.0), ("None.", 1.0), ("", 0.0), ("iron; zinc", 0.0)])
def test_none_is_right_where_the_list_is_empty(reply: str, value: float) -> None:
    assert judge_reply(make_question("none", kind="list"), reply, True).primary_value == value


@pytest.mark.parametrize(
    ("kind", "answer", "message"),
    [
        ("number", "1_000", "no bare number such as 12.5"),
        ("number", "1e5", "no bare number such as 12.5"),
        ("number", "\u0661\u0662", "no bare number such as 12.5"),
        ("text", "%", "has no word that could be compared"),
        ("short", "\u200b", "must be a string that is not empty"),
    ],
)
def test_a_gold_answer_that_no_reply_could_match_is_refused(
    tmp_path: Path, kind: str, answer: str, message: str
) -> None:
    row = {"id": "q", "task_type": "t", "instruction": "Say it.", "input": "x", "answers": [answer]}
    (tmp_path / "questions.jsonl").write_text(json.dumps(row))
    with pytest.raises(UserError, match=message):
        read_questions(tmp_path / "questions.jsonl", {"t": TaskType(kind, "a task")})  # type: ignore[arg-type]
