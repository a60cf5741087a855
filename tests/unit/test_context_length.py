"""Evaluation questions that the context can't hold are not sent to the model; they count as wrong in every metric."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from questions import YESNO
from selfspec.data.records import Question, Seed
from selfspec.engines.protocol import Completion, PromptBatch
from selfspec.evaluation.few_shot import TOKEN_MARGIN, EvaluationBatch, answer_batch
from selfspec.evaluation.judgement import MAX_NEW_TOKENS
from selfspec.reporting.notes import build_notes
from selfspec.reporting.results import compute_results
from toys import prompts

ROLE, SHOT = "a reader", Seed("s1", "verdict", "Is it?", "It is so.", "yes", options=YESNO)


@dataclass
class YesEngine:
    """An engine that always says yes, counts words as tokens, and records its prompts."""

    prompts: list[str] = field(default_factory=list)

    def complete(self, batch: PromptBatch) -> list[Completion]:
        self.prompts += [batch.prefix + item for item in batch.items]
        return [Completion("yes", 1, True, (-1.0, -2.0)) for _ in batch.items]

    def count(self, text: str) -> int:
        return len(text.split())


def verdict(name: str, num_words: int, answer: str = "yes") -> Question:
    return Question(name, "verdict", "label", "Is it?", " ".join(["so"] * num_words), (answer,), options=YESNO)


def least_context(question: Question, shots: tuple[Seed, ...] = ()) -> int:
    """The fewest tokens that hold the question with these shots and its reply."""
    count = YesEngine().count
    prompt = count(prompts().prefix(ROLE, shots)) + count(prompts().task(question))
    return prompt + MAX_NEW_TOKENS["label"] + TOKEN_MARGIN


@pytest.mark.parametrize("shots", [(), (SHOT,)])
def test_a_question_that_does_not_fit_without_shots_is_not_asked(shots: tuple[Seed, ...]) -> None:
    engine, questions = YesEngine(), tuple(verdict(f"q{number}", number) for number in (5, 60, 6))
    batch = EvaluationBatch("verdict", len(shots), 0, shots, questions)
    rows = answer_batch(engine, batch, ROLE, least_context(questions[2], shots), prompts())
    assert [row["id"] for row in rows] == ["q5", "q60", "q6"]
    assert [row["reply"] for row in rows] == ["yes", "", "yes"]
    assert [row["finished"] for row in rows] == [True, False, True]
    assert [row["too_long"] for row in rows] == [False, True, False]
    assert [row["shots_shown"] for row in rows] == [len(shots), 0, len(shots)]
    assert len(engine.prompts) == 2


def test_a_question_is_asked_with_fewer_shots_before_it_is_too_long() -> None:
    question = verdict("q1", 9)
    batch = EvaluationBatch("verdict", 1, 0, (SHOT,), (question,))
    for num_missing in (0, 1):
        context_length = least_context(question) - num_missing
        (row,) = answer_batch(YesEngine(), batch, ROLE, context_length, prompts())
        assert (row["shots_shown"], row["too_long"]) == (0, num_missing > 0)


def test_a_question_that_was_not_asked_is_wrong_in_every_measure() -> None:
    questions = tuple(verdict(f"q{number}", 60 if number < 2 else 5, YESNO[number % 2]) for number in range(4))
    batch = EvaluationBatch("verdict", 0, 0, (), questions)
    rows = answer_batch(YesEngine(), batch, ROLE, least_context(questions[2]), prompts())
    report = compute_results({"base": rows}, questions, 20)
    values = {row["measure"]: row["value"] for row in report["scores"] if row["task"] == "all"}
    assert values["label_accuracy"] == values["option_accuracy"] == 1 / 4  # of the two that were asked, one is yes
    assert values["format"] == values["most_frequent"] == 2 / 4
    assert values["option_auc"] == (0.5 * 1 + 0) / 4  # one of four pairs was sent in both questions; it is a tie


def test_an_evaluation_in_which_no_question_fits_has_scores() -> None:
    questions = (verdict("q1", 60), verdict("q2", 60, "no"))
    rows = answer_batch(YesEngine(), EvaluationBatch("verdict", 0, 0, (), questions), ROLE, 10, prompts())
    report = compute_results({"base": rows}, questions, 20)
    assert {row["value"] for row in report["scores"]} == {0.0}


@pytest.mark.parametrize(
    ("count", "note"),
    [
        (0, None),
        (1, "1 question is longer than the context and counts as wrong."),
        (3, "3 questions are longer than the context and count as wrong."),
    ],
)
def test_the_report_notes_questions_that_are_longer_than_the_context(count: int, note: str | None) -> None:
    report = {
        **{"closed_labels": {}, "differences": [], "rounds": {"losses": [], "kept": 1}, "funnel": {}},
        **{"overlap": {"overlapping": []}, "fewer_shots": {}, "too_long": count},
    }
    notes = build_notes(report, 0)
    assert [text for text in notes if "longer than the context" in text] == ([note] if note else [])
