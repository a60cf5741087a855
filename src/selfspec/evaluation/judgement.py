"""Judge one reply by the kind of its question: correct or not, in the requested format or not."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from selfspec.data.numbers import BARE_NUMBER
from selfspec.data.records import ENTITY, NO_ANSWER, SEPARATOR, Question
from selfspec.data.text import words
from selfspec.evaluation.parsing import (
    lenient_label,
    lenient_labels,
    lenient_number,
    parse_entities,
    parse_items,
)
from selfspec.evaluation.text_overlap import f1_from_counts, normalize_answer, rouge_l, token_f1
from selfspec.filters.labels import canonical_label

MAX_NEW_TOKENS = {  # of a reply, by kind of question
    "label": 16,
    "labels": 32,
    "short": 24,
    "number": 16,
    "list": 64,
    "entities": 96,
    "text": 96,
}

SHORT_ANSWER_MAX_WORDS = 8
NUMBER_TOLERANCE = 1e-2 + 1e-9  # the second term covers rounding of floats
MAX_LENIENT_CANDIDATES = 5  # BioASQ's lenient accuracy
Counts = dict[str, tuple[int, int, int]]  # class -> (true positives, false positives, false negatives)


@dataclass(frozen=True)
class Judgement:
    """How good one reply is.

    Values are in [0, 1], and None where they do not apply to the question's kind. Kinds whose primary metric is a mean
    over replies have `primary_value`; the others have `counts`, which are summed before F1 is computed.
    """

    token_f1: float  # against the best of the references
    rouge_l: float  # against the best of the references
    compliant: float  # 1: complete and in the requested format
    label_correct: float | None = None  # label, labels: the leniently parsed answer is right
    primary_value: float | None = None  # short, list, number, text
    counts: Counts = field(default_factory=dict)  # label: by option; labels, entities: one class ""
    counts_by_label: Counts = field(default_factory=dict)  # labels: by option
    lenient_correct: float | None = None  # short: one of the first five candidates is right


def judge_reply(question: Question, reply: str, finished: bool) -> Judgement:
    """Judge a reply.

    Args:
        question: The question, with its reference answers.
        reply: The generated text, without the end token.
        finished: Whether the model ended the reply itself, before the limit of new tokens.
    """
    reply = reply.strip()
    judgement = Judgement(
        token_f1=max(token_f1(reply, answer) for answer in question.answers),
        rouge_l=max(rouge_l(reply, answer) for answer in question.answers),
        compliant=float(finished and is_compliant(question, reply)),
    )
    return replace(judgement, **_JUDGE_KIND[question.kind](question, reply))


def is_compliant(question: Question, reply: str) -> bool:
    """Whether the reply has the requested format, right or wrong."""
    kind = question.kind
    is_one_line = bool(reply) and "\n" not in reply
    if kind in ("label", "labels"):
        return bool(canonical_label(reply, question.options, kind))
    if kind == "short":
        return is_one_line and len(words(reply)) <= SHORT_ANSWER_MAX_WORDS
    if kind == "number":
        return bool(BARE_NUMBER.fullmatch(reply))
    if kind == "entities":
        entities = reply.split(SEPARATOR.strip())
        return reply == NO_ANSWER or (is_one_line and all(ENTITY.fullmatch(entity) for entity in entities))
    return is_one_line


def _judge_label(question: Question, reply: str) -> dict[str, Any]:
    reference, prediction = question.answers[0], lenient_label(reply, question.options)
    counts = {
        option: (
            int(option == prediction == reference),
            int(option == prediction != reference),
            int(option == reference != prediction),
        )
        for option in question.options
    }
    return {"label_correct": float(prediction == reference), "counts": counts}


def _judge_labels(question: Question, reply: str) -> dict[str, Any]:
    answer, predictions = question.answers[0], lenient_labels(reply, question.options)
    references = {answer} if answer in question.options else parse_items(answer)  # `none` may be an option
    is_answer = bool(predictions) or words(reply)[:1] == [NO_ANSWER]  # an empty reply does not state it
    by_label = {
        option: _count_matches(Counter(predictions & {option}), Counter(references & {option}))
        for option in question.options
    }
    return {
        "label_correct": float(is_answer and predictions == references),
        "counts": {"": _count_matches(Counter(predictions), Counter(references))},
        "counts_by_label": by_label,
    }


def _judge_entities(question: Question, reply: str) -> dict[str, Any]:
    return {"counts": {"": _count_matches(parse_entities(reply), parse_entities(question.answers[0]))}}


def _judge_short(question: Question, reply: str) -> dict[str, Any]:
    """Exact match, and BioASQ's lenient accuracy: the reply may list five candidates, one of which must be right."""
    references = {normalize_answer(answer) for answer in question.answers}
    candidates = [reply, *re.split(r"[;,\n]", reply)[:MAX_LENIENT_CANDIDATES]]
    return {
        "primary_value": float(normalize_answer(reply) in references),
        "lenient_correct": float(any(normalize_answer(candidate) in references for candidate in candidates)),
    }


def _judge_list(question: Question, reply: str) -> dict[str, Any]:
    """F1 of the items, against the reference list that matches best; `none` is right where that list is empty."""
    predicted, *references = (
        Counter({normalize_answer(item) for item in parse_items(text)}) or Counter([NO_ANSWER] if text else [])
        for text in (reply, *question.answers)
    )
    return {"primary_value": max(f1_from_counts(*_count_matches(predicted, reference)) for reference in references)}


def _judge_number(question: Question, reply: str) -> dict[str, Any]:
    prediction = lenient_number(reply, question.instruction)
    is_right = prediction is not None and any(
        abs(prediction - float(answer.replace(",", ""))) <= NUMBER_TOLERANCE for answer in question.answers
    )
    return {"primary_value": float(is_right)}


def _judge_text(question: Question, reply: str) -> dict[str, Any]:
    return {"primary_value": max(rouge_l(reply, answer) for answer in question.answers)}


def _count_matches(predicted: Counter[str], reference: Counter[str]) -> tuple[int, int, int]:
    """(true positives, false positives, false negatives) of two multisets."""
    true_positives = sum((predicted & reference).values())
    return true_positives, sum(predicted.values()) - true_positives, sum(reference.values()) - true_positives


_JUDGE_KIND: Mapping[str, Callable[[Question, str], dict[str, Any]]] = {  # kind -> further fields of `Judgement`
    "label": _judge_label,
    "labels": _judge_labels,
    "entities": _judge_entities,
    "short": _judge_short,
    "list": _judge_list,
    "number": _judge_number,
    "text": _judge_text,
}
